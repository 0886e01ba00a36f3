"""Our networks against the outputs of the authors' released Keras classes.

Every fixture must agree to 1e-5 in float32 (1e-4 for the whole networks' input gradients,
relative to their largest entry).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from keras_weights import REFERENCE_DATA, Fixture, KerasLoader, network_blocks, recorded_draws
from tiny import asks, takes
from torch import Tensor, nn

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.api.randomness import RandomLayer
from robustbench_med.api.registry import Registry
from robustbench_med.defenses.projection_filters import randomized
from robustbench_med.models.layers import SameConv2d
from robustbench_med.models.mail import EMCAM, EMILA, ERLA, MAIL

TOLERANCE = 1e-5

defenses: Registry[Callable[..., Defense]] = Registry("defense", "robustbench_med.defenses")
attention_noise = defenses.get("attention-noise")
projection_filters = defenses.get("projection-filters")


class Bench(FusionModel):
    """A model of one block, so that defenses can be applied to the block alone."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__((), ())
        self.block = block

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def sites(self, hook: str) -> list[str]:
        return MAIL.sites(cast(MAIL, self), hook)


def agree(ours: Tensor, theirs: Tensor) -> None:
    error = (ours.detach() - theirs).abs().max().item()
    assert ours.shape == theirs.shape
    assert error < TOLERANCE, f"max abs error {error:.2e}"


@pytest.mark.parametrize(("case", "outputs", "stride"), [("s1", 32, 1), ("s2", 64, 2), ("s2odd", 64, 2)])
def test_emila(case: str, outputs: int, stride: int) -> None:
    fixture = Fixture("mail_emila")
    block = EMILA(32, outputs, stride, branch_norm=False).eval()
    KerasLoader(fixture).emila(block, case)
    agree(block(fixture.image(f"{case}.x")), fixture.image(f"{case}.y"))


@pytest.mark.parametrize(("case", "outputs", "stride"), [("plain", 32, 1), ("down", 64, 2)])
def test_erla(case: str, outputs: int, stride: int) -> None:
    fixture = Fixture("mail_erla")
    block = ERLA(32, outputs, stride, branch_norm=False).eval()
    KerasLoader(fixture).erla(block, case)
    agree(block(fixture.image(f"{case}.x")), fixture.image(f"{case}.y"))


@pytest.mark.parametrize(("case", "channels"), [("c32", 32), ("c48", 48)])
def test_emcam(case: str, channels: int) -> None:
    fixture = Fixture("mail_emcam")
    block = EMCAM(channels).eval()
    KerasLoader(fixture).emcam(block, case)
    x1, x2 = fixture.image(f"{case}.x1"), fixture.image(f"{case}.x2")
    agree(block.spectrum(x1), fixture.image(f"{case}.dct_x1"))
    agree(block.attention(x1, x2), fixture.image(f"{case}.attention"))
    for ours, name in zip(block(x1, x2), ("y1", "y2"), strict=True):
        agree(ours, fixture.image(f"{case}.{name}"))


@pytest.mark.parametrize(
    ("name", "case", "inputs", "outputs", "stride", "ratio"),
    [
        ("rmail_emila_man", "s1", 32, 32, 1, 0.0),
        ("rmail_emila_man", "s2", 32, 64, 2, 0.0),
        ("rmail_emila_rpf_man", "s1", 32, 64, 1, 0.25),
        ("rmail_emila_rpf_man", "s2", 64, 64, 2, 0.25),
    ],
)
def test_robust_emila(name: str, case: str, inputs: int, outputs: int, stride: int, ratio: float) -> None:
    fixture = Fixture(name)
    bench = Bench(EMILA(inputs, outputs, stride, branch_norm=True)).eval()
    projection_filters(ratio=ratio).apply(bench)
    block = bench.block
    assert isinstance(block, EMILA)
    attention_noise().apply(bench)
    bench.eval()
    KerasLoader(fixture).emila(block, case)
    bench.noise.recorded = recorded_draws(fixture, {"block": case})
    agree(block(fixture.image(f"{case}.x")), fixture.image(f"{case}.y"))


def test_robust_emcam() -> None:
    fixture = Fixture("rmail_emcam_man")
    bench = Bench(EMCAM(32))
    attention_noise().apply(bench)
    bench.eval()
    block = bench.block
    assert isinstance(block, EMCAM)
    KerasLoader(fixture).emcam(block, "c32")
    bench.noise.recorded = recorded_draws(fixture, {"block": "c32"})
    ours = block(fixture.image("c32.x1"), fixture.image("c32.x2"))
    for y, name in zip(ours, ("y1", "y2"), strict=True):
        agree(y, fixture.image(f"c32.{name}"))


