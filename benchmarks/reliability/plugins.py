"""A data set of specks that loads at once, for runs of a second; and what plug-ins get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_med.api import (
    Attack,
    Batch,
    DatasetInfo,
    DataSource,
    Defense,
    FusionModel,
    Modality,
    RandomLayer,
    SingleLabel,
    Split,
    Target,
)

SIZES = {"train": 24, "val": 8, "test": 12}
SIDE = 8


class Pair(DataSource):
    """Two images of specks, of which the left half tells the class."""

    def load(self, split: str) -> Split:
        return made(split)


def made(
    split: str, modalities: tuple[str, ...] = ("a", "b"), heads: tuple[str, ...] = ("kind", "side")
) -> Split:
    """The split, with other names if need be."""
    rng = np.random.default_rng({"train": 1, "val": 2, "test": 3}[split])
    count = SIZES[split]
    labels = {head: np.arange(count) % 2 for head in heads}
    first = labels[heads[0]]
    images = {}
    for name in modalities:
        values = rng.uniform(0.3, 0.7, (count, 1, SIDE, SIDE))
        values[:, :, :, : SIDE // 2] += 0.2 * first.reshape(-1, 1, 1, 1) - 0.1
        images[name] = values.astype(np.float32)
    info = DatasetInfo(
        name="pair",
        title="Specks",
        pairing="paired",
        modalities=tuple(Modality(name, (1, SIDE, SIDE), name) for name in modalities),
        heads=tuple(
            SingleLabel(head, classes=(f"{head}0", f"{head}1"), modalities=modalities) for head in heads
        ),
        licence="CC0-1.0",
        citation="none",
        synthetic=True,
    )
    ids = tuple(f"{split}{i}" for i in range(count))
    return Split(split, info, images, {name: np.arange(count) for name in modalities}, labels, ids, ids)


class Linear(FusionModel):
    """One linear layer; what broken models are made of."""

    def __init__(self, modalities: Any, heads: Any) -> None:
        super().__init__(modalities, heads)
        size = sum(int(np.prod(m.shape)) for m in modalities)
        self.layers = nn.ModuleDict({f"h{i}": nn.Linear(size, 2) for i in range(len(heads))})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = torch.cat([inputs[name].flatten(1) for name in self.takes], 1)
        return {name: self.layers[f"h{i}"](x) for i, name in enumerate(self.answers)}


def _changed(name: str, change: Any) -> type[FusionModel]:
    def forward(self: Linear, inputs: Mapping[str, Tensor]) -> Any:
        return change(Linear.forward(self, inputs), inputs)

    return type(name, (Linear,), {"forward": forward})


def _raise(*_: object) -> Any:
    raise RuntimeError("the plug-in's own bug")


OneLogit = _changed("OneLogit", lambda out, _: {k: z[:, :1] for k, z in out.items()})
ThreeLogits = _changed("ThreeLogits", lambda out, _: {k: torch.cat([z, z[:, :1]], 1) for k, z in out.items()})
NanScores = _changed("NanScores", lambda out, _: {k: z * torch.nan for k, z in out.items()})
SomeNan = _changed(
    "SomeNan",
    lambda out, x: {
        k: torch.where(x["a"].mean((1, 2, 3))[:, None] > 0.5, torch.nan, z) for k, z in out.items()
    },
)
NoHead = _changed("NoHead", lambda out, _: dict(list(out.items())[:1]))
MoreHeads = _changed("MoreHeads", lambda out, _: out | {"more": out["kind"]})
Nothing = _changed("Nothing", lambda *_: None)
ATensor = _changed("ATensor", lambda out, _: out["kind"])
FewerRows = _changed("FewerRows", lambda out, _: {k: z[:1] for k, z in out.items()})
Integers = _changed("Integers", lambda out, _: {k: z.long() for k, z in out.items()})
HalfPrecision = _changed("HalfPrecision", lambda out, _: {k: z.bfloat16() for k, z in out.items()})
NoGradient = _changed("NoGradient", lambda out, _: {k: z.detach() for k, z in out.items()})
Raises = _changed("Raises", _raise)


class OddSignature(FusionModel):
    """A constructor that takes something else."""

    def __init__(self, channels: Any) -> None:
        del channels
        super().__init__((), ())

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(inputs)


class NoWeights(FusionModel):
    """A constant answer without a single parameter."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = len(next(iter(inputs.values())))
        return {name: torch.zeros(rows, 2) for name in self.answers}


def _source(name: str, change: Any, **names: tuple[str, ...]) -> type[DataSource]:
    def load(_: DataSource, split: str) -> Any:
        return change(made(split, **names))

    return type(name, (DataSource,), {"load": load})


