"""What is given twice, cannot be a path, or was edited by hand: refused in one line before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Robmed
from test_bad_input import flags, refused

from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.util.config import read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


TWICE: list[tuple[tuple[object, ...], str]] = [
    (("--option", "loss=margin", "--option", "loss=cross-entropy"), "'loss' is given twice"),
    (("--option", "step-size=0.1", "--option", "step_size=0.2"), "'step-size' is given twice"),
    (("--option", "steps=2"), "--steps and --option steps are both given"),
    (("--option", "=2"), "write NAME=VALUE"),
    (("--option", "self=2"), "unknown option 'self'"),
    (("--option", "__class__=2"), "unknown option"),
    (("--eps", "mr=1/255,mr=2/255"), "'mr' is given twice"),
    (("--defense", "gaussian-noise:sigma=0.1,sigma=0.2"), "'sigma' is given twice"),
    (("--out", ""), "--out is empty"),
    (("--weights", ""), "--weights is empty"),
    (("--weights", "."), "there is no weights file"),
    (("--device", "meta"), "device 'meta'"),
    (("--out", "x" * 300), "File name too long"),
    (("--weights", "x" * 300), "File name too long"),
    (("--leaderboard", "x" * 300), "File name too long"),
    (("--model", "x" * 300 + ".yaml"), "File name too long"),
    (("--out", "~nobody-of-that-name"), "no such home folder"),
    (("--out", "/proc/x"), "choose another folder"),
    (("--leaderboard", "/dev/null"), "is not a plain file"),
]


@pytest.mark.parametrize(("further", "complaint"), TWICE, ids=[str(f)[:40] for f, _ in TWICE])
def test_flags(robmed: Robmed, concat: Path, further: tuple[object, ...], complaint: str) -> None:
    assert complaint in refused(robmed, *flags(concat), *further)
    assert not Path("out").exists()


@pytest.mark.parametrize("option", ["self=x", "source=x", "__class__=x", "=x"])
def test_options_of_an_import(robmed: Robmed, option: str) -> None:
    assert option.partition("=")[0] in refused(
        robmed, "data", "import", "milk10k", "--from", ".", "--option", option
    )


@pytest.mark.parametrize("command", ["board", "compare", "suite", "data", "train"])
def test_paths_that_cannot_be(robmed: Robmed, command: str) -> None:
    long = "x" * 300
    arguments: dict[str, tuple[str, ...]] = {
        "compare": (long, "y"),
        "suite": (f"{long}.yaml",),
        "data": ("import", "milk10k", "--from", long),
        "train": ("phantom-concat", "--out", long),
    }
    assert "File name too long" in refused(robmed, command, *arguments.get(command, (long,)))


def test_a_path_with_a_null_character() -> None:
    with pytest.raises(UserError, match="has control characters"):
        given_path("a\0b")


YAML = {
    "seed: 1\neps: 1/255\nseed: 2\n": "the key 'seed' is given twice (again in line 3)",
    "eps: !!bool abc\n": "tags",
    "eps: !!timestamp abc\n": "tags",
    "seed: !!python/object/apply:os.system ['touch ran']\n": "tags",
    "a: &a [1]\nb: [*a, *a]\n": "aliases (*name) are not taken; write the value out (line 2)",
    f"seed: {'9' * 5000}\n": "more than 400 digits",
    "seed: 2021-99-99\n": "month must be",
    f"a: {'[' * 3000}\n": "nested too deeply",
    "? [1, 2]\n: 3\n": "unhashable key",
    "a: 1\n---\nb: 2\n": "expected a single document",
    "a: \0\n": "special characters are not allowed",
    "".join(f"k{i}: 1\n" for i in range(9000)) + "k1: 2\n": "'k1' is given twice",
}


@pytest.mark.parametrize("text", YAML, ids=[text[:30] for text in YAML])
def test_yaml(text: str) -> None:
    path = Path("x.yaml")
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert YAML[text] in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


@pytest.fixture(scope="module")
def finished(weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    from robustbench_med import RunConfig, run

    out = tmp_path_factory.mktemp("runs")
    return run(RunConfig("concat", "fgsm", weights=str(weights["concat"]), samples=4, out=str(out))).folder


def place(*names: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for name in names[:-1]:
            record = record[name]
        record[names[-1]] = value

    return change


RECORDS = [
    *(place(name, value=[]) for name in ("config", "dataset", "threat_model", "attack", "audit", "accuracy")),
    *(place("model", name, value=3) for name in ("label", "draws_shared_by")),
    place("headline", value="nobody"),
    place("schema", value=1),
    place("outcomes", "batches", value=[10**12]),
    place("outcomes", "batches", value=[3]),
    place("outcomes", "groups", value=["g"]),
    place("outcomes", "clean", value={}),
    place("outcomes", "draws", value={"clean": 10**12, "robust": 1}),
]


@pytest.mark.parametrize("change", RECORDS, ids=range(len(RECORDS)))
def test_edited_records(robmed: Robmed, finished: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((finished / "record.json").read_text())
    change(record)
    Path("edited.json").write_text(json.dumps(record))
    assert "edited.json" in refused(robmed, "compare", finished, "edited.json")


def test_a_record_stands_for_its_folder(robmed: Robmed, finished: Path) -> None:
    assert robmed("compare", finished / "record.json", finished)[0] == 0


def test_edited_outcomes(finished: Path) -> None:
    with np.load(finished / "outcomes.npz") as stored:
        arrays = dict(stored)
    Path("bad.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="is damaged"):
        Outcomes.load(Path("bad.npz"))
    for name in ("groups", "labels/side", "clean/lesion"):
        axis = 1 if name.startswith("clean") else 0
        np.savez(Path("bad.npz"), **(arrays | {name: arrays[name].take([0, 1], axis)}))
        with pytest.raises(UserError, match=r"is damaged .(groups|labels|clean scores)"):
            Outcomes.load(Path("bad.npz"))
    np.savez_compressed(Path("bad.npz"), **arrays, bomb=np.zeros(30_000_000))
    with pytest.raises(UserError, match=r"is damaged .*bytes out of"):
        Outcomes.load(Path("bad.npz"))