def frozen(layer: RandomLayer, kernels: Tensor) -> RandomLayer:
    layer.noise.recorded = {".kernel": kernels}
    return layer


@pytest.mark.parametrize(
    ("case", "outputs", "kernel", "stride", "groups", "count"),
    [
        ("gpc_s1", 64, 1, 1, 16, 16),
        ("gpc_s2", 64, 1, 2, 16, 32),
        ("dw3_s1", 32, 3, 1, 32, 8),
        ("dw3_s2", 32, 3, 2, 32, 8),
        ("dw5_s2", 32, 5, 2, 32, 16),
    ],
)
def test_appended_filters(case: str, outputs: int, kernel: int, stride: int, groups: int, count: int) -> None:
    fixture = Fixture("rmail_rpf")
    depthwise = kernel > 1
    layer = randomized(SameConv2d(32, outputs, kernel, stride, groups), count)
    KerasLoader(fixture).conv(layer, f"{case}.train", depthwise)
    frozen(layer, fixture.kernel(f"{case}.rand.kernel", depthwise))
    agree(layer(fixture.image(f"{case}.x")), fixture.image(f"{case}.y"))


def test_replaced_filters_grouped() -> None:
    fixture = Fixture("rmail_rpf")
    layer = randomized(SameConv2d(32, 64, 1, 2, 16), 16, "replaced")
    KerasLoader(fixture).conv(layer, "v1_gpc_s2.train")
    per_group = fixture.array("v1_gpc_s2.rand_per_group.kernel")  # (group, 1, 1, inputs, 1)
    kernels = torch.zeros(16, 4, 2, 1, 1)
    kernels[:, 3] = per_group.permute(0, 4, 3, 1, 2)[:, 0]
    frozen(layer, kernels.view(64, 2, 1, 1))
    agree(layer(fixture.image("v1_gpc_s2.x")), fixture.image("v1_gpc_s2.y"))


def test_replaced_filters_depthwise() -> None:
    fixture = Fixture("rmail_rpf")
    layer = randomized(SameConv2d(32, 32, 3, 2, 32), 8, "replaced")
    KerasLoader(fixture).conv(layer, "v1_dw3_s2.train", depthwise=True)
    frozen(layer, fixture.kernel("v1_dw3_s2.rand_full.kernel", depthwise=True))
    agree(layer(fixture.image("v1_dw3_s2.x")), fixture.image("v1_dw3_s2.y"))


@pytest.mark.parametrize("robust", [False, True])
def test_whole_network(robust: bool) -> None:
    name = "rmail_full_w025_64" if robust else "mail_full_w025_64"
    if not (REFERENCE_DATA / "fixtures" / f"{name}.npz").exists():
        pytest.skip(f"the reference data folder has no fixtures/{name}.npz (see CONTRIBUTING.md)")
    fixture = Fixture(name)
    modalities, heads = takes({"one": 3, "two": 3}), asks({"head1": 5, "head2": 7})
    model = MAIL(modalities, heads, width=0.25, branch_norm=robust)
    if robust:
        projection_filters(ratio=0.0).apply(model)
        attention_noise(std=0.6).apply(model)
    model.eval()
    KerasLoader(fixture).mail(model)
    model.noise.recorded = recorded_draws(fixture, network_prefixes(model))
    inputs = {"one": fixture.image("x1").requires_grad_(), "two": fixture.image("x2").requires_grad_()}
    logits = model(inputs)
    agree(logits["head1"], fixture.array("logits1"))
    agree(logits["head2"], fixture.array("logits2"))
    labels = fixture.array("label1"), fixture.array("label2")
    loss = F.cross_entropy(logits["head1"], labels[0]) + F.cross_entropy(logits["head2"], labels[1])
    agree(loss.view(1), fixture.array("loss").view(1))
    for ours, name in zip(torch.autograd.grad(loss, list(inputs.values())), ("x1", "x2"), strict=True):
        theirs = fixture.image(f"grad_{name}")
        agree(ours / theirs.abs().max(), theirs / theirs.abs().max())


def network_prefixes(model: MAIL) -> dict[str, str]:
    names = {module: name for name, module in model.named_modules()}
    prefixes: dict[str, str] = {}
    for block, prefix in network_blocks(model):
        if isinstance(block, ERLA):
            prefixes[f"{names[block]}.first"] = f"{prefix}.emila1"
            prefixes[f"{names[block]}.second"] = f"{prefix}.emila2"
        else:
            prefixes[names[block]] = prefix
    return prefixes
