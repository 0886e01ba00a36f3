"""Weights and cards that do not belong together, or hold what no training leaves; names and labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Robmed
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustbench_med.api.data import Split
from robustbench_med.data.phantom_volume import PhantomVolume
from robustbench_med.evaluation.identity import CARD, NET
from robustbench_med.models.cards import models_in, net_at
from robustbench_med.models.load import load_model
from robustbench_med.models.named import (
    LONGEST_LABEL,
    DefenseConfig,
    ModelConfig,
    build_model,
    card_model,
    model_config,
)
from robustbench_med.models.weights import default_weights, save_weights
from robustbench_med.util.config import build, shipped
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_file


def refusal(concat: Path, phantom: Split) -> str:
    with pytest.raises(UserError) as error:
        load_model("concat", weights=str(concat), whole=phantom)
    assert "\n" not in str(error.value)
    return str(error.value)


def change_card(concat: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = concat.with_suffix(".json")
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def change_state(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path)


def one(state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> str:
    return next(name for name, tensor in sorted(state.items()) if tensor.dtype == dtype and tensor.dim() == 4)


def test_other_weights_under_a_card_are_refused(concat: Path, phantom: Split) -> None:
    load_model("concat", weights=str(concat), whole=phantom)
    change_state(concat, lambda state: state[one(state)].add_(0.01))
    line = refusal(concat, phantom)
    assert line.startswith(f"{concat.with_suffix('.json')} is the card of other weights than")


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("weights"),
        lambda card: card.update(weights=None),
        lambda card: card["weights"].pop("sha256"),
        lambda card: card["weights"].update(sha256=None),
    ],
)
def test_a_card_that_names_no_weights_is_refused(
    concat: Path, phantom: Split, change: Callable[[dict[str, Any]], object]
) -> None:
    change_card(concat, change)
    assert "does not say that it is the card of" in refusal(concat, phantom)


def test_weights_without_a_card_are_taken_by_their_config(concat: Path, phantom: Split) -> None:
    concat.with_suffix(".json").unlink()
    config = concat.with_name("narrow.yaml")
    config.write_text("{name: concat, architecture: concat, options: {width: 0.03125}}")
    assert load_model(str(config), weights=str(concat), whole=phantom).card == {}


def misshape(state: dict[str, Tensor]) -> None:
    state[one(state)] = state[one(state)][:, :, :1].contiguous()


def whole_numbers(state: dict[str, Tensor]) -> None:
    state[one(state)] = (state[one(state)] * 100).to(torch.int64)


def truth_values(state: dict[str, Tensor]) -> None:
    state[one(state)] = state[one(state)] > 0


def beyond_single_precision(state: dict[str, Tensor]) -> None:
    state[one(state)] = state[one(state)].double() * 1e300


def infinite(state: dict[str, Tensor]) -> None:
    state[one(state)][0, 0, 0, 0] = -torch.inf


def negative_variance(state: dict[str, Tensor]) -> None:
    state[next(name for name in sorted(state) if name.endswith("running_var"))][0] = -1


def one_more(state: dict[str, Tensor]) -> None:
    state["extra"] = torch.zeros(1)


def one_less(state: dict[str, Tensor]) -> None:
    state.pop(one(state))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (misshape, r"does not fit: it has shape \(.*\), not \(.*\) \(1 tensors in all\)"),
        (whole_numbers, "does not fit: it is int64, not float32"),
        (truth_values, "does not fit: it is bool, not float32"),
        (beyond_single_precision, "has NaN or infinite values"),
        (infinite, "has NaN or infinite values"),
        (negative_variance, "has negative variances"),
        (one_more, "'extra' is not of this model"),
        (one_less, "is missing"),
    ],
)
def test_what_no_training_leaves(
    concat: Path, phantom: Split, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    change_state(concat, change)
    with pytest.raises(UserError, match=complaint):
        load_model("concat", weights=str(concat), whole=phantom)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_taken_as_what_it_is(concat: Path, phantom: Split, dtype: torch.dtype) -> None:
    concat.with_suffix(".json").unlink()
    config = concat.with_name("narrow.yaml")
    config.write_text("{name: concat, architecture: concat, options: {width: 0.03125}}")
    before = load_file(concat)
    change_state(concat, lambda state: state.update({one(state): state[one(state)].to(dtype)}))
    found = load_model(str(config), weights=str(concat), whole=phantom).model.state_dict()
    assert found[one(before)].dtype == torch.float32
    torch.testing.assert_close(found[one(before)], before[one(before)].to(dtype).float())


@pytest.mark.parametrize("path", ["x" * 5000, ".", "/", "~nobody-lives-here/x.safetensors", "a\0b"])
def test_paths_that_cannot_be(phantom: Split, path: str) -> None:
    with pytest.raises(UserError) as error:
        load_model("concat", weights=path, whole=phantom)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.fixture
def shelf(concat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with one good net, one with a broken card, and what a kill left."""
    folder = tmp_path / "weights" / "phantom"
    folder.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        shutil.copy(concat.with_suffix(suffix), folder / f"good{suffix}")
    (folder / ".bad.json.x1y2z3.json").write_text('{"model": {"na')
    (folder / "notes.json").write_text("[1]")
    (folder / "folder.json").mkdir()
    shutil.copy(concat, folder / "bad.safetensors")
    (folder / "bad.json").write_text('{"model": {"na')
    monkeypatch.setattr("robustbench_med.models.cards.weight_folders", lambda: [tmp_path / "weights"])
    return folder


