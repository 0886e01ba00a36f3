"""The pages of a board, as files: whole, safe whatever a record says, and refused in one line."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from boarded import BASE, EVIL, PUBLISHED, first_right, published, record, with_outcomes, write
from conftest import Robmed
from PIL import Image

pytest.importorskip("jinja2", reason="the extra html is not installed")
pytest.importorskip("plotly", reason="the extra html is not installed")

from robustbench_med.reporting.leaderboard import read
from robustbench_med.reporting.page import environment
from robustbench_med.studies.board import html_board
from robustbench_med.util.errors import UserError

VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """What a browser would see: elements that are closed, links, scripts, words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert not any(name.startswith("on") for name in found), found
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append(found)
        self.links += [str(found[name]) for name in ("href", "src") if found.get(name)]
        self.ids += [str(found["id"])] if found.get("id") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, (tag, self.getpos())
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "script":
            self.words.append(data)


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def rows(path: Path) -> list[str]:
    """The text of every row of the tables, in order."""
    text = re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"<tr[^>]*data-standing.*?</tr>", text, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]


def test_all_published_records(tmp_path: Path) -> None:
    made = html_board([PUBLISHED], tmp_path / "board")
    count = len(published())
    assert (made.runs, made.records) == (count, count)
    out = tmp_path / "board"
    assert len(rows(made.index)) == count
    for path in (made.index, *(out / "run").iterdir()):
        found = page(path)
        assert len(set(found.ids)) == len(found.ids)
        assert [s.get("src") for s in found.scripts if s.get("type") != "application/json"] == [
            f"{'' if path == made.index else '../'}board.js"
        ]
        for link in found.links:
            assert ":" not in link or link == "data:,", link  # nothing is fetched from elsewhere
            place = link.partition("#")[0]
            assert not place or link == "data:," or (path.parent / place).resolve().is_file(), link
    for kept in published():
        text = " ".join(page(out / "run" / f"{kept['run']}.html").words)
        assert (out / "records" / f"{kept['run']}.json").read_bytes() == (
            PUBLISHED / f"{kept['run']}.json"
        ).read_bytes()
        robust = kept["accuracy"][kept["headline"]]["robust"]
        assert f"{100 * robust['value']:.1f} %" in text
        for caveat in kept["dataset"]["caveats"]:
            assert caveat in text
        for finding in kept["audit"]["findings"]:
            assert finding["evidence"] in text


def test_ranks_ties_and_reasons(tmp_path: Path) -> None:
    first, second, third = (with_outcomes(record(f"r{n}", f"net-{n}"), first_right(n)) for n in (100, 98, 60))
    weak = with_outcomes(record("r5", "net-5", "not sound: more steps, transfer"), first_right(150))
    open_ = with_outcomes(record("r6", "net-6", "unaudited"), first_right(140))
    made = html_board([write(tmp_path / "in", weak, third, open_, second, first)], tmp_path / "board")
    said = rows(made.index)
    assert [line.split()[:3] for line in said[:2]] == [["1", "=", "(shared)"]] * 2
    assert [re.search(r"net-\d+", line)[0] for line in said] == [  # type: ignore[index]
        *("net-100", "net-98", "net-60", "net-5", "net-6")
    ]
    assert said[2].startswith("3 net-60")
    assert "more steps, transfer" in said[3]
    assert "no audit was made" in said[4]
    text = " ".join(" ".join(page(made.index).words).split())
    assert "2 pairs of neighbours compared on the same samples (exact McNemar, corrected by Holm's" in text
    near = " ".join(page(tmp_path / "board" / "run" / "r98.html").words)
    assert "net-100 above: not told apart: p = 0.5 corrected, 0.5 alone (exact McNemar)" in near
    assert "net-60 below: told apart" in near


def poisoned() -> dict[str, Any]:
    """A record all of whose words are hostile."""

    def evil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: evil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [evil(each) for each in value]
        fixed = ("kind", "verdict", "norm", "draws_shared_by", "result", "started")
        return f"{value}{EVIL}" if isinstance(value, str) and key not in fixed else value

    made = record("r1")
    kept = {name: made[name] for name in ("run", "headline", "outcomes", "schema")}
    made["dataset"]["heads"] = {}
    changed: dict[str, Any] = evil({k: v for k, v in made.items() if k not in kept}) | kept
    changed["accuracy"][f"head{EVIL}"] = changed["accuracy"][kept["headline"]]
    changed["metrics"][f"head{EVIL}"] = changed["metrics"]["lesion"]
    changed["attack_success"][f"head{EVIL}"] = 0.5
    return changed


