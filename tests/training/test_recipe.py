"""Recipes: shared by many models, each with what is otherwise for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Robmed

from robustbench_med.models.named import ARCHITECTURES, model_config
from robustbench_med.training.opponent import AdversarialTraining, Attacking
from robustbench_med.training.recipe import TrainConfig, train_config
from robustbench_med.util.config import shipped
from robustbench_med.util.errors import UserError

SHARED = """\
dataset: phantom
epochs: 9
model_options: {width: 0.0625}
learning_rate: 2.0e-3
members:
  mail: {epochs: 5, gradient_clip: 0.0}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "shared.yaml"
    path.write_text(text)
    return str(path)


def test_a_member_has_its_own_settings_and_the_shared_ones(tmp_path: Path) -> None:
    name = written(tmp_path, SHARED)
    plain, own = train_config(name, "gated"), train_config(name, "mail")
    assert (plain.model, plain.epochs, plain.gradient_clip) == ("gated", 9, 1.0)
    assert (own.model, own.epochs, own.gradient_clip) == ("mail", 5, 0.0)
    assert plain.learning_rate == own.learning_rate == 2e-3
    assert plain.model_options == own.model_options == {"width": 0.0625}


def test_the_model_that_is_asked_for_wins(tmp_path: Path) -> None:
    name = written(tmp_path, f"model: mail\n{SHARED}")
    assert train_config(name).epochs == 5
    assert (train_config(name, "concat").model, train_config(name, "concat").epochs) == ("concat", 9)


VARIED = f"""{SHARED}\
  mail-at: {{weight_decay: 0.5}}
variants:
  at: {{epochs: 3, adversarial: {{attack: pgd}}}}
"""


def test_a_variant_of_a_member_has_both_their_settings(tmp_path: Path) -> None:
    name = written(tmp_path, VARIED)
    plain, gated, mail = (train_config(name, model) for model in ("gated", "gated-at", "mail-at"))
    assert plain.adversarial is None
    assert (gated.model, gated.epochs) == ("gated-at", 3)
    assert gated.adversarial is not None
    assert (mail.epochs, mail.gradient_clip, mail.weight_decay) == (5, 0.0, 0.5)


def test_a_member_keeps_the_options_that_it_says_nothing_of(tmp_path: Path) -> None:
    """Its variant's width, too: a member that needs no dropout is as wide as the others."""
    text = VARIED.replace("at: {epochs", "at: {model_options: {width: 0.125}, epochs")
    name = written(tmp_path, text.replace("mail: {", "mail: {model_options: {dropout: 0.0}, "))
    assert train_config(name, "mail").model_options == {"width": 0.0625, "dropout": 0.0}
    assert train_config(name, "mail-at").model_options == {"width": 0.125, "dropout": 0.0}
    assert train_config(name, "gated-at").model_options == {"width": 0.125}


def test_a_recipe_is_like_another_but_for_what_it_says(tmp_path: Path) -> None:
    shared = written(tmp_path, VARIED)
    own = tmp_path / "own.yaml"
    own.write_text(
        f"like: {shared}\nmodel_options: {{width: 0.5}}\nepochs: 7\nmembers: {{gated: {{epochs: 8}}}}\n"
    )
    for model in ("concat", "mail", "gated-at"):
        epochs = {"concat": 7, "mail": 5, "gated-at": 8}[model]
        expected = replace(train_config(shared, model), model_options={"width": 0.5}, epochs=epochs)
        assert train_config(str(own), model) == expected
    (tmp_path / "third.yaml").write_text(f"like: {own}\n")
    with pytest.raises(UserError, match=f"own.yaml is itself like {shared}; name that one"):
        train_config(str(tmp_path / "third.yaml"), "mail")
    own.write_text("like: phantm\n")
    with pytest.raises(UserError, match="unknown recipe 'phantm'"):
        train_config(str(own), "mail")


def test_a_variant_that_a_recipe_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no variant 'trades'; it has at"):
        train_config(written(tmp_path, VARIED), "mail-trades")


@pytest.mark.parametrize(
    ("model", "adversary"),
    [
        ("gated-at", None),
        ("gated-tuned", None),
        ("gated-at", {"trades": 6.0}),
        ("gated-at", {"in_turn": True}),
        ("gated-trades", {}),
        ("gated-turn", {}),
    ],
)
def test_a_net_that_is_not_trained_as_its_name_says_is_refused(
    model: str, adversary: dict[str, Any] | None
) -> None:
    """Whether a recipe has no variants at all, one of another kind, or is for one model."""
    how = None if adversary is None else AdversarialTraining("pgd", **adversary)
    with pytest.raises(UserError, match=f"{model} is called .* give the recipe a variant"):
        TrainConfig(model, "phantom", 2, adversarial=how)


def test_a_variant_is_its_model_otherwise_trained() -> None:
    usual, resisting = model_config("robust-mail"), model_config("robust-mail-at")
    assert resisting.label == "robust-mail-at"
    assert (resisting.architecture, resisting.options) == (usual.architecture, usual.options)
    assert resisting.defenses == usual.defenses
    with pytest.raises(UserError, match="unknown model 'nothing-at'"):
        model_config("nothing-at")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attack": "pgd", "trades": -1}, "trades is -1"),
        ({"attack": "fgsm", "trades": 6}, "trades goes with attack pgd"),
        ({"attack": "pgd", "trades": 6, "eot": 2}, "trades goes with attack pgd and eot 1"),
        ({"attack": "pgd", "trades": 6, "in_turn": True}, "trades or in_turn, not both"),
        ({"attack": []}, "attack names none"),
        ({"attack": "pgd", "eps": 0.0}, "eps must be above 0"),
        ({"attack": "pgd", "eps": {"mr": 0.1, "ct": 0.0}, "in_turn": True}, "eps must be above 0"),
        ({"attack": [Attacking("pgd")], "trades": 6}, "trades goes with attack pgd"),
        ({"attack": [Attacking("pgd")], "options": {"steps": 2}}, "each has options of its own"),
    ],
)
def test_an_adversary_that_is_wrong_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        AdversarialTraining(**options)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("members: [mail]", "members must hold, by name"),
        ("members: {mail: 5}", "members must hold, by name"),
        ("variants: [at]", "variants must hold, by name"),
        ("members: {meil: {epochs: 5}}", "unknown model 'meil'; did you mean 'mail'"),
        ("members: {mail: {epoch: 5}}", "unknown option 'epoch'; did you mean 'epochs'"),
        ("members: {gated: {epoch: 5}}", "gated: unknown option 'epoch'; did you mean 'epochs'"),
        ("variants: {at: {epochss: 5}}", "at: unknown option 'epochss'; did you mean 'epochs'"),
        ("variants: {zz: {epochs: 5}}", "unknown variant 'zz'"),
        ("", "many models; name one"),
    ],
)
def test_a_shared_recipe_that_is_wrong_is_refused(tmp_path: Path, members: str, said: str) -> None:
    name = written(tmp_path, f"dataset: phantom\nepochs: 2\n{members}\n")
    with pytest.raises(UserError, match=said):
        train_config(name, "mail" if members else "")


def test_the_flag(tmp_path: Path, robmed: Robmed) -> None:
    code, (error,) = robmed("train", written(tmp_path, SHARED), "--model", "nope", "--out", tmp_path)
    assert code == 2
    assert "unknown model 'nope'" in error
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", shipped("train"))
def test_shipped_recipes_hold_for_every_architecture(name: str) -> None:
    for model in ARCHITECTURES.entries():
        assert train_config(name, model).model == model
