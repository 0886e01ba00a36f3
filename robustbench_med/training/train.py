"""Training of any configured model on any data set, with resumption that changes nothing."""

from __future__ import annotations

import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Passes, Target
from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation import scoring
from robustbench_med.evaluation.adversary import make_attack, make_threat_model
from robustbench_med.evaluation.batches import load_batch
from robustbench_med.measure import statistics
from robustbench_med.models.load import (
    ModelConfig,
    build_model,
    card_model,
    model_config,
    on_device,
    save_weights,
)
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT, Fraction
from robustbench_med.util.files import replacing, require_writable, sha256_file, sha256_json, write_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.seeding import derive
from robustbench_med.util.versions import versions

SCORING_DRAWS = 10


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images, the same geometry for all modalities of a sample.

    Attributes:
        mirror: flip along the axes the data set says keep every label true.
        shift: largest translation, as a share of the image size.
        rotate: largest rotation in degrees.
        zoom: largest relative change of scale.
        contrast: largest relative change of contrast, drawn per image.
        brightness: largest change of brightness, in units of the pixel range, drawn per image.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    mirror: bool = True
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD-AT (Madry et al. 2018, arXiv:1706.06083, eq. 2.1): every step trains on attacked images only.

    Attacks are crafted on the net in evaluation mode, and the weights that are kept are those with
    the best validation accuracy under the same attack.

    Attributes:
        attack: a name, usually "pgd" with ``keep: last``, which climbs on after success.
        options: fields of the attack.
        eps: radius of every modality, or of each by name; modalities without one stay clean.
        eot: draws of a random model behind each gradient.
        warmup: share of the epochs over which the radii rise from 0 to their full size.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: str
    eps: Fraction | Mapping[str, Fraction]
    norm: str = "linf"
    options: Mapping[str, Any] = field(default_factory=dict)
    eot: int = 1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.eot < 1 or not 0 <= self.warmup < 1:
            raise UserError("recipe: adversarial: eot must be 1 or more, warmup a share below 1")


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe: AdamW, linear warm-up and cosine decay, class-weighted cross-entropy.

    Attributes:
        model: a model's name or config path.
        model_options: architecture options on top (say, {"width": 0.25}).
        dataset: the data set's name.
        warmup: share of all steps over which the learning rate rises.
        noise_warmup: share of the epochs over which random layers' noise rises from 0 to its full
            size, which eases the start of nets with attention noise; best weights are picked after.
        class_balance: weight each class by the inverse of its frequency to this power (0: none,
            1: every class counts the same).
        norm_momentum: of batch norm's running statistics while training. Keras' 0.01 lags so far
            behind a high learning rate that validation says little until the rate falls.
        gradient_clip: longest gradient of a step; 0 for none.
        patience: stop after so many epochs without a better validation score.
        threads: CPU threads; part of the recipe, since sums depend on how they are split.
        channels_last: keep images and kernels in the layout that is a third faster on CPUs; part of
            the recipe for the same reason.
        adversarial: train on attacked images.
    """

    model: str
    dataset: str
    epochs: int
    model_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    learning_rate: Fraction = 1e-3
    weight_decay: Fraction = 1e-2
    warmup: float = 0.1
    noise_warmup: float = 0.0
    class_balance: float = 1.0
    label_smoothing: float = 0.0
    norm_momentum: float = 0.1
    gradient_clip: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    patience: int = 1000
    seed: int = 0
    threads: int = 1
    channels_last: bool = False
    device: str = "cpu"
    adversarial: AdversarialTraining | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.threads) < 1 or not 0 < self.learning_rate < math.inf:
            raise UserError(
                "recipe: epochs, batch_size and threads must be 1 or more, learning_rate positive"
            )
        if not 0 <= self.warmup < 1 or not 0 <= self.noise_warmup * self.epochs <= self.epochs - 1:
            raise UserError(
                "recipe: warmup and noise_warmup are shares below 1; the last epoch has all the noise"
            )
        if self.adversarial and self.adversarial.warmup * self.epochs > self.epochs - 1:
            raise UserError("recipe: adversarial: the last epoch needs the whole radius; lower warmup")


@dataclass
class Progressing:
    """Where a training run stands; saved with every checkpoint."""

    epoch: int = 0
    seconds: float = 0.0
    best_score: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """What ``train`` wrote."""

    weights: Path
    card: Path


def train_config(name: str) -> TrainConfig:
    """A recipe by the name it ships under (``configs/train``) or by its path.

    Raises:
        UserError: unknown name, or a config that does not parse.
    """
    path = find("training", "train", name)
    return build(TrainConfig, read_yaml(path), str(path))


def train(config: TrainConfig, out: Path, command: str = "") -> Trained:
    """Train, score on the test split, and write weights and card into ``out``.

    A checkpoint is written after every epoch; the same call after a kill goes on from there and
    ends with the same weights as an uninterrupted run.

    Args:
        out: folder for ``<label>.safetensors`` and ``<label>.json``.
        command: how to repeat this; goes into the card.

    Raises:
        UserError: bad config, missing data, or a folder that cannot be written.
    """
    torch.set_num_threads(config.threads)
    require_writable(out)
    model_conf = model_config(config.model).with_options(config.model_options)
    splits = {name: load_dataset(config.dataset, name) for name in ("train", "val", "test")}
    torch.manual_seed(derive(config.seed, "start"))
    model = on_device(build_model(model_conf, splits["train"].info), config.device)
    if config.channels_last:
        if not model.channels_last:
            raise UserError(f"recipe: {config.model} cannot be laid out channels-last; drop channels_last")
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = sha256_json(
        [asdict(config), asdict(model_conf), versions(), [s.fingerprint for s in splits.values()]]
    )
    checkpoint = out / f".{model_conf.label}.checkpoint"
    trainer = Trainer(config, model, splits["train"], splits["val"], checkpoint, recipe)
    trainer.fit()
    weights = out / f"{model_conf.label}.safetensors"
    save_weights(model, weights)
    card = weights.with_suffix(".json")
    write_json(card, _card(config, model_conf, model, splits, trainer.progress, weights, command))
    trainer.checkpoint.unlink(missing_ok=True)
    return Trained(weights, card)


class Trainer:
    """The loop over epochs; leaves the model with its best weights."""

    def __init__(
        self,
        config: TrainConfig,
        model: FusionModel,
        train_split: Split,
        val_split: Split,
        checkpoint: Path,
        recipe: str,
    ) -> None:
        self.config, self.model, self.checkpoint, self.recipe = config, model, checkpoint, recipe
        self.train_split, self.val_split = train_split, val_split
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.class_weights = {
            t.name: _class_weights(train_split.labels[t.name], len(t.classes), config.class_balance).to(
                config.device
            )
            for t in train_split.info.tasks
        }
        self.steps_per_epoch = math.ceil(len(train_split) / config.batch_size)
        self.opponent = _opponent(config, model, train_split.info)
        self.best: dict[str, Tensor] = {}
        self.progress = Progressing()
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = config.norm_momentum

    def fit(self) -> None:
        """Train to the end or until patience runs out, resuming from a checkpoint if there is one."""
        self._resume()
        name, total = self.checkpoint.stem.strip("."), self.config.epochs * self.steps_per_epoch
        with progress_bar() as bar:
            task = bar.add_task(name, total=total)
            while self.progress.epoch < self.config.epochs and not self._out_of_patience():
                started = time.monotonic()
                for step in self._epoch_steps(self.progress.epoch):
                    bar.update(task, completed=step + 1)
                self._finish_epoch(started)
                bar.update(task, description=f"{name} ({_said(self.progress.history[-1])})")
        self.model.noise.scale = 1.0
        self.model.load_state_dict(self.best)
        self.model.eval()

    def _epoch_steps(self, epoch: int) -> Iterator[int]:
        """Train one epoch. Everything random in it is derived from (seed, epoch)."""
        config, seed = self.config, derive(self.config.seed, "epoch", epoch)
        torch.manual_seed(seed)
        self.model.noise.reseed(seed)
        self.model.noise.scale = _rising(epoch, config.noise_warmup * config.epochs)
        if self.opponent:
            self.opponent.scale = self._radius_scale(epoch)
        self.model.train()
        order = np.random.default_rng(seed).permutation(len(self.train_split))
        losses = []
        for number, index in enumerate(np.array_split(order, self.steps_per_epoch)):
            step = epoch * self.steps_per_epoch + number
            self._set_learning_rate(step)
            losses.append(self._step(index))
            yield step
        self._epoch_loss = float(np.mean(losses))

    def _step(self, index: NDArray[np.int64]) -> float:
        batch = load_batch(self.train_split, index, self.config.device)
        inputs = augment(batch.inputs, self.config.augmentation, self.train_split.info)
        if self.opponent:
            inputs = self.opponent.attacked(replace(batch, inputs=inputs), self.progress.epoch)
        outputs = self.model(inputs)
        loss = self._loss(outputs, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return loss.item()

    def _loss(self, outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Mean over the heads, as the paper's 0.5 + 0.5."""
        smoothing = self.config.label_smoothing
        per_head = [
            F.cross_entropy(outputs[task], labels[task], weight, label_smoothing=smoothing)
            for task, weight in self.class_weights.items()
        ]
        return torch.stack(per_head).mean()

    def _set_learning_rate(self, step: int) -> None:
        total = self.config.epochs * self.steps_per_epoch
        rise = max(self.config.warmup * total, 1)
        factor = step / rise if step < rise else (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * max(factor, 1e-3)

    def _finish_epoch(self, started: float) -> None:
        progress = self.progress
        if not math.isfinite(self._epoch_loss):
            raise UserError(
                f"the loss is no number after epoch {progress.epoch + 1}; lower the learning_rate"
            )
        score = validation_score(self.model, self.val_split, self.config)
        measured = {"loss": self._epoch_loss, "val_balanced_accuracy": score}
        complete = self.model.noise.scale == 1
        if self.opponent:
            score = validation_score(self.model, self.val_split, self.config, self.opponent)
            measured["val_robust_balanced_accuracy"] = score
            complete = complete and self.opponent.scale == 1
        progress.history.append({name: round(value, 5) for name, value in measured.items()})
        # Nets judged under a part of their noise, or of the radius, are not the nets that will be used.
        if score > progress.best_score and complete:
            progress.best_score, progress.best_epoch = score, progress.epoch
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        progress.epoch += 1
        progress.seconds += time.monotonic() - started
        self._save()

    def _radius_scale(self, epoch: int) -> float:
        warmup = self.config.adversarial.warmup if self.config.adversarial else 0.0
        return _rising(epoch + 1, warmup * self.config.epochs)

    def _out_of_patience(self) -> bool:
        progress = self.progress
        return progress.best_epoch >= 0 and progress.epoch - 1 - progress.best_epoch >= self.config.patience

    def _save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
        metadata = {"recipe": self.recipe, "progress": json.dumps(asdict(self.progress))}
        with replacing(self.checkpoint) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        try:
            with safe_open(self.checkpoint, framework="pt") as stored:
                metadata = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"the checkpoint {self.checkpoint} is damaged ({error}); delete it") from error
        if metadata["recipe"] != self.recipe:
            raise UserError(
                f"{self.checkpoint} is of another recipe or other data; delete it or choose another --out"
            )
        values = json.loads(metadata["progress"])
        self.progress = Progressing(**values)
        self.model.load_state_dict(_under("model.", tensors))
        self.best = _under("best.", tensors)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            number, key = name.split(".", 1)
            state.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def augment(inputs: Mapping[str, Tensor], how: Augmentation, info: DatasetInfo) -> dict[str, Tensor]:
    """Draw one geometry per sample, one brightness and contrast per image; stays in [0, 1]."""
    first = next(iter(inputs.values()))
    theta = geometry(len(first), how, info).to(first.device)
    out = {}
    for name, images in inputs.items():
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        gain, offset = 1 + _uniform(len(first), how.contrast), _uniform(len(first), how.brightness)
        mean = moved.mean((1, 2, 3), keepdim=True)
        moved = (moved - mean) * gain.view(-1, 1, 1, 1).to(moved) + mean + offset.view(-1, 1, 1, 1).to(moved)
        out[name] = moved.clamp(0, 1)
    return out


