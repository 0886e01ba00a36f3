"""What a model is to this harness: images by modality in, logits by task out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor, nn

from robustbench_med.api.errors import UserError
from robustbench_med.api.randomness import NoiseSource, RandomLayer


class FusionModel(nn.Module, ABC):
    """A classifier of several images with one logit head per task.

    Register a subclass under ``robustbench_med.models``. Its constructor takes ``channels``
    (modality name to channel count) and ``classes`` (task name to class count) first, then its
    own options by keyword.

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

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map modalities (B, C, H, W) in [0, 1] to unnormalised logits (B, K) per task."""

    def sites(self, hook: str) -> list[str]:
        """Dotted names of the sub-modules a defense may replace at ``hook``.

        Models offer hooks by overriding this; the names in use are "convolution" (any
        ``nn.Conv2d``), "channel-gate" and "attention-map" (see ``models/mail.py``).
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

    def adopt_random_layers(self) -> None:
        """Give every random layer this model's noise source and its own name."""
        for name, layer in self.named_modules():
            if isinstance(layer, RandomLayer):
                layer.noise, layer.site = self.noise, name

    def random_layers(self) -> Iterator[RandomLayer]:
        """The layers that are random at inference."""
        for layer in self.modules():
            if isinstance(layer, RandomLayer) and layer.is_random:
                yield layer

    @property
    def draws_shared_by(self) -> Literal["none", "element", "batch"]:
        """ "none" for a deterministic model, "batch" if any layer shares its draw, else "element"."""
        kinds = {layer.shared_by for layer in self.random_layers()}
        if not kinds:
            return "none"
        return "batch" if "batch" in kinds else "element"
