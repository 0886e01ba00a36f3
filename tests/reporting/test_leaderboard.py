"""The leaderboard file: one row a run, whole or not at all, whoever else writes to it."""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from tiny import ATTACKS

from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.record import identify
from robustbench_med.reporting.suite import table
from robustbench_med.studies.suite import Suite
from robustbench_med.util.errors import UserError


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


@pytest.mark.parametrize("columns", ["abc", leaderboard.COLUMNS[:-1], (*leaderboard.COLUMNS, "x")])
def test_foreign_header(columns: Sequence[str], tmp_path: Path) -> None:
    board, header = tmp_path / "board.csv", ",".join(columns) + "\n"
    board.write_text(header)
    with pytest.raises(UserError, match="is not a leaderboard of this version"):
        leaderboard.check_header(board)
    with pytest.raises(UserError, match="is not a leaderboard of this version"):
        leaderboard.append(board, row("one"))
    assert board.read_text() == header


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


def test_radius() -> None:
    assert leaderboard.radius("l2", 0.5) == "0.5"
    assert leaderboard.radius("linf", 4 / 255) == "4/255"
    assert leaderboard.radius("linf", 0.5 / 255) == "0.5/255"
    assert leaderboard.radius("linf", 1e-9) == "2.55e-07/255"


ROOT = Path(__file__).parents[2]
CARD = ("label", "name", "architecture", "title", "options", "defenses", "added")
PUBLISHED = sorted((ROOT / "leaderboards").glob("*.csv"))


@pytest.mark.parametrize("board", PUBLISHED, ids=[p.stem for p in PUBLISHED])
def test_published_rows_are_what_their_records_say(board: Path) -> None:
    published = list(csv.DictReader(board.open(newline="")))
    assert len(published) >= 8
    assert len({row["run"] for row in published}) == len(published)
    cards = [*ROOT.glob("weights/*/*.json"), *ROOT.glob("robustbench_med/weights/*/*.json")]
    shipped = {json.loads(card.read_text())["weights"]["sha256"] for card in cards}
    for row in published:
        record = json.loads((ROOT / "leaderboards" / "records" / f"{row['run']}.json").read_text())
        assert leaderboard.row(record) == row
        assert record["model"]["weights_sha256"] in shipped, "a row of weights that are not shipped"
        assert record["config"]["eps"] == pytest.approx(4 / 255)
        assert record["run"] == _named_by_content(record), "the same command would not find this run"


def _named_by_content(record: dict[str, Any]) -> str:
    model = {name: record["model"][name] for name in CARD if name in record["model"]}
    stored, release = record["config"], record["versions"]["robustbench-med"]
    weights, samples = record["model"]["weights_sha256"], record["dataset"]["fingerprint"]
    options = {k: v for k, v in record["attack"].items() if k not in ("name", "eot")}
    own = asdict(ATTACKS.get(record["attack"]["name"].partition(":")[0])(**options))  # type: ignore[call-overload]
    assert stored["attack_options"] == own, "an option of the attack is new, or gone"
    return identify(stored, model, weights, samples, release)


def test_the_readme_shows_what_the_records_say() -> None:
    """README, the suite's table and the records agree; every record is in a CSV."""
    suite = Suite.from_yaml("robust-mail")
    records = [json.loads(path.read_text()) for path in (ROOT / "leaderboards" / "records").glob("*.json")]
    protocols = {("pgd", "last"): "released", ("autoattack:stochastic", None): "adaptive"}
    found = {
        (r["dataset"]["name"], r["model"]["name"], protocols[key]): r
        for r in records
        if (key := (r["attack"]["name"], r["attack"].get("keep"))) in protocols
    }
    order = [(d, m, e.protocol) for d in suite.datasets for m in suite.models for e in suite.runs]
    written = table(suite.title, {key: found[key] for key in order if key in found})
    assert written == (ROOT / "leaderboards" / "robust-mail.md").read_text(encoding="utf-8")
    assert written.partition("\n\n")[2] in (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row["run"] for board in PUBLISHED for row in csv.DictReader(board.open(newline=""))]
    assert sorted(rows) == sorted(r["run"] for r in records)