def geometry(count: int, how: Augmentation, info: DatasetInfo) -> Tensor:
    """Random maps from output to input coordinates: flip, then rotation and zoom, then shift.

    Returns:
        (count, 2, 3), for ``affine_grid``.
    """
    angle, scale = _uniform(count, math.radians(how.rotate)), 1 + _uniform(count, how.zoom)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    for column, axis in enumerate(("horizontal", "vertical")):
        # A whole column changes sign: flipping one entry only would make a rotation a shear.
        chance = 0.5 if how.mirror and axis in info.mirror else 0.0
        theta[:, :, column] *= torch.where(torch.rand(count) < chance, -1.0, 1.0)[:, None]
    theta[:, 0, 2], theta[:, 1, 2] = _uniform(count, 2 * how.shift), _uniform(count, 2 * how.shift)
    return theta


def _uniform(count: int, limit: float) -> Tensor:
    return (torch.rand(count) * 2 - 1) * limit


@dataclass
class Opponent:
    """The adversary of a training.

    Attributes:
        threat: at its full radii.
        scale: share of the radii in use.
    """

    model: FusionModel
    attack: Attack
    threat: ThreatModel
    eot: int
    seed: int
    scale: float = 1.0

    def attacked(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Adversarial images for a batch; leaves the model in the mode it was in."""
        training = self.model.training
        self.model.eval().requires_grad_(False)
        seed = derive(self.seed, "opponent", epoch)
        target = Target(self.model, self.threat.scaled(self.scale), Goal("any"), self.eot, seed, Passes())
        found = self.attack.perturb(target, batch)
        self.model.requires_grad_(True).train(training)
        return {name: x.detach() for name, x in found.items()}


def _opponent(config: TrainConfig, model: FusionModel, info: DatasetInfo) -> Opponent | None:
    adversarial = config.adversarial
    if adversarial is None:
        return None
    attack = make_attack(adversarial.attack, adversarial.options)
    threat = make_threat_model(adversarial.eps, adversarial.norm, (), info)
    return Opponent(model, attack, threat, adversarial.eot, config.seed)


def predictions(
    model: FusionModel,
    split: Split,
    config: TrainConfig,
    draws: int,
    purpose: str,
    opponent: Opponent | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Predicted classes (R, N) per task, of images attacked by ``opponent`` if there is one."""
    parts = []
    for start in range(0, len(split), config.batch_size):
        index = np.arange(start, min(start + config.batch_size, len(split)))
        batch = load_batch(split, index, config.device)
        if opponent:
            model.noise.reseed(derive(config.seed, purpose, "craft", start))
        inputs = opponent.attacked(batch, 0) if opponent else batch.inputs
        parts.append(scoring.logits(model, inputs, draws, config.seed, purpose, start))
    return {task: torch.cat([p[task] for p in parts], 1).argmax(2).numpy() for task in model.classes}


def validation_score(
    model: FusionModel, split: Split, config: TrainConfig, opponent: Opponent | None = None
) -> float:
    """Balanced accuracy on one draw, averaged over the heads; under attack if there is an opponent."""
    model.eval()
    predicted = predictions(model, split, config, 1, "validation", opponent)
    scores = [statistics.balanced_accuracy(predicted[t], split.labels[t]) for t in model.classes]
    return float(np.mean(scores))


def _rising(epoch: int, epochs: float) -> float:
    """From 0 at epoch 0 to 1 after so many epochs."""
    return min(epoch / epochs, 1.0) if epochs else 1.0


def _said(measured: Mapping[str, float]) -> str:
    robust = measured.get("val_robust_balanced_accuracy")
    under = "" if robust is None else f", {robust:.3f} under attack"
    return f"balanced accuracy {measured['val_balanced_accuracy']:.3f}{under}"


def _class_weights(labels: NDArray[np.int64], classes: int, power: float) -> Tensor:
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise UserError(f"the training split has no sample of class {int(counts.argmin())}; import it again")
    weights = (counts.sum() / (classes * counts)) ** power
    return torch.from_numpy(weights.astype(np.float32))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _card(
    config: TrainConfig,
    model_conf: ModelConfig,
    model: FusionModel,
    splits: Mapping[str, Split],
    progress: Progressing,
    weights: Path,
    command: str,
) -> dict[str, Any]:
    info = splits["test"].info
    return {
        "model": card_model(model_conf),
        "dataset": {
            "name": info.name,
            "title": info.title,
            "synthetic": info.synthetic,
            "licence": info.licence,
            "citation": info.citation,
            "caveats": list(info.caveats),
            "fingerprints": {name: split.fingerprint for name, split in splits.items()},
            "members": {name: split.members for name, split in splits.items()},
        },
        "weights": {
            "sha256": sha256_file(weights),
            "parameters": sum(p.numel() for p in model.parameters()),
            "licence": info.licence,
        },
        "metrics": {name: _metrics(model, splits[name], config) for name in ("val", "test")},
        "training": {
            "config": asdict(config),
            "command": command or shlex.join(sys.argv),
            "epochs_run": progress.epoch,
            "best_epoch": progress.best_epoch,
            "history": progress.history,
            "seconds": round(progress.seconds),
        },
        "versions": versions(),
        "machine": platform.machine(),
    }


def _metrics(model: FusionModel, split: Split, config: TrainConfig) -> dict[str, Any]:
    """Clean accuracy with its interval, and balanced accuracy, per head on fresh draws."""
    predicted = predictions(model, split, config, SCORING_DRAWS, f"card {split.name}")
    batches = np.arange(len(split)) // config.batch_size
    out: dict[str, Any] = {}
    for task, classes in predicted.items():
        correct = classes == split.labels[task]
        estimate = statistics.accuracy(correct, split.groups, batches, model.draws_shared_by)
        out[task] = {
            "accuracy": asdict(estimate),
            "balanced_accuracy": statistics.balanced_accuracy(classes, split.labels[task]),
            "samples": len(split),
            "scoring_draws": len(classes),
        }
    return out
