"""The action and the workflows: what they say is true, and the action's steps run in a plain shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from robustbench_med.studies.gate_config import read_config

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text()
EXPRESSION = re.compile(r"\$\{\{ *([\w.-]+) *\}\}")


def test_the_action_never_pastes_what_it_is_given_into_a_shell() -> None:
    """Inputs go through the environment: in a script they would be code."""
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert scripts
    assert not any(EXPRESSION.search(script) for script in scripts)
    assert all(step["shell"] == "bash" for step in ACTION["runs"]["steps"] if "run" in step)


def test_every_input_and_output_of_a_step_exists() -> None:
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    named = set(re.findall(r"steps\.place\.outputs\.(\w+)", text))
    written = set(re.findall(r'echo "(\w+)=', text))
    assert named == written


def test_versions_of_the_workflow_are_those_of_the_project() -> None:
    versions = yaml.safe_load(WORKFLOW)["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert f"ruff=={pins['ruff']}" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_project_has_a_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / ".ci/gate")
    config = read_config("robmed.yaml")
    for entry in config.attacks:
        assert list(config.folder.glob(f"{entry.attack.replace(':', '-')}-seed*.json"))


NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
"""
CHECK = """
model: net.py:make
weights: net.safetensors
data: set.npz
attacks: [{attack: pgd, options: {steps: 5}, eps: 8/255}]
samples: 0
audit: none
"""


def repository(folder: Path) -> None:
    """A git repository of somebody's, with a net of a few numbers."""
    rng, sign = np.random.default_rng(0), np.tile([-1, 1], 20)[:, None]
    images = (0.5 + 0.05 * sign + rng.normal(0, 0.05, (40, 16))).clip(0, 1).reshape(40, 1, 4, 4)
    labels = np.arange(40) % 2
    arrays: dict[str, Any] = {
        f"{split}_{what}": x
        for split in ("train", "test")
        for what, x in (("images", images.astype(np.float32)), ("labels", labels))
    }
    folder.mkdir()
    np.savez(folder / "set.npz", **arrays)
    (folder / "net.py").write_text(NET)
    (folder / "robmed.yaml").write_text(CHECK)
    (folder / ".gitignore").write_text("runs/\n")
    weigh(folder, torch.ones(16))
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm net"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)


def weigh(folder: Path, row: torch.Tensor) -> None:
    bias = torch.tensor([8.0, -8.0]) * float(row.sum()) / 16
    save_file({"1.weight": torch.stack([-row, row]), "1.bias": bias}, folder / "net.safetensors")


def environment(folder: Path) -> dict[str, str]:
    """A Python of its own that has this one's libraries, but not the package."""
    venv.create(folder / "venv", with_pip=False)
    site = next((folder / "venv/lib").glob("python*")) / "site-packages"
    (site / "libraries.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    path = f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("HOME", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, **offline, "PATH": path, "LC_ALL": "C.UTF-8"}


class Runner:
    """What GitHub's runner does with the ``run`` steps of a composite action, as far as this one needs it."""

    def __init__(self, folder: Path) -> None:
        self.temp, self.work = folder / "temp", folder / "repository"
        self.temp.mkdir()
        repository(self.work)
        self.base = environment(folder)
        self.page = self.temp / "page.md"

    def run(self, **inputs: str) -> subprocess.CompletedProcess[str]:
        """All steps in order until one fails; the last one's result."""
        given = {name: str(what.get("default", "")) for name, what in ACTION["inputs"].items()}
        values = {f"inputs.{name}": value for name, value in (given | inputs).items()}
        values |= {"github.action_path": str(ROOT), "runner.temp": str(self.temp)}
        done: subprocess.CompletedProcess[str] | None = None
        for number, step in enumerate(s for s in ACTION["runs"]["steps"] if "run" in s):
            output = self.temp / f"output{number}"
            output.write_text("")
            own = {name: self.filled(value, values) for name, value in step.get("env", {}).items()}
            files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.page)}
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=self.work / self.filled(step.get("working-directory", "."), values),
                env=self.base | files | own,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                break
            lines = [line.split("=", 1) for line in output.read_text().splitlines()]
            values |= {f"steps.{step['id']}.outputs.{name}": value for name, value in lines}
        assert done is not None
        return done

    @staticmethod
    def filled(text: str, values: dict[str, str]) -> str:
        return EXPRESSION.sub(lambda found: values[found[1]], text)


@pytest.mark.slow
def test_the_steps_of_the_action_in_a_scratch_repository(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    quiet = {"torch-index": ""}
    nothing = runner.run(**quiet)
    assert nothing.returncode == 2, nothing.stderr
    assert "robmed check --update" in nothing.stderr
    assert "cannot be judged" in runner.page.read_text()

    update = [str(tmp_path / "venv/bin/python"), "-m", "robustbench_med", "check", "--update"]
    subprocess.run(update, cwd=runner.work, env=runner.base, check=True, capture_output=True)
    where = [*update[:1], "-c", "import robustbench_med; print(robustbench_med.__file__)"]
    found = subprocess.run(
        where, cwd=runner.work, env=runner.base, check=True, capture_output=True, text=True
    )
    assert str(tmp_path / "venv") in found.stdout  # the one that the action installed

    runner.page.unlink()
    passed = runner.run(**quiet)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "robmed check: passed" in runner.page.read_text()
    assert 'failures="0"' in (runner.temp / "robmed.xml").read_text()

    weigh(runner.work, torch.tensor([1.0, -0.9] * 8))
    failed = runner.run(**quiet)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "FAILED" in runner.page.read_text()
