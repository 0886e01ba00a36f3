"""Somebody's net bound to the modalities and heads of some data: looked at on a few samples, then a model."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.api.model import FusionModel
from robustbench_med.api.randomness import RandomLayer, isolated
from robustbench_med.models.foreign import Foreign
from robustbench_med.models.keras_nets import KerasNet, is_keras
from robustbench_med.models.layout import lay_channels_last, may_lie_channels_last
from robustbench_med.models.wrap import Call, Pick, Statistics, Wrap, call_of, parts_of, pick_of
from robustbench_med.util.errors import UserError

SAME = 1e-4  # of the range of an output: what rounding may change between two passes


class TorchDraws(RandomLayer):
    """The random numbers that somebody's net takes from the global generators, of torch, NumPy and Python.

    A pass draws them from one seed, which all of its samples share; the caller's generators go on as if
    nothing had been drawn. In the noise-off twin the seed is always the same.
    """

    shared_by = "batch"

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    @property
    def is_random(self) -> bool:
        return self.on

    def seed(self) -> int:
        """That of this pass."""
        return 0 if self.noise.off else self.noise.integer(0, 2**31)


class Bound(FusionModel):
    """Somebody's net with the modalities and heads of some data.

    Args:
        found: the net, how it is called and what of what it returns is whose. It is called as it is, in the
            modes that it has; where it may lie channels-last (``models.layout``), a copy of it.
    """

    def __init__(self, found: Looked, modalities: Sequence[Modality], heads: Sequence[Head]) -> None:
        super().__init__(modalities, heads)
        spec = found.spec
        self.channels_last = found.channels_last
        self.how, self.pick = found.call, found.pick
        self.arrays = bool(spec.arrays)
        self.net: Any = copy.deepcopy(spec.module) if found.channels_last else spec.module
        self.differentiable = found.differentiable
        # A function may remember in places that no copy of it copies.
        foreign = spec.module if isinstance(spec.module, Foreign) else None
        self.copies = foreign.copies if foreign else isinstance(spec.module, nn.Module)
        self.libraries = foreign.libraries if foreign else ()
        self.means, self.stds = (
            _by_modality(v, modalities, w) for v, w in ((spec.mean, "mean"), (spec.std, "std"))
        )
        self.trainable = False  # set where it is trained here
        self.draws = TorchDraws(found.random)
        self.draws_follow_shape = found.random
        self.adopt_random_layers()

    def train(self, mode: bool = True) -> Bound:
        """Leaves the net's own modes alone unless it is trained here: dropout left on is a defense."""
        if self.trainable:
            super().train(mode)
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ready = {name: self._normalised(name, inputs[name]) for name in self.takes}
        if not self.draws.on:
            return self._scores(ready)
        with isolated(self.draws.seed(), next(iter(ready.values())).device, torch.is_grad_enabled()):
            return self._scores(ready)

    def _scores(self, ready: Mapping[str, Tensor]) -> dict[str, Tensor]:
        like = next(iter(ready.values()))
        given = {name: x.detach().cpu().numpy() for name, x in ready.items()} if self.arrays else ready
        picked = self.pick(self.how(self.net, given))
        return {head: _as_scores(z, like) for head, z in picked.items()}

    def _normalised(self, name: str, x: Tensor) -> Tensor:
        mean, std = self.means.get(name), self.stds.get(name)
        x = x if mean is None else x - mean.to(x)
        return x if std is None else x / std.to(x)


def _as_scores(z: Any, like: Tensor) -> Tensor:
    scores = z if isinstance(z, Tensor) else torch.as_tensor(np.asarray(z)).to(like.device)
    return scores[:, None] if scores.dim() == 1 and len(scores) == len(like) else scores


