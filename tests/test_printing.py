"""What the command prints: no name in it steers a terminal, and no end of a stream ends a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import pytest
from conftest import Robmed
from rich.console import Console
from test_bad_input import flags

from robustbench_med import cli
from robustbench_med.reporting import figures
from robustbench_med.reporting.leaderboard import COLUMNS, write
from robustbench_med.reporting.text import bare_table, markdown_cell, markdown_code, plain
from robustbench_med.util.terminal import LONGEST, complain, console, visible

EVIL = "\x1b[31m\u202ered\n[/b]:smile:\x9b2J\u2028"
SHOWN = r"\x1b[31m\u202ered\n[/b]:smile:\x9b2J\u2028"


def test_visible() -> None:
    assert visible(EVIL) == SHOWN
    assert visible("naïve → 名 4/255") == "naïve → 名 4/255"
    assert visible("\udcff") == r"\udcff"
    assert visible("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_rich_prints_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = bare_table(plain(EVIL))
    table.add_row(plain(EVIL))
    screen = console()
    screen.print(table)
    screen.print(plain("[old] x"))
    assert isinstance(screen, Console)
    assert capsys.readouterr().out.splitlines() == [SHOWN, SHOWN, "[old] x"]


def test_errors_are_one_line(robmed: Robmed) -> None:
    for arguments in (("board", f"a{EVIL}"), ("run", f"{EVIL}.yaml"), ("compare", "a\nb", "c")):
        code, lines = robmed(*arguments)
        assert (code, len(lines)) == (2, 1)
        assert "\x1b" not in lines[0]


def test_no_error_is_endless(capsys: pytest.CaptureFixture[str]) -> None:
    complain("x" * 2 * LONGEST)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < LONGEST + 20


@pytest.mark.parametrize("arguments", [("list", EVIL), ("run", "--eot", "AUTO"), ("run", f"--{EVIL}")])
def test_what_argparse_refuses_is_one_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert line.endswith("--help")


def test_brackets_in_paths(concat: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "[old] runs[/eps]"
    assert cli.main(flags(concat, out=out)) == 0
    assert f"row     {out / 'leaderboard.csv'}" in capsys.readouterr().out.splitlines()


def test_a_board_of_foreign_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = {"model": "[/b]\x1b[31m", "attack": "=cmd|calc", "verdict": "[red]unaudited", "robust": "0.5"}
    path = tmp_path / "board.csv"
    write(path, [dict.fromkeys(COLUMNS, "0.5") | cells])
    assert "'=cmd|calc" in path.read_text()  # no spreadsheet computes it
    assert "\x1b" not in path.read_text()
    assert cli.main(["board", str(path)]) == 0
    out = capsys.readouterr().out
    for shown in (r"[/b]\x1b[31m", " =cmd|calc", "[red]unaudited"):
        assert shown in out


def test_markdown() -> None:
    assert markdown_cell("a|b<c>`\n") == r"a\|b\<c\>\`\\n"
    assert markdown_code("a|b`c") == r"`a\|b'c`"


def test_names_in_figures(tmp_path: Path) -> None:
    plt = figures.pyplot()
    figure, axis = plt.subplots()
    axis.plot([0, 1], label=figures.label("_$\\frac{1$" + EVIL))
    axis.legend()
    figures.saved(figure, tmp_path / "a.png")  # an unfinished formula would raise
    assert axis.get_legend().get_texts()[0].get_text() == " _$\\frac{1$" + visible(EVIL, keep="\n")
    assert mpl.rcParams["text.parse_math"] is False


def test_a_figure_that_fails_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError(f"no font\nfor {path.name}")

    figures.drawn(broken, tmp_path / "a.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.png could not be drawn (RuntimeError: no font for a.png)" in line


CALL = (sys.executable, "-m", "robustbench_med.cli")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    call = " ".join(CALL)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command.replace('robmed', call)}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


STREAMS: Mapping[str, tuple[str, int, str]] = {
    "a reader that leaves": ("robmed board many.csv | head -1 >/dev/null", 0, ""),
    "no standard output": ("robmed board many.csv >&-", 0, ""),
    "no standard error": ("robmed board none.csv 2>&-", 2, ""),
    "a full disk": ("robmed board many.csv >/dev/full", 2, "not everything could be printed: No space left"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    half = dict.fromkeys(COLUMNS, "0.5")
    write(tmp_path / "many.csv", [half | {"run": str(i), "model": str(i)} for i in range(3000)])
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command, code, said = STREAMS[case]
    done = shell(command)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == (1 if said else 0)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_terminals_without_arrows(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    write(path, [dict.fromkeys(COLUMNS, "0.5") | {"model": "a → b"}])
    done = shell(f"robmed board '{path}'", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "a ? b" in done.stdout
