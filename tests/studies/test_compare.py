"""Paired comparison of runs, and the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Robmed
from numpy.typing import NDArray
from tiny import outcomes_of, record_of

from robustbench_med.api.model import DrawsSharedBy
from robustbench_med.studies.compare import compare_runs
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import write_json

SAMPLES = 400


def write_run(folder: Path, robust: NDArray[np.bool_], batch: int = 0, **sections: dict[str, Any]) -> Path:
    """A run of one head, clean always right, robust where ``robust`` (R, N) says."""
    outcomes = outcomes_of(np.ones_like(robust), robust, batch)
    shared_by: DrawsSharedBy = "element" if len(robust) > 1 else "none"
    write_json(folder / "record.json", record_of(folder.name, outcomes, shared_by, **sections))
    return folder


def standing(share: float) -> NDArray[np.bool_]:
    return (np.arange(SAMPLES) < share * SAMPLES)[None]


def test_a_run_against_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", standing(0.5))
    found = compare_runs(run, run)
    assert (found.robust.value, found.robust.low, found.robust.high, found.robust.p_value) == (0, 0, 0, 1)
    assert found.complaints == ()


@pytest.mark.parametrize(
    ("share", "passes"), [(0.5, True), (0.51, True), (0.49, True), (0.48, False), (0.4, False), (0.6, False)]
)
def test_the_gate(share: float, passes: bool, tmp_path: Path, robmed: Robmed) -> None:
    """A fall must be excluded by the interval; a rise is questioned once it is certain."""
    old, new = write_run(tmp_path / "old", standing(0.5)), write_run(tmp_path / "new", standing(share))
    found = compare_runs(old, new)
    assert found.robust.value == pytest.approx(share - 0.5)
    assert found.clean.value == 0
    assert (found.complaints == ()) is passes
    assert robmed("compare", old, new)[0] == 0
    assert robmed("compare", old, new, "--gate")[0] == (0 if passes else 1)
    assert robmed("compare", old, new, "--gate", "--margin", "0.3")[0] == 0


def test_pairs_know_more_than_two_samples(tmp_path: Path) -> None:
    """Random draws around the same samples: the interval is that of the flips, not of both shares."""
    rng = np.random.default_rng(0)
    hard = rng.random(SAMPLES) < 0.5
    runs = [write_run(tmp_path / n, hard & (rng.random((10, SAMPLES)) < 0.98)) for n in ("a", "b")]
    found = compare_runs(runs[0], runs[1])
    assert found.robust.high - found.robust.low < 0.02
    assert found.robust.low <= 0 <= found.robust.high
    assert found.robust.p_value is None


def test_another_attack_is_no_regression(tmp_path: Path) -> None:
    runs = (
        write_run(tmp_path / "a", standing(0.5)),
        write_run(tmp_path / "b", standing(0.5), attack={"name": "fgsm"}),
    )
    assert "attacks differ" in compare_runs(runs[0], runs[1]).complaints[0]


def changed(run: Path, **sections: dict[str, Any]) -> Path:
    """The run with other entries in its record."""
    record = json.loads((run / "record.json").read_text())
    merged = {name: record.get(name, {}) | entries for name, entries in sections.items()}
    (run / "record.json").write_text(json.dumps(record | merged))
    return run


def test_a_failed_audit_fails_the_gate(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path / n, standing(0.5)) for n in ("old", "new"))
    for verdict in ("sound", "sound against score attackers", "unaudited"):
        assert compare_runs(old, changed(new, audit={"verdict": verdict})).complaints == ()
    for verdict in ("not sound: transfer", "incomplete: transfer"):
        found = compare_runs(old, changed(new, audit={"verdict": verdict}))
        assert found.complaints == (f"the audit of the new run: {verdict}",)


def test_draws_that_auto_settled_on_are_no_other_attack(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, standing(0.5)) for n in ("old", "new")]
    for run, settled in zip(runs, (2, 4), strict=True):
        changed(run, attack={"eot": settled}, config={"eot": "auto"})
    assert compare_runs(runs[0], runs[1]).complaints == ()
    for run, given in zip(runs, (2, 4), strict=True):
        changed(run, config={"eot": given})
    assert "attacks differ" in compare_runs(runs[0], runs[1]).complaints[0]


def test_shared_draws_need_the_same_batches(tmp_path: Path) -> None:
    shared = {"draws_shared_by": "batch"}
    old, new, other = (
        write_run(tmp_path / n, standing(0.5), batch, model={"label": n, **shared})
        for n, batch in (("old", 0), ("new", 0), ("other", 100))
    )
    assert compare_runs(old, new).robust.p_value is None  # one draw moves all samples together
    with pytest.raises(UserError, match="one --batch-size"):
        compare_runs(old, other)


def test_what_cannot_be_compared(tmp_path: Path, robmed: Robmed) -> None:
    one = write_run(tmp_path / "a", standing(0.5))
    other = write_run(tmp_path / "b", standing(0.5), dataset={"fingerprint": "g"})
    shorter = write_run(tmp_path / "c", standing(0.5)[:, :9])
    for pair, complaint in (
        ((one, other), "other values or samples (dataset.fingerprint)"),
        ((one, shorter), "other samples"),
        ((one, tmp_path / "none"), "none does not exist; give the folder of a run"),
    ):
        code, lines = robmed("compare", *pair)
        assert (code, len(lines)) == (2, 1)
        assert complaint in lines[0]
    with pytest.raises(UserError, match="between 0 and 1"):
        compare_runs(one, one, margin=0)
    (one / "record.json").write_text("{}")
    with pytest.raises(UserError, match="no record of robmed run"):
        compare_runs(one, one)
