"""Training of any configured model on any data set, with resumption that changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustbench_med.api.attack import Batch
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.models.layout import lay_channels_last
from robustbench_med.models.load import for_training, on_device, own_state
from robustbench_med.models.named import ModelConfig, build_model, is_code, model_config
from robustbench_med.models.weights import card_beside, save_tensors
from robustbench_med.training.augment import augment
from robustbench_med.training.card import Progressing, answers_on, balanced_accuracy, card
from robustbench_med.training.opponent import Opponent, divergence, opponent_of
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, replacing, require_writable, sha256_json, write_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.seeding import derive
from robustbench_med.util.versions import versions


@dataclass(frozen=True)
class Trained:
    """What ``train`` wrote."""

    weights: Path
    card: Path


def train(config: TrainConfig, out: Path, command: str = "", replace: bool = False) -> Trained:
    """Train, score on the test split, and write weights and card into ``out``.

    A net that somebody's code makes starts with the values that it comes with (under the recipe's seed), and
    its weights are written as that code knows them.

    A checkpoint is written after every epoch; the same call after a kill goes on from there and
    ends with the same weights as an uninterrupted run.

    Args:
        out: folder for ``<label>.safetensors`` and ``<label>.json``.
        command: how to repeat this; goes into the card.
        replace: write over weights that another recipe left under this name.

    Raises:
        UserError: bad config, missing data, a folder that cannot be written, one that holds weights of
            another recipe under this name, or another training at work on them.
    """
    torch.set_num_threads(config.threads)
    own = is_code(config.model)
    model_conf = ModelConfig("code", config.model) if own else model_config(config.model)
    model_conf = model_conf.with_options(config.model_options)
    splits = {name: load_dataset(config.dataset, name) for name in ("train", "val", "test")}
    torch.manual_seed(derive(config.seed, "start"))
    code = ""
    if own:
        loaded = for_training(model_conf, splits["train"], config.device)
        model, model_conf, code = loaded.model, loaded.config, loaded.weights_sha256
    else:
        model = on_device(build_model(model_conf, splits["train"].info), config.device)
    if config.channels_last:
        if not model.channels_last:
            raise UserError(f"recipe: {config.model} cannot be laid out channels-last; drop channels_last")
        lay_channels_last(model)
    about = asdict(model_conf)
    del about["seed"]  # it is the recipe's
    if not own:
        model_conf = dataclasses.replace(model_conf, seed=config.seed)
    recipe = sha256_json(
        [
            asdict(config),
            about,
            versions(),
            [s.fingerprint for s in splits.values()],
            *([code] if own else []),
        ]
    )
    weights = out / f"{model_conf.label}.safetensors"
    require_writable(out)
    with _alone(weights):
        _require_own_name(weights, recipe, replace)
        trainer = Trainer(config, model, splits["train"], splits["val"], checkpoint_of(weights), recipe)
        trainer.fit()
        if config.half_precision:
            round_to_half(model)
        # Both lie on the disk before either takes its place, so that a full disk spoils neither.
        with replacing(card_beside(weights)) as new_card, replacing(weights) as new_weights:
            save_tensors(_stored(own_state(model), config.half_precision), new_weights)
            said = card(config, model_conf, model, splits, trainer.progress, new_weights, command)
            write_json(new_card, {**said, "recipe": recipe})
        trainer.checkpoint.unlink(missing_ok=True)
    return Trained(weights, card_beside(weights))


def round_to_half(model: FusionModel) -> None:
    """Round every weight to the nearest number of 16 bits, in place.

    Raises:
        UserError: a weight that is too large for 16 bits.
    """
    rounded = _stored(model.state_dict(), True)
    for name, tensor in rounded.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} does not fit into 16 bits; drop half_precision from the recipe")
    model.load_state_dict(rounded)


def _stored(state: Mapping[str, Tensor], half: bool) -> dict[str, Tensor]:
    return {name: t.half() if half and t.is_floating_point() else t for name, t in state.items()}


@contextmanager
def _alone(weights: Path) -> Iterator[None]:
    """Let one training at a time write these weights.

    Raises:
        UserError: another one does.
    """
    lock = FileLock(weights.with_name(f".{weights.stem}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another training is writing {weights}; wait until it is done, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def checkpoint_of(weights: Path) -> Path:
    """Where a training that was killed goes on from."""
    return weights.with_name(f".{weights.stem}.checkpoint")


def _require_own_name(weights: Path, recipe: str, replace: bool) -> None:
    """Do not write over the weights of another recipe unless that is meant.

    A checkpoint outlives its training until weights and card are both there, so whatever lies beside one of
    this recipe is what a kill left.
    """
    if _recipe_of(checkpoint_of(weights)) == recipe:
        return
    path = card_beside(weights)
    before = read_json(path) if path.exists() else {}
    theirs = before.get("recipe") if isinstance(before, dict) else None
    if weights.exists() and theirs != recipe and not replace:
        raise UserError(
            f"{weights} holds weights of another recipe, other data or versions; choose another --out or "
            "say --replace"
        )


def _recipe_of(checkpoint: Path) -> str | None:
    """The recipe a checkpoint is of; None where there is no whole one."""
    if not checkpoint.exists():
        return None
    try:
        with safe_open(checkpoint, framework="pt") as stored:
            return (stored.metadata() or {}).get("recipe")
    except (SafetensorError, OSError):
        return None


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
            head.name: torch.from_numpy(
                head.class_weights(train_split.labels[head.name], config.class_balance)
            ).to(config.device)
            for head in train_split.info.heads
        }
        self.steps_per_epoch = math.ceil(len(train_split) / config.batch_size)
        self.opponent = None
        if config.adversarial is not None:
            self.opponent = opponent_of(
                config.adversarial, config.seed, config.device, model, train_split.info
            )
        self.best: dict[str, Tensor] = {}
        self.progress = Progressing()
        for layer in model.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
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
            losses.append(self._step(index, number))
            yield step
        self._epoch_loss = float(np.mean(losses))

    def _step(self, index: NDArray[np.int64], number: int) -> float:
        batch = load_batch(self.train_split, index, self.config.device)
        batch = dataclasses.replace(
            batch, inputs=augment(batch.inputs, self.config.augmentation, self.train_split.info)
        )
        loss = self._resisting(batch, number) if self.opponent else self._plain(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return loss.item()

    def _plain(self, batch: Batch) -> Tensor:
        return self._loss(self.model(batch.inputs), batch.labels)

    def _resisting(self, batch: Batch, number: int) -> Tensor:
        """The loss that ``AdversarialTraining`` says, of the ``number``-th step of an epoch."""
        assert self.opponent is not None
        assert self.config.adversarial is not None
        asked, epoch = self.config.adversarial, self.progress.epoch
        if not asked.trades:
            attacked = self.opponent.of_turn if asked.in_turn else self.opponent.attacked
            return self._plain(dataclasses.replace(batch, inputs=attacked(batch, epoch, number)))
        driven = self.opponent.diverging(batch, epoch)
        usual = self.model(batch.inputs)
        apart = divergence(self.model, self.model(driven), usual, batch.labels)
        return self._loss(usual, batch.labels) + asked.trades * apart

    def _loss(self, outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Mean over the heads, as the paper's 0.5 + 0.5."""
        smoothing = self.config.label_smoothing
        per_head = [
            head.train_loss(outputs[name], labels[name], self.class_weights[name], smoothing)
            for name, head in self.model.answers.items()
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
        save_tensors(tensors, self.checkpoint, metadata)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        try:
            with safe_open(self.checkpoint, framework="pt") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"the checkpoint {self.checkpoint} is damaged ({error}); delete it") from error
        if metadata.get("recipe") != self.recipe:
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


def validation_score(
    model: FusionModel, split: Split, config: TrainConfig, opponent: Opponent | None = None
) -> float:
    """Balanced accuracy on one draw, averaged over the heads; under attack if there is an opponent."""
    model.eval()
    found = answers_on(model, split, config, 1, "validation", opponent)
    return float(np.mean([balanced_accuracy(each) for each in found.values()]))


def _rising(epoch: int, epochs: float) -> float:
    """From 0 at epoch 0 to 1 after so many epochs."""
    return min(epoch / epochs, 1.0) if epochs else 1.0


def _said(measured: Mapping[str, float]) -> str:
    robust = measured.get("val_robust_balanced_accuracy")
    under = "" if robust is None else f", {robust:.3f} under attack"
    return f"balanced accuracy {measured['val_balanced_accuracy']:.3f}{under}"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
