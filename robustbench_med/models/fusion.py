"""``concat``: the baseline everybody understands."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api.model import FusionModel
from robustbench_med.models.layers import SameConv2d, Stem, batch_norm, start_like_keras
from robustbench_med.models.mail import scaled_widths


class ResidualBlock(nn.Module):
    """The basic block of ResNet-18 (He et al. 2016): two 3×3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = SameConv2d(inputs, outputs, 3, stride, bias=False), batch_norm(outputs)
        self.conv2, self.norm2 = SameConv2d(outputs, outputs, 3, bias=False), batch_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                SameConv2d(inputs, outputs, 1, stride, bias=False), batch_norm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Concat(FusionModel):
    """One ResNet-18-shaped trunk per modality; pooled features concatenated; a linear head per task.

    Args:
        channels: any number of modalities, each with its channel count.
        classes: any number of tasks, each with its class count.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the concatenated features, in training only.
    """

    channels_last = True

    def __init__(
        self,
        channels: Mapping[str, int],
        classes: Mapping[str, int],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(channels, classes)
        widths = scaled_widths(width)
        self.trunks = nn.ModuleDict({name: _trunk(count, widths) for name, count in channels.items()})
        self.dropout = nn.Dropout(dropout)
        features = widths[-1] * len(channels)
        self.heads = nn.ModuleDict({task: nn.Linear(features, k) for task, k in classes.items()})
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pooled = [trunk(inputs[name]).mean((2, 3)) for name, trunk in self.trunks.items()]
        features = self.dropout(torch.cat(pooled, 1))
        return {task: head(features) for task, head in self.heads.items()}

    def sites(self, hook: str) -> list[str]:
        if hook == "stem-convolution":
            return [f"{name}.conv" for name, module in self.named_modules() if isinstance(module, Stem)]
        if hook != "convolution":
            return []
        return [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]


def _trunk(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    blocks: list[nn.Module] = [Stem(channels, widths[0])]
    for index, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        blocks += [ResidualBlock(inputs, outputs, 2 if index else 1), ResidualBlock(outputs, outputs, 1)]
    return nn.Sequential(*blocks)
