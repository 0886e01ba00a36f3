"""Nets of transformers and MONAI as they come: the number is that of a bare loop.

transformers needs an environment of its own (CONTRIBUTING.md); what cannot be imported is skipped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med import evaluate

pytestmark = pytest.mark.usefixtures("no_pictures")

EPSILON = 0.05


def imported(module: str, *names: str) -> list[Any]:
    """Names of a library that may be missing, or not go with the torch that there is."""
    try:
        found = importlib.import_module(module)
        return [getattr(found, name) for name in names]
    except (ImportError, RuntimeError) as error:  # the latter of a torchvision for another torch
        pytest.skip(f"{module} cannot be used here: {' '.join(str(error).split())[:120]}")


def vit() -> nn.Module:
    config, net = imported("transformers", "ViTConfig", "ViTForImageClassification")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made: nn.Module = net(config(**small, image_size=16, patch_size=8, num_labels=3, initializer_range=0.3))
    return made


def resnet() -> nn.Module:
    config, net = imported("transformers", "ResNetConfig", "ResNetForImageClassification")
    small = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    made: nn.Module = net(config(**small, num_labels=3))
    return made


def densenet(axes: int) -> nn.Module:
    (net,) = imported("monai.networks.nets", "DenseNet")
    small = {"init_features": 4, "growth_rate": 4, "block_config": (1, 1)}
    made: nn.Module = net(spatial_dims=axes, in_channels=1, out_channels=3, **small)
    return made


NETS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a vision transformer": (vit, (3, 16, 16)),
    "a residual net": (resnet, (3, 32, 32)),
    "MONAI's 2-D DenseNet": (lambda: densenet(2), (1, 32, 32)),
    "MONAI's 3-D DenseNet": (lambda: densenet(3), (1, 32, 32, 32)),
}


def answer(net: nn.Module, x: Tensor) -> Tensor:
    found = net(x)
    out: Tensor = getattr(found, "logits", found)
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_the_number_is_that_of_a_bare_loop(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = make().eval().requires_grad_(False)
    x = 0.2 + 0.6 * torch.rand(12, *shape)
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    last.bias.data -= answer(net, x).mean(0)  # an untrained net prefers one class
    labels = answer(net, x).argmax(1)
    given = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(answer(net, given), labels, reduction="sum"), given)
    moved = answer(net, (x + EPSILON * slope.sign()).clamp(0, 1))
    result = evaluate(net, (x, labels), "fgsm", eps=EPSILON, out=str(tmp_path))
    found = result.accuracy["label"]
    assert found.clean.value == 1
    assert found.robust.value == pytest.approx(float((moved.argmax(1) == labels).float().mean()))
    assert found.robust.value < 1
