"""What fusion is compared with: one modality alone, fusion before the first layer, fusion after the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.models.fusion import OnTrunks, linear_heads, trunks
from robustbench_med.models.layers import start_like_keras
from robustbench_med.models.trunks import trunk
from robustbench_med.util.errors import UserError, unknown


class Single(OnTrunks):
    """One modality alone: each head sees the one its label is about, or all see the one that is named.

    A control: what fusion must beat. On unpaired data every head has a modality of its own. On paired data
    a label is about all of them; train one net a modality.

    Args:
        modalities: any number, of any kinds; those that no head sees change nothing.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the pooled features, in training only.
        modality: its name or its number (1 is the first); "" for each head its own.

    Raises:
        UserError: no such modality, or one that a head is not about; none named, and a head is about several.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
        modality: str | int = "",
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        named = _named(modality, list(self.takes))
        self.sees = {head.name: _seen_by(head, named) for head in heads}
        seen = [m for m in modalities if m.name in self.sees.values()]
        self.trunks = trunks(seen, self.widths)
        self.heads = linear_heads(heads, self.widths[-1])
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pooled = {name: self.dropout(self.pool(of_one(inputs[name]))) for name, of_one in self.trunks.items()}
        return {name: head(pooled[self.sees[name]]) for name, head in self.heads.items()}


def _named(modality: str | int, known: Sequence[str]) -> str:
    """The name of the modality that an option asks for; "" for none."""
    if isinstance(modality, int) and not isinstance(modality, bool):
        if not 1 <= modality <= len(known):
            raise UserError(
                f"single: modality {modality} of {len(known)}; the data has "
                f"{', '.join(f'{i} ({name})' for i, name in enumerate(known, 1))}"
            )
        return known[modality - 1]
    if modality and modality not in known:
        raise UserError(f"single: {unknown('modality', str(modality), known)}")
    return str(modality or "")


def _seen_by(head: Head, named: str) -> str:
    """The modality that a head sees, ``named`` if that is not ""."""
    if named and named not in head.modalities:
        raise UserError(
            f"single: {head.name} is about {' and '.join(head.modalities)}, not about {named}; leave the "
            "option modality out"
        )
    if not named and len(head.modalities) != 1:
        raise UserError(
            f"single: {head.name} is about {' and '.join(head.modalities)}; say which one the net sees "
            f"(modality: {head.modalities[0]})"
        )
    return named or head.modalities[0]


class Early(OnTrunks):
    """Early fusion: the modalities' channels are concatenated and go through one trunk.

    A control. Tables are joined as the features of one table.

    Args:
        modalities: any number, of one kind and, but for their channels or features, one shape.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the pooled features, in training only.

    Raises:
        UserError: kinds or sizes that differ: there is no map that could hold them both.
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
        self.trunk = trunk(_joined(modalities), self.widths)
        self.heads = linear_heads(heads, self.widths[-1])
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.answered(self.pool(self.trunk(torch.cat([inputs[name] for name in self.takes], 1))))


def _joined(modalities: Sequence[Modality]) -> Modality:
    """All channels, or features, as one modality; its ranges and units are theirs."""
    first = modalities[0]
    if any(m.kind != first.kind or m.shape[1:] != first.shape[1:] for m in modalities):
        given = ", ".join(f"{m.name} ({m.kind}, {m.shape})" for m in modalities)
        raise UserError(
            f"early fusion needs modalities of one kind and size, not {given}; choose another model"
        )
    shape = (sum(m.shape[0] for m in modalities), *first.shape[1:])
    if all(m.is_plain for m in modalities):
        return Modality("joined", shape, kind=first.kind)
    low, high, unit = (_in_a_row(modalities, of_each) for of_each in ("low", "high", "unit"))
    return Modality("joined", shape, kind=first.kind, low=low, high=high, scale=unit)


def _in_a_row(modalities: Sequence[Modality], what: str) -> NDArray[np.float32]:
    """A bound or the unit of every element of all modalities, along the first axis."""
    return np.concatenate([np.broadcast_to(np.float32(getattr(m, what)), m.shape) for m in modalities])


class Late(OnTrunks):
    """Late fusion: a net a modality, and the mean of their logits wherever they share a label.

    A control. A head takes the mean over the modalities that its label is about; on unpaired data that
    is one, and the net is ``Single``. A modality that no head is about has no net. With linear heads, as
    here, the mean over all modalities is a linear layer on the concatenated features: on paired data
    ``Late`` and ``Concat`` can compute the same functions, and differ in scale and start values.

    Args:
        modalities: any number, of any kinds.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on each modality's pooled features, in training only.

    Raises:
        UserError: a head that is about none of the modalities.
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
        about = {name: [head for head in heads if name in head.modalities] for name in self.takes}
        self.trunks = trunks([m for m in modalities if about[m.name]], self.widths)
        self.heads = nn.ModuleDict({name: linear_heads(about[name], self.widths[-1]) for name in self.trunks})
        for head in heads:
            if not set(head.modalities) & set(self.takes):
                raise UserError(
                    f"late fusion: {head.name} is about {' and '.join(head.modalities)}, and the data has "
                    f"{' and '.join(self.takes)}; name the modalities that its label is about"
                )
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits: dict[str, list[Tensor]] = {name: [] for name in self.answers}
        for modality, of_one in self.trunks.items():
            features = self.dropout(self.pool(of_one(inputs[modality])))
            for name, head in self.heads[modality].items():  # type: ignore[operator]
                logits[name].append(head(features))
        return {name: torch.stack(each).mean(0) for name, each in logits.items()}
