"""Leaderboards as people leave them: read where they can mean but one thing, refused with the line if not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustbench_med.measure.ranking import boards
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.board import show
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing

HEADER = ",".join(leaderboard.COLUMNS)


def row(run: str, **changes: str) -> dict[str, str]:
    return dict.fromkeys(leaderboard.COLUMNS, "0.5") | {"run": run} | changes


def text(*rows: dict[str, str]) -> str:
    return "".join(f"{line}\n" for line in (HEADER, *(",".join(each.values()) for each in rows)))


ONE = text(row("one"))
LINE = ",".join(row("two").values())
READABLE = {
    "empty lines": ONE.replace("\n", "\n\n  \n"),
    "rows of commas": ONE + "," * (len(leaderboard.COLUMNS) - 1) + "\n",
    "byte order mark": "\ufeff" + ONE,
    "line ends of Windows": ONE.replace("\n", "\r\n"),
    "no last line end": ONE.removesuffix("\n"),
    "spaces in the header": ONE.replace(",", ", ", len(leaderboard.COLUMNS) - 1),
    "the header twice": f"{HEADER}\n{ONE}",
}


@pytest.mark.parametrize("case", READABLE)
def test_what_can_mean_but_one_thing(case: str, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    path.write_bytes(READABLE[case].encode())
    before = path.read_bytes()
    leaderboard.check_header(path)
    assert [line["run"] for line in leaderboard.read(path)] == ["one"]
    leaderboard.append(path, row("two"))
    assert path.read_bytes().startswith(before.removesuffix(b"\n"))
    assert [line["run"] for line in leaderboard.read(path)] == ["one", "two"]
    endings = {line.endswith(b"\r\n") for line in path.read_bytes().splitlines(keepends=True)}
    assert len(endings) == 1, "line ends are mixed"


REFUSED = {
    "a decimal comma": (ONE + ",".join(row("two", robust='"0,5"').values()), "line 3: robust is '0,5'"),
    "no number": (text(row("one", clean="nan")), "line 2: clean is 'nan'"),
    "a merge marker": (ONE + "=======\n" + LINE, "line 3 is a merge marker"),
    "a merge of the header": ("<<<<<<< HEAD\n" + ONE, "line 1 is a merge marker"),
    "a cell too few": (ONE + LINE.rpartition(",")[0], "line 3 has 38 cells, the header 39"),
    "a cell too many": (ONE + LINE + ",x", "line 3 has 40 cells, the header 39"),
    "an open quote": (ONE + LINE + '\n"x,' + LINE, "line 4"),
    "semicolons": (ONE.replace(",", ";"), "divided by semicolons"),
    "tabs": (ONE.replace(",", "\t"), "divided by tabs"),
    "a column twice": (ONE.replace("seed,", "robust,"), "two columns called 'robust'"),
    "no name of the run": (text(row("one"), row("")), "line 3: run is empty"),
    "a web page": ("<!DOCTYPE html>\n<html>\n", "is not a leaderboard"),
    "a huge cell": (ONE + "x" * 200_000, "line 3: field larger than field limit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_a_run(case: str, tmp_path: Path) -> None:
    content, complaint = REFUSED[case]
    path = tmp_path / "board.csv"
    path.write_text(content)
    for act in (leaderboard.read, leaderboard.check_header):
        with pytest.raises(UserError) as error:
            act(path)
        assert complaint in str(error.value)
    assert path.read_text() == content


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    path.write_bytes(text(row("one", model="né")).encode(encoding))
    with pytest.raises(UserError, match=r"is not a (leaderboard|text file)"):
        leaderboard.check_header(path)


def test_a_quote_that_was_opened_during_the_run_swallows_no_row(tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    path.write_text(ONE + '"x')
    with pytest.raises(UserError, match="line 3"):
        leaderboard.append(path, row("two"))
    assert path.read_text() == ONE + '"x'


def test_columns_that_a_board_can_do_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.csv"
    leaderboard.write(path, [row("one", verdict="sound")], leaderboard.NEEDED)
    show(boards(leaderboard.read(path)))
    (*_, last) = capsys.readouterr().out.splitlines()
    assert " ".join(last.split()) == "1 0.5 - 50.0 (- to -) 0.5 sound"


def test_a_row_is_known_wherever_its_run_stands(tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    for columns in (leaderboard.COLUMNS, ("run", *leaderboard.NEEDED[:-1]), leaderboard.NEEDED):
        leaderboard.write(path, [row("abc", model="abcd")], columns)
        assert leaderboard.holds(path, "abc")
        assert not leaderboard.holds(path, "bc")


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    board, link = tmp_path / "real" / "board.csv", tmp_path / "link.csv"
    leaderboard.append(board, row("one"))
    board.chmod(0o600)
    link.symlink_to(board)
    leaderboard.append(link, row("two"))
    assert link.is_symlink()
    assert board.stat().st_mode & 0o777 == 0o600
    assert [line["run"] for line in leaderboard.read(board)] == ["one", "two"]
    locks = [path.name for path in tmp_path.rglob("*.lock")]
    assert locks == [".board.csv.lock"], "two names of a file must have one lock"


@pytest.mark.parametrize("kind", ["fifo", "null", "folder"])
def test_what_is_no_plain_file_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    {"fifo": os.mkfifo, "null": lambda p: p.symlink_to("/dev/null"), "folder": Path.mkdir}[kind](path)
    for act in (leaderboard.read, leaderboard.check_header, lambda p: leaderboard.append(p, row("one"))):
        with pytest.raises(UserError, match="is not a plain file"):
            act(path)
    with pytest.raises(UserError, match="is not a plain file"), replacing(path):
        raise AssertionError("never reached")
    assert path.exists()
    assert not path.is_file()


def test_long_names(tmp_path: Path) -> None:
    board = tmp_path / f"{'é' * 120}.csv"
    leaderboard.check_header(board)
    leaderboard.append(board, row("one"))
    assert leaderboard.holds(board, "one")
    with pytest.raises((UserError, OSError)):
        leaderboard.check_header(tmp_path / f"{'é' * 200}.csv")
