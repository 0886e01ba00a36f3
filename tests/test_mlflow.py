"""Records handed to callbacks and to MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Robmed
from torch import Tensor, nn

from robustbench_med import evaluate
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.mlflow import log_record, metrics_of, parameters_of
from robustbench_med.studies.run import run
from robustbench_med.studies.several import run_all

with_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None,
    reason="MLflow is not installed (extra mlflow, in an environment without torchattacks)",
)


def config(weights: dict[str, Path], out: Path, attack: str = "fgsm") -> RunConfig:
    return RunConfig("concat", attack, weights=str(weights["concat"]), samples=4, out=str(out))


@pytest.mark.usefixtures("no_pictures")
def test_a_callback_gets_every_record_once_it_is_on_disk(weights: dict[str, Path], tmp_path: Path) -> None:
    seen = list[str]()

    def on_record(record: Mapping[str, Any]) -> None:
        stored = json.loads((Path(record["folder"]) / "record.json").read_text())
        given = {name: value for name, value in record.items() if name != "folder"}
        assert stored == json.loads(json.dumps(given))
        seen.append(record["attack"]["name"])

    run_all(config(weights, tmp_path, "fgsm,pgd"), on_record=on_record)
    assert seen == ["fgsm", "pgd", "ensemble"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x.flatten(1))
        return scores


@pytest.mark.usefixtures("no_pictures")
def test_evaluate_takes_a_callback(tmp_path: Path) -> None:
    seen = list[Mapping[str, Any]]()
    images = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0)).numpy()
    labels = [0, 1, 0, 1, 0, 1]
    result = evaluate(
        Net().eval(), (images, torch.tensor(labels)), "fgsm", on_record=seen.append, out=str(tmp_path)
    )
    (record,) = seen
    assert record["run"] == result.record["run"]
    assert record["folder"] == str(result.folder)


@pytest.mark.usefixtures("no_pictures")
def test_metrics_by_names_that_mlflow_takes(weights: dict[str, Path], tmp_path: Path) -> None:
    record = run(config(weights, tmp_path)).record
    found = dict(metrics_of(record))
    aimed = record["accuracy"][record["headline"]]
    assert found["robust"] == aimed["robust"]["value"]
    assert found["clean_low"] == aimed["clean"]["low"]
    assert found["cost/forward_passes"] == record["cost"]["forward_passes"]
    assert len(found) == len(list(metrics_of(record)))
    assert all(c.isascii() and (c.isalnum() or c in "-_./ ") for name in found for c in name)
    assert dict(parameters_of(record))["attack.name"] == "fgsm"


@with_mlflow
def test_a_record_in_a_store(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged twice, it is there once. Beside such a store MLflow puts pictures where it is called."""
    import mlflow

    monkeypatch.chdir(tmp_path)

    store, seen = f"sqlite:///{tmp_path / 'runs.db'}", list[Mapping[str, Any]]()
    run_all(config(weights, tmp_path / "runs"), on_record=seen.append)
    for _ in range(2):
        log_record(seen[0], store, "tests")
    client = mlflow.MlflowClient(tracking_uri=store)
    (logged,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    aimed = seen[0]["accuracy"][seen[0]["headline"]]
    assert logged.data.metrics["robust"] == aimed["robust"]["value"]
    assert logged.data.params["attack.name"] == "fgsm"
    assert logged.data.tags["robmed.run"] == seen[0]["run"]
    assert logged.info.status == "FINISHED"
    assert {each.path for each in client.list_artifacts(logged.info.run_id)} == {"record.json", "picture.png"}


@with_mlflow
def test_the_flag(
    weights: dict[str, Path], tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)

    store = f"sqlite:///{tmp_path / 'runs.db'}"
    flags = ["--model", "concat", "--attack", "fgsm", "--weights", weights["concat"], "--samples", "2"]
    assert robmed("run", *flags, "--out", tmp_path / "runs", "--mlflow", store)[0] == 0
    client = mlflow.MlflowClient(tracking_uri=store)
    number = client.get_experiment_by_name("robustbench-med").experiment_id
    assert len(client.search_runs([number])) == 1


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="MLflow is installed")
def test_without_mlflow_one_line_says_how_to_get_it(robmed: Robmed, tmp_path: Path) -> None:
    """Before the run, not after it."""
    flags = ["--model", "concat", "--attack", "fgsm", "--samples", "2", "--out", tmp_path / "runs"]
    code, (line,) = robmed("run", *flags, "--mlflow")
    assert code == 2
    assert "pip install 'robustbench-med[mlflow]'" in line
    assert not (tmp_path / "runs").exists()
