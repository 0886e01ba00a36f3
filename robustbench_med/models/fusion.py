"""Ways to fuse modalities, one class each, on shared trunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.api.model import FusionModel
from robustbench_med.models.layers import Stem, start_like_keras
from robustbench_med.models.trunks import Pooled, scaled_widths, trunk


class Concat(FusionModel):
    """One trunk per modality; pooled features concatenated; a linear layer per head.

    Args:
        modalities: any number, of any kinds.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the concatenated features, in training only.
    """

    channels_last = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(modalities, heads)
        widths = scaled_widths(width)
        self.trunks = nn.ModuleDict({modality.name: trunk(modality, widths) for modality in modalities})
        self.pool = Pooled()
        self.dropout = nn.Dropout(dropout)
        features = widths[-1] * len(modalities)
        self.heads = nn.ModuleDict({head.name: nn.Linear(features, head.columns[0]) for head in heads})
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pooled = [self.pool(of_one(inputs[name])) for name, of_one in self.trunks.items()]
        features = self.dropout(torch.cat(pooled, 1))
        return {name: head(features) for name, head in self.heads.items()}

    def sites(self, hook: str) -> list[str]:
        if hook == "stem-convolution":
            return [f"{name}.conv" for name, module in self.named_modules() if isinstance(module, Stem)]
        if hook != "convolution":
            return []
        return [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
