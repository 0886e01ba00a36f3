"""What a suite is said to cost: never less than it takes, and nothing is made for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    ConvNet,
    RandomNet,
    labelled_by,
    plan_of,
    random_split,
    seeded,
    threat_of,
)

from robustbench_med import cli
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.forecast import Cost, attack_cost, scoring_cost, time_pass
from robustbench_med.evaluation.plan import Plan
from robustbench_med.studies.forecast import forecast_suite
from robustbench_med.studies.suite import Entry, Making, Suite, run_suite


def planned(net: FusionModel, attack: str, **options: Any) -> Plan:
    split = labelled_by(net, random_split(8))
    return plan_of(net, split, ATTACKS.get(attack)(**options), threat_of(a=0.02, b=0.02))


@pytest.mark.parametrize(("steps", "restarts"), [(7, 1), (5, 3)])
def test_passes_are_those_of_a_sample_that_never_breaks(steps: int, restarts: int) -> None:
    found = attack_cost(planned(seeded(ConvNet, CHANNELS, CLASSES), "pgd", steps=steps, restarts=restarts))
    assert found.backward == steps * restarts
    assert found.backward <= found.forward <= (steps + 1) * restarts + 1


def test_draws_multiply_passes() -> None:
    plan = planned(seeded(RandomNet, CHANNELS, CLASSES), "pgd", steps=4)
    one, three = (attack_cost(replace(plan, eot=eot)) for eot in (1, 3))
    assert three == one * 3
    assert scoring_cost(replace(plan, draws=5)) == Cost(20, 0)


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("apgd", {"steps": 10}),
        ("square", {"queries": 30}),
        ("autoattack", {"steps": 5}),
        ("spsa", {"steps": 3}),
        ("fgsm", {}),
    ],
)
def test_no_run_takes_more_than_was_said(attack: str, options: dict[str, Any], tmp_path: Path) -> None:
    plan = planned(seeded(ConvNet, CHANNELS, CLASSES), attack, **options)
    said, took = attack_cost(plan), evaluate(plan, tmp_path, lambda _: None)
    assert 0 < took.forward <= said.forward * len(plan.split)
    assert took.backward <= said.backward * len(plan.split)


def test_a_pass_has_a_time_and_a_size() -> None:
    found = time_pass(planned(seeded(ConvNet, CHANNELS, CLASSES), "fgsm"))
    assert found.forward > 0
    assert found.seconds(Cost(10, 0)) == pytest.approx(10 * found.forward)
    assert found.seconds(Cost(10, 10)) == pytest.approx(10 * found.both)
    assert found.memory > 10_000_000


@pytest.mark.usefixtures("no_pictures")
def test_a_plan_tells_what_is_there(tmp_path: Path) -> None:
    suite = Suite(
        "Small", ("phantom",), ("concat",), tuple(Entry("released", samples=n, title=str(n)) for n in (2, 4))
    )
    first = Suite("First", ("phantom",), ("concat",), suite.runs[:1])
    before = forecast_suite(suite, Making(tmp_path / "out"))
    assert [run.state for run in before.runs] == ["to make", "to make"]
    assert before.runs[1].passes is not None
    assert before.runs[0].passes == before.runs[1].passes
    assert before.seconds > 0
    assert not (tmp_path / "out").exists()
    made = run_suite(first, Making(tmp_path / "out"))
    after = forecast_suite(suite, Making(tmp_path / "out"))
    assert [run.state for run in after.runs] == ["finished", "to make"]
    assert after.runs[0].seconds is None
    published = {record["run"]: record for record in made.records.values()}
    taken = forecast_suite(suite, Making(tmp_path / "other", published=published))
    assert [run.state for run in taken.runs] == ["published", "to make"]


@pytest.mark.usefixtures("no_pictures")
def test_what_attacks_modalities_one_by_one_is_in_the_plan(tmp_path: Path) -> None:
    """Two attacks more than without, until they are made or their table is published."""
    entry = Entry("released", samples=4)
    plain, apart = (
        Suite("Small", ("phantom",), ("concat",), (replace(entry, modalities=on),)) for on in (False, True)
    )
    making = Making(tmp_path / "out")
    (alone,), (together,) = forecast_suite(plain, making).runs, forecast_suite(apart, making).runs
    assert alone.passes is not None
    assert together.passes is not None
    assert together.passes > 2.9 * alone.passes
    made = run_suite(plain, making)
    assert [run.state for run in forecast_suite(plain, making).runs] == ["finished"]
    published = {record["run"]: record for record in made.records.values()}
    other = Making(tmp_path / "other", published=published)
    for each in (making, other):
        (left,) = forecast_suite(apart, each).runs
        assert left.state == "to make"
        assert left.passes == pytest.approx(together.passes - alone.passes)
    tables = run_suite(apart, making).situations.values()
    assert [run.state for run in forecast_suite(apart, making).runs] == ["finished"]
    known = replace(other, situations={str(table["run"]): table for table in tables})
    assert [run.state for run in forecast_suite(apart, known).runs] == ["published"]


def test_a_net_is_published_by_whichever_name_it_is_called(tmp_path: Path) -> None:
    suite = Suite("Small", ("phantom",), ("concat",), (Entry("released", samples=2),))
    (record,) = run_suite(suite, Making(tmp_path / "out")).records.values()
    net = record["model"]["label"]
    called = replace(suite, nets={"phantom": {"concat": net}})
    published = Making(tmp_path / "other", published={record["run"]: record})
    assert [run.state for run in forecast_suite(called, published).runs] == ["published"]
    other = replace(suite, widths={"phantom": 0.125})
    assert [run.state for run in forecast_suite(other, published).runs] == ["to make"]


SMALL = """
title: Small
datasets: [phantom]
models: [concat]
runs: [{protocol: released, samples: 2, modalities: true}]
"""


@pytest.mark.usefixtures("no_pictures")
def test_what_is_published_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of boards says so to the command, with its table of modalities."""
    suite, boards = tmp_path / "small.yaml", tmp_path / "boards"
    suite.write_text(SMALL)
    made = run_suite(Suite.from_yaml(str(suite)), Making(tmp_path / "made"))
    (record,) = made.records.values()
    (boards / "records").mkdir(parents=True)
    (boards / "records" / f"{record['run']}.json").write_text(json.dumps(record))
    call = ["suite", str(suite), "--out", str(tmp_path / "out"), "--published", str(boards)]
    capsys.readouterr()
    assert cli.main([*call, "--plan"]) == 0
    assert "to make: 1 of 1 runs" in capsys.readouterr().out  # its modalities
    (boards / "small-modalities.json").write_text(json.dumps({"tables": [*made.situations.values()]}))
    assert cli.main([*call, "--plan"]) == 0
    assert "nothing to make: all 1 are there" in capsys.readouterr().out
    assert cli.main(call) == 0
    assert not list((tmp_path / "out").glob("*/record.json"))
    assert (tmp_path / "out" / "table.md").read_text() == made.table.read_text()
    (boards / "small-modalities.json").write_text("{}")
    for flags, said in (
        (["--published", str(tmp_path / "board")], "board/records does not exist"),
        (["--published", str(boards)], "it must hold tables"),
        (["--again"], "--again goes with --published"),
    ):
        assert cli.main(["suite", str(suite), "--out", str(tmp_path / "none"), *flags]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_the_flag_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "suite.yaml"
    run = "{protocol: released, samples: 2}"
    suite.write_text(f"title: Small\ndatasets: [phantom]\nmodels: [concat]\nruns: [{run}]\n")
    assert cli.main(["suite", str(suite), "--out", str(tmp_path / "out"), "--plan", "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "to make: 1 of 1 runs, at most" in said
    assert "with 2 workers" in said
    assert not (tmp_path / "out").exists()
