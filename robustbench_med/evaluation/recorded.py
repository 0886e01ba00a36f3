"""From a record to the model, the data and the threat model that it speaks of; without the attack.

A record may be a stranger's. Nothing that it names is run as code unless whoever verifies it names it, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.data.catalog import load_dataset, short_name
from robustbench_med.evaluation.adversary import make_goal, make_threat_model
from robustbench_med.evaluation.prepare import RunConfig, Subject, asked_about, looked_at, subset
from robustbench_med.models.cards import nets_at_hand, weight_folders
from robustbench_med.models.load import LoadedModel, load_recorded
from robustbench_med.models.named import is_code
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, sha256_file


@dataclass(frozen=True)
class Places:
    """Where things lie here, if not where the record's names lead.

    Attributes:
        model: code that makes the net, "file.py:make".
        dataset: a name or path.
        weights: a file.
    """

    model: str | None = None
    dataset: str | None = None
    weights: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Recorded:
    """What a record speaks of.

    Attributes:
        config: of the run.
        split: the samples of the run, in its order.
    """

    record: Mapping[str, Any]
    config: RunConfig
    subject: Subject
    split: Split
    threat: ThreatModel
    goal: Goal
    device: str

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self.subject.loaded

    @property
    def draws(self) -> int:
        """Scoring draws of the run."""
        return int(self.record["scoring"]["draws"])

    @property
    def random(self) -> bool:
        """Whether two draws of the model may differ."""
        return self.loaded.model.draws_shared_by != "none"

    @property
    def batches(self) -> list[NDArray[np.int64]]:
        """Sample positions of the batches that were scored together."""
        everyone, outcomes = np.arange(len(self.split)), self.record["outcomes"]
        if outcomes is None:
            size = self.config.batch_size
            return [everyone[i : i + size] for i in range(0, len(everyone), size)]
        return np.split(everyone, np.cumsum(outcomes["batches"])[:-1])


def recorded(record: Mapping[str, Any], where: Path, places: Places) -> Recorded:
    """Load what a record speaks of and make sure that it is the same: by hashes of weights and data.

    Args:
        where: the record's file; weights may lie beside it.

    Raises:
        UserError: it is not at hand, or something else is there.
    """
    config = config_of(record, where, places)
    whole = _dataset(config.dataset, where)
    goal = make_goal(config.head, whole.info, config.towards)
    split = subset(asked_about(whole, goal, config.towards), config.samples)
    threat = make_threat_model(config.eps, config.norm, config.modality, split.info)
    if split.fingerprint != record["dataset"]["fingerprint"]:
        raise UserError(
            f"{where}: the data at hand is not that of the record: {config.dataset} has the fingerprint "
            f"{split.fingerprint[:12]}, not {record['dataset']['fingerprint'][:12]}; give it by --data"
        )
    loaded = _loaded(record, where, config, whole, places)
    subject = looked_at(loaded, whole, config.device)
    return Recorded(record, config, subject, split, threat.to(config.device), goal, config.device)


def config_of(record: Mapping[str, Any], where: Path, places: Places) -> RunConfig:
    """The config of a record's run.

    Raises:
        UserError: it is none.
    """
    said = {**record["config"], "device": places.device}
    if places.dataset is not None:
        said["dataset"] = places.dataset
    config = build(RunConfig, said, f"{where}: config")
    if min(config.batch_size, config.draws) < 1 or config.samples < 0:
        raise UserError(f"{where}: config: batch_size and draws must be 1 or more, samples 0 or more")
    return config


def _dataset(name: str, where: Path) -> Split:
    try:
        return load_dataset(name, "test")
    except UserError as error:
        raise UserError(f"{where}: its data is not at hand: {error}; --data says where it lies") from error


def _loaded(
    record: Mapping[str, Any], where: Path, config: RunConfig, whole: Split, places: Places
) -> LoadedModel:
    said = dict(record["model"])
    if is_code(str(said.get("architecture"))) or said["weights"] == "in memory":
        if places.model is None or not is_code(places.model):
            raise UserError(
                f"{where} is of a net that code makes, and nobody's code runs unasked: say --model "
                f"FILE.py:MAKE (it was {said['architecture']}), and --weights if it has a file of them"
            )
        said["architecture"] = places.model
    elif places.model is not None:
        raise UserError(f"{where} is of a model of this package; drop --model")
    weights = _weights(said, where, config, places)
    loaded = load_recorded(said, whole, weights, config.device, f"{where}: model")
    if loaded.weights_sha256 != said["weights_sha256"]:
        raise UserError(
            f"{where}: {loaded.weights or 'the net'} is not what was attacked: its SHA-256 is "
            f"{loaded.weights_sha256[:12]}, the record's {str(said['weights_sha256'])[:12]}; give --weights"
        )
    return loaded


def _weights(said: Mapping[str, Any], where: Path, config: RunConfig, places: Places) -> Path | None:
    """The given file; else the one of the record's hash beside it or among those at hand, if there is one."""
    if places.weights is not None:
        return given_path(places.weights, "the file --weights")
    if said["weights"] == "in memory":
        return None
    name, data = Path(str(said["weights"])).name, short_name(config.dataset)
    found = [where.parent / name]
    if not is_code(str(said["architecture"])):
        found += [folder / data / name for folder in weight_folders()]
        found += [card.with_suffix(".safetensors") for card in nets_at_hand(str(said["name"]), data)]
    there = [path for path in found if path.is_file()]
    same = [path for path in there if sha256_file(path) == said["weights_sha256"]]
    return next(iter([*same, *there]), None)