def test_a_broken_card_costs_only_its_own_weights(
    shelf: Path, phantom: Split, robmed: Robmed, capfd: pytest.CaptureFixture[str]
) -> None:
    assert default_weights("concat", "phantom", phantom) == shelf / "good.safetensors"
    assert models_in(shelf) == {shelf / "good.json": "concat"}
    warning = (
        f"robmed: warning: {shelf / 'bad.json'} is not a model card, so the weights beside it are passed over"
    )
    assert capfd.readouterr().err.splitlines() == [warning] * 2
    assert robmed("list", "models") == (0, [warning])


GOOD_NAMES = ["mail", "my-model_2.1+x", "a", "x" * 64, "console", "C3"]
BAD_NAMES = ["../../evil", "/etc/x", "a/b", "a\\b", "", ".", "..", ".hidden", "-rf", "a\nb", "a\x1b[31mb"]
BAD_NAMES += ["x" * 65, "x" * 100_000, "a b", 'a"b', "a:b", "a*b", "a?b", "a<b", "a|b", "ends.", "a\0b"]
BAD_NAMES += ["ümlaut", "com1", "CON", "nul.txt", "a\u202eb"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(name: str) -> None:
    assert ModelConfig(name=name, architecture="concat").name == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:12]))
def test_bad_names(name: str) -> None:
    with pytest.raises(UserError, match="model name") as error:
        build(ModelConfig, {"name": name, "architecture": "concat"}, "x.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_name_that_leads_elsewhere_writes_nothing(
    robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.yaml").write_text("{name: ../../evil, architecture: concat, options: {width: 0.03125}}")
    Path("recipe.yaml").write_text("{model: evil.yaml, dataset: phantom, epochs: 1}")
    code, lines = robmed("train", "recipe.yaml", "--out", "a/b")
    assert (code, len(lines)) == (2, 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil.yaml", "recipe.yaml"]


def config(**changes: Any) -> ModelConfig:
    path = shipped("models")["robust-mail"]
    values = {"name": "robust-mail", "architecture": "mail"} | changes
    return build(ModelConfig, values, str(path))


USUAL = model_config("robust-mail")


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "robust-mail"),
        ({"options": {**USUAL.options, "width": 0.1875}}, "robust-mail-x0.1875"),
        ({"options": {**USUAL.options, "width": 0.15625}}, "robust-mail-x0.15625"),
        ({"options": {**USUAL.options, "dropout": 0.25}}, "robust-mail-dropout0.25"),
        ({"options": {"branch_norm": True}}, "robust-mail-without-attention-start"),
        ({"defenses": ()}, "robust-mail-undefended"),
        ({"defenses": ("attention-noise:std=0.1",)}, "robust-mail-attention-noise-std-0.1"),
        ({"architecture": "concat"}, "robust-mail-concat"),
        ({"seed": 2}, "robust-mail-seed2"),
        ({"options": {**USUAL.options, "note": "../a b"}}, "robust-mail-note..-a-b"),
    ],
)
def test_the_label_says_all_that_is_not_as_shipped(changes: dict[str, Any], label: str) -> None:
    values = {"options": USUAL.options, "defenses": USUAL.defenses} | changes
    assert config(**values).label == label


