"""The leaderboard file: one row a run, whole or not at all, whoever else writes to it."""

from __future__ import annotations

import csv
import json
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import ATTACKS

from robustbench_med.api.space import Box
from robustbench_med.api.threat import Budget, Norm
from robustbench_med.evaluation.identity import claimed_id
from robustbench_med.models.named import variant_of
from robustbench_med.reporting import leaderboard, zoo
from robustbench_med.reporting.suite import table
from robustbench_med.studies.records import read_record
from robustbench_med.studies.suite import Suite
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json
from robustbench_med.util.rows import put_rows


def row(run: str) -> dict[str, str]:
    return {name: f"{name} of {run}" for name in leaderboard.COLUMNS} | {"run": run}


def runs(board: Path) -> list[str]:
    with board.open(newline="") as stream:
        return [line["run"] for line in csv.DictReader(stream)]


def append_ten(board: Path, name: str, start: Barrier) -> None:
    start.wait()
    for number in range(10):
        leaderboard.append(board, row(f"{name}{number}"))


def test_rows_go_to_the_end(tmp_path: Path) -> None:
    board = tmp_path / "new" / "board.csv"
    for run in ("one", "two"):
        leaderboard.append(board, row(run))
    assert runs(board) == ["one", "two"]
    assert board.read_text().splitlines()[0] == ",".join(leaderboard.COLUMNS)
    with board.open(newline="") as stream:
        assert list(csv.DictReader(stream))[1] == row("two")


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, board = context.Barrier(2), tmp_path / "board.csv"
    writers = [context.Process(target=append_ten, args=(board, name, start)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    written = runs(board)
    assert len(written) == 20
    for name in "ab":
        assert [run for run in written if run.startswith(name)] == [f"{name}{i}" for i in range(10)]
    assert {p.name for p in tmp_path.iterdir()} == {"board.csv", ".board.csv.lock"}


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = tmp_path / "board.csv"
    leaderboard.append(board, row("one"))
    before = board.read_bytes()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        leaderboard.append(board, row("two"))
    assert board.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"board.csv", ".board.csv.lock"}


WITHOUT = [[name for name in leaderboard.COLUMNS if name != needed] for needed in leaderboard.NEEDED]


@pytest.mark.parametrize("columns", ["abc", *WITHOUT], ids=["abc", *leaderboard.NEEDED])
def test_foreign_header(columns: Sequence[str], tmp_path: Path) -> None:
    board, header = tmp_path / "board.csv", ",".join(columns) + "\n"
    board.write_text(header)
    for act in (
        leaderboard.check_header,
        leaderboard.read,
        lambda path: leaderboard.append(path, row("one")),
    ):
        with pytest.raises(UserError, match="is not a leaderboard: it has no column"):
            act(board)
    assert board.read_text() == header


@pytest.mark.parametrize(
    "columns", [leaderboard.COLUMNS[:-1], (*leaderboard.COLUMNS, "x"), leaderboard.NEEDED]
)
def test_leaderboards_of_other_versions(columns: Sequence[str], tmp_path: Path) -> None:
    """What they have more is kept, what they lack is added; no cell moves to another column."""
    board, numbers = tmp_path / "board.csv", dict.fromkeys(leaderboard.NUMBERS, "0.5000")
    old, new = ({**row(run), "x": "y", **numbers} for run in ("one", "two"))
    leaderboard.write(board, [{name: old[name] for name in columns}], columns)
    leaderboard.check_header(board)
    del new["x"]
    leaderboard.append(board, new)
    everything = list(dict.fromkeys([*columns, *leaderboard.COLUMNS]))
    first, second = leaderboard.read(board)
    assert list(first) == everything
    assert first == {name: old[name] if name in columns else "" for name in everything}
    assert second == {name: new.get(name, "") for name in everything}


def test_a_missing_line_break_at_the_end(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    leaderboard.append(board, row("one"))
    board.write_text(board.read_text().rstrip("\n"))
    leaderboard.append(board, row("two"))
    assert runs(board) == ["one", "two"]


def test_an_empty_file_becomes_a_leaderboard(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    board.touch()
    leaderboard.check_header(board)
    leaderboard.append(board, row("one"))
    assert runs(board) == ["one"]


def test_commas_quotes_and_line_breaks_survive(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    odd = row("one") | {"model": 'a "b", c\nd'}
    leaderboard.append(board, odd)
    leaderboard.append(board, row("two"))
    with board.open(newline="") as stream:
        assert [line["model"] for line in csv.DictReader(stream)] == ['a "b", c\nd', "model of two"]


@pytest.mark.parametrize(
    ("norm", "epsilon", "said"),
    [
        ("l2", 0.5, "0.5"),
        ("linf", 4 / 255, "4/255"),
        ("linf", 0.5 / 255, "0.5/255"),
        ("linf", 1e-9, "2.55e-07/255"),
    ],
)
def test_radius(norm: Norm, epsilon: float, said: str) -> None:
    assert leaderboard.radius(Budget(norm, epsilon).as_record()) == said


def test_the_radius_of_a_table_is_in_its_scale() -> None:
    table = Box(unit=torch.tensor([2.0, 0.5]))
    assert leaderboard.radius(Budget("linf", 0.1, table).as_record()) == "0.1 scale"


ROOT = Path(__file__).parents[2]
PUBLISHED = sorted((ROOT / "leaderboards").glob("*.csv"))


@pytest.mark.parametrize("board", PUBLISHED, ids=[p.stem for p in PUBLISHED])
def test_published_rows_are_what_their_records_say(board: Path) -> None:
    published = list(csv.DictReader(board.open(newline="")))
    assert published
    assert len({row["run"] for row in published}) == len(published)
    cards = [*ROOT.glob("weights/*/*.json"), *ROOT.glob("robustbench_med/weights/*/*.json")]
    shipped = {json.loads(card.read_text())["weights"]["sha256"] for card in cards}
    for row in published:
        record = read_record(ROOT / "leaderboards" / "records" / f"{row['run']}.json")
        assert leaderboard.row(record) == row
        assert record["model"]["weights_sha256"] in shipped, "a row of weights that are not shipped"
        assert all(eps == pytest.approx(4 / 255) for eps in record["config"]["eps"].values())
        if "migrated" not in record:  # schema 1 kept no hash of the code
            assert record["run"] == _named_by_content(record), "the same command would not find this run"


def _named_by_content(record: dict[str, Any]) -> str | None:
    options = {k: v for k, v in record["attack"].items() if k not in ("name", "eot", "follows_samples")}
    own = asdict(ATTACKS.get(record["attack"]["name"].partition(":")[0])(**options))  # type: ignore[call-overload]
    assert record["config"]["attack_options"] == own, "an option of the attack is new, or gone"
    return claimed_id(record)


@pytest.mark.parametrize(("name", "least"), [("zoo", 58), ("wide", 3)])
def test_the_page_of_the_zoo_shows_what_the_records_say(name: str, least: int) -> None:
    suite, folder = Suite.from_yaml(name), ROOT / "leaderboards"
    tables = read_json(folder / f"{name}-modalities.json")["tables"]
    by_run = {record["run"]: record for record in map(read_record, (folder / "records").glob("*.json"))}
    situated = {(by_run[t["run"]]["dataset"]["name"], by_run[t["run"]]["model"]["name"]): t for t in tables}
    found = {}
    for record in by_run.values():
        dataset, model = record["dataset"]["name"], record["model"]["name"]
        if dataset not in suite.datasets or model not in suite.models:
            continue
        named = suite.nets.get(dataset, {}).get(model)
        own = variant_of(model)[1] or record["model"]["options"]["width"] == suite.widths[dataset]
        if (record["model"]["label"] == named if named else own) and record["attack"][
            "name"
        ] == "autoattack:stochastic":
            found[dataset, model, "adaptive"] = record
    order = [(d, m, "adaptive") for d in suite.datasets for m in suite.models]
    written = zoo.table(suite.title, {key: found[key] for key in order if key in found}, situated)
    assert len(found) >= least
    assert written == (folder / f"{name}.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written.partition("\n\n")[2].rstrip() in page


def script(name: str) -> ModuleType:
    """A script of the folder of boards, as a module."""
    spec = spec_from_file_location(name, ROOT / "leaderboards" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "least", "not_made"), [("robust-mail", 8, 0), ("mri-ct", 12, 8)])
def test_a_search_for_a_recipe_is_what_its_trainings_say(name: str, least: int, not_made: int) -> None:
    """Table and page follow from the rows; every row is of a trial that can be repeated."""
    found, search = ROOT / "leaderboards" / "trainings" / f"search-{name}.csv", script("search")
    rows = search.rows_of(pd.read_csv(found))
    written = found.with_suffix(".md").read_text(encoding="utf-8")
    assert written == search.table(rows)
    assert written in (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    trials = search.trials(search.SEARCHES / f"{name}.yaml")
    repeatable = {(trial, config.model): config for trial, config in trials}
    made = {(row.trial, row.model) for row in rows}
    assert made <= set(repeatable)
    assert len(set(repeatable) - made) == not_made
    assert len({row.weights_sha256 for row in rows}) == len(rows) >= least
    for row in rows:
        assert row.best_epoch < row.epochs == repeatable[row.trial, row.model].epochs


def test_rows_that_are_made_bit_by_bit(tmp_path: Path) -> None:
    """A row takes the place of the one about the same; the others stay, and so does the order."""
    path = tmp_path / "rows.csv"
    first = pd.DataFrame({"model": ["a", "b", "a"], "seed": [0, 0, 1], "clean": [0.5, 0.25, 0.125]})
    put_rows(path, first, ("model", "seed"))
    again = pd.DataFrame({"model": ["b", "c"], "seed": [0, 0], "clean": [0.75, None]})
    put_rows(path, again, ("model", "seed"))
    put_rows(path, pd.DataFrame([]), ("model", "seed"))
    assert path.read_text() == "model,seed,clean\na,0,0.5\nb,0,0.75\na,1,0.125\nc,0,\n"


def test_a_published_row_is_not_lost_where_its_data_is_not_at_hand() -> None:
    publish = script("publish")
    publish.require_published("zoo", ["single on phantom: there are no weights"])
    for left_out in ("milk10k: it is not imported", "late-at on milk10k: other pixels"):
        with pytest.raises(UserError, match=r"zoo.md would lose .*; nothing was written"):
            publish.require_published("zoo", [left_out])
    with pytest.raises(UserError, match=r"wide.md would lose `mail-x0.5`"):
        publish.require_published("wide", ["mail on milk10k: other pixels"])


def test_trainings_of_several_seeds_are_what_the_records_say() -> None:
    """A net that is published, too, reaches the same there; the table and the page follow from the rows."""
    folder, seeds = ROOT / "leaderboards", script("seeds")
    rows = pd.read_csv(folder / "trainings" / "phantom.csv")
    written = (folder / "trainings" / "phantom.md").read_text(encoding="utf-8")
    assert written == seeds.table(rows)
    assert written in (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert not rows.duplicated(["model", "seed"]).any()
    assert not rows.duplicated("weights_sha256").any()
    published = {
        record["model"]["weights_sha256"]: record["accuracy"][record["headline"]]
        for record in map(read_record, (folder / "records").glob("*.json"))
        if record["attack"]["name"] == "autoattack:stochastic" and record["dataset"]["samples"] == 200
    }
    known = [row for row in rows.itertuples() if row.weights_sha256 in published]
    assert len(known) >= 9
    for row in known:
        there = published[str(row.weights_sha256)]
        assert (row.clean, row.robust) == (there["clean"]["value"], there["robust"]["value"])


def test_the_page_of_results_shows_what_the_records_say() -> None:
    """The page of results, the suite's table and the records agree; every record is in a CSV."""
    wide = Suite.from_yaml("wide").widths
    suite = Suite.from_yaml("robust-mail")
    records = [read_record(path) for path in (ROOT / "leaderboards" / "records").glob("*.json")]
    # Of a name the largest net is meant, and of its trainings that of the lowest seed.
    records.sort(key=lambda record: (record["model"]["parameters"], -record["model"].get("seed", 0)))
    protocols = {("pgd", "last"): "released", ("autoattack:stochastic", None): "adaptive"}
    found = {
        (r["dataset"]["name"], r["model"]["name"], protocols[key]): r
        for r in records
        if (key := (r["attack"]["name"], r["attack"].get("keep"))) in protocols
        and r["model"]["options"]["width"] != wide.get(r["dataset"]["name"])
    }
    order = [(d, m, e.protocol) for d in suite.datasets for m in suite.models for e in suite.runs]
    written = table(suite.title, {key: found[key] for key in order if key in found})
    assert written == (ROOT / "leaderboards" / "robust-mail.md").read_text(encoding="utf-8")
    assert written.partition("\n\n")[2] in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [row["run"] for board in PUBLISHED for row in csv.DictReader(board.open(newline=""))]
    assert sorted(rows) == sorted(r["run"] for r in records)
