"""The core without the attack libraries: it works, and each library asked for is one line."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import Robmed

from robustbench_med import cli
from robustbench_med.studies import listing

ROOT = Path(__file__).parent.parent
# By extra, which is the attack's name too: the module, and the distribution.
LIBRARIES = {
    "art": ("art", "adversarial-robustness-toolbox"),
    "foolbox": ("foolbox", "foolbox"),
    "pyautoattack": ("pyautoattack", "pyautoattack"),
    "torchattacks": ("torchattacks", "torchattacks"),
}
NOT_IN_THE_CORE = {
    *(module for module, _ in LIBRARIES.values()),
    "requests",
    "torchvision",
    "multiprocess",
    "plotly",
}


@pytest.fixture(scope="module")
def extras() -> dict[str, set[str]]:
    """Names of the distributions that each extra asks for; those of the core under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {re.split(r"[<>=!~; ]", line)[0].lower() for line in lines} for extra, lines in asked.items()
    }


def test_what_is_asked_for(extras: dict[str, set[str]]) -> None:
    assert not extras[""] & {dist for _, dist in LIBRARIES.values()}
    for extra, (_, distribution) in LIBRARIES.items():
        assert distribution in extras[extra]
    (everything,) = extras["all"]
    assert {*LIBRARIES, "medical"} <= set(re.findall(r"[\w-]+", everything))


def test_every_library_is_pinned(extras: dict[str, set[str]]) -> None:
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {distribution for _, distribution in LIBRARIES.values()} <= pinned
    assert extras[""] <= pinned


CORE = f"""
import sys

asked = []

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(NOT_IN_THE_CORE)}:
            asked.append(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
from robustbench_med import cli

small = ["--samples", "2", "--steps", "2", "--out", "runs"]
for command in (
    ["run", "--model", "concat", "--attack", "pgd", *small],
    ["audit", "--model", "concat", "--attack", "pgd", "--audit", "quick", *small],
    ["certify", "--model", "concat", "--sigma", "0.1", "--n", "20", "--samples", "2", "--out", "runs"],
    ["board", "runs/leaderboard.csv"],
    *(["list", what] for what in cli.LISTS),
):
    assert cli.main(command) == 0, command
assert asked == [], asked
for extra in {sorted(LIBRARIES)}:
    assert cli.main(["run", "--model", "concat", "--attack", extra, *small]) == 2, extra
"""


def test_the_core_imports_no_attack_library(tmp_path: Path) -> None:
    call = [sys.executable, "-c", CORE]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = [line for line in done.stderr.splitlines() if line.startswith("robmed: --attack")]
    assert len(refused) == len(LIBRARIES)
    for extra, line in zip(sorted(LIBRARIES), refused, strict=True):
        assert f"--attack {extra} needs the package" in line
        assert line.endswith(f"pip install 'robustbench-med[{extra}]'")


def test_the_list_says_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "versions", lambda names: dict.fromkeys(names, ""))
    _, rows = listing.rows("attacks")
    said = {name: what for name, what, *_ in rows}
    for name, what in said.items():
        assert (what == f"not installed: extra {name}") == (name in LIBRARIES), name
    assert cli.main(["list", "attacks"]) == 0
    assert "not installed" in capsys.readouterr().out


# What a library does when it is imported, and what is said of it.
BROKEN = {
    "lacks another": ("import no_such_package_at_all", "needs the package 'no_such_package_at_all'"),
    "wants another version": ("from os import no_such_name", "the versions of torchattacks and of what it"),
    "another torch": (
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "torchvision was built for another torch (operator torchvision::nms does not exist)",
    ),
}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is imported in torchattacks' place."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchattacks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "torchattacks.py"


@pytest.mark.parametrize("case", BROKEN)
def test_a_library_that_cannot_be_imported_is_one_line(case: str, stand_in: Path, robmed: Robmed) -> None:
    code, complaint = BROKEN[case]
    stand_in.write_text(code)
    status, lines = robmed("run", "--model", "concat", "--attack", "torchattacks:PGD", "--out", "runs")
    assert (status, len(lines)) == (2, 1), lines
    assert complaint in lines[0]


def test_a_bug_in_a_library_keeps_its_traceback(stand_in: Path, robmed: Robmed) -> None:
    stand_in.write_text("raise RuntimeError('a bug')")
    with pytest.raises(RuntimeError, match="a bug"):
        robmed("run", "--model", "concat", "--attack", "torchattacks:PGD", "--out", "runs")
