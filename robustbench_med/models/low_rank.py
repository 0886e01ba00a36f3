"""Fusion by the outer product of all modalities' features, its weight tensor of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.models.fusion import OnTrunks, linear_heads, require_whole, trunks
from robustbench_med.models.layers import start_like_keras


class LowRankProduct(nn.Module):
    """Low-rank tensor fusion (Liu et al. 2018, arXiv:1806.00064, section 3.2).

    The tensor Z = [x1; 1] ⊗ … ⊗ [xk; 1] holds every product of features of different modalities; h = W·Z + b
    with W = Σ_i w_1^(i) ⊗ … ⊗ w_k^(i) of rank r for each element of h. So h = Σ_i Π_m (w_m^(i) [x_m; 1]) + b,
    and Z is never made. The rank is enough for any W once it is that of the full tensor.

    Args:
        inputs: features of each modality.
        outputs: features of h.
        rank: r.
    """

    def __init__(self, inputs: Sequence[int], outputs: int, rank: int) -> None:
        super().__init__()
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(rank, n + 1, outputs)) for n in inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))
        for factor in self.factors:
            nn.init.normal_(factor, std=math.sqrt(2 / (factor.shape[1] + outputs)))

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        product = torch.ones((), device=self.bias.device)
        for factor, x in zip(self.factors, xs, strict=True):
            product = product * torch.matmul(torch.cat([x, torch.ones_like(x[:, :1])], 1), factor)
        return product.sum(0) + self.bias


class LowRank(OnTrunks):
    """Low-rank multimodal tensor fusion of the trunks' pooled features; see ``LowRankProduct``.

    Args:
        modalities: any number, of any kinds.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the fused features, in training only.
        rank: of the weight tensor, for each of the fused features.

    Raises:
        UserError: a rank below 1.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
        rank: int = 4,
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        require_whole("low-rank fusion", rank=rank)
        features = self.widths[-1]
        self.trunks = trunks(modalities, self.widths)
        self.fuse = LowRankProduct([features] * len(modalities), features, rank)
        self.heads = linear_heads(heads, features)
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.answered(self.fuse(self.pooled(inputs)))
