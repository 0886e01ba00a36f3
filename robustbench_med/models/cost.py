"""What a forward pass costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.model import FusionModel


class _Counter(TorchDispatchMode):
    """torch's ``FlopCounterMode`` less its table by module, and less the second that importing the compiler
    takes, which is most of a small run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        given, count = dict(kwargs or {}), self._formula(func)
        out = func(*args, **given)
        if count is not None:
            self.operations += count(*args, **given, out_val=out)
        return out

    def _formula(self, func: Any) -> Callable[..., int] | None:
        return flop_registry.get(func._overloadpacket)


def multiply_accumulates(model: FusionModel, info: DatasetInfo) -> int:
    """Of one forward pass of one sample, as deployed: a defense that asks the net n times counts n times.

    Args:
        model: a fresh copy, since it is asked.
    """
    rows = model.least
    device = next(model.parameters(), torch.empty(0)).device
    sample = {
        m.name: torch.as_tensor(m.low, dtype=torch.float32, device=device).expand(rows, *m.shape).clone()
        for m in info.modalities
    }
    with _Counter() as counter, torch.no_grad():
        model(sample)
    return int(counter.operations) // 2 // rows
