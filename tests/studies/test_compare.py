"""Paired comparison of runs, and the gate on these very samples."""

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
from robustbench_med.measure.gate import Gate
from robustbench_med.measure.margins import Margins
from robustbench_med.studies.compare import compare_runs
from robustbench_med.studies.gate import gate_runs
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import write_json

SAMPLES = 400


def write_run(folder: Path, robust: NDArray[np.bool_], batch: int = 0, **sections: Any) -> Path:
    """A run of one head, clean always right, robust where ``robust`` (R, N) says."""
    outcomes = outcomes_of(np.ones_like(robust), robust, batch)
    shared_by: DrawsSharedBy = "element" if len(robust) > 1 else "none"
    record = record_of("net", outcomes, shared_by)
    for name, value in sections.items():
        record[name] = {**record.get(name, {}), **value} if isinstance(value, dict) else value
    write_json(folder / "record.json", record)
    return folder


def standing(share: float, samples: int = SAMPLES) -> NDArray[np.bool_]:
    return (np.arange(samples) < round(share * samples))[None]


def gated(old: Path, new: Path, margin: float = 0.02) -> Gate:
    return gate_runs(old, new, Margins(clean=margin, robust=margin))


def failures(gate: Gate) -> list[str]:
    return [f"{line.name}: {line.reason}" for line in gate.lines if line.result != "passed"]


def test_a_run_against_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", standing(0.5))
    found = compare_runs(run, run)
    assert (found.robust.value, found.robust.low, found.robust.high, found.robust.p_value) == (0, 0, 0, 1)
    assert found.is_no_worse


@pytest.mark.parametrize("samples", [1, 7, 50, 100, 400])
@pytest.mark.parametrize("draws", [1, 10])
def test_a_run_against_itself_passes_at_any_size(samples: int, draws: int, tmp_path: Path) -> None:
    """Deterministic or random: the same seed gives the same outcomes."""
    rng = np.random.default_rng(samples)
    run = write_run(tmp_path / "a", rng.random((draws, samples)) < 0.5)
    assert gated(run, run).result == "passed"


@pytest.mark.parametrize(
    ("share", "status"),
    [(0.5, 0), (0.51, 0), (0.49, 0), (0.48, 2), (0.47, 1), (0.4, 1), (0.52, 0), (0.5225, 1), (0.6, 1)],
)
def test_the_gate(share: float, status: int, tmp_path: Path, robmed: Robmed) -> None:
    """Eight of 400 are the margin; falls of 6 to 10 are too close for one seed; an unaudited rise fails."""
    old, new = write_run(tmp_path / "old", standing(0.5)), write_run(tmp_path / "new", standing(share))
    assert {"passed": 0, "failed": 1, "undecided": 2}[gated(old, new).result] == status
    assert robmed("compare", old, new)[0] == 0
    assert robmed("compare", old, new, "--gate")[0] == status
    assert robmed("compare", old, new, "--gate", "--margin", "0.3")[0] == 0


@pytest.mark.parametrize("share", [0.48, 0.475])
def test_three_seeds_decide_what_is_close(share: float, tmp_path: Path) -> None:
    """Equality to the margin passes; two samples beyond it fail."""
    for seed in range(3):
        write_run(tmp_path / "old" / str(seed), standing(0.5), seed=seed)
        write_run(tmp_path / "new" / str(seed), standing(share), seed=seed)
    one = gated(tmp_path / "old" / "0", tmp_path / "new" / "0")
    assert one.result == "undecided"
    assert one.wants_seeds
    assert "3 of both decide" in failures(one)[0]
    all_three = gated(tmp_path / "old", tmp_path / "new")
    assert all_three.result == ("passed" if share == 0.48 else "failed")
    assert not all_three.wants_seeds


def test_seeds_count_in_the_mean(tmp_path: Path) -> None:
    """One seed alone would fail; the others saw no fall."""
    for seed, share in enumerate((0.475, 0.5, 0.5)):
        write_run(tmp_path / "old" / str(seed), standing(0.5), seed=seed)
        write_run(tmp_path / "new" / str(seed), standing(share), seed=seed)
    gate = gated(tmp_path / "old", tmp_path / "new")
    assert gate.result == "passed"
    assert "3 attack seeds" in gate.lines[1].reason


def test_clean_falls_need_no_seeds(tmp_path: Path) -> None:
    """Nothing random made the clean number."""
    for seed in range(3):
        write_run(tmp_path / "old" / str(seed), standing(0.5), seed=seed)
    new = write_run(tmp_path / "new", standing(0.5), seed=0)
    record = json.loads((new / "record.json").read_text())
    worse = write_run(tmp_path / "worse", standing(0.4775))
    for name in record["outcomes"]["clean"]:
        other = json.loads((worse / "record.json").read_text())["outcomes"]["robust"]
        record["outcomes"]["clean"][name] = other[name]
    (new / "record.json").write_text(json.dumps(record))
    line = gated(tmp_path / "old" / "0", new, 0.524).lines[0]
    assert (line.result, line.close) == ("passed", False)
    assert gated(tmp_path / "old" / "0", new, 0.52).lines[0].result == "failed"