def _images(split: Split, change: Any) -> Split:
    return replace(split, arrays={name: change(x) for name, x in split.arrays.items()})


def _labels(split: Split, change: Any) -> Split:
    return replace(split, labels={name: change(y) for name, y in split.labels.items()})


TypeHead = _source("TypeHead", lambda s: s, heads=("type",))
TypeModality = _source("TypeModality", lambda s: s, modalities=("type", "b"))
DotModality = _source("DotModality", lambda s: s, modalities=("T1.gd", "b"))
NoneAtAll = _source("NoneAtAll", lambda _: None)
Empty = _source("Empty", lambda s: s.take(np.arange(0)))
NanImages = _source("NanImages", lambda s: _images(s, lambda x: x * np.float32("nan")))
BeyondRange = _source("BeyondRange", lambda s: _images(s, lambda x: x * 255))
Doubles = _source("Doubles", lambda s: _images(s, lambda x: x.astype(np.float64)))
Signed = _source("Signed", lambda s: _images(s, lambda x: (x * 100).astype(np.int16)))
Objects = _source("Objects", lambda s: _images(s, lambda x: x.astype(object)))
OtherShape = _source("OtherShape", lambda s: _images(s, lambda x: x[:, :, 1:]))
FewImages = _source("FewImages", lambda s: _images(s, lambda x: x[:2]))
HighLabels = _source("HighLabels", lambda s: _labels(s, lambda y: y + 7))
FloatLabels = _source("FloatLabels", lambda s: _labels(s, lambda y: y + 0.5))
UnknownLabels = _source("UnknownLabels", lambda s: _labels(s, lambda y: y * 0 - 1))
ShortLabels = _source("ShortLabels", lambda s: _labels(s, lambda y: y[:3]))
TwiceIds = _source("TwiceIds", lambda s: replace(s, ids=(s.ids[0],) * len(s)))
NumberIds = _source("NumberIds", lambda s: replace(s, ids=tuple(range(len(s)))))
FewGroups = _source("FewGroups", lambda s: replace(s, groups=s.groups[:1]))
NoHeads = _source("NoHeads", lambda s: replace(s, info=replace(s.info, heads=())))
SlashName = _source("SlashName", lambda s: replace(s, info=replace(s.info, name="../x")))
EscapeTitle = _source("EscapeTitle", lambda s: replace(s, info=replace(s.info, title="\x1b[31m[bold]x")))
SourceRaises = _source("SourceRaises", _raise)


def _attack(name: str, perturb: Any) -> type[Attack]:
    return dataclass(frozen=True)(type(name, (Attack,), {"perturb": perturb, "__annotations__": {}}))


def _moved(by: Any) -> Any:
    def perturb(_: Attack, __: Target, batch: Batch) -> Any:
        return {name: by(x) for name, x in batch.inputs.items()}

    return perturb


AttackNothing = _attack("AttackNothing", lambda *_: None)
AttackEmpty = _attack("AttackEmpty", lambda *_: {})
AttackNan = _attack("AttackNan", _moved(lambda x: x * torch.nan))
AttackFar = _attack("AttackFar", _moved(lambda x: x * 0))
AttackShape = _attack("AttackShape", _moved(lambda x: x[:, :, 1:]))
AttackArrays = _attack("AttackArrays", _moved(lambda x: x.numpy()))
AttackDoubles = _attack("AttackDoubles", _moved(lambda x: x.double()))
AttackRows = _attack("AttackRows", _moved(lambda x: x[:1]))
AttackRaises = _attack("AttackRaises", _raise)


class NoDataclass(Attack):
    """An attack whose author forgot the decorator."""

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        del target
        return dict(batch.inputs)


def _defense(name: str, apply: Any) -> type[Defense]:
    return dataclass(frozen=True)(type(name, (Defense,), {"apply": apply, "__annotations__": {}}))


class _Spoils(RandomLayer):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


def _before(change: Any) -> Any:
    return lambda _, model: model.preprocess(lambda _: _Spoils(change))


DefenseRaises = _defense("DefenseRaises", _raise)
DefenseNan = _defense("DefenseNan", _before(lambda x: x * torch.nan))
DefenseShape = _defense("DefenseShape", _before(lambda x: x[:1]))
DefenseNothing = _defense("DefenseNothing", _before(lambda _: None))


class DefenseNoDataclass(Defense):
    """A defense whose author forgot the decorator."""

    def apply(self, model: FusionModel) -> None:
        del model


NotAClass = 3
