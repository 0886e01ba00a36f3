"""Fusion by gates: modalities weigh each other's features, or a table scales and shifts an image's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.models.fusion import OnTrunks, linear_heads, require_whole, trunks
from robustbench_med.models.layers import start_like_keras
from robustbench_med.models.trunks import Pooled, Rescale, stage_widths, stages, trunk
from robustbench_med.util.errors import UserError


class GatedUnit(nn.Module):
    """The gated multimodal unit (Arevalo et al. 2017, arXiv:1702.01992, section 3.1, figure 2).

    Of two modalities h = z·tanh(W1 x1) + (1 - z)·tanh(W2 x2) with z = σ(W [x1; x2]): the gates sum to 1 in
    each feature. Of any other number h = Σ z_i·tanh(W_i x_i) with z_i = σ(V_i [x1; …; xk]): gates of their
    own, each in (0, 1), which need not sum to 1. No biases, as there.

    Args:
        inputs: features of each modality.
        outputs: features of h.
    """

    def __init__(self, inputs: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(features, outputs, bias=False) for features in inputs)
        self.gate_count = 1 if len(inputs) == 2 else len(inputs)
        self.gate = nn.Linear(sum(inputs), outputs * self.gate_count, bias=False)

    def gates(self, xs: Sequence[Tensor]) -> Tensor:
        """What each modality's features are weighed by: (modalities, B, outputs)."""
        z = torch.stack(torch.sigmoid(self.gate(torch.cat(list(xs), 1))).chunk(self.gate_count, 1))
        return torch.cat([z, 1 - z]) if len(xs) == 2 else z

    def forward(self, xs: Sequence[Tensor]) -> Tensor:
        hidden = torch.stack([torch.tanh(layer(x)) for layer, x in zip(self.hidden, xs, strict=True)])
        return (self.gates(xs) * hidden).sum(0)


class Gated(OnTrunks):
    """Gated multimodal unit on the trunks' pooled features (Arevalo et al. 2017); see ``GatedUnit``.

    Args:
        modalities: any number, of any kinds.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the fused features, in training only.
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
        features = self.widths[-1]
        self.trunks = trunks(modalities, self.widths)
        self.fuse = GatedUnit([features] * len(modalities), features)
        self.heads = linear_heads(heads, features)
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.answered(self.fuse(self.pooled(inputs)))


class TransferModule(nn.Module):
    """The multimodal transfer module (Joze et al. 2020, arXiv:1911.08670, section 3).

    Squeeze: S_i = the mean of map i over all its places. Joint: Z = ReLU(W [S_1; …; S_k] + b), with a quarter
    as many features as S. Excitation: E_i = W_i Z + b_i, and map i becomes 2·σ(E_i) ⊙ map i. Maps may
    differ in size and number of axes; one without places (a table) is its own squeeze.

    Args:
        channels: of each map.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.pool = Pooled()
        self.squeeze = nn.Linear(sum(channels), max(sum(channels) // 4, 1))
        self.excite = nn.ModuleList(nn.Linear(self.squeeze.out_features, c) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        joint = F.relu(self.squeeze(torch.cat([self.pool(x) for x in maps], 1)))
        gates = [2 * torch.sigmoid(layer(joint)) for layer in self.excite]
        return [x * _spread(gate, x) for x, gate in zip(maps, gates, strict=True)]


class MMTM(OnTrunks):
    """Trunks that recalibrate each other's channels after stages 2, 3 and 4; see ``TransferModule``.

    The streams end in linear layers on the concatenated pooled features, which is the sum of a linear
    layer a stream: the paper's late fusion of scores. A table's features take part in every exchange.

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
        self.trunks = nn.ModuleDict({m.name: stages(m, self.widths) for m in modalities})
        channels = zip(*(stage_widths(m, self.widths) for m in modalities), strict=True)
        self.exchanges = nn.ModuleList(TransferModule(c) for c in itertools.islice(channels, 1, None))
        self.heads = linear_heads(heads, self.widths[-1] * len(modalities))
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [inputs[name] for name in self.trunks]
        for number, parts in enumerate(zip(*self.trunks.values(), strict=True)):
            maps = [part(x) for part, x in zip(parts, maps, strict=True)]
            if number:
                maps = self.exchanges[number - 1](maps)
        return self.answered(torch.cat([self.pool(x) for x in maps], 1))


class AffineTransform(nn.Module):
    """The dynamic affine feature map transform (Pölsterl et al. 2021, arXiv:2107.05990, section 2).

    Channel c of an image's map becomes α_c·map_c + β_c, where [α; β] = W2 ReLU(W1 [mean of the map; table]):
    from the image and the record together, through a bottleneck, without biases, and α unbounded.

    Args:
        channels: of the map.
        features: of the table.
        reduction: how many times narrower the bottleneck is than what enters it.
    """

    def __init__(self, channels: int, features: int, reduction: int) -> None:
        super().__init__()
        self.pool = Pooled()
        both = channels + features
        self.squeeze = nn.Linear(both, max(both // reduction, 1), bias=False)
        self.excite = nn.Linear(self.squeeze.out_features, 2 * channels, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        both = self.excite(F.relu(self.squeeze(torch.cat([self.pool(x), table], 1))))
        scale, shift = both.chunk(2, 1)
        return _spread(scale, x) * x + _spread(shift, x)


class DAFT(OnTrunks):
    """Image features scaled and shifted by the patient's record (Pölsterl et al. 2021).

    The transform (``AffineTransform``) acts on what enters the convolutions of the last residual block of
    each image's, volume's or signal's trunk, not on that block's shortcut. The record has no other way to
    the heads, and no trunk: its features enter in units of their scale. Several tables are taken as one;
    several images have a transform each, and their pooled features are concatenated.

    Args:
        modalities: at least one table, and at least one that is none.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the concatenated features, in training only.
        reduction: how many times narrower the layer that makes scale and shift is than what enters it.

    Raises:
        UserError: no table, or nothing but tables.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
        reduction: int = 7,
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        tables = [m for m in modalities if m.kind == "table"]
        images = [m for m in modalities if m.kind != "table"]
        if not tables or not images:
            given = ", ".join(f"{m.name} ({m.kind})" for m in modalities)
            raise UserError(
                f"DAFT scales the features of an image, volume or signal by a table; the data has {given}: "
                "choose another model"
            )
        require_whole("DAFT", reduction=reduction)
        self.tables = nn.ModuleDict({m.name: Rescale(m) for m in tables})
        whole = {m.name: trunk(m, self.widths) for m in images}
        self.trunks = nn.ModuleDict({name: layers[:-1] for name, layers in whole.items()})
        self.last = nn.ModuleDict({name: layers[-1] for name, layers in whole.items()})
        features, channels = sum(m.shape[0] for m in tables), self.widths[-1]
        self.transforms = nn.ModuleDict(
            {m.name: AffineTransform(channels, features, reduction) for m in images}
        )
        self.heads = linear_heads(heads, channels * len(images))
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        record = torch.cat([rescale(inputs[name]) for name, rescale in self.tables.items()], 1)
        pooled = []
        for name, of_one in self.trunks.items():
            x = of_one(inputs[name])
            pooled.append(self.pool(self.last[name](x, self.transforms[name](x, record))))
        return self.answered(torch.cat(pooled, 1))


def _spread(per_channel: Tensor, x: Tensor) -> Tensor:
    """(B, C) so that it broadcasts over the places of x (B, C, …)."""
    return per_channel.reshape(*per_channel.shape, *(1,) * (x.dim() - 2))
