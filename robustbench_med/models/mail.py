"""MAIL (arXiv:2602.15346): two trunks of ERLA blocks that attend to each other after every stage.

Written from the paper and from running the authors' released Keras classes; ``tests/test_parity.py``
holds it to their outputs. Hooks for defenses:

- "convolution": every trained convolution of EMILA's three branches,
- "stem-convolution": the first convolution of each modality,
- "channel-gate": EMILA's ``ChannelGate``, called with (fused, shortcut),
- "attention-map": EMCAM's ``attention_map``, called with the map both modalities are scaled by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.api.model import FusionModel
from robustbench_med.api.randomness import Dropout
from robustbench_med.models.layers import SameConv2d, Stem, batch_norm, start_like_keras
from robustbench_med.models.trunks import require_rate, scaled_widths
from robustbench_med.util.errors import UserError

GROUPS = 16
GATE_REDUCTION = 4
BRANCH_SITES = ("branches.0", "branches.1", "branches.2")


class ChannelGate(nn.Module):
    """Scales the fused map by a channel attention and adds the shortcut: ReLU(shortcut + u·g).

    The released pooling (min + avg + max + sum) + (max - avg - min) is 2·max + sum: min and mean
    cancel. ``scale`` is the one trainable scalar on the gate's logits.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(features, max(features // GATE_REDUCTION, 1))
        self.excite = nn.Linear(self.squeeze.out_features, features)
        self.scale = nn.Parameter(torch.full((1,), 0.05))

    def logits(self, fused: Tensor) -> Tensor:
        """Gate logits before the scale: (B, C, H, W) to (B, C)."""
        pooled = 2 * fused.amax((2, 3)) + fused.sum((2, 3))
        out: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return out

    def forward(self, fused: Tensor, shortcut: Tensor) -> Tensor:
        gate = torch.sigmoid(self.scale * self.logits(fused))
        return F.relu(shortcut + fused * gate[:, :, None, None])


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """View the channels as (groups, C / groups), swap the two axes, flatten again."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class EMILA(nn.Module):
    """Three convolution branches, shuffled and fused, gated by channel, plus a projected shortcut.

    Args:
        inputs, outputs: channel counts.
        stride: 1 or 2, in all branches and the shortcut.
        branch_norm: batch norm after each branch (Robust-MAIL has it, MAIL has not).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, branch_norm: bool) -> None:
        super().__init__()
        # Nets narrower than a quarter have fewer channels than the paper's 16 groups.
        self.groups = math.gcd(GROUPS, inputs, outputs)
        self.branches = nn.ModuleList(
            [
                SameConv2d(inputs, outputs, 1, stride, self.groups),
                SameConv2d(inputs, inputs, 3, stride, inputs),
                SameConv2d(inputs, inputs, 5, stride, inputs),
            ]
        )
        widths = (outputs, inputs, inputs)
        self.branch_norms = nn.ModuleList(batch_norm(w) if branch_norm else nn.Identity() for w in widths)
        self.fuse = SameConv2d(sum(widths), outputs, 1, groups=2)
        self.fuse_norm = batch_norm(outputs)
        self.project = SameConv2d(inputs, outputs, 1, stride)
        self.project_norm = batch_norm(outputs)
        self.gate = ChannelGate(outputs)

    def forward(self, x: Tensor) -> Tensor:
        branches = [norm(conv(x)) for conv, norm in zip(self.branches, self.branch_norms, strict=True)]
        fused = self.fuse_norm(self.fuse(channel_shuffle(torch.cat(branches, 1), self.groups)))
        out: Tensor = self.gate(fused, self.project_norm(self.project(x)))
        return out


