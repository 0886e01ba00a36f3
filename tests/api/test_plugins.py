"""Third parties' packages, foreign folders, and the wheel: what an installation must cope with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]

PYPROJECT = """
    [build-system]
    requires = ["setuptools"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "robmed-tiny"
    version = "0.1"

    [tool.setuptools]
    py-modules = ["robmed_tiny"]

    [project.entry-points."robustbench_med.attacks"]
    shove = "robmed_tiny:Shove"
    [project.entry-points."robustbench_med.defenses"]
    damp = "robmed_tiny:Damp"
    [project.entry-points."robustbench_med.models"]
    brightness = "robmed_tiny:Brightness"
    [project.entry-points."robustbench_med.datasets"]
    squares = "robmed_tiny:Squares"
"""

MODULE = '''
    from dataclasses import dataclass

    import numpy as np
    import torch

    from robustbench_med.api import Attack, DatasetInfo, DataSource, Defense, FusionModel, Modality
    from robustbench_med.api import SingleLabel, Split


    @dataclass(frozen=True)
    class Shove(Attack):
        """Shoves every pixel one way."""

        upwards: bool = True

        def perturb(self, target, batch):
            sign = 1 if self.upwards else -1
            moved = {name: x + sign for name, x in batch.inputs.items()}
            return target.threat.project(moved, batch.inputs)


    @dataclass(frozen=True)
    class Damp(Defense):
        """Raises the threshold between dark and bright."""

        by: float = 0.0

        def apply(self, model):
            model.shift = self.by


    class Brightness(FusionModel):
        """Dark or bright, by the mean pixel."""

        def __init__(self, modalities, heads):
            super().__init__(modalities, heads)
            self.scale, self.shift = torch.nn.Parameter(torch.ones(1)), 0.0

        def forward(self, inputs):
            mean = torch.cat([x.flatten(1) for x in inputs.values()], 1).mean(1)
            score = self.scale * (mean - 0.5 - self.shift)
            return {"brightness": torch.stack([-score, score], 1)}


    class Squares(DataSource):
        """Grey squares of brightness 0.4 (dark) and 0.6 (bright)."""

        def load(self, split):
            labels = np.arange(8) % 2
            images = np.full((8, 1, 4, 4), 0.4, np.float32) + 0.2 * labels[:, None, None, None]
            head = SingleLabel("brightness", classes=("dark", "bright"), modalities=("grey",))
            info = DatasetInfo(
                "squares", "Squares", "paired", (Modality("grey", (1, 4, 4)),), (head,), "CC0-1.0", "none",
                synthetic=True,
            )
            ids = tuple(map(str, range(8)))
            images = {"grey": images.astype(np.float32)}
            return Split(split, info, images, {"grey": np.arange(8)}, {"brightness": labels}, ids, ids)
'''

LIST_ALL = """
from robustbench_med.cli import main
for what in ("models", "attacks", "defenses", "datasets"):
    main(["list", what])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny package installed in it."""
    source, target = tmp_path_factory.mktemp("robmed-tiny"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(textwrap.dedent(PYPROJECT))
    (source / "robmed_tiny.py").write_text(textwrap.dedent(MODULE))
    pip("install", "--target", str(target), str(source))
    return target


def pip(command: str, *arguments: str) -> None:
    """Offline: the build back end is already here, dependencies are not asked for."""
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    call = [sys.executable, "-m", "pip", command, *options, *arguments]
    subprocess.run(call, check=True, capture_output=True, text=True)


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "250"} | ({"PYTHONPATH": str(path)} if path else {})
    call = [sys.executable, *arguments]
    return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_plugins_are_listed_with_their_package(site: Path, tmp_path: Path) -> None:
    shown = python("-c", LIST_ALL, cwd=tmp_path, path=site)
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines() if "robmed-tiny" in line]
    assert {line[0] for line in lines} == {"shove", "damp", "brightness", "squares"}
    assert "upwards=True" in shown.stdout
    assert "pgd" in shown.stdout


def test_a_run_made_of_plugins_only(site: Path, tmp_path: Path) -> None:
    save_file({"scale": torch.ones(1)}, tmp_path / "w.safetensors")
    (tmp_path / "damped.yaml").write_text(
        "architecture: brightness\ndefenses: [{name: damp, options: {by: 0.05}}]\n"
    )
    accuracies = {}
    for model in ("brightness", "damped.yaml"):
        run = f"run --model {model} --attack shove --dataset squares --weights w.safetensors --samples 0"
        done = python("-m", "robustbench_med.cli", *run.split(), "--eps=0.12", cwd=tmp_path, path=site)
        assert done.returncode == 0, done.stderr
        path = next(tmp_path.glob(f"runs/{Path(model).stem}-shove-squares-*/record.json"))
        head = json.loads(path.read_text())["accuracy"]["brightness"]
        accuracies[model] = (head["clean"]["value"], head["robust"]["value"])
    # The dark squares end at 0.52: bright to the plain model, dark to the damped one.
    assert accuracies == {"brightness": (1.0, 0.5), "damped.yaml": (1.0, 1.0)}


def test_a_folder_named_attacks_is_nobodys_business(tmp_path: Path) -> None:
    for name in ("attacks", "defenses", "configs", "leaderboards"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not yours')\n")
    script = "from robustbench_med.cli import main; main(['list', 'attacks']); main(['list', 'defenses'])"
    for arguments in (["-m", "robustbench_med.cli", "list", "attacks"], ["-c", script]):
        shown = python(*arguments, cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "pgd" in shown.stdout
    assert "attention-noise" in shown.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves a build folder beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("robustbench_med", "attacks", "defenses", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    pip("wheel", "--wheel-dir", str(folder), str(folder))
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel.stat().st_size < 20e6
    assert "robustbench_med/py.typed" in names
    for folder in ("attacks", "defenses", "configs"):
        ours = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"}
        assert {f"robustbench_med/{path.as_posix()}" for path in ours} <= names
    weights = {p.relative_to(ROOT).as_posix() for p in (ROOT / "robustbench_med/weights").glob("*/[!.]*")}
    assert weights
    assert weights <= names
    assert not [n for n in names if n.startswith(("tests/", "attacks/", "leaderboards/"))]


@pytest.mark.slow
def test_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """Installed on its own, and run with an attacks/ folder in the way."""
    target = tmp_path / "site"
    pip("install", "--target", str(target), str(wheel))
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").write_text("raise ImportError('not yours')\n")
    where = python("-c", "import robustbench_med; print(robustbench_med.__file__)", cwd=tmp_path, path=target)
    assert where.stdout.startswith(str(target))
    shown = python(str(target / "bin" / "robmed"), "--help", cwd=tmp_path, path=target)
    assert (shown.returncode, "usage: robmed" in shown.stdout) == (0, True), shown.stderr
    run = ["run", "--model=concat", "--attack=fgsm", "--samples=4"]
    done = python(str(target / "bin" / "robmed"), *run, cwd=tmp_path, path=target)
    assert done.returncode == 0, done.stderr
    assert "lesion" in done.stdout
