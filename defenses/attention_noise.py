"""Modulated attention noise (MAN) of Robust-MAIL, arXiv:2602.15346, as its authors released it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api import Defense, FusionModel, RandomLayer, UserError

GATE_POWER = 3
MAP_POWER = 5


@dataclass(frozen=True)
class AttentionNoise(Defense):
    """Noise on every attention logit and map, drawn per element at each forward pass.

    A draw n ~ N(0, std²) enters as n + n², which is one-sided (mean std², minimum -1/4).

    Attributes:
        std: standard deviation of n; 0.6 as released, 0 switches the noise off but keeps the
            clipping and the powers.
        straight_through: pass gradients through the clips to [0, 1] unchanged (BPDA, Athalye et
            al. 2018), forward values stay the same. Most logits lie outside [0, 1] at the start
            of training, where the honest gradient of the clip is zero.
    """

    std: float = 0.6
    straight_through: bool = False

    def apply(self, model: FusionModel) -> None:
        if self.std < 0:
            raise UserError(f"attention-noise: std is {self.std:g}; it must be 0 or more")
        gates, maps = model.sites("channel-gate"), model.sites("attention-map")
        if not gates and not maps:
            raise model.no_such_hook("channel-gate", "attention-noise")
        for site in gates:
            gate = model.get_submodule(site)
            if not (hasattr(gate, "logits") and hasattr(gate, "scale")):
                raise UserError(
                    f"attention-noise does not know the gate at {site}; it needs logits and scale"
                )
            model.install(site, NoisyChannelGate(gate, self.std, self.straight_through))
        for site in maps:
            model.install(site, NoisyAttentionMap(self.std, self.straight_through))


class _NoisyClip(RandomLayer):
    """Adds w·(n + n²) and clips to [0, 1]."""

    shared_by = "element"

    def __init__(self, std: float, straight_through: bool) -> None:
        super().__init__()
        self.std, self.straight_through = std, straight_through

    @property
    def is_random(self) -> bool:
        return self.std > 0

    def noisy_clip(self, x: Tensor, weight: Tensor, name: str) -> Tensor:
        n = self.noise.normal(f"{self.site}.{name}", x.shape, self.std, x)
        noisy = torch.addcmul(x, weight, n + n * n)
        clipped = noisy.clamp(0, 1)
        return noisy + (clipped - noisy).detach() if self.straight_through else clipped


class NoisyChannelGate(_NoisyClip):
    """The gate at the hook "channel-gate" with noise on its logits and on its output: u·(S·g)³.

    z ← clip(z + w(n + n²)), g = σ(γ z), r = ReLU(shortcut + u·g), S = clip(r + w(m + m²)).
    The released weights w are 1 and not trained.
    """

    channel_weight: Tensor
    spatial_weight: Tensor

    def __init__(self, gate: nn.Module, std: float, straight_through: bool) -> None:
        super().__init__(std, straight_through)
        self.gate = gate
        self.register_buffer("channel_weight", torch.ones(1))
        self.register_buffer("spatial_weight", torch.ones(1))

    def forward(self, fused: Tensor, shortcut: Tensor) -> Tensor:
        logits = self.noisy_clip(self.gate.logits(fused), self.channel_weight, "channel")  # type: ignore[operator]
        scale: Tensor = self.gate.scale  # type: ignore[assignment]
        gate = torch.sigmoid(scale * logits)[:, :, None, None]
        spatial = self.noisy_clip(F.relu(shortcut + fused * gate), self.spatial_weight, "spatial")
        gated = spatial * gate
        return fused * (gated * gated * gated)


class NoisyAttentionMap(_NoisyClip):
    """EMCAM's map A becomes A·clip(A + w(n + n²))⁵, with w trained."""

    def __init__(self, std: float, straight_through: bool) -> None:
        super().__init__(std, straight_through)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, attention: Tensor) -> Tensor:
        return attention * self.noisy_clip(attention, self.weight, "spatial") ** MAP_POWER