def _by_modality(given: Statistics, modalities: Sequence[Modality], what: str) -> dict[str, Tensor]:
    """A statistic of each modality, in a shape that fits (B, *shape)."""
    if given is None:
        return {}
    each = given if isinstance(given, Mapping) else {m.name: given for m in modalities}
    shapes = {m.name: m.shape for m in modalities}
    out = {}
    for name, value in each.items():
        if name not in shapes:
            raise UserError(f"{what} names {name!r}; the data has {', '.join(shapes)}")
        values = torch.as_tensor(value, dtype=torch.float32).flatten()
        if not torch.isfinite(values).all() or (what == "std" and not (values > 0).all()):
            kind = "positive" if what == "std" else "a number"
            raise UserError(f"{what} of {name} is {value}; it must be {kind}")
        if len(values) not in (1, shapes[name][0]):
            raise UserError(f"{what} of {name} has {len(values)} values for {shapes[name][0]} channels")
        out[name] = values.view(-1, *[1] * (len(shapes[name]) - 1))
    return out


@dataclass(frozen=True)
class Looked:
    """What a few samples told of a net.

    Attributes:
        columns: of each head's scores.
        said: the guesses, a line each.
        channels_last: it answers the same when it lies so in memory.
    """

    spec: Wrap
    call: Call
    pick: Pick
    columns: Mapping[str, int] = field(default_factory=dict)
    random: bool = False
    differentiable: bool = True
    said: tuple[str, ...] = ()
    channels_last: bool = False

    def bound(self, modalities: Sequence[Modality], heads: Sequence[Head]) -> Bound:
        """The net with the modalities and heads of the data."""
        return Bound(self, modalities, heads)


def look(
    spec: Wrap,
    modalities: Sequence[Modality],
    heads: Mapping[str, tuple[int, ...]],
    sample: Mapping[str, Tensor],
) -> Looked:
    """Find out, on a few samples, how a net is called, what it returns, and whether it is random.

    Args:
        heads: by name the numbers of columns that a head's scores should have.
        sample: modalities (B, *shape), in their own units.

    Raises:
        UserError: it is in training mode; or something cannot be guessed.
    """
    spec = _in_its_mode(_of_keras(spec))
    call, how = call_of(spec, [m.name for m in modalities])
    probe = Bound(Looked(spec, call, Pick({})), modalities, ())
    ready = {name: probe._normalised(name, x) for name, x in sample.items()}
    spec, taken_off = _with_logits(spec, call, ready)
    arrays = _takes_arrays(spec, call, ready) if spec.arrays is None else spec.arrays
    spec = replace(spec, arrays=arrays)
    first, second = (_returned(spec, call, ready, seed) for seed in (0, 1))
    pick, where = pick_of(spec, first, heads)
    scores = {head: _as_scores(z, next(iter(ready.values()))) for head, z in pick(first).items()}
    again = {head: _as_scores(z, next(iter(ready.values()))) for head, z in pick(second).items()}
    differs = any(_differs(z, again[head]) for head, z in scores.items())
    random = differs if spec.random is None else spec.random
    said = [f"{spec.label}: {how}; {where}", *taken_off]
    if arrays:
        said.append(f"{spec.label} takes and returns NumPy arrays: it tells scores, no gradients")
    if random:
        said.append(
            f"{spec.label} is random: it draws from the global generators, once a pass for all samples"
        )
    if differs and spec.random is False:
        said.append(f"{spec.label} is said not to be random, and gives other scores when it is asked again")
    columns = {head: z.shape[1] if z.dim() == 2 else -1 for head, z in scores.items()}
    channels_last = _same_channels_last(spec, call, pick, ready, first)
    return Looked(spec, call, pick, columns, random, not arrays, tuple(said), channels_last)


def _same_channels_last(spec: Wrap, call: Call, pick: Pick, ready: Mapping[str, Tensor], usual: Any) -> bool:
    """Whether a net with convolutions answers as usual when its kernels lie channels-last.

    One that draws random numbers in the order of memory does not, nor does one with ``view`` across channels.
    """
    if spec.arrays or not isinstance(spec.module, nn.Module) or not may_lie_channels_last(spec.module):
        return False
    net = copy.deepcopy(spec.module)
    lay_channels_last(net)
    try:
        laid = pick(_answer(replace(spec, module=net), call, ready))
    except UserError:
        return False
    like = next(iter(ready.values()))
    return not any(
        _differs(_as_scores(z, like), _as_scores(laid[head], like)) for head, z in pick(usual).items()
    )


