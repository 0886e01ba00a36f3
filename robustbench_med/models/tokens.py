"""Fusion by attention: every place of a trunk's last map is a token, a table is one.

Where a token lies is not told to it; the padding of the trunk's convolutions does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import Head
from robustbench_med.models.fusion import OnTrunks, linear_heads, require_whole, trunks
from robustbench_med.models.layers import start_like_keras

ATTENTION_HEADS = 4
TOKEN_START = 0.02  # standard deviation of learned tokens' start values, as in ViT


def as_tokens(x: Tensor) -> Tensor:
    """A map (B, C, …) as tokens (B, places, C); features (B, C) as one token."""
    return x.flatten(2).transpose(1, 2) if x.dim() > 2 else x[:, None]


class Attention(nn.Module):
    """Multi-head attention of tokens (B, N, C) to a context (B, M, C) (Vaswani et al. 2017, section 3.2).

    Written out, since torch's own takes another path without gradients than with them, one whose operations
    are not counted.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.parts = math.gcd(ATTENTION_HEADS, features)
        self.query, self.key, self.value, self.out = (nn.Linear(features, features) for _ in range(4))

    def weights(self, x: Tensor, context: Tensor) -> Tensor:
        """How much each token attends to each of the context: (B, parts, N, M), rows sum to 1."""
        query, key = self._split(self.query(x)), self._split(self.key(context))
        return torch.softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), -1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        mixed = self.weights(x, context) @ self._split(self.value(context))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.parts, -1).transpose(1, 2)


class TransformerLayer(nn.Module):
    """x ← x + attention(norm(x)); x ← x + feed-forward(norm(x)) (ViT, arXiv:2010.11929)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention = Attention(features)
        self.norm, self.feed_norm = nn.LayerNorm(features), nn.LayerNorm(features)
        self.feed = nn.Sequential(
            nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed)
        out: Tensor = x + self.feed(self.feed_norm(x))
        return out


class BottleneckLayer(nn.Module):
    """A transformer layer a modality, each with the shared tokens (Nagrani et al. 2021, arXiv:2107.00135).

    [z_i; s_i] = Transformer_i([z_i; s]) for each modality i, then s = mean of the s_i (section "Fusion via
    attention bottlenecks"). What a modality's tokens learn of another's in a layer was in s before it.
    """

    def __init__(self, count: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(features) for _ in range(count))

    def forward(self, tokens: Sequence[Tensor], shared: Tensor) -> tuple[list[Tensor], Tensor]:
        each = [layer(torch.cat([z, shared], 1)) for layer, z in zip(self.layers, tokens, strict=True)]
        own = [x[:, : z.shape[1]] for x, z in zip(each, tokens, strict=True)]
        return own, torch.stack([x[:, -shared.shape[1] :] for x in each]).mean(0)


class Bottleneck(OnTrunks):
    """Modalities that attend to each other through a few shared tokens only; see ``BottleneckLayer``.

    Each modality has a class token in front of the tokens of its trunk; the heads' logits are the mean over
    the class tokens, by one linear layer for all, as there. One layer would not do: a modality hears of
    another in the second.

    Args:
        modalities: any number, of any kinds.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the mean class token, in training only.
        bottlenecks: shared tokens (4 in the paper).
        layers: transformer layers on top of the trunks, 2 or more.

    Raises:
        UserError: too few tokens or layers.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
        bottlenecks: int = 4,
        layers: int = 2,
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        require_whole("bottleneck fusion", bottlenecks=bottlenecks)
        require_whole("bottleneck fusion", 2, layers=layers)
        features, count = self.widths[-1], len(modalities)
        self.trunks = trunks(modalities, self.widths)
        self.class_tokens = nn.Parameter(TOKEN_START * torch.randn(count, 1, features))
        self.shared = nn.Parameter(TOKEN_START * torch.randn(bottlenecks, features))
        self.layers = nn.ModuleList(BottleneckLayer(count, features) for _ in range(layers))
        self.norm = nn.LayerNorm(features)
        self.heads = linear_heads(heads, features)
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [as_tokens(of_one(inputs[name])) for name, of_one in self.trunks.items()]
        batch = len(maps[0])
        tokens = [
            torch.cat([c.expand(batch, -1, -1), z], 1) for c, z in zip(self.class_tokens, maps, strict=True)
        ]
        shared = self.shared.expand(batch, -1, -1)
        for layer in self.layers:
            tokens, shared = layer(tokens, shared)
        return self.answered(self.norm(torch.stack([z[:, 0] for z in tokens])).mean(0))


class LatentUpdate(nn.Module):
    """A latent array reads one modality (Hemker et al. 2024, arXiv:2311.09115, equation 3 and figure 1B).

    S ← S + attention(norm(S), norm(tokens)), then S ← S + feed-forward(norm(S)); its SELU is the paper's
    self-normalising one.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention = Attention(features)
        self.norm, self.token_norm, self.feed_norm = (nn.LayerNorm(features) for _ in range(3))
        self.feed = nn.Sequential(
            nn.Linear(features, 4 * features), nn.SELU(), nn.Linear(4 * features, features)
        )

    def forward(self, latent: Tensor, tokens: Tensor) -> Tensor:
        latent = latent + self.attention(self.norm(latent), self.token_norm(tokens))
        out: Tensor = latent + self.feed(self.feed_norm(latent))
        return out


class HEALNet(OnTrunks):
    """A latent array that attends to each modality in turn, several times over; see ``LatentUpdate``.

    The weights of a modality's update are the same in every round. The mean over the latent array goes to
    the heads. A modality that is not among the inputs is skipped, as in the paper. There the tokens
    are raw values with position codes; here, as for every net on these trunks, places of the last map.

    Args:
        modalities: any number, of any kinds; read in their order.
        heads: any number.
        width: factor on 64/128/256/512 channels.
        dropout: rate on the mean latent, in training only.
        latents: rows of the latent array.
        rounds: how often every modality is read.

    Raises:
        UserError: no rows or no rounds.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        heads: Sequence[Head],
        *,
        width: float = 1.0,
        dropout: float = 0.25,
        latents: int = 8,
        rounds: int = 2,
    ) -> None:
        super().__init__(modalities, heads, width, dropout)
        require_whole("HEALNet", latents=latents, rounds=rounds)
        features, self.rounds = self.widths[-1], rounds
        self.trunks = trunks(modalities, self.widths)
        self.latent = nn.Parameter(TOKEN_START * torch.randn(latents, features))
        self.updates = nn.ModuleDict({m.name: LatentUpdate(features) for m in modalities})
        self.norm = nn.LayerNorm(features)
        self.heads = linear_heads(heads, features)
        start_like_keras(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tokens = {n: as_tokens(of_one(inputs[n])) for n, of_one in self.trunks.items() if n in inputs}
        latent = self.latent.expand(len(next(iter(tokens.values()))), -1, -1)
        for _ in range(self.rounds):
            for name, read in tokens.items():
                latent = self.updates[name](latent, read)
        return self.answered(self.norm(latent.mean(1)))
