"""Three images and a table, a lesion type and four findings, through every command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Robmed
from PIL import Image

from robustbench_med.cli import main

DATA = ["--model", "concat", "--dataset", "phantom-record"]
FINDINGS = ("uptake", "hydrocephalus", "inflamed", "unexplained")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records() -> list[dict[str, Any]]:
    """All that was made here, in the order of their folders."""
    return [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/record.json"))]


def test_run() -> None:
    assert main(["run", *DATA, "--attack", "apgd:ce", "--samples", "20"]) == 0
    (record,) = records()
    (kept_at,) = Path("runs").glob("*/outcomes.npz")
    with np.load(kept_at, allow_pickle=False) as kept:
        # One draw of 20 samples: a finding is denied where its logit is not above 0.
        logits, truth = kept["adversarial/findings"], kept["labels/findings"]
    right = (logits[0] > 0) == (truth == 1)
    for number, name in enumerate(FINDINGS):
        said = record["accuracy"][f"findings.{name}"]["robust"]["value"]
        assert said == pytest.approx(right[:, number].mean())
    assert record["accuracy"]["findings"]["robust"]["value"] == pytest.approx(right.all(1).mean())
    with Path("runs/leaderboard.csv").open() as file:
        (row,) = csv.DictReader(file)
    headline = record["accuracy"]["every head right"]["robust"]["value"]
    assert float(row["robust"]) == pytest.approx(headline, abs=1e-3)
    assert headline < record["accuracy"]["every head right"]["clean"]["value"] - 0.3
    (picture,) = Path("runs").glob("*/picture.png")
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_one_question() -> None:
    flags = ["--attack", "pgd", "--steps", "5", "--samples", "20", "--head", "findings.uptake"]
    assert main(["run", *DATA, *flags]) == 0
    (record,) = records()
    assert record["headline"] == "findings.uptake"
    accuracy = record["accuracy"]
    fall = {
        q: accuracy[f"findings.{q}"]["clean"]["value"] - accuracy[f"findings.{q}"]["robust"]["value"]
        for q in FINDINGS
    }
    assert fall["uptake"] == max(fall.values()) > 0.3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--head", "findings.nope"], "findings.nope"),
        (["--head", "findings.uptake", "--attack", "torchattacks:PGD"], "record"),
        (["--towards", "nope"], "question"),
        (["--eps", "xray=1/255"], "xray"),
        (["--modality", "xray"], "xray"),
    ],
)
def test_what_is_refused(flags: list[str], said: str, robmed: Robmed) -> None:
    code, (error,) = robmed("run", *DATA, "--attack", "pgd", "--samples", "4", *flags)
    assert code == 2
    assert said in error
    assert not list(Path("runs").glob("[!.]*"))  # a lock at most


def test_curve_modalities_and_audit(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--attack", "pgd", "--steps", "3", "--samples", "8"]
    for command in ("curve", "modalities"):
        assert main([command, *DATA, *few]) == 0
        shown = capsys.readouterr().out
        assert "findings" in shown
        assert list(Path("runs").glob(f"*/{command}.json"))
    assert main(["audit", *DATA, *few, "--audit", "quick"]) == 0
    shown = capsys.readouterr().out
    for check in ("estimate", "unbounded", "memory"):
        assert check in shown


def test_compare_and_board(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("0", "1"):
        flags = ["--attack", "pgd", "--steps", "3", "--samples", "20", "--seed", seed]
        assert main(["run", *DATA, *flags]) == 0
    one, two = (str(path.parent) for path in sorted(Path("runs").glob("*/record.json")))
    assert main(["compare", one, two]) == 0
    assert main(["board", "runs/leaderboard.csv"]) == 0
    assert "concat-x0.125" in capsys.readouterr().out


def test_certify() -> None:
    assert main(["certify", *DATA, "--sigma", "0.05", "--n", "100", "--samples", "4"]) == 0
    assert list(Path("runs").glob("*/*.json"))


def test_train_and_a_suite_of_it() -> None:
    recipe = Path("tiny.yaml")
    recipe.write_text(
        "model: concat\ndataset: phantom-record\nmodel_options: {width: 0.0625}\nepochs: 1\nbatch_size: 64\n"
    )
    assert main(["train", str(recipe), "--out", "weights"]) == 0
    (weights,) = Path("weights").rglob("*.safetensors")
    assert weights.with_suffix(".json").is_file()
    suite = Path("suite.yaml")
    suite.write_text(
        "title: one cell\ndatasets: [phantom-record]\nmodels: [concat]\n"
        "runs:\n  - {protocol: released, samples: 4, batch_size: 4}\n"
    )
    assert main(["suite", str(suite)]) == 0
    with Path("runs/suite/leaderboard.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["dataset"].startswith("phantom-record")


@pytest.mark.parametrize("size", ["1", "7"])
def test_a_random_net_answers_alike_at_any_batch_size(size: str) -> None:
    """Per-element noise follows the sample, through attack and scoring."""
    few = ["--attack", "pgd", "--steps", "2", "--eot", "2", "--draws", "3", "--samples", "9"]
    noisy = [*DATA, *few, "--defense", "gaussian-noise:sigma=0.1"]
    scores = []
    for batch in (size, "100"):
        assert main(["run", *noisy, "--batch-size", batch, "--out", batch]) == 0
        (kept,) = Path(batch).glob("*/outcomes.npz")
        with np.load(kept, allow_pickle=False) as found:
            scores.append({k: found[k] for k in found.files if k.startswith("adversarial/")})
    for name, values in scores[0].items():
        np.testing.assert_allclose(values, scores[1][name], atol=1e-4)
