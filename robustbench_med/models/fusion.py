"""What nets that fuse modalities on shared trunks have in common, and the plainest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.api.model import FusionModel
from robustbench_med.models.layers import Stem, start_like_keras
from robustbench_med.models.trunks import Pooled, require_rate, scaled_widths, trunk
from robustbench_med.util.errors import UserError


class OnTrunks(FusionModel):
    """A net of the trunks in ``models.trunks``; subclasses say how what comes out of them is fused.

    Its hooks "stem-convolution" and "convolution" are the two-dimensional convolutions of the trunks.

    Subclasses make ``heads`` by name, and those that use ``pooled`` make ``trunks``.

    Attributes:
        widths: channels of the four stages.
        dropout: on the features that go to the heads.
    """

    channels_last = True
    trunks: nn.ModuleDict
    heads: nn.ModuleDict
    dropout: nn.Module

    def __init__(
        self, modalities: Sequence[Modality], heads: Sequence[Head], width: float, dropout: float
    ) -> None:
        super().__init__(modalities, heads)
        require_rate(dropout)
        self.widths = scaled_widths(width)
        self.pool, self.dropout = Pooled(), nn.Dropout(dropout)

    def pooled(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What each trunk makes of its modality, (B, channels) each."""
        return [self.pool(of_one(inputs[name])) for name, of_one in self.trunks.items()]

    def answered(self, features: Tensor) -> dict[str, Tensor]:
        """Scores of every head from the features (B, …) that all of them see."""
        features = self.dropout(features)
        return {name: head(features) for name, head in self.heads.items()}

    def sites(self, hook: str) -> list[str]:
        if hook == "stem-convolution":
            return [f"{name}.conv" for name, module in self.named_modules() if isinstance(module, Stem)]
        if hook != "convolution":
            return []
        return [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]


def trunks(modalities: Sequence[Modality], widths: Sequence[int]) -> nn.ModuleDict:
    """One whole trunk per modality, by name."""
    return nn.ModuleDict({modality.name: trunk(modality, widths) for modality in modalities})


def linear_heads(heads: Sequence[Head], features: int) -> nn.ModuleDict:
    """A linear layer per head, by name."""
    return nn.ModuleDict({head.name: nn.Linear(features, head.columns[0]) for head in heads})


def require_whole(model: str, least: int = 1, **options: int) -> None:
    """Make sure that options are whole numbers of at least so much.

    Raises:
        UserError: one is not.
    """
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{model}: {name} is {value!r}; it must be a whole number, {least} or more")


class Concat(OnTrunks):
    """One trunk per modality; pooled features concatenated; a linear layer per head.

    Args:
        modalities: any number, of any kinds.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the concatenated features, in training only.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        self.trunks = trunks(modalities, self.widths)
        self.heads = linear_heads(heads, self.widths[-1] * len(modalities))
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.answered(torch.cat(self.pooled(inputs), 1))
