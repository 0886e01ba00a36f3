"""What a model is to this harness: images by modality in, logits by task out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

from robustbench_med.api.randomness import NoiseSource, RandomLayer
from robustbench_med.util.errors import UserError

Forward = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Modalities (B, C, H, W) to logits by task (B, K)."""


class Wrapper(RandomLayer, ABC):
    """A defense around a whole model, such as a vote over several passes; see ``FusionModel.wrap``.

    Attributes:
        freezes: it runs the model on recorded draws only (``NoiseSource.frozen``), so that what it
            encloses is not random any more.
    """

    freezes = False

    @abstractmethod
    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits by task (B, K) from any number of calls of ``model``."""


class FusionModel(nn.Module, ABC):
    """A classifier of several images with one logit head per task.

    Register a subclass under ``robustbench_med.models``. Its constructor takes ``channels``
    (modality name to channel count) and ``classes`` (task name to class count) first, then its
    own options by keyword.

    Two hooks for defenses need nothing from the model's author: ``preprocess`` and ``wrap``. Layers
    put there have no weights, so that the model's own still load. A pass takes every image through
    the preprocessing in the order it was added, then the net; the wrappers enclose all of that, the
    one added last being the outermost.

    Attributes:
        channels: modality name to channel count, in the order the model takes them.
        classes: task name to class count.
        noise: the source of every random layer's draws.
        channels_last: True if no layer cares how images lie in memory (none calls ``view`` across
            the image axes); evaluation on a CPU then uses the layout that is faster there.
    """

    channels_last = False

    def __init__(self, channels: Mapping[str, int], classes: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.classes = dict(classes)
        self.noise = NoiseSource()
        self._preprocessing = nn.ModuleList()
        self._wrappers = nn.ModuleList()

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A forward pass through preprocessing, net and wrappers."""
        self.noise.begin_pass()
        forward: Forward = self._preprocessed
        for wrapper in self._wrappers:
            forward = partial(wrapper, forward)
        return forward(inputs)

    def _preprocessed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for layers in self._preprocessing:
            of_each = zip(self.channels, cast(nn.ModuleList, layers), strict=True)
            inputs = {name: layer(inputs[name]) for name, layer in of_each}
        logits: dict[str, Tensor] = super().__call__(inputs)
        return logits

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map modalities (B, C, H, W) in [0, 1] to unnormalised logits (B, K) per task."""

    def sites(self, hook: str) -> list[str]:
        """Dotted names of the sub-modules a defense may replace at ``hook``.

        Models offer hooks by overriding this; the names in use are "convolution" (any
        ``nn.Conv2d``), "stem-convolution" (the first of each modality), "channel-gate" and
        "attention-map" (see ``models/mail.py``).
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

    def preprocess(self, make: Callable[[], nn.Module]) -> None:
        """Send each modality's image (B, C, H, W) through a layer of its own, after those added before.

        Args:
            make: makes one such layer. It has no weights, so that those of the net still fit.
        """
        self._preprocessing.append(nn.ModuleList(make() for _ in self.channels))
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
    def draws_shared_by(self) -> Literal["none", "element", "batch"]:
        """ "none" for a deterministic model, "batch" if any layer shares its draw, else "element"."""
        kinds = {layer.shared_by for layer in self.random_layers()}
        if not kinds:
            return "none"
        return "batch" if "batch" in kinds else "element"
