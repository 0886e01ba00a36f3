"""Reads the released Keras weights of ``fixtures/`` into our modules. Names: fixtures/README.md."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_med.models.layers import Stem
from robustbench_med.models.mail import EMCAM, EMILA, ERLA, MAIL, ChannelGate

REFERENCE_DATA = Path(os.environ.get("ROBMED_REFERENCE_DATA", Path(__file__).parents[3] / "shared"))
BRANCHES = ("gpc", "dw3", "dw5")


class Fixture:
    """One .npz of the released classes' weights, inputs, draws and outputs."""

    def __init__(self, name: str) -> None:
        path = Path(__file__).parent / "fixtures" / f"{name}.npz"
        if not path.exists():
            path = REFERENCE_DATA / "fixtures" / f"{name}.npz"
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays: dict[str, NDArray[Any]] = dict(arrays)

    def image(self, name: str) -> Tensor:
        """NHWC to NCHW."""
        return torch.from_numpy(self.arrays[name].transpose(0, 3, 1, 2).copy())

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name].copy())

    def kernel(self, name: str, depthwise: bool) -> Tensor:
        """HWIO (or depthwise HWC1) to OIHW."""
        axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        return torch.from_numpy(self.arrays[name].transpose(axes).copy())


class KerasLoader:
    """Copies a fixture's weights into modules, by prefix."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture

    def conv(self, module: nn.Module, prefix: str, depthwise: bool = False) -> None:
        conv = module.get_submodule("trained") if hasattr(module, "trained") else module
        assert isinstance(conv, nn.Conv2d)
        _copy(conv.weight, self.fixture.kernel(f"{prefix}.kernel", depthwise))
        if conv.bias is not None:
            _copy(conv.bias, self.fixture.array(f"{prefix}.bias"))

    def dense(self, module: nn.Module, prefix: str) -> None:
        assert isinstance(module, nn.Linear)
        _copy(module.weight, self.fixture.array(f"{prefix}.kernel").T)
        _copy(module.bias, self.fixture.array(f"{prefix}.bias"))

    def norm(self, module: nn.Module, prefix: str) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        _copy(module.weight, self.fixture.array(f"{prefix}.gamma"))
        _copy(module.bias, self.fixture.array(f"{prefix}.beta"))
        _copy(module.running_mean, self.fixture.array(f"{prefix}.moving_mean"))
        _copy(module.running_var, self.fixture.array(f"{prefix}.moving_variance"))

    def emila(self, module: EMILA, prefix: str) -> None:
        for name, branch, norm in zip(BRANCHES, module.branches, module.branch_norms, strict=True):
            self.conv(branch, f"{prefix}.{name}", depthwise=name != "gpc")
            if isinstance(norm, nn.BatchNorm2d):
                self.norm(norm, f"{prefix}.bn_{name}")
        self.conv(module.fuse, f"{prefix}.fuse")
        self.norm(module.fuse_norm, f"{prefix}.bn_fuse")
        self.conv(module.project, f"{prefix}.proj")
        self.norm(module.project_norm, f"{prefix}.bn_proj")
        self.gate(module.gate, prefix)

    def gate(self, module: nn.Module, prefix: str) -> None:
        if not isinstance(module, ChannelGate):
            _copy(module.get_buffer("channel_weight"), self.fixture.array(f"{prefix}.channel_noise_weight"))
            _copy(module.get_buffer("spatial_weight"), self.fixture.array(f"{prefix}.spatial_noise_weight"))
            module = module.get_submodule("gate")
        assert isinstance(module, ChannelGate)
        self.dense(module.squeeze, f"{prefix}.fc1")
        self.dense(module.excite, f"{prefix}.fc2")
        _copy(module.scale, self.fixture.array(f"{prefix}.global_scale"))

    def erla(self, module: ERLA, prefix: str) -> None:
        self.emila(module.first, f"{prefix}.emila1")
        self.emila(module.second, f"{prefix}.emila2")
        self.norm(module.middle_norm, f"{prefix}.bn_mid")
        self.conv(module.pointwise, f"{prefix}.pw")
        self.norm(module.pointwise_norm, f"{prefix}.bn_pw")
        if isinstance(module.shortcut, nn.Sequential):
            self.conv(module.shortcut[0], f"{prefix}.short")
            self.norm(module.shortcut[1], f"{prefix}.bn_short")

    def emcam(self, module: EMCAM, prefix: str) -> None:
        self.dense(module.frequency_dense, f"{prefix}.freq_dense")
        for attribute, name in {
            "high_scale": "mod_high",
            "low_scale": "mod_low",
            "mean_scale": "mod_mean",
            "global_scale": "global_scale",
            "local_scale1": "local_scale1",
            "local_scale2": "local_scale2",
            "out_scale1": "alpha_out1",
            "out_scale2": "alpha_out2",
        }.items():
            _copy(getattr(module, attribute), self.fixture.array(f"{prefix}.{name}"))
        self.conv(module.grouped, f"{prefix}.gpc")
        self.conv(module.depthwise3, f"{prefix}.dw3", depthwise=True)
        self.conv(module.depthwise5, f"{prefix}.dw5", depthwise=True)
        self.conv(module.fuse, f"{prefix}.fuse")
        if not isinstance(module.attention_map, nn.Identity):
            _copy(
                module.attention_map.get_parameter("weight"),
                self.fixture.array(f"{prefix}.spatial_noise_weight"),
            )

    def mail(self, model: MAIL) -> None:
        for m, stem in enumerate(model.stems, 1):
            assert isinstance(stem, Stem)
            self.conv(stem.conv, f"m{m}.stem.conv")
            self.norm(stem.norm, f"m{m}.stem.bn")
        for module, prefix in network_blocks(model):
            self.erla(module, prefix) if isinstance(module, ERLA) else self.emcam(module, prefix)
        for number, head in enumerate(model.heads.values(), 1):
            self.dense(head, f"head{number}")


def network_blocks(model: MAIL) -> Iterator[tuple[ERLA | EMCAM, str]]:
    """Every block of a whole network with its name in the fixtures."""
    for s, stage in enumerate(model.stages, 1):
        for m, trunk in enumerate(stage.get_submodule("trunks").children(), 1):
            blocks = [block for block in trunk.children() if isinstance(block, ERLA)]
            for b, block in enumerate(blocks, 1):
                yield block, f"m{m}.s{s}.b{b}"
        fusion = stage.get_submodule("fusion")
        assert isinstance(fusion, EMCAM)
        yield fusion, f"s{s}.emcam"


def recorded_draws(fixture: Fixture, modules: Mapping[str, str]) -> dict[str, Tensor]:
    """The fixture's draws, keyed as the model's random layers ask for them.

    Args:
        modules: for each dotted module name  (EMILA or EMCAM) its fixture prefix.
    """
    draws: dict[str, Tensor] = {}
    for site, prefix in modules.items():
        if f"{prefix}.channel_noise" in fixture.arrays:
            draws[f"{site}.gate.channel"] = fixture.array(f"{prefix}.channel_noise")
            draws[f"{site}.gate.spatial"] = fixture.image(f"{prefix}.spatial_noise")
        elif f"{prefix}.spatial_noise" in fixture.arrays:
            draws[f"{site}.attention_map.spatial"] = fixture.image(f"{prefix}.spatial_noise")
        for number, name in enumerate(BRANCHES):
            if f"{prefix}.{name}_rand.kernel" in fixture.arrays:
                kernel = fixture.kernel(f"{prefix}.{name}_rand.kernel", depthwise=name != "gpc")
                draws[f"{site}.branches.{number}.kernel"] = kernel
    return draws


def _copy(target: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        target.copy_(values)