def _of_keras(spec: Wrap) -> Wrap:
    """A Keras net as a module of our inputs; any other net as it is."""
    net = spec.module
    return replace(spec, module=KerasNet(net)) if is_keras(net) else spec


def _with_logits(spec: Wrap, call: Call, ready: Mapping[str, Tensor]) -> tuple[Wrap, tuple[str, ...]]:
    """A Keras net without the activations that its outputs end in, and that in words."""
    if not isinstance(spec.module, KerasNet):
        return spec, ()
    net, said = spec.module.with_logits(lambda net: _answer(replace(spec, module=net), call, ready))
    return replace(spec, module=net), said


def _in_its_mode(spec: Wrap) -> Wrap:
    """The net in the modes it is to be evaluated in, a copy if these are not its own.

    Raises:
        UserError: it looks as if it were in training.
    """
    net = spec.module
    if isinstance(net, torch.jit.ScriptModule):
        net = _frozen_script(net)
        spec = replace(spec, module=net)
    if not isinstance(net, nn.Module) or spec.mode == "as-given":
        return spec
    if spec.mode == "eval":
        return replace(spec, module=copy.deepcopy(net).eval())
    layers = [m for m in net.modules() if not list(m.children())] or [net]
    norms = (nn.modules.batchnorm._BatchNorm,)
    learning = next(
        (m for m in layers if isinstance(m, norms) and m.training and m.track_running_stats), None
    )
    if learning is not None or all(m.training for m in net.modules()):
        what = f"its {type(learning).__name__} layers are" if learning is not None else "it is"
        raise UserError(
            f"{spec.label}: {what} in training mode; say mode='eval' (or net.eval()), or mode='as-given' if "
            "that is how it is deployed"
        )
    return spec


def _frozen_script(net: torch.jit.ScriptModule) -> nn.Module:
    """A frozen copy by way of a file: what deepcopy makes of one cannot be frozen any more."""
    file = io.BytesIO()
    torch.jit.save(net, file)
    file.seek(0)
    loaded: nn.Module = torch.jit.load(file)  # type: ignore[no-untyped-call]
    for parameter in loaded.parameters():
        parameter.requires_grad_(False)
    return loaded.train(net.training)


def _takes_arrays(spec: Wrap, call: Call, ready: Mapping[str, Tensor]) -> bool:
    """Whether a function wants NumPy arrays: it returns some, or cannot do with tensors."""
    if isinstance(spec.module, nn.Module):
        return False
    try:
        with torch.no_grad():
            parts = parts_of(call(spec.module, {name: x.clone() for name, x in ready.items()}))
    except (TypeError, AttributeError, ValueError, RuntimeError):  # said again if arrays do not help
        return True
    return not any(isinstance(part, Tensor) for part in parts.values())


def _returned(spec: Wrap, call: Call, ready: Mapping[str, Tensor], seed: int) -> Any:
    """What a copy of the net returns; the global generators at ``seed`` meanwhile."""
    net = copy.deepcopy(spec.module) if isinstance(spec.module, nn.Module) else spec.module
    return _answer(replace(spec, module=net), call, ready, seed)


def _answer(spec: Wrap, call: Call, ready: Mapping[str, Tensor], seed: int = 0) -> Any:
    """What the net returns; the global generators at ``seed`` meanwhile.

    Raises:
        UserError: it cannot be called so.
    """
    given: Mapping[str, Any] = {name: x.clone() for name, x in ready.items()}
    if spec.arrays:
        given = {name: x.cpu().numpy() for name, x in given.items()}
    try:
        with isolated(seed, next(iter(ready.values())).device, graded=False):
            return call(spec.module, given)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in ready.items())
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{spec.label} cannot be called with {shapes} ({type(error).__name__}: {said}); see to the order "
            "and the shapes of its inputs, or say wrap(net, inputs=…)"
        ) from error


def _differs(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return True
    first, second = first.float(), second.float()
    span = float((first.max() - first.min()).nan_to_num(0.0)) if first.numel() else 0.0
    return bool(((first - second).abs().nan_to_num(0.0) > SAME * max(span, 1e-6)).any())
