"""DRIFA-Net (Dhar et al. 2025, WACV, arXiv:2412.01248): attention within and across modalities.

Written from a description of the released network, which leaves open, and which is settled here so:

- MFA's alternating pooling: each halves the map (average, maximum, average, maximum), and the mean over
  what is left goes into the dense layer;
- MFA's and MIFA's local branches: means (MIFA: minimum, mean and maximum) over all places, so that
  attention is one number a channel;
- the scales s_g and s_l are numbers, α is one number a channel, and all start at 1;
- MIFA stands after every block;
- dropout is off at inference unless asked for, as for MAIL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.api.randomness import Dropout
from robustbench_med.models.fusion import OnTrunks, linear_heads
from robustbench_med.models.layers import SameConv2d, start_like_keras
from robustbench_med.models.trunks import trunk
from robustbench_med.util.errors import UserError

BLOCKS = 8
DROPPED = 6  # blocks followed by dropout
ATTENDED = 7  # blocks followed by an MFA of their own


class MFA(nn.Module):
    """Multi-branch fusion attention: x·A·α with A = σ(s_g·G + s_l·L), one number a channel.

    G: four chained 1×1 convolutions with sigmoids, each followed by a pooling, then a dense sigmoid layer.
    L: the sum of two 1×1 convolutions' sigmoids, each averaged over space.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.chain = nn.ModuleList(SameConv2d(channels, channels, 1) for _ in range(4))
        self.local = nn.ModuleList(SameConv2d(channels, channels, 1) for _ in range(2))
        self.dense = nn.Linear(channels, channels)
        self.global_scale, self.local_scale = (nn.Parameter(torch.ones(1)) for _ in range(2))
        self.out_scale = nn.Parameter(torch.ones(channels))

    def attention(self, x: Tensor) -> Tensor:
        """A: (B, C)."""
        pooled = x
        for number, conv in enumerate(self.chain):
            half = ((pooled.shape[2] + 1) // 2, (pooled.shape[3] + 1) // 2)
            shrink = F.adaptive_max_pool2d if number % 2 else F.adaptive_avg_pool2d
            pooled = shrink(torch.sigmoid(conv(pooled)), half)
        whole = torch.sigmoid(self.dense(pooled.mean((2, 3))))
        local = torch.stack([torch.sigmoid(conv(x)).mean((2, 3)) for conv in self.local]).sum(0)
        return torch.sigmoid(self.global_scale * whole + self.local_scale * local)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.attention(x) * self.out_scale)[:, :, None, None]


class MIFA(nn.Module):
    """Multimodal information fusion attention: one A, from all modalities, and x_i·A·α_i.

    G: a dense sigmoid layer, one for all, on the sum of all modalities' minimum, mean and maximum over
    space. L: the same sum, of a 1×1 convolution's sigmoids per modality.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.dense = nn.Linear(channels, channels)
        self.local = nn.ModuleList(SameConv2d(channels, channels, 1) for _ in range(count))
        self.global_scale, self.local_scale = (nn.Parameter(torch.ones(1)) for _ in range(2))
        self.out_scales = nn.ParameterList(torch.ones(channels) for _ in range(count))

    def attention(self, maps: Sequence[Tensor]) -> Tensor:
        """A: (B, C)."""
        whole = torch.sigmoid(self.dense(torch.stack([_pools(x) for x in maps]).sum(0)))
        seen = [torch.sigmoid(conv(x)) for conv, x in zip(self.local, maps, strict=True)]
        local = torch.stack([_pools(x) for x in seen]).sum(0)
        return torch.sigmoid(self.global_scale * whole + self.local_scale * local)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        a = self.attention(maps)
        return [x * (a * scale)[:, :, None, None] for x, scale in zip(maps, self.out_scales, strict=True)]


def _pools(x: Tensor) -> Tensor:
    """Minimum, mean and maximum over space, summed: (B, C, H, W) to (B, C)."""
    return x.amin((2, 3)) + x.mean((2, 3)) + x.amax((2, 3))


class DRIFA(OnTrunks):
    """DRIFA-Net on images: MFA after every convolution of the trunks, MIFA after every block.

    What the description leaves open, and how it is settled here, heads this module.

    Args:
        modalities: any number of images.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate after blocks 1 to 6, and on the concatenated features.
        inference_dropout: leave that dropout on at inference, as released, which makes the model random.

    Raises:
        UserError: a modality that is no image; its attention is made of two-dimensional convolutions.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
        inference_dropout: bool = False,
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        other = [f"{m.name} ({m.kind})" for m in modalities if m.kind != "image"]
        if other:
            raise UserError(f"DRIFA-Net fuses images, not {', '.join(other)}; choose another model")
        self.stems, self.blocks = nn.ModuleList(), nn.ModuleList()
        for modality in modalities:
            whole = _attending(trunk(modality, self.widths))
            self.stems.append(whole[:-BLOCKS])
            self.blocks.append(whole[-BLOCKS:])
        after = [width for width in self.widths for _ in range(2)]
        self.own = nn.ModuleList(nn.ModuleList(MFA(c) for c in after[:ATTENDED]) for _ in modalities)
        self.across = nn.ModuleList(MIFA(c, len(modalities)) for c in after)
        self.dropout = Dropout(dropout, inference_dropout)
        self.heads = linear_heads(heads, self.widths[-1] * len(modalities))
        start_like_keras(self)
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [stem(inputs[name]) for stem, name in zip(self.stems, self.takes, strict=True)]
        for number, across in enumerate(self.across):
            for branch, (blocks, own) in enumerate(zip(self.blocks, self.own, strict=True)):
                x = blocks[number](maps[branch])  # type: ignore[index]
                x = self.dropout(x) if number < DROPPED else x
                maps[branch] = own[number](x) if number < ATTENDED else x  # type: ignore[index]
            maps = across(maps)
        return self.answered(torch.cat([self.pool(x) for x in maps], 1))

    def sites(self, hook: str) -> list[str]:
        attention = tuple(f"{name}." for name, m in self.named_modules() if isinstance(m, (MFA, MIFA)))
        return [site for site in super().sites(hook) if not site.startswith(attention)]


def _attending(whole: nn.Sequential) -> nn.Sequential:
    """A trunk with an MFA after each convolution, before its batch norm; shortcuts stay as they are."""
    for layer in whole:
        norms = [name for name, m in layer.named_children() if isinstance(m, nn.BatchNorm2d)]
        for name in norms:
            norm = layer.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm2d)
            setattr(layer, name, nn.Sequential(MFA(norm.num_features), norm))
    return whole