def random_runs(tmp_path: Path, share: float, draws: int, samples: int = 400) -> tuple[Path, Path]:
    """Nets that are right by chance, on independent draws: the old one in half of them."""
    rng = np.random.default_rng(0)
    return (
        write_run(tmp_path / "old", rng.random((draws, samples)) < 0.5, seed=0),
        write_run(tmp_path / "new", rng.random((draws, samples)) < share, seed=0),
    )


def test_draws_that_blur_more_than_the_margin(tmp_path: Path) -> None:
    """Two draws a sample blur by five points: it is said how many would do."""
    gate = gated(*random_runs(tmp_path, 0.5, 2))
    assert gate.result == "undecided"
    (said,) = [line.reason for line in gate.lines if line.result == "undecided"]
    assert "samples would decide it" in said
    wanted = int(said.split(" draws or ")[0].split()[-1])
    assert 8 <= wanted <= 20
    decided = gated(*random_runs(tmp_path, 0.5, 2 * wanted))
    assert decided.result == "passed", failures(decided)
    assert gated(*random_runs(tmp_path, 0.3, 2)).result == "failed"  # clear all the same


def test_one_draw_of_a_random_net_says_nothing(tmp_path: Path) -> None:
    model: dict[str, Any] = {"model": {"label": "m", "draws_shared_by": "element"}}
    old = write_run(tmp_path / "old", standing(0.5), **model)
    new = write_run(tmp_path / "new", standing(0.45), **model)
    assert gated(old, old).result == "passed"
    assert "take 10" in failures(gated(old, new))[-1]


def test_shared_draws_blur_more(tmp_path: Path) -> None:
    """A draw that moves all samples together is one draw, however many samples there are."""
    rng = np.random.default_rng(1)
    hard = rng.random(400) < 0.5
    right = [hard & (rng.random((10, 1)) < 0.8) for _ in range(2)]
    shared: dict[str, Any] = {"model": {"label": "m", "draws_shared_by": "batch"}}
    runs = [write_run(tmp_path / name, r, **shared) for name, r in zip(("a", "b"), right, strict=True)]
    own = [write_run(tmp_path / name, r) for name, r in zip(("c", "d"), right, strict=True)]
    assert gated(runs[0], runs[1]).result == "undecided"
    assert gated(own[0], own[1]).result != "undecided"


def test_pairs_know_more_than_two_samples(tmp_path: Path) -> None:
    """Random draws around the same samples: the interval is that of the flips, not of both shares."""
    rng = np.random.default_rng(0)
    hard = rng.random(SAMPLES) < 0.5
    runs = [write_run(tmp_path / n, hard & (rng.random((10, SAMPLES)) < 0.98)) for n in ("a", "b")]
    found = compare_runs(runs[0], runs[1])
    assert found.robust.high - found.robust.low < 0.02
    assert found.robust.low <= 0 <= found.robust.high
    assert found.robust.p_value is None


def test_no_worse_on_other_patients_is_another_question(tmp_path: Path, robmed: Robmed) -> None:
    """A hundred other samples would tell little: the interval must fit into the margin."""
    old, new = (write_run(tmp_path / n, standing(s, 100)) for n, s in (("old", 0.5), ("new", 0.49)))
    assert robmed("compare", old, new, "--non-inferior")[0] == 1
    assert robmed("compare", old, old, "--non-inferior")[0] == 0
    assert robmed("compare", old, new, "--non-inferior", "--margin", "0.3")[0] == 0


def changed(run: Path, **sections: dict[str, Any]) -> Path:
    """The run with other entries in its record."""
    record = json.loads((run / "record.json").read_text())
    merged = {name: record.get(name, {}) | entries for name, entries in sections.items()}
    (run / "record.json").write_text(json.dumps(record | merged))
    return run


@pytest.mark.parametrize(
    "other",
    [
        {"attack": {"name": "fgsm"}},
        {"attack": {"steps": 10}},
        {"code": {"attack": {"packages": {"x": "2"}}}},
        {"threat_model": {"budgets": {"a": {"norm": "l2", "epsilon": 0.2}}}},
    ],
)
def test_another_attack_is_no_regression(other: dict[str, Any], tmp_path: Path, robmed: Robmed) -> None:
    old = write_run(tmp_path / "a", standing(0.5), code={"attack": {"packages": {"x": "1"}}})
    new = changed(write_run(tmp_path / "b", standing(0.4)), code={"attack": {"packages": {"x": "1"}}})
    code, lines = robmed("compare", old, changed(new, **other), "--gate")
    assert (code, len(lines)) == (2, 1)
    assert "cannot be compared" in lines[0]


