"""Records as runs of MLflow (extra ``mlflow``): metrics, parameters, the record itself, pictures.

    from robustbench_med.mlflow import log_record
    evaluate(net, data, on_record=log_record)

``robmed run --mlflow`` does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from robustbench_med.util.errors import UserError

EXPERIMENT = "robustbench-med"
TAG = "robmed.run"
LONGEST = 500  # characters of a parameter, for stores that cut


def logger(uri: str | None = None, experiment: str = EXPERIMENT) -> Callable[[Mapping[str, Any]], None]:
    """A callback for ``on_record``.

    Args:
        uri: of the tracking store ("sqlite:///runs.db", "http://…"); MLflow's own choice when not given.

    Raises:
        UserError: MLflow is not installed.
    """
    _mlflow()

    def log(record: Mapping[str, Any]) -> None:
        log_record(record, uri, experiment)

    return log


def log_record(record: Mapping[str, Any], uri: str | None = None, experiment: str = EXPERIMENT) -> None:
    """Log a record as a run of MLflow. The same run logged again takes the place of what was logged before.

    Args:
        record: as ``on_record`` gets it; the pictures in its ``folder`` are logged, too.
        uri, experiment: see ``logger``.

    Raises:
        UserError: MLflow is not installed, or its store cannot be used.
    """
    mlflow = _mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        run = _run_of(client, record, experiment)
        for name, value in metrics_of(record):
            client.log_metric(run, name, value)
        for name, said in parameters_of(record):
            client.log_param(run, name, said[:LONGEST])
        kept = {name: value for name, value in record.items() if name != "folder"}
        client.log_dict(run, kept, "record.json")
        for picture in sorted(Path(record["folder"]).glob("*.png")) if "folder" in record else ():
            client.log_artifact(run, str(picture))
        client.set_terminated(run)
    except mlflow.exceptions.MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"MLflow did not take the record of run {record['run']}: {reason}") from error


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise UserError(
            "MLflow is not installed: pip install 'robustbench-med[mlflow]', without the extra torchattacks, "
            "which wants a library of 2020"
        ) from error
    return mlflow


def _run_of(client: Any, record: Mapping[str, Any], experiment: str) -> str:
    """A new run of MLflow for a record; those that were logged for the same run before are deleted."""
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found is not None else client.create_experiment(experiment)
    for before in client.search_runs([number], f"tags.`{TAG}` = '{record['run']}'"):
        client.delete_run(before.info.run_id)
    model, dataset, attack = record["model"]["label"], record["dataset"]["name"], record["attack"]["name"]
    tags = {TAG: record["run"], "verdict": record["audit"]["verdict"]}
    made = client.create_run(number, tags=tags, run_name=f"{model} on {dataset} under {attack}")
    return str(made.info.run_id)


def metrics_of(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers by names that MLflow takes: "robust", "robust_low" and so on of what was aimed at, and of every
    head "robust/HEAD"."""
    for head, kinds in record["accuracy"].items():
        where = "" if head == record["headline"] else f"/{_name(head)}"
        for kind, each in kinds.items():
            if not isinstance(each, Mapping) or "value" not in each:
                continue
            yield f"{_name(kind)}{where}", float(each["value"])
            for end in ("low", "high"):
                yield f"{_name(kind)}_{end}{where}", float(each[end])
    for name, value in record["cost"].items():
        yield f"cost/{_name(name)}", float(value)


def parameters_of(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was run, by name."""
    yield "model", str(record["model"]["label"])
    yield "dataset", str(record["dataset"]["name"])
    yield "goal", str(record["threat_model"]["goal"])
    yield "samples", str(record["dataset"]["samples"])
    yield "seed", str(record["seed"])
    for name, value in record["attack"].items():
        yield f"attack.{_name(name)}", str(value)
    for name, budget in record["threat_model"]["budgets"].items():
        yield f"epsilon.{_name(name)}", str(budget["epsilon"])
    yield "weights_sha256", str(record["model"]["weights_sha256"])


def _name(text: str) -> str:
    """As MLflow allows names: letters, digits, and -_. and spaces."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "-_. " else "_" for c in text)
