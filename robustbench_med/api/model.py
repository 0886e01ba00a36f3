"""What a model is to this harness: modalities in by name, scores out by head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from robustbench_med.api.data import Kind, Modality
from robustbench_med.api.heads import Head
from robustbench_med.api.randomness import NoiseSource, RandomLayer
from robustbench_med.util.errors import UserError

Forward = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Modalities (B, *shape) to scores by head (B, columns)."""

DrawsSharedBy = Literal["none", "element", "batch"]


class Wrapper(RandomLayer, ABC):
    """A defense around a whole model, such as a vote over several passes; see ``FusionModel.wrap``.

    Attributes:
        freezes: it runs the model on recorded draws only (``NoiseSource.frozen``), so that what it
            encloses is not random any more.
    """

    freezes = False

    @abstractmethod
    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores by head (B, columns) from any number of calls of ``model``, each on B rows."""


class FusionModel(nn.Module, ABC):
    """A net of one or more modalities with one or more heads.

    Register a subclass under ``robustbench_med.models``. Its constructor takes the modalities and the
    heads of the data first, then its own options by keyword.

    Two hooks for defenses need nothing from the model's author: ``preprocess`` and ``wrap``. Layers
    put there have no weights, so that the model's own still load. A pass takes every modality through
    the preprocessing in the order it was added, then the net; the wrappers enclose all of that, the
    one added last being the outermost.

    Attributes:
        takes: the modalities by name, in the order the model takes them.
        answers: the heads by name.
        noise: the source of every random layer's draws.
        channels_last: True if no layer cares how images lie in memory (none calls ``view`` across
            the image axes); evaluation on a CPU then uses the layout that is faster there.
        differentiable: False for a model that only tells scores; attacks with gradients are refused.
        writes_inputs: True for a model that writes into what it is given; it then gets copies.
        draws_follow_shape: True where the draws of a pass depend on how many samples it has.
        copies: False for a model of which there is no fresh copy; whether it remembers cannot be seen then.
        libraries: distributions that compute its scores, beside torch.
        least: fewest samples in a pass (2 for batch statistics). Fewer are filled up with their last one.
    """

    channels_last = False
    differentiable = True
    writes_inputs = False
    draws_follow_shape = False
    copies = True
    libraries: tuple[str, ...] = ()
    least = 1

    def __init__(self, modalities: Sequence[Modality], heads: Sequence[Head]) -> None:
        super().__init__()
        self.takes = {modality.name: modality for modality in modalities}
        self.answers = {head.name: head for head in heads}
        self.noise = NoiseSource()
        self._preprocessing = nn.ModuleList()
        self._wrappers = nn.ModuleList()

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A forward pass through preprocessing, net and wrappers."""
        rows = len(next(iter(inputs.values())))
        if rows < self.least:
            return self._filled_up(inputs, rows)
        self.noise.begin_pass()
        forward: Forward = self._preprocessed
        for wrapper in self._wrappers:
            forward = partial(wrapper, forward)
        return forward(inputs)

    def _filled_up(self, inputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
        """What it answers to too few samples, with the last of them repeated."""
        index = torch.arange(self.least).clamp_max(rows - 1)
        with self.noise.rows(index.tolist()):
            scores = self({name: x[index.to(x.device)] for name, x in inputs.items()})
        return {head: z[:rows] for head, z in scores.items()}

    def _preprocessed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for layers in self._preprocessing:
            of_each = zip(self.takes, cast(nn.ModuleList, layers), strict=True)
            inputs = {name: layer(inputs[name]) for name, layer in of_each}
        if self.writes_inputs:
            inputs = {name: x.clone() for name, x in inputs.items()}
        scores: dict[str, Tensor] = super().__call__(inputs)
        return scores

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map modalities (B, *shape), in their own units, to scores by head (B, columns).

        Scores are unnormalised: logits of a softmax or of sigmoids.
        """

    def sites(self, hook: str) -> list[str]:
        """Dotted names of the sub-modules a defense may replace at ``hook``.

        Models offer hooks by overriding this, and say beside the override what the layers at a hook can
        do; the names in use are "convolution" and "stem-convolution" (layers with the methods of
        ``models.layers.SameConv2d``), "channel-gate" and "attention-map" (see ``models/mail.py``).
        """
        del hook
        return []

    def no_such_hook(self, hook: str, defense: str) -> UserError:
        """The error for a defense that needs a hook this model does not offer."""
        return UserError(
            f"the defense {defense!r} needs the hook {hook!r}, which {type(self).__name__} "
            "does not offer; choose another model or defense"
        )

    def install(self, site: str, layer: nn.Module) -> None:
        """Put ``layer`` in the place of the sub-module at ``site``."""
        self.set_submodule(site, layer)
        self.adopt_random_layers()

    def preprocess(
        self,
        make: Callable[[Modality], nn.Module],
        kinds: Sequence[Kind] = ("image", "volume", "signal", "table"),
        defense: str = "preprocessing",
    ) -> None:
        """Send each modality (B, *shape) through a layer of its own, after those added before.

        Args:
            make: makes one such layer. It has no weights, so that those of the net still fit.
            kinds: of modalities that the layers are for; others pass unchanged.
            defense: the name of the defense, for the error.

        Raises:
            UserError: the model takes no modality of these kinds.
        """
        if not any(modality.kind in kinds for modality in self.takes.values()):
            raise UserError(
                f"the defense {defense!r} is for {' and '.join(f'{kind}s' for kind in kinds)}, and "
                f"{', '.join(self.takes)} are none; choose another defense"
            )
        layers = (make(m) if m.kind in kinds else nn.Identity() for m in self.takes.values())
        self._preprocessing.append(nn.ModuleList(layers))
        self.adopt_random_layers()

    def wrap(self, wrapper: Wrapper) -> None:
        """Enclose the model, with all preprocessing and every wrapper added before."""
        self._wrappers.append(wrapper)
        self.adopt_random_layers()

    @contextmanager
    def enclosed_by(self, wrapper: Wrapper) -> Iterator[None]:
        """Enclose the model for a while, to watch its passes."""
        self._wrappers.append(wrapper)
        try:
            yield
        finally:
            del self._wrappers[-1]

    def adopt_random_layers(self) -> None:
        """Give every random layer this model's noise source and its own name."""
        for name, layer in self.named_modules():
            if isinstance(layer, RandomLayer):
                layer.noise, layer.site = self.noise, name

    def random_layers(self) -> list[RandomLayer]:
        """The layers whose draws make one pass differ from the next."""
        if self.noise.is_frozen:
            return []
        random = [m for m in self.modules() if isinstance(m, RandomLayer) and m.is_random]
        found = [layer for layer in random if not isinstance(layer, Wrapper)]
        for wrapper in self._wrappers:
            kept = [] if cast(Wrapper, wrapper).freezes else found
            found = [*kept, *(layer for layer in random if layer is wrapper)]
        return found

    @property
    def draws_shared_by(self) -> DrawsSharedBy:
        """ "none" for a deterministic model, "batch" if any layer shares its draw, else "element"."""
        kinds = {layer.shared_by for layer in self.random_layers()}
        if not kinds:
            return "none"
        return "batch" if "batch" in kinds else "element"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        del ctx, x
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value`` with the gradient of ``x``: BPDA with the identity (Athalye et al. 2018, section 4.1).

    Args:
        x, value: of one shape; what comes back equals ``value`` bit for bit.
    """
    out: Tensor = _StraightThrough.apply(x, value.detach())  # type: ignore[no-untyped-call]
    return out
