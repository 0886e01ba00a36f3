"""What a user can get wrong: one line that says how to mend it, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Robmed
from safetensors.torch import load_file, save_file
from tiny import random_split

from robustbench_med.api.data import Split
from robustbench_med.util.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def refused(robmed: Robmed, *arguments: object) -> str:
    """Run a command that must fail in one line, and return that line."""
    code, lines = robmed(*arguments)
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("robmed: ")
    return lines[0]


def flags(concat: Path, **changes: object) -> list[str]:
    """A run that would work, but for the changes."""
    values = {"model": "concat", "attack": "pgd", "weights": concat, "samples": 4, "steps": 2, "out": "out"}
    given = {name.replace("_", "-"): v for name, v in (values | changes).items() if v is not None}
    return ["run", *(f"--{name}={v}" for name, v in given.items())]


def test_the_run_these_tests_spoil_works(robmed: Robmed, concat: Path) -> None:
    assert robmed(*flags(concat)) == (0, [])


BAD_FLAGS: list[tuple[dict[str, object], str]] = [
    ({"model": "conact"}, "unknown model 'conact'; did you mean 'concat'?"),
    ({"model": "nowhere.yaml"}, "nowhere.yaml does not exist"),
    ({"model": "mail"}, "holds weights of 'concat', not 'mail'"),
    ({"attack": "pdg"}, "unknown attack 'pdg'; did you mean 'pgd'?"),
    ({"attack": "zzz"}, "there are: apgd, art, autoattack"),
    ({"attack": "pgd:PGD"}, "PGD has no variants"),
    ({"attack": "torchattacks:PDG", "steps": None}, "did you mean 'PGD'?"),
    ({"attack": "torchattacks:FGSM"}, "torchattacks:FGSM has no option 'steps'"),
    ({"attack": "torchattacks:FGSM", "steps": None, "step_size": 0.1}, "has no option 'alpha'"),
    ({"attack": "torchattacks:OnePixel"}, "torchattacks:OnePixel takes no radius"),
    ({"attack": "fgsm"}, "unknown option 'steps'"),
    ({"dataset": "fantom"}, "unknown data set 'fantom'; did you mean 'phantom'?"),
    ({"dataset": "milk10k"}, "milk10k is not imported yet; run robmed data import milk10k"),
    ({"eps": "-1/255"}, "must be 0 or more"),
    ({"eps": "4"}, "write 4/255"),
    ({"eps": "nan"}, "must be 0 or more"),
    ({"eps": "four"}, "'four' is not a radius"),
    ({"eps": "4/0"}, "'4/0' is not a radius"),
    ({"eps": "mr=4/255,ct"}, "is not a radius"),
    ({"eps": "mri=4/255"}, "unknown modality 'mri'; did you mean 'mr'?"),
    ({"eps": "mr=4/255", "modality": "mr,ct"}, "no radius for the attacked modality 'ct'"),
    ({"modality": "xray"}, "unknown modality 'xray'"),
    ({"head": "lesoin"}, "unknown head 'lesoin'; did you mean 'lesion'?"),
    ({"norm": "l1"}, "unknown norm 'l1'"),
    ({"steps": 0}, "steps and restarts must be 1 or more"),
    ({"step_size": 0}, "must be positive"),
    ({"step_size": "nan"}, "must be positive"),
    ({"step_size": "wide"}, "step_size"),
    ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ({"keep": "first"}, "keep"),
    ({"keep": "last", "restarts": 2}, "keep=last goes with one restart"),
    ({"eot": 0}, "1 or more"),
    ({"draws": 0}, "1 or more"),
    ({"batch_size": 0}, "1 or more"),
    ({"samples": -1}, "0 (all) or more"),
    ({"samples": 1001}, "phantom has 1000 test samples"),
    ({"device": "gpu"}, "device 'gpu' cannot be used"),
    ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
    ({"model": None}, "--model is missing"),
]


@pytest.mark.parametrize(("changes", "complaint"), BAD_FLAGS, ids=[str(c) for c, _ in BAD_FLAGS])
def test_bad_flag(robmed: Robmed, concat: Path, changes: dict[str, object], complaint: str) -> None:
    assert complaint in refused(robmed, *flags(concat, **changes))
    assert not Path("out").exists()


def test_no_weights_at_hand(robmed: Robmed, concat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_med.models.cards.weight_folders", lambda: [Path("weights")])
    line = refused(robmed, *flags(concat, weights=None))
    assert "no weights of 'concat' on 'phantom' are at hand" in line
    assert not Path("out").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def make_pickle(path: Path) -> None:
    """A file that would create another one if it were ever unpickled."""
    path.write_bytes(pickle.dumps({"weight": torch.zeros(1)}) + b"cos\nsystem\n(S'touch ran'\ntR.")


def fill_with_nan(path: Path) -> None:
    state = load_file(path)
    name = sorted(k for k, v in state.items() if v.is_floating_point())[0]
    state[name].flatten()[0] = torch.nan
    save_file(state, path)


def widen(path: Path) -> None:
    """Make the card say that the net is twice as wide as its weights."""
    card = json.loads(path.with_suffix(".json").read_text())
    card["model"]["options"]["width"] = 1 / 16
    path.with_suffix(".json").write_text(json.dumps(card))


def drop_a_tensor(path: Path) -> None:
    state = load_file(path)
    save_file(dict(list(state.items())[1:]), path)


def card_without_model(path: Path) -> None:
    path.with_suffix(".json").write_text('{"note": "ours"}\n')


def card_of_another_kind(path: Path) -> None:
    path.with_suffix(".json").write_text("[1, 2]\n")


def card_cut_short(path: Path) -> None:
    path.with_suffix(".json").write_text('{"model": {"name": "conc')


def card_of_another_split(path: Path) -> None:
    card = json.loads(path.with_suffix(".json").read_text())
    card["dataset"] = {"name": "phantom", "members": {"test": "of a partial download"}}
    path.with_suffix(".json").write_text(json.dumps(card))


def card_with_foreign_option(path: Path) -> None:
    config = {"name": "concat", "architecture": "concat", "options": {"depth": 3}}
    path.with_suffix(".json").write_text(json.dumps({"model": config}))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (Path.unlink, "there is no weights file"),
    (make_folder, "there is no weights file"),
    (truncate, "is not a whole safetensors file"),
    (make_pickle, "is not a whole safetensors file"),
    (fill_with_nan, "has NaN or infinite values"),
    (widen, "holds weights of another architecture"),
    (drop_a_tensor, "holds weights of another architecture"),
    (card_without_model, "is not a model card"),
    (card_of_another_kind, "is not a model card"),
    (card_cut_short, "is not a model card"),
    (card_with_foreign_option, "model concat: "),
    (card_of_another_split, "was trained on another split of 'phantom'"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGE, ids=[d.__name__ for d, _ in DAMAGE])
def test_bad_weights(robmed: Robmed, concat: Path, damage: Callable[[Path], None], complaint: str) -> None:
    damage(concat)
    assert complaint in refused(robmed, *flags(concat))
    assert not Path("out").exists()
    assert not Path("ran").exists()


@pytest.mark.parametrize("place", [{"out": "file/out"}, {"leaderboard": "file/board.csv"}])
def test_unwritable_folder(robmed: Robmed, concat: Path, place: dict[str, object]) -> None:
    """Below a regular file, since permissions do not stop root."""
    Path("file").write_text("")
    assert "choose another folder" in refused(robmed, *flags(concat, **place))
    assert not list(Path().glob("out/*"))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "dataset,model\n", "\n", "\xff\xfe"])
def test_foreign_leaderboard(robmed: Robmed, concat: Path, text: str) -> None:
    board = Path("board.csv")
    board.write_bytes(text.encode("latin-1"))
    assert "; choose another " in refused(robmed, *flags(concat, leaderboard=board))
    assert board.read_bytes() == text.encode("latin-1")
    assert not Path("out").exists()


def test_leaderboard_is_a_folder(robmed: Robmed, concat: Path) -> None:
    Path("board").mkdir()
    assert "give the leaderboard another name" in refused(robmed, *flags(concat, leaderboard="board"))
    assert not Path("out").exists()


BAD_YAML = [
    ("model: [", "is not valid YAML"),
    ("a: b: c", "is not valid YAML"),
    ("- model\n- attack\n", "must hold a mapping of options, not list"),
    ("", "must hold a mapping of options, not NoneType"),
    ("modle: concat", "unknown option 'modle'; did you mean 'model'?"),
    ("1: 2", "unknown option '1'"),
    ("draws: many", "draws"),
    ("draws: 1.5", "draws"),
    ("modality: mr", "modality"),
    ("eps: [1, 2]", "eps"),
    ("attack_options: steps", "attack_options"),
    ("attack_options: [1, 2]", "attack_options"),
    ("attack_options: {stesp: 3}", "unknown option 'stesp'; did you mean 'steps'?"),
    ("attack_options: {1: 3}", "attack_options"),
]


@pytest.mark.parametrize(("text", "complaint"), BAD_YAML, ids=[t for t, _ in BAD_YAML])
def test_bad_yaml(robmed: Robmed, concat: Path, text: str, complaint: str) -> None:
    Path("run.yaml").write_text(text)
    command, *rest = flags(concat, steps=None)
    assert complaint in refused(robmed, command, "run.yaml", *rest)
    assert not Path("out").exists()


def test_missing_yaml(robmed: Robmed) -> None:
    assert "nowhere.yaml does not exist" in refused(robmed, "run", "nowhere.yaml")


OTHER_COMMANDS = [
    (["train", "phantom-mial"], "unknown recipe"),
    (["train", "nowhere.yaml"], "nowhere.yaml does not exist"),
    (["data", "import", "mlik10k", "--from", "x"], "did you mean 'milk10k'?"),
    (["data", "import", "milk10k", "--from", "x", "--option", "size"], "write NAME=VALUE"),
    (["data", "import", "phantom", "--from", "x"], "nothing to import"),
    (["data", "import", "milk10k", "--from", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "complaint"), OTHER_COMMANDS, ids=lambda value: str(value)[:40])
def test_other_commands(robmed: Robmed, arguments: Sequence[str], complaint: str) -> None:
    assert complaint in refused(robmed, *arguments)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["data", "chek"], ["run", "--samples", "many"], ["list", "things"]]
)
def test_what_argparse_refuses(robmed: Robmed, arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        robmed(*arguments)
    assert exit_.value.code == 2


def change_pixel(value: float) -> Callable[[Split], Split]:
    def change(split: Split) -> Split:
        images = {name: x.copy() for name, x in split.arrays.items()}
        images["b"][3, 1, 2, 0] = value
        return replace(split, arrays=images)

    return change


def change_label(value: int) -> Callable[[Split], Split]:
    def change(split: Split) -> Split:
        return replace(split, labels={**split.labels, "second": np.where(np.arange(8) == 5, value, 0)})

    return change


def set_fields(**fields: Any) -> Callable[[Split], Split]:
    return lambda split: replace(split, **fields)


EIGHT = np.arange(8)
BAD_SPLITS: dict[str, tuple[Callable[[Split], Split], str]] = {
    "NaN pixel": (change_pixel(np.nan), "b has NaN or infinite values"),
    "infinite pixel": (change_pixel(np.inf), "b has NaN or infinite values"),
    "above the box": (change_pixel(1.5), "outside 0 to 1; scale them"),
    "below the box": (change_pixel(-0.1), "outside 0 to 1; scale them"),
    "label too high": (change_label(3), "sample 's5': label 3 of second is outside 0 to 2"),
    "label negative": (change_label(-2), "sample 's5': label -2 of second is outside 0 to 2"),
    "label of a fraction": (set_fields(labels={"first": EIGHT / 16, "second": EIGHT % 3}), "from 0"),
    "duplicate ids": (set_fields(ids=("s0",) * 8), "sample ids repeat"),
    "too few groups": (set_fields(groups=("g",)), "1 values of groups for 8 samples"),
    "no such modality": (set_fields(arrays={}), "no values of the modality 'a'"),
    "no such head": (set_fields(labels={}), "no labels for the head 'first'"),
    "missing image": (set_fields(rows={"a": EIGHT, "b": EIGHT + 1}), "a row of b that is not there"),
    "image used twice": (set_fields(rows={"a": EIGHT, "b": EIGHT // 2}), "used by two samples of test"),
    "other shape": (
        set_fields(arrays={"a": np.zeros((8, 1, 9, 9), np.uint8)}),
        "a has samples of shape (1, 9, 9), the data set declares (1, 6, 8)",
    ),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_bad_split(case: str) -> None:
    spoil, complaint = BAD_SPLITS[case]
    split = random_split(8)
    assert split.validate().fingerprint == split.fingerprint
    with pytest.raises(UserError) as error:
        spoil(split).validate()
    assert complaint in str(error.value)
    assert str(error.value).startswith("specks/test: ")


def test_what_has_but_one_meaning_is_converted() -> None:
    split = random_split(8)
    whole_numbers, unknown = split.labels["first"].astype(np.float32)[:, None], np.full(8, -1, np.int8)
    odd = set_fields(labels={"first": whole_numbers, "second": unknown})(
        change_pixel(1 + 5e-7)(split)
    ).validate()
    for found, meant in zip(odd.labels.values(), (split.labels["first"], np.full(8, -1)), strict=True):
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, meant)
    assert odd.arrays["b"].max() == 1


def test_empty_split() -> None:
    with pytest.raises(UserError, match="specks/test: the split is empty"):
        random_split(8).take(np.arange(0)).validate()
