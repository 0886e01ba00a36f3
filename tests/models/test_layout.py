"""Somebody's convolutional net lies channels-last where its answers are the same, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import asks, takes
from torch import Tensor, nn

from robustbench_med.models.bound import Bound, look
from robustbench_med.models.load import load_model
from robustbench_med.models.wrap import Wrap

SLICE = takes({"slice": (3, 12, 12)})


class Rows(nn.Module):
    """Cares how its features lie: it cuts memory into rows."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.cut = nn.Conv2d(3, 8, 3, padding=1), cut
        self.head = nn.Linear(8 * 144, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cut(self.conv(x)))
        return out


def pooled(*between: nn.Module) -> nn.Module:
    last = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(nn.Conv2d(3, 8, 3), *between, *last)


def as_stored(x: Tensor) -> Tensor:
    return torch.as_strided(x, (len(x), 8 * 144), (8 * 144, 1))


NETS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "pooled": (pooled, True),
    "flattened": (lambda: Rows(lambda x: x.flatten(1)), True),
    "view across channels": (lambda: Rows(lambda x: x.view(len(x), -1)), False),
    "another order of memory": (lambda: Rows(as_stored), False),
    "dropout left on": (lambda: pooled(nn.Dropout()), False),
    "no convolution": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 4)), False),
    "script": (lambda: torch.jit.trace(pooled().eval(), torch.rand(2, 3, 12, 12)), False),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_layout_follows_the_net(name: str) -> None:
    make, channels_last = NETS[name]
    torch.manual_seed(0)
    net = make()
    net.train(name == "dropout left on")
    strides = [p.stride() for p in net.parameters()]
    sample = {"slice": torch.from_numpy(np.random.default_rng(0).random((5, 3, 12, 12), np.float32))}
    found = look(Wrap(net, mode="as-given"), SLICE, {"grade": (4,)}, sample)
    assert found.channels_last == channels_last
    model = found.bound(SLICE, asks({"grade": 4}, ("slice",)))
    assert isinstance(model, Bound)
    assert (model.net is not net) == channels_last or name == "script"
    assert [p.stride() for p in net.parameters()] == strides, "the net that was handed over is as it was"


def test_a_class_of_ones_own_lies_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "from robustbench_med.models.fusion import Concat\n"
        "class Usual(Concat):\n    channels_last = False\n"
        "class Last(Concat):\n    channels_last = True\n"
    )
    for name, last in (("Usual", False), ("Last", True)):
        model = load_model(f"{path}:{name}", options={"width": 1 / 32}).model
        kernels = [p for p in model.parameters() if p.dim() == 4]
        lying = [p.is_contiguous(memory_format=torch.channels_last) for p in kernels if min(p.shape) > 1]
        assert set(lying) == {last}
