"""What README and docs tell people to type: flags that exist, code that runs, files that are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Robmed
from tiny import CHANNELS, CLASSES, ConvNet, seeded, target_of, threat_of
from torch import nn

from robustbench_med.api import Attack, Batch, Defense, FusionModel, UserError
from robustbench_med.flags import parser

ROOT = Path(__file__).parent.parent
# docs/models.md has tests of its own.
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "models.md")]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Titles and text of the blocks of a page in one language."""
    return [(title, text) for found, title, text in BLOCK.findall(page.read_text()) if found == language]


def titled(page: str) -> dict[str, str]:
    """Files that a page tells to write, by name."""
    return {title: text for title, text in blocks(ROOT / "docs" / page, "python") if title}


def executed(text: str, **names: Any) -> dict[str, Any]:
    """What a block defines; it knows none of this file's imports."""
    space = {"__name__": "page", **names}
    exec(compile(text, "page", "exec", dont_inherit=True), space)
    return space


def commands() -> list[str]:
    """Every whole call of robmed in a block, or in the text, with something after the subcommand."""
    found = set()
    for page in PAGES:
        lines = [line for _, text in blocks(page, "sh") for line in text.splitlines()]
        lines += re.findall(r"`(robmed [^`]+)`", re.sub(r"\s*\n\s*", " ", page.read_text()))
        found |= {line for line in lines if line.startswith("robmed ") and "…" not in line}
    return sorted(found)


def test_there_are_commands() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str) -> None:
    arguments = shlex.split(command, comments=True)[1:]
    if arguments == ["data", "check"] or len(arguments) == 1:  # the name of a command alone
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args([*arguments, "--help"])
    else:
        parser().parse_args(arguments)


@pytest.mark.slow
def test_readmes_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robmed: Robmed) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = [c for c in blocks(ROOT / "README.md", "sh")[0][1].splitlines() if c.startswith("robmed")]
    assert robmed(*shlex.split(command)[1:], "--samples", 2, "--steps", 1, "--eot", 1, "--draws", 2) == (
        0,
        [],
    )
    assert list(Path("runs").glob("robust-mail-x0.1875-pgd-phantom-*/record.json"))


def test_readmes_lines_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ((_, text),) = blocks(ROOT / "README.md", "python")
    executed(text, net=net, images=images, labels=torch.arange(12) % 3)
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("Estimate(value=")
    assert said[-1].startswith(("sound", "not sound", "incomplete"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    for _, text in blocks(page, "python"):
        compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    others = {"models.md", "data.md", "train.md"}  # written elsewhere; mkdocs --strict looks for them
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        there = (page.parent / link).exists() or (ROOT / "leaderboards" / link).exists()
        assert there or "://" in link or Path(link).name in others, link


def test_the_attack_of_the_docs(net: FusionModel, batch: Batch) -> None:
    space = executed(titled("attacks.md")["noise.py"])
    attack: Attack = space["Noise"]()
    threat = threat_of(a=0.1, b=0.1)
    moved = attack.perturb(target_of(net, threat, "any"), batch)
    threat.check(moved, batch.inputs, "noise")


def test_the_defense_of_the_docs() -> None:
    space = executed(titled("defenses.md")["blur.py"])
    defense: Defense = space["Blur"](size=3)
    plain, blurred = seeded(ConvNet, CHANNELS, CLASSES), seeded(ConvNet, CHANNELS, CLASSES)
    defense.apply(blurred)
    inputs = {m.name: torch.rand(2, *m.shape) for m in plain.takes.values()}
    smooth = {n: nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) for n, x in inputs.items()}
    for head, scores in blurred(inputs).items():
        assert torch.allclose(scores, plain(smooth)[head], atol=1e-6)
    with pytest.raises(UserError, match="must be odd"):
        space["Blur"](size=2)


@pytest.mark.slow
def test_the_five_minute_start(tmp_path: Path) -> None:
    """The page as it stands: same files, same command, same number."""
    page = ROOT / "docs" / "start.md"
    for name, text in titled("start.md").items():
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "prepare.py"], cwd=tmp_path, check=True)
    ((_, command),) = blocks(page, "sh")
    robmed = shutil.which("robmed", path=str(Path(sys.executable).parent))
    assert robmed is not None
    call = [robmed, *shlex.split(command)[1:]]
    printed = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for line in ("every head right", "verdict"):
        (said,) = [row.rstrip() for row in printed.splitlines() if row.startswith(line)]
        assert said in page.read_text()