def test_what_changed_is_said(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", standing(0.5), seed=0, code={"versions": {"torch": "1"}})
    new = write_run(tmp_path / "new", standing(0.5), seed=4, code={"versions": {"torch": "2"}})
    gate = gated(old, new)
    assert gate.result == "passed"
    assert any("torch: 1 before, 2 now" in note for note in gate.notes)
    assert any("seed: 0 before, 4 now" in note for note in gate.notes)


def test_a_failed_audit_fails_the_gate(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path / n, standing(0.5)) for n in ("old", "new"))
    for verdict in ("sound", "sound against score attackers", "unaudited"):
        assert gated(old, changed(new, audit={"verdict": verdict})).result == "passed"
    for verdict in ("not sound: transfer", "incomplete: transfer"):
        assert gated(old, changed(new, audit={"verdict": verdict})).result == "failed"
        assert gated(new, new).result == "passed"  # it is what it was


def test_a_rise_is_a_question_to_the_audit(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path / n, standing(s)) for n, s in (("old", 0.5), ("new", 0.6)))
    for verdict in ("sound", "sound against score attackers"):
        assert gated(old, changed(new, audit={"verdict": verdict})).result == "passed"
    for verdict in ("unaudited", "incomplete: transfer", "not sound: transfer"):
        assert gated(old, changed(new, audit={"verdict": verdict})).result == "failed"


def test_heads_and_the_worst_subgroup_if_asked(tmp_path: Path) -> None:
    worst = [{"column": "sex", "value": "f", "samples": 40, "robust": {"value": v}} for v in (0.5, 0.3)]
    old, new = (
        write_run(tmp_path / n, standing(0.5), worst_subgroup=w)
        for n, w in zip(("old", "new"), worst, strict=True)
    )
    new_record = new / "record.json"
    record = json.loads(new_record.read_text())
    record["outcomes"]["robust"]["head"] = record["outcomes"]["clean"]["head"]
    new_record.write_text(json.dumps(record))
    assert gated(old, new).result == "passed"
    asked = gate_runs(old, new, Margins(worst_subgroup=0.1))
    assert "fell by 20.0 points" in failures(asked)[0]
    assert gate_runs(old, new, Margins(worst_subgroup=0.3)).result == "passed"
    by_head = gate_runs(old, new, Margins(heads={"head": 0.05}))
    assert "robust, head: rose by 50.0 points" in failures(by_head)[0]
    with pytest.raises(UserError, match="did you mean 'head'"):
        gate_runs(old, new, Margins(heads={"haed": 0.05}))


def test_draws_that_auto_settled_on_are_no_other_attack(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, standing(0.5)) for n in ("old", "new")]
    for run, settled in zip(runs, (2, 4), strict=True):
        changed(run, attack={"eot": settled}, config={"eot": "auto"})
    assert gated(runs[0], runs[1]).result == "passed"
    for run, given in zip(runs, (2, 4), strict=True):
        changed(run, config={"eot": given})
    with pytest.raises(UserError, match="attacks differ"):
        gated(runs[0], runs[1])


def test_shared_draws_need_the_same_batches(tmp_path: Path) -> None:
    shared = {"draws_shared_by": "batch"}
    old, new, other = (
        write_run(tmp_path / n, standing(0.5), batch, model={"label": n, **shared})
        for n, batch in (("old", 0), ("new", 0), ("other", 100))
    )
    assert compare_runs(old, new).robust.p_value is None  # one draw moves all samples together
    for compared in (compare_runs, gated):
        with pytest.raises(UserError, match=r"one .*batch.size"):
            compared(old, other)


def test_what_cannot_be_compared(tmp_path: Path, robmed: Robmed) -> None:
    one = write_run(tmp_path / "a", standing(0.5))
    other = write_run(tmp_path / "b", standing(0.5), dataset={"fingerprint": "g"})
    shorter = write_run(tmp_path / "c", standing(0.5)[:, :9])
    for pair, complaint in (
        ((one, other), "other values or samples (dataset.fingerprint"),
        ((one, shorter), "other samples"),
        ((one, tmp_path / "none"), "none does not exist; give the folder of a run"),
    ):
        for gate in ((), ("--gate",)):
            code, lines = robmed("compare", *pair, *gate)
            assert (code, len(lines)) == (2, 1)
            assert complaint in lines[0]
    with pytest.raises(UserError, match="between 0 and 1"):
        compare_runs(one, one, margin=0)
    with pytest.raises(UserError, match="between 0 and 1"):
        gated(one, one, margin=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no records"):
        gated(tmp_path / "empty", one)
    (one / "record.json").write_text("{}")
    with pytest.raises(UserError, match="no record of robmed run"):
        compare_runs(one, one)


def test_records_of_two_claims_are_no_baseline(tmp_path: Path) -> None:
    for seed, net in enumerate(("a", "b")):
        write_run(tmp_path / "old" / net, standing(0.5), seed=seed, model={"label": net})
    new = write_run(tmp_path / "new", standing(0.5), seed=0)
    with pytest.raises(UserError, match="not of one claim"):
        gated(tmp_path / "old", new)
