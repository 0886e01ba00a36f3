"""The campaign itself: what it would call a failure, and that its sample stays what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml

from benchmarks.reliability import kinds, mutations
from benchmarks.reliability.campaign import all_cases
from benchmarks.reliability.case import COMMANDS, Case, sample, snapshot
from benchmarks.reliability.kills import all_kills
from benchmarks.reliability.process import BUG, Finished
from benchmarks.reliability.sound import TEXTS
from benchmarks.reliability.verdict import judge

CASE = Case("x", ("run", "x.yaml"), names=("x.yaml",))
FINE = Finished(0, "done\n", "", 0.1, 0.1, False)
NO = replace(FINE, code=2, out="", err="robmed: x.yaml is empty; fill it\n")


@pytest.mark.parametrize(
    ("case", "found", "verdict"),
    [
        (CASE, FINE, "accepted"),
        (CASE, NO, "refused"),
        (replace(CASE, expect="refused"), FINE, "accepted though wrong"),
        (replace(CASE, expect="accepted"), NO, "refused though right"),
        (CASE, replace(NO, err="robmed: it is empty\n"), "says nothing"),
        (CASE, replace(NO, err="robmed: x.yaml\nis empty\n"), "not one line"),
        (CASE, replace(NO, err="robmed: x.yaml \x1b[31m\n"), "not one line"),
        (CASE, replace(NO, err="usage: robmed\nrobmed run: error: x.yaml\n"), "not one line"),
        (CASE, replace(NO, err=""), "not one line"),
        (CASE, replace(NO, err=f"robmed: warning: slow\n{NO.err}"), "refused"),
        (CASE, replace(FINE, code=BUG, err="KeyError: 'x'\n"), "traceback"),
        (CASE, replace(FINE, code=-11), "traceback"),
        (CASE, replace(FINE, code=3), "traceback"),
        (replace(CASE, expect="bug"), replace(FINE, code=BUG), "traceback of a plug-in's bug"),
        (CASE, replace(FINE, hung=True), "hang"),
    ],
)
def test_verdicts(case: Case, found: Finished, verdict: str, tmp_path: Path) -> None:
    assert judge(case, found, {}, {}, tmp_path)[0] == verdict


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("kept.csv", "changed"),
        ("out/.x.tmp", ""),
        ("out/run/parts/0.npz", ""),
        ("out/record.json", '{"a": NaN}'),
        ("out/board.csv", "a,b\n1\n"),
        ("out/outcomes.npz", "x"),
    ],
)
def test_what_is_half_written(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "kept.csv").write_text("a\n1\n")
    before = snapshot(tmp_path)
    assert judge(CASE, FINE, before, before, tmp_path)[0] == "accepted"
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert judge(CASE, FINE, before, snapshot(tmp_path), tmp_path)[0] == "half-written"
    assert judge(CASE, NO, before, snapshot(tmp_path), tmp_path)[0] == "half-written"


def test_a_thousand_cases_and_a_hundred_kills_each_with_a_name_of_its_own() -> None:
    cases, kills = all_cases(), list(all_kills())
    names = [case.name for case in cases] + [kill.name for kill in kills]
    assert len(cases) >= 1000
    assert sum(not kill.together for kill in kills) >= 100
    assert len(set(names)) == len(names)
    assert {*COMMANDS, "none"} == {case.command for case in sample(cases, 1000)}


def test_the_sample_is_the_same_beside_other_cases() -> None:
    cases = all_cases()
    first = sample(cases, 100)
    assert sample(reversed(cases), 100) == first
    assert sample([case for case in cases if case not in first[50:]], 50) == first[:50]


def test_spoiling_follows_the_seed(tmp_path: Path) -> None:
    spoil = {name: act for name, _, act in mutations.file_spoils("x", True)}["bytes/flip-0"]
    found = []
    for seed in (0, 0, 1):
        (tmp_path / "x").write_bytes(bytes(1000))
        spoil(tmp_path, Random(seed))
        found.append((tmp_path / "x").read_bytes())
    assert found[0] == found[1] != found[2]


def test_every_spoil_changes_its_file(tmp_path: Path) -> None:
    for name, _, spoil in (
        *mutations.file_spoils("x", True),
        *kinds.yaml_spoils("x"),
        *kinds.json_spoils("x"),
    ):
        path = tmp_path / "x"
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_text("a: 1\nb: {c: 2}\n")
        before = snapshot(tmp_path)
        spoil(tmp_path, Random(0))
        assert snapshot(tmp_path) != before, name


@pytest.mark.parametrize("kind", TEXTS)
def test_values_are_put_where_they_belong(kind: str) -> None:
    document = yaml.safe_load(TEXTS[kind])
    assert yaml.safe_load(mutations.as_yaml(document)) == document
    for path, held in mutations.paths_of(document):
        if held != "zebra":
            assert mutations.with_value(document, path, "zebra") != document