def test_a_run_is_named_by_all_that_a_card_says_of_its_net() -> None:
    """What only one of them knows would let two nets share a name, or a record have another than it says."""
    defenses = (DefenseConfig("attention-noise"),)
    said = card_model(ModelConfig("n", "mail", "t", {"width": 1}, defenses, defenses, 1))
    assert set(said) == set(CARD) > set(NET) == set(CARD) - {"label", "title"}


def test_long_labels_stay_apart() -> None:
    labels = {config(options={"note": "x" * 500 + end}).label for end in "ab"}
    assert len(labels) == 2
    assert max(map(len, labels)) == LONGEST_LABEL


OTHER_SPLIT = {"name": "phantom", "members": {"test": "0"}}


def on_shelf(config: ModelConfig, whole: Split, folder: Path, **dataset: Any) -> Path:
    """Untrained weights of a net and their card, in the folder of the data set."""
    path = folder / whole.info.name / f"{config.label}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    net = build_model(config, whole.info)
    save_weights(net, path)
    said = {"sha256": sha256_file(path), "parameters": sum(p.numel() for p in net.parameters())}
    card = {"model": card_model(config), "weights": said, "dataset": dataset}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def test_a_name_means_a_net_of_these_data(
    phantom: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of other pixels or samples, however large or near at hand it is; else that of the package."""
    package, own = tmp_path / "package", tmp_path / "own"
    monkeypatch.setattr("robustbench_med.models.cards.weight_folders", lambda: [package, own])
    other = {"fingerprints": {"test": "0"}, "members": {"test": "0"}}
    same = {"fingerprints": {"test": phantom.fingerprint}, "members": {"test": phantom.members}}
    named = [model_config("gated").with_options({"width": width}) for width in (1 / 32, 1 / 16, 3 / 32)]
    small, middle, large = named
    foreign = on_shelf(large, phantom, package, **other)
    assert default_weights("gated", "phantom", phantom) == foreign
    resized = on_shelf(middle, phantom, own, **same | {"fingerprints": other["fingerprints"]})
    assert default_weights("gated", "phantom", phantom) == resized
    fits = on_shelf(small, phantom, own, **same)
    assert default_weights("gated", "phantom", phantom) == fits
    shipped_too = on_shelf(small, phantom, package, **same)
    assert default_weights("gated", "phantom", phantom) == shipped_too
    assert default_weights("gated-x0.09375", "phantom", phantom) == foreign


def test_weights_that_do_not_fit_a_part_of_their_data_say_that(phantom: Split, tmp_path: Path) -> None:
    """Fewer columns or classes make another architecture, which is not what is to be mended."""
    path = on_shelf(model_config("gated").with_options({"width": 1 / 16}), phantom, tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["model"]["options"]["width"] = 1 / 32
    for dataset, said in (
        ({}, "another architecture"),
        (OTHER_SPLIT, "trained on another split of 'phantom'"),
    ):
        path.with_suffix(".json").write_text(json.dumps(card | {"dataset": dataset}))
        with pytest.raises(UserError, match=said):
            load_model("gated", "phantom", str(path), whole=phantom)


def test_the_label_of_a_net_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board says "gated-x0.03125"; of several nets of one name the largest is meant by the name, and of
    several seeds the lowest.
    """
    monkeypatch.chdir(tmp_path)
    whole = PhantomVolume().load("test")
    for width, seed in ((1 / 32, 0), (1 / 16, 3), (1 / 16, 0), (1 / 16, 1)):
        config = replace(model_config("gated").with_options({"width": width}), seed=seed)
        on_shelf(config, whole, tmp_path / "weights")
    assert load_model("gated", "phantom-volume").config.label == "gated-x0.0625"
    for label in ("gated-x0.03125", "gated-x0.0625-seed1", "gated-x0.0625-seed3"):
        assert load_model(label, "phantom-volume").config.label == label
    assert net_at("gated", "phantom-volume", 1 / 16) == "gated-x0.0625"
    with pytest.raises(UserError, match=r"no weights of 'gated' of width 7 on"):
        net_at("gated", "phantom-volume", 7)
    with pytest.raises(UserError, match="unknown model 'gated-x9'"):
        load_model("gated-x9", "phantom-volume")
