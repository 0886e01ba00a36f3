"""What fails in the middle: the rest is made all the same, and nothing finished is lost or made twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Robmed

from robustbench_med.api.data import Split
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.reporting import figures
from robustbench_med.reporting.leaderboard import read
from robustbench_med.studies import run as pipeline
from robustbench_med.studies.several import run_all


def test_a_cell_that_cannot_be_prepared_ends_no_other(
    robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its own model's other columns nor the other data sets; the command lists it and exits 1."""
    bad, fine, suite = (tmp_path / name for name in ("bad.yaml", "fine.yaml", "suite.yaml"))
    fine.write_text("attack: fgsm\n")
    bad.write_text("attack: fgsm\nhead: nobody\n")
    suite.write_text(
        "title: Small\ndatasets: [phantom-volume, phantom]\nmodels: [concat]\n"
        f"runs: [{{protocol: {bad}, samples: 4}}, {{protocol: {fine}, samples: 4, title: a|b}}]\n"
    )

    def load(name: str, split: str) -> Split:
        if name == "phantom-volume":
            raise RuntimeError("a bug of a data set")
        return load_dataset(name, split)

    def no_font(*_: object) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("robustbench_med.studies.suite.load_dataset", load)
    monkeypatch.setattr("robustbench_med.reporting.suite.draw", no_font)
    code, lines = robmed("suite", suite, "--out", tmp_path / "out")
    assert code == 1
    volume, phantom = (line for line in lines if line.startswith("robmed: failed: "))
    assert volume.endswith("phantom-volume: RuntimeError: a bug of a data set")
    assert "concat on phantom, bad: unknown head 'nobody'" in phantom
    assert "Traceback (most recent call last):" in lines, "a bug keeps its traceback"
    assert any("figure.png could not be drawn (ValueError: no font)" in line for line in lines)
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[2] == r"| data | model | clean | a\|b | samples |"
    assert [line.split(" | ")[1] for line in table[4:]] == ["`concat-x0.1875`"]


def test_a_suite_of_which_all_fails_says_why(robmed: Robmed, tmp_path: Path) -> None:
    protocol, suite = tmp_path / "bad.yaml", tmp_path / "suite.yaml"
    protocol.write_text("attack: fgsm\nhead: nobody\n")
    suite.write_text(
        f"title: Small\ndatasets: [phantom]\nmodels: [concat]\nruns: [{{protocol: {protocol}, samples: 4}}]\n"
    )
    code, (line,) = robmed("suite", suite, "--out", tmp_path / "out")
    assert code == 2
    assert "the first failure: concat on phantom, bad: unknown head 'nobody'" in line


def test_a_list_of_attacks_goes_on_where_it_was_killed(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack that was finished is not made again; the worst case alone has a row."""
    config = RunConfig("concat", "fgsm,pgd", weights=str(weights["concat"]), samples=4, out=str(tmp_path))
    made = []

    def killed(plan: Plan, *arguments: Any) -> Outcomes:
        if plan.name == "pgd":
            raise KeyboardInterrupt
        return evaluate(plan, *arguments)

    def counted(plan: Plan, *arguments: Any) -> Outcomes:
        made.append(plan.name)
        return evaluate(plan, *arguments)

    monkeypatch.setattr(pipeline, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        run_all(config)
    monkeypatch.setattr(pipeline, "evaluate", counted)
    run_all(config)
    assert made == ["pgd"]
    attacks = [row["attack"].partition(" ")[0] for row in read(tmp_path / "leaderboard.csv")]
    assert attacks == ["ensemble"]


COMMANDS: list[tuple[str, ...]] = [
    ("run", "--attack", "fgsm"),
    ("curve", "--attack", "fgsm", "--radii", "1/255"),
    ("modalities", "--attack", "fgsm"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=[c[0] for c in COMMANDS])
def test_no_figure_loses_a_finished_run(
    command: tuple[str, ...],
    robmed: Robmed,
    weights: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(figures.pyplot(), "subplots", broken)
    flags = ("--model", "concat", "--weights", weights["concat"], "--samples", 4, "--out", tmp_path)
    code, lines = robmed(*command, *flags)
    assert code == 0
    assert lines
    assert all("could not be drawn (RuntimeError: no font)" in line for line in lines)
    assert list(tmp_path.glob("*/record.json"))
    assert bool(read(tmp_path / "leaderboard.csv")) is (command[0] != "curve")


def limited(room: int) -> Callable[[], None]:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    return limit


FULL: list[tuple[str, tuple[object, ...]]] = [
    ("run", ("--attack", "fgsm", "--samples", 4)),
    ("certify", ("--sigma", 0.1, "--n", 20, "--n0", 5, "--alpha", 0.1, "--samples", 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "further"), FULL, ids=[command for command, _ in FULL])
def test_a_full_disk_is_one_line(
    command: str, further: tuple[object, ...], weights: dict[str, Path], tmp_path: Path
) -> None:
    """No file may grow beyond 50 bytes, as if the disk had no more room."""
    import subprocess
    import sys

    given = ("--model", "concat", "--weights", weights["concat"], "--out", tmp_path / "out", *further)
    done = subprocess.run(
        [sys.executable, "-m", "robustbench_med.cli", command, *map(str, given)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited(50),
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "File too large" in line
    assert not list((tmp_path / "out").glob("*/record.json"))
