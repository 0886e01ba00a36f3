"""``robmed init``: what it writes runs, with the commands it prints, on data of any layout."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Robmed
from PIL import Image
from safetensors.torch import save_file
from torch import zeros

from robustbench_med import cli
from robustbench_med.studies.gate_config import read_config


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))


def class_folders() -> str:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("it's ill", "well"):
            for number in range(4):
                path = Path("my images", split, name, f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return "my images"


def sheet() -> str:
    class_folders()
    rows = [f"{s}/well/{n}.png,{n % 2},{s},{n + 20}" for s in ("train", "test") for n in range(4)]
    Path("my images/sheet.csv").write_text("\n".join(["image,label,split,age", *rows]) + "\n")
    return "my images/sheet.csv"


def archive() -> str:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (6, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(6) % 3
    np.savez("set.npz", **arrays)
    return "set.npz"


@pytest.mark.parametrize("data", [class_folders, sheet, archive])
def test_the_printed_commands_run(
    data: Callable[[], str],
    robmed: Robmed,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = data()
    assert cli.main(["init", "new", "--data", path]) == 0
    commands = [shlex.split(line) for line in capfd.readouterr().out.splitlines()]
    monkeypatch.chdir("new")
    commands = [words[1:] for words in commands if words[:1] == ["robmed"]]
    assert [words[0] for words in commands] == ["data", "run", "audit", "check"]
    assert robmed(*commands[0])[0] in (0, 1)  # 1 where the tiny data means nothing
    code, lines = robmed(*commands[1], "--steps", 1, "--no-picture")
    assert (code, lines) == (0, [])
    steps = yaml.safe_load(Path("ci.yml").read_text())["jobs"]["robustness"]["steps"]
    assert steps[-1]["run"].split()[:2] == ["robmed", "check"]
    config = read_config("robmed.yaml")
    assert [config.model, config.data] == [commands[1][i] for i in (2, 4)]


def test_nothing_is_written_over(robmed: Robmed) -> None:
    Path("ci.yml").write_text("mine")
    code, lines = robmed("init")
    assert (code, len(lines)) == (2, 1)
    assert "ci.yml is there already" in lines[0]
    assert [path.name for path in Path().iterdir()] == ["ci.yml"]
    assert robmed("init", "--data", "nowhere.csv")[0] == 2


def test_weights_are_told_of(robmed: Robmed) -> None:
    save_file({"trunk.weight": zeros(3, 4)}, "net.safetensors")
    assert robmed("init", "new", "--weights", "net.safetensors") == (0, [])
    assert "# trunk.weight (3, 4)" in Path("new/model.py").read_text()
    assert yaml.safe_load(Path("new/robmed.yaml").read_text())["weights"] == "../net.safetensors"
