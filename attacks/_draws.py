"""Draws of a library, made to follow the samples: whatever it draws for a batch, it draws row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Fill = Callable[[Tensor, torch.Generator, tuple[Any, ...], Mapping[str, Any]], Any]

# How a row is drawn again, by the function of torch that drew the whole.
FILLS: Mapping[Callable[..., Any], Fill] = {
    torch.rand: lambda row, stream, _, __: row.uniform_(generator=stream),
    torch.rand_like: lambda row, stream, _, __: row.uniform_(generator=stream),
    torch.randn: lambda row, stream, _, __: row.normal_(generator=stream),
    torch.randn_like: lambda row, stream, _, __: row.normal_(generator=stream),
    Tensor.uniform_: lambda row, stream, given, named: row.uniform_(*given[1:], **named, generator=stream),
    Tensor.normal_: lambda row, stream, given, named: row.normal_(*given[1:], **named, generator=stream),
}


class RowDraws(TorchFunctionMode):
    """Gives every row of what torch draws for as many rows a stream of its own.

    What is drawn once for all rows comes from torch's own generator, as always.

    Args:
        seeds: of the rows.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        named = dict(kwargs or {})
        out = func(*args, **named)
        fill = FILLS.get(func)
        if fill is None or named.get("generator") is not None or not self._is_of_rows(out):
            return out
        with torch.no_grad():
            for row, stream in zip(out, self._streams, strict=True):
                drawn = torch.empty(row.shape, dtype=row.dtype)
                fill(drawn, stream, args, named)
                row.copy_(drawn)
        return out

    def _is_of_rows(self, out: object) -> bool:
        return isinstance(out, Tensor) and out.dim() > 0 and len(out) == len(self._streams)