def test_foreign_words_are_words(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", poisoned())
    evil = f"over{EVIL}"
    stored = published()[0]["accuracy"]["lung"]["robust"]
    curve: dict[str, Any] = {
        "title": evil,
        "norm": "linf",
        "of": evil,
        "radii": [0.0, 1 / 255],
        "accuracy": {evil: [stored] * 2},
    }
    curve |= {"headline": evil, "area": 0.5, "median": [0.0, None], "runs": ["r1"]}
    (folder / "curve.json").write_text(json.dumps(curve))
    situation = {
        "kind": "attacked",
        "modalities": [evil],
        "goal": evil,
        "accuracy": {evil: stored},
        "run": "r1",
    }
    table = {"title": evil, "rows": [situation], "leakage": {evil: 0.1}}
    (folder / "modalities.json").write_text(json.dumps(table))
    made = html_board([folder], tmp_path / "board")
    for path in (made.index, tmp_path / "board" / "run" / "r1.html"):
        text = path.read_text(encoding="utf-8")
        found = page(path)
        assert '<script>alert("x")' not in text
        assert "\u2028" not in text
        assert "\u202e" not in text
        assert len([s for s in found.scripts if s.get("type") != "application/json"]) == 1
        assert '<script>alert("x")</script>' in " ".join(found.words)
        assert "{{ 7 * 7 }}" in " ".join(found.words)


def test_curves_tables_and_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "net-pgd-phantom-r1"
    write(tmp_path / "in")
    folder.mkdir()
    made = record("r1")
    (folder / "record.json").write_text(json.dumps(made))
    Image.new("RGB", (30, 20), "white").save(folder / "picture.png")
    Image.new("RGB", (10, 10), "white").save(tmp_path / "r2.png")
    write(tmp_path / "in", record("r2", "other"))
    index = html_board([tmp_path / "in", tmp_path / "r2.png"], tmp_path / "board").index
    one, two = (page(index.parent / "run" / f"{run}.html") for run in ("r1", "r2"))
    assert "../pictures/r1.png" in one.links
    assert "../pictures/r2.png" in two.links
    assert 'width="30" height="20"' in (index.parent / "run" / "r1.html").read_text()


def test_a_csv_and_what_lies_beside_it(tmp_path: Path) -> None:
    count = len(read(PUBLISHED.parent / "phantom.csv"))
    made = html_board([PUBLISHED.parent / "phantom.csv"], tmp_path / "board")
    assert made.runs == made.records == count > 0
    alone = tmp_path / "phantom.csv"
    alone.write_bytes((PUBLISHED.parent / "phantom.csv").read_bytes())
    lone = html_board([alone], tmp_path / "lone")
    assert (lone.runs, lone.records) == (count, 0)
    assert len(rows(lone.index)) == count


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (html_board([BASE], tmp_path / name).index.parent for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_an_earlier_board_is_replaced_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "board"
    html_board([PUBLISHED], out)
    html_board([BASE], out)
    assert [path.stem for path in (out / "run").iterdir()] == [BASE.stem]
    (out / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"holds mine\.txt, which no board wrote"):
        html_board([PUBLISHED], out)
    assert (out / "mine.txt").read_text() == "kept"
    assert len(list((out / "run").iterdir())) == 1
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a folder of its own"):
        html_board([PUBLISHED], ".")
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(UserError, match="no folder of its own"):
        html_board([PUBLISHED], "link")


def test_a_failure_leaves_the_earlier_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "board"
    before = html_board([BASE], out).index.read_bytes()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustbench_med.studies.board.record_page", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        html_board([PUBLISHED], out)
    assert (out / "index.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"board"}


def damaged() -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {
        "no metrics": {"metrics": None},
        "a word for a share": {"accuracy": {"every head right": {"clean": "x"}}},
        "no samples": {"dataset": record("r")["dataset"] | {"samples": 0}},
        "costs": {"cost": {"seconds": "many", "forward_passes": 1, "backward_passes": 1}},
        "findings": {"audit": {"verdict": "sound", "findings": [1]}},
        "a path for a run": {"run": "../../evil"},
        "no share": {
            "worst_subgroup": {"column": "a", "value": "b", "robust": {"value": 2, "low": 0, "high": 1}}
        },
    }
    return {what: record("r1") | change for what, change in changes.items()}


def leaves(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of everything within a record."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield (*where, key)
        yield from leaves(each, (*where, key))


def spoilt(value: Any, where: tuple[Any, ...], other: Any) -> Any:
    made = copy.deepcopy(value)
    place = made
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = other
    return made


def is_shown(paths: Sequence[Path], out: Path) -> bool:
    """Whether a board is made; what is refused is refused in a line that names the file."""
    try:
        html_board(paths, out)
    except UserError as error:
        said = str(error)
    else:
        return True
    assert "\n" not in said
    assert ".json" in said or "r1" in said
    return False


OTHERS: tuple[Any, ...] = (None, -1, 1e308, float("nan"), "zebra", [], [[1]], {"a": {}}, True, 10**30)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 5])
def test_whatever_a_record_holds_is_shown_or_refused(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place of a record, a curve and a table with a value that it should not have."""
    others = itertools.cycle((*OTHERS[first:], *OTHERS[:first], OTHERS[first]))
    monkeypatch.setattr("robustbench_med.studies.board.assets", dict)
    monkeypatch.setattr("robustbench_med.studies.board.environment", functools.cache(environment))
    sound = with_outcomes(record("r1"), first_right(10, 20))
    sound["audit"]["findings"] = sound["audit"]["findings"][:1]
    sound["members"] = ["r1"]
    stored = sound["accuracy"]["lesion"]["robust"]
    curve: dict[str, Any] = {
        "title": "t",
        "norm": "linf",
        "of": "mr",
        "radii": [0.0, 0.1],
        "accuracy": {"a": [stored] * 2},
    }
    curve |= {"headline": "a", "area": 0.5, "median": [0.0, None], "runs": ["r1"]}
    row = {"kind": "attacked", "modalities": ["mr"], "goal": "any", "accuracy": {"a": stored}, "run": "r1"}
    table = {"title": "t", "rows": [row], "leakage": {"x": 0.1}}
    files = {"r1.json": sound, "curve.json": curve, "modalities.json": table}
    shown = 0
    for name, whole in files.items():
        for where in leaves(whole):
            other = next(others)
            for each, value in files.items():
                text = json.dumps(spoilt(value, where, other) if each == name else value)
                (tmp_path / each).write_text(text)
            shown += is_shown([tmp_path / each for each in files], tmp_path / "board")
    assert shown > 0


@pytest.mark.parametrize("what", damaged())
def test_damaged_records_are_refused_in_a_line(what: str, tmp_path: Path, robmed: Robmed) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(damaged()[what]))
    code, lines = robmed("board", "--html", tmp_path / "board", folder)
    assert code == 2
    assert len(lines) == 1
    assert "record.json" in lines[0]
    assert not (tmp_path / "board").exists()


REFUSED = {
    "board --html board nowhere": "nowhere does not exist",
    "board --html board empty": "empty holds no record of robmed run and no row",
    "board --html file.txt records": "file.txt is no folder of its own",
    "board --html board file.txt": "file.txt is not valid JSON",
    "board --html board records/r1.json lone.png": "a picture is called after its run, such as r1.png",
    "board --html board records/r1.json r1.png": "r1.png is no PNG",
    "board --html board broken": "record.json is not valid JSON",
    "board": "robmed board ranks one CSV; for pages of many records say robmed board --html DIR",
    "board a.csv b.csv": "robmed board ranks one CSV",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused_in_a_line(
    line: str, tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("records"), record("r1"))
    for name in ("empty", "broken"):
        Path(name).mkdir()
    Path("broken/record.json").write_text('{"run": ')
    for name in ("file.txt", "lone.png", "r1.png"):
        Path(name).write_text("no")
    code, lines = robmed(*line.split())
    assert (code, len(lines)) == (2, 1)
    assert REFUSED[line] in lines[0]
    assert not Path("board").exists()


def test_without_the_extra(tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    code, lines = robmed("board", "--html", tmp_path / "board", PUBLISHED)
    assert code == 2
    assert lines == ["robmed: board --html needs two packages: pip install 'robustbench-med[html]'"]