class ERLA(nn.Module):
    """Residual block of two EMILA units; (B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, branch_norm: bool) -> None:
        super().__init__()
        self.first = EMILA(inputs, outputs, stride, branch_norm)
        self.middle_norm = batch_norm(outputs)
        self.second = EMILA(outputs, outputs, 1, branch_norm)
        self.pointwise = SameConv2d(outputs, outputs, 1)
        self.pointwise_norm = batch_norm(outputs)
        # Blocks start as their shortcuts (Goyal et al. 2017). Without that Robust-MAIL does not
        # learn: its sixth-order gates shrink the branch, batch norm scales it up again, and the
        # gradient explodes on its way from the heads to the stems.
        nn.init.zeros_(self.pointwise_norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(SameConv2d(inputs, outputs, 1, stride), batch_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.middle_norm(self.first(x))))
        return F.relu(self.pointwise_norm(self.pointwise(y)) + self.shortcut(x))


class EMCAM(nn.Module):
    """Cross-modal attention: one map, from both modalities, scales both.

    One set of weights serves both modalities. The spatial branch is asymmetric as released: the
    second modality's update sees the first's *new* value, and ``local_scale1`` is used twice.
    """

    def __init__(self, channels: int, start: float = 1.0) -> None:
        super().__init__()
        groups = math.gcd(GROUPS, channels)
        self.frequency_dense = nn.Linear(channels, channels)
        self.high_scale, self.low_scale, self.mean_scale, self.global_scale = (
            nn.Parameter(torch.ones(1)) for _ in range(4)
        )
        nn.init.constant_(self.global_scale, start)
        self.local_scale1, self.local_scale2, self.out_scale1, self.out_scale2 = (
            nn.Parameter(torch.ones(channels)) for _ in range(4)
        )
        self.grouped = SameConv2d(channels, channels, 1, groups=groups, bias=False)
        self.depthwise3 = SameConv2d(channels, channels, 3, groups=channels, bias=False)
        self.depthwise5 = SameConv2d(channels, channels, 5, groups=channels, bias=False)
        self.fuse = SameConv2d(3 * channels, channels, 1, bias=False)
        self.attention_map: nn.Module = nn.Identity()
        self.register_buffer("dct", dct_matrix(channels), persistent=False)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.attention_map(self.attention(x1, x2))
        return x1 * attention * _map(self.out_scale1), x2 * attention * _map(self.out_scale2)

    def attention(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The map in (0, 1) both modalities are scaled by: (B, C, H, W)."""
        frequency, spatial = self._frequency(x1, x2), self._spatial(x1, x2)
        return torch.sigmoid(self.global_scale * frequency + _map(self.local_scale1) * spatial)

    def spectrum(self, x: Tensor) -> Tensor:
        """Orthonormal DCT-II along the channel axis of every pixel (not a spatial transform)."""
        dct: Tensor = self.get_buffer("dct")
        return torch.einsum("kc,bchw->bkhw", dct, x)

    def _frequency(self, x1: Tensor, x2: Tensor) -> Tensor:
        logits = torch.zeros_like(x1)
        for x in (x1, x2):
            spectrum = self.spectrum(x)
            peak, mean, least = spectrum.amax((2, 3)), spectrum.mean((2, 3)), spectrum.amin((2, 3))
            h, l1, l2 = torch.sigmoid(self.frequency_dense(torch.stack([peak, mean, least])))
            low = _map(l1 + l2)
            high = _map(2 * h - l1 - l2) + spectrum
            logits = logits + self.high_scale * high + self.low_scale * low + self.mean_scale * (high - low)
        return torch.sigmoid(logits)

    def _spatial(self, x1: Tensor, x2: Tensor) -> Tensor:
        p1, p2 = (self._pool(self._mix(x)) for x in (x1, x2))
        p1 = p1 + 2 * self._mix(p1) + p2
        p2 = p2 + 2 * self._mix(p2) + p1
        return torch.sigmoid(_map(self.local_scale1) * p1 + _map(self.local_scale2) * p2)

    def _mix(self, x: Tensor) -> Tensor:
        out: Tensor = self.fuse(torch.cat([self.grouped(x), self.depthwise3(x), self.depthwise5(x)], 1))
        return out

    @staticmethod
    def _pool(x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=True) + x.mean((2, 3), keepdim=True)


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II matrix (size, size): row k holds the k-th cosine."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi * k * (2 * n + 1) / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _map(per_channel: Tensor) -> Tensor:
    """(C,) or (B, C) as a broadcastable map (…, C, 1, 1)."""
    return per_channel[..., None, None]


class Stage(nn.Module):
    """Per modality ERLA, dropout, ERLA; then EMCAM over both."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, branch_norm: bool, dropout: nn.Module, start: float
    ) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(
            nn.Sequential(
                ERLA(inputs, outputs, stride, branch_norm), dropout, ERLA(outputs, outputs, 1, branch_norm)
            )
            for _ in range(2)
        )
        self.fusion = EMCAM(outputs, start)

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.fusion(self.trunks[0](x1), self.trunks[1](x2))
        return out


class MAIL(FusionModel):
    """MAIL on two modalities of 28 to 224 pixels, any channel counts and heads.

    Args:
        modalities: two images.
        heads: any number.
        width: factor on the paper's 64/128/256/512 channels; the result must be even.
        branch_norm: batch norm after EMILA's branches, as in Robust-MAIL.
        dropout: rate after the first block of stages 2 to 4.
        inference_dropout: leave that dropout on at inference, as released under Keras 2 (Keras 3
            switches it off), which makes the model random.
        attention_start: start value of the scale on EMCAM's frequency map. Robust-MAIL raises
            the map A to the sixth power: from 1 (A about 0.8) it does not learn, from 4 (A about
            0.98) it does. It changes nothing once weights are loaded.

    Raises:
        UserError: not two images. EMCAM is written for a pair: three would need its
            frequency sums over all, a rule for the order of the asymmetric spatial updates, a
            third trunk and output scale, and weights trained that way.
    """

    channels_last = True

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        branch_norm: bool = False,
        dropout: float = 0.25,
        inference_dropout: bool = False,
        attention_start: float = 1.0,
    ) -> None:
        super().__init__(modalities, heads)
        if len(modalities) != 2 or any(modality.kind != "image" for modality in modalities):
            given = ", ".join(f"{modality.name} ({modality.kind})" for modality in modalities)
            raise UserError(
                f"MAIL fuses exactly two images, not {given}; its cross-modal attention is defined for a pair"
            )
        require_rate(dropout)
        widths = scaled_widths(width)
        self.stems = nn.ModuleList(Stem(modality.shape[0], widths[0]) for modality in modalities)
        self.stages = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            rate = dropout if index else 0.0
            self.stages.append(
                Stage(
                    inputs,
                    outputs,
                    2 if index else 1,
                    branch_norm,
                    Dropout(rate, inference_dropout),
                    attention_start,
                )
            )
        self.heads = nn.ModuleDict({head.name: nn.Linear(2 * widths[-1], head.columns[0]) for head in heads})
        start_like_keras(self)
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x1, x2 = (stem(inputs[name]) for stem, name in zip(self.stems, self.takes, strict=True))
        for stage in self.stages:
            x1, x2 = stage(x1, x2)
        features = torch.cat([x1, x2], 1).mean((2, 3))
        return {task: head(features) for task, head in self.heads.items()}

    def sites(self, hook: str) -> list[str]:
        kinds = {
            "convolution": (EMILA, BRANCH_SITES),
            "stem-convolution": (Stem, ("conv",)),
            "channel-gate": (EMILA, ("gate",)),
            "attention-map": (EMCAM, ("attention_map",)),
        }
        if hook not in kinds:
            return []
        owner, members = kinds[hook]
        names = [name for name, m in self.named_modules() if isinstance(m, owner)]
        return [f"{name}.{member}" for name in names for member in members]
