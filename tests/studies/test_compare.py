"""Paired comparison of runs, and the gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Robmed
from numpy.typing import NDArray

from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.studies.compare import compare
from robustbench_med.util.errors import UserError

SAMPLES = 400


def write_run(folder: Path, robust: NDArray[np.bool_], attack: str = "pgd", **dataset: str) -> Path:
    """A run of one head, clean always right, robust where ``robust`` (R, N) says."""
    draws, samples = robust.shape
    labels = {"head": np.zeros(samples, np.int64)}
    right = np.broadcast_to(np.array([1.0, 0.0], np.float32), (draws, samples, 2))
    adversarial = np.where(robust[:, :, None], right, right[:, :, ::-1]).astype(np.float32)
    names = tuple(f"s{i}" for i in range(samples))
    outcomes = Outcomes(
        names, names, labels, {"head": right}, {"head": adversarial}, np.zeros(samples, int), 0, 0, 0.0, {}
    )
    outcomes.save(folder / "outcomes.npz")
    record: dict[str, Any] = {
        "model": {"label": folder.name, "draws_shared_by": "element" if draws > 1 else "none"},
        "dataset": {"name": "d", "fingerprint": "f", **dataset},
        "threat_model": {"budgets": {"a": {"norm": "linf", "epsilon": 0.1}}, "goal": "any"},
        "attack": {"name": attack},
        "headline": "any head",
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def standing(share: float) -> NDArray[np.bool_]:
    return (np.arange(SAMPLES) < share * SAMPLES)[None]


def test_a_run_against_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", standing(0.5))
    found = compare(run, run)
    assert (found.robust.value, found.robust.low, found.robust.high, found.robust.p_value) == (0, 0, 0, 1)
    assert found.complaints == ()


@pytest.mark.parametrize(
    ("share", "passes"), [(0.5, True), (0.51, True), (0.49, True), (0.48, False), (0.4, False), (0.6, False)]
)
def test_the_gate(share: float, passes: bool, tmp_path: Path, robmed: Robmed) -> None:
    """A fall must be excluded by the interval; a rise is questioned once it is certain."""
    old, new = write_run(tmp_path / "old", standing(0.5)), write_run(tmp_path / "new", standing(share))
    found = compare(old, new)
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
    found = compare(runs[0], runs[1])
    assert found.robust.high - found.robust.low < 0.02
    assert found.robust.low <= 0 <= found.robust.high
    assert found.robust.p_value is None


def test_another_attack_is_no_regression(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "a", standing(0.5)), write_run(tmp_path / "b", standing(0.5), "fgsm")
    assert "attacks differ" in compare(runs[0], runs[1]).complaints[0]


def changed(run: Path, **sections: dict[str, Any]) -> Path:
    """The run with other entries in its record."""
    record = json.loads((run / "record.json").read_text())
    merged = {name: record.get(name, {}) | entries for name, entries in sections.items()}
    (run / "record.json").write_text(json.dumps(record | merged))
    return run


def test_a_failed_audit_fails_the_gate(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path / n, standing(0.5)) for n in ("old", "new"))
    assert compare(old, changed(new, audit={"verdict": "sound"})).complaints == ()
    assert "failed: transfer" in compare(old, changed(new, audit={"verdict": "transfer"})).complaints[0]


def test_draws_that_auto_settled_on_are_no_other_attack(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, standing(0.5)) for n in ("old", "new")]
    for run, settled in zip(runs, (2, 4), strict=True):
        changed(run, attack={"eot": settled}, config={"eot": "auto"})
    assert compare(runs[0], runs[1]).complaints == ()
    for run, given in zip(runs, (2, 4), strict=True):
        changed(run, config={"eot": given})
    assert "attacks differ" in compare(runs[0], runs[1]).complaints[0]


def test_shared_draws_need_the_same_batches(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, standing(0.5)) for n in ("old", "new")]
    for run in runs:
        changed(run, model={"draws_shared_by": "batch"})
    assert compare(runs[0], runs[1]).robust.p_value is None  # one draw moves all samples together
    outcomes = Outcomes.load(runs[1] / "outcomes.npz")
    replace(outcomes, batches=np.arange(SAMPLES) // 100).save(runs[1] / "outcomes.npz")
    with pytest.raises(UserError, match="one --batch-size"):
        compare(runs[0], runs[1])


def test_what_cannot_be_compared(tmp_path: Path, robmed: Robmed) -> None:
    one = write_run(tmp_path / "a", standing(0.5))
    other = write_run(tmp_path / "b", standing(0.5), fingerprint="g")
    shorter = write_run(tmp_path / "c", standing(0.5)[:, :9])
    for pair, complaint in (
        ((one, other), "other images or samples"),
        ((one, shorter), "other samples"),
        ((one, tmp_path / "none"), "record.json does not exist"),
    ):
        code, lines = robmed("compare", *pair)
        assert (code, len(lines)) == (2, 1)
        assert complaint in lines[0]
    with pytest.raises(UserError, match="between 0 and 1"):
        compare(one, one, margin=0)
    (one / "record.json").write_text("{}")
    with pytest.raises(UserError, match="no record of robmed run"):
        compare(one, one)
