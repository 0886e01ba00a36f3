"""Fixtures shared by the tests of runs and of the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

# Tiny nets gain nothing from threads, and beside other work on the machine they lose a lot. Before
# torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from tiny import CHANNELS, CLASSES, ConvNet, batch_of, labelled_by, random_split, seeded, write_model

from robustbench_med import cli
from robustbench_med.api.attack import Batch
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.data.phantom import Phantom

Robmed = Callable[..., tuple[int, list[str]]]


@pytest.fixture(scope="session")
def phantom() -> Split:
    return Phantom().load("test")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, phantom: Split) -> dict[str, Path]:
    """Random weights of the narrowest nets, by model name."""
    folder = tmp_path_factory.mktemp("weights")
    names = ("concat", "mail", "robust-mail", "robust-mail-rpf")
    return {name: write_model(folder, name, phantom.info) for name in names}


@pytest.fixture(scope="module")
def net() -> FusionModel:
    return seeded(ConvNet, CHANNELS, CLASSES)


@pytest.fixture(scope="module")
def batch(net: FusionModel) -> Batch:
    """Samples that the net gets right, so that all have something to lose."""
    return batch_of(labelled_by(net, random_split(10)))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without their picture, which takes longer than a small run."""
    monkeypatch.setattr("robustbench_med.studies.run.draw", lambda *_: None)


@pytest.fixture
def concat(tmp_path: Path, weights: dict[str, Path]) -> Path:
    """A copy of the weights of ``concat`` (and of their card) that a test may damage."""
    for source in (weights["concat"], weights["concat"].with_suffix(".json")):
        shutil.copy(source, tmp_path)
    return tmp_path / weights["concat"].name


@pytest.fixture
def robmed(capfd: pytest.CaptureFixture[str]) -> Robmed:
    """Run the command line; returns its exit code and the lines on stderr."""

    def call(*arguments: object) -> tuple[int, list[str]]:
        code = cli.main([str(a) for a in arguments])
        return code, capfd.readouterr().err.splitlines()

    return call


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of imported data of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("ROBMED_HOME", str(folder))
    return folder
