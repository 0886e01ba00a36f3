"""Models and defenses: shapes, where randomness comes from, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from narrow import DEFENSES, NARROW, TWO, images, mail
from tiny import CHANNELS, CLASSES, ConvNet, asks, random_split, seeded, takes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.randomness import NoiseSource
from robustbench_med.models.cost import multiply_accumulates
from robustbench_med.models.drifa import DRIFA
from robustbench_med.models.fusion import Concat
from robustbench_med.models.layers import conv2d_same
from robustbench_med.models.mail import MAIL
from robustbench_med.models.named import build_model, model_config
from robustbench_med.models.trunks import scaled_widths
from robustbench_med.util.errors import UserError

NOISE: tuple[str, dict[str, Any]] = ("attention-noise", {})
FILTERS: tuple[str, dict[str, Any]] = ("projection-filters", {"ratio": 0.25})


@pytest.mark.parametrize("model_class", [MAIL, Concat])
@pytest.mark.parametrize("size", [(28, 28), (32, 32), (33, 47), (65, 64), (224, 224)])
def test_image_sizes(model_class: Callable[..., FusionModel], size: tuple[int, int]) -> None:
    model = model_class(takes(TWO), asks(CLASSES), width=NARROW).eval()
    with torch.inference_mode():
        logits = model(images(TWO, size))
    assert {task: tuple(x.shape) for task, x in logits.items()} == {"first": (2, 2), "second": (2, 3)}
    assert all(torch.isfinite(x).all() for x in logits.values())


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 2), (4, 4)])
def test_leaving_out_taps_that_meet_only_padding_changes_no_value(kernel: int, size: tuple[int, int]) -> None:
    stream = torch.Generator().manual_seed(0)
    x, bias = torch.rand(3, 4, *size, generator=stream), torch.rand(6, generator=stream)
    kernels = torch.randn(6, 2, kernel, kernel, generator=stream)
    whole, cropped = (conv2d_same(x, kernels, bias, crop=crop) for crop in (False, True))
    torch.testing.assert_close(cropped, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_class", [MAIL, Concat])
@pytest.mark.parametrize("channels", [{"a": 1, "b": 1}, {"a": 7, "b": 2}])
@pytest.mark.parametrize("classes", [{"only": 2}, {"a": 11, "b": 2, "c": 5}])
def test_channels_and_heads(
    model_class: Callable[..., FusionModel], channels: dict[str, int], classes: dict[str, int]
) -> None:
    model = model_class(takes(channels), asks(classes), width=NARROW).eval()
    logits = model(images(channels))
    assert {task: x.shape[1] for task, x in logits.items()} == classes
    reversed_ = dict(reversed(images(channels).items()))
    for task, x in model(reversed_).items():
        assert torch.equal(x, logits[task]), "modalities are taken by position instead of by name"


@pytest.mark.parametrize("channels", [{"a": 1}, {"a": 1, "b": 2, "c": 3}])
def test_mail_is_for_pairs(channels: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"exactly two images.*defined for a pair"):
        MAIL(takes(channels), asks(CLASSES), width=NARROW)
    logits = Concat(takes(channels), asks(CLASSES), width=NARROW).eval()(images(channels))
    assert logits.keys() == CLASSES.keys()


@pytest.mark.parametrize("width", [1 / 32, 3 / 32, 0.1875, 0.25])
def test_narrow_widths(width: float) -> None:
    assert scaled_widths(width) == tuple(round(w * width) for w in (64, 128, 256, 512))
    assert MAIL(takes(TWO), asks(CLASSES), width=width).eval()(images(TWO))["first"].shape == (2, 2)


@pytest.mark.parametrize("width", [0, -1, 1 / 64, 0.1, float("nan")])
def test_impossible_widths(width: float) -> None:
    with pytest.raises(UserError, match="choose a multiple of 1/32"):
        scaled_widths(width)


@pytest.mark.parametrize("width", [17, 1e9, float("inf")])
def test_vast_widths(width: float) -> None:
    with pytest.raises(UserError, match="more than 16 times the usual 512 channels"):
        scaled_widths(width)


@pytest.mark.parametrize("rate", [1, 2, -0.5, float("nan"), True])
@pytest.mark.parametrize("model_class", [MAIL, Concat, DRIFA])
def test_a_share_that_cannot_be_dropped(model_class: Callable[..., FusionModel], rate: float) -> None:
    with pytest.raises(UserError, match="it must be a number from 0 on and below 1"):
        model_class(takes(TWO), asks(CLASSES), width=NARROW, dropout=rate)


@pytest.mark.parametrize("model_class", [MAIL, Concat])
def test_every_modality_and_parameter_matters(model_class: Callable[..., FusionModel]) -> None:
    model = mail() if model_class is MAIL else Concat(takes(TWO), asks(CLASSES), width=NARROW).eval()
    inputs = {name: x.requires_grad_() for name, x in images(TWO).items()}
    model.requires_grad_(True)
    torch.stack([x.pow(2).sum() for x in model(inputs).values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in inputs.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def changes(model: FusionModel) -> bool:
    """Whether two passes of the same images differ."""
    inputs = images(TWO)
    return not torch.equal(model(inputs)["first"], model(inputs)["first"])


def test_dropout_left_on_at_inference() -> None:
    assert mail().draws_shared_by == "none"
    assert not changes(mail())
    random = mail(inference_dropout=True)
    assert random.draws_shared_by == "element"
    assert changes(random)
    off = mail(inference_dropout=True, dropout=0.0)
    assert off.draws_shared_by == "none"
    assert not changes(off)


RANDOM = {
    "dropout": lambda: mail(inference_dropout=True),
    "noise": lambda: mail(NOISE),
    "filters": lambda: mail(FILTERS),
    "both": lambda: mail(FILTERS, NOISE),
    "replaced": lambda: mail(("projection-filters", {"layout": "replaced"})),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_noise_source_decides_everything(name: str) -> None:
    model, inputs = RANDOM[name](), images(TWO)
    model.noise.reseed(3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = model(inputs)["first"], model(inputs)["first"]
    assert torch.equal(torch.get_rng_state(), state), "a layer drew from torch's global generator"
    assert not torch.equal(first, second)
    model.noise.reseed(3)
    assert torch.equal(model(inputs)["first"], first)
    assert torch.equal(model(inputs)["first"], second)
    model.noise.reseed(4)
    assert not torch.equal(model(inputs)["first"], first)
    model.noise.scale = 0.0
    assert not changes(model)


@pytest.mark.parametrize(("name", "shared"), [("noise", "element"), ("filters", "batch"), ("both", "batch")])
def test_what_a_draw_is_shared_by(name: str, shared: str) -> None:
    """Two equal samples in one batch come out equal only if they share the draw."""
    model = RANDOM[name]()
    assert model.draws_shared_by == shared
    twins = {modality: x[:1].repeat(2, 1, 1, 1) for modality, x in images(TWO).items()}
    one, other = model(twins)["first"]
    assert torch.allclose(one, other, atol=1e-6) == (name == "filters")
    assert changes(model)


@pytest.mark.parametrize(
    "off", [("attention-noise", {"std": 0.0}), ("projection-filters", {"ratio": 0.0})], ids=lambda d: d[0]
)
def test_defenses_of_size_zero_are_deterministic(off: tuple[str, dict[str, Any]]) -> None:
    model = mail(off)
    assert model.draws_shared_by == "none"
    assert not changes(model)
    if off[0] == "projection-filters":
        assert torch.equal(model(images(TWO))["first"], mail()(images(TWO))["first"])


@pytest.mark.parametrize(
    ("defense", "options", "complaint"),
    [
        ("attention-noise", {"std": -1}, "must be 0 or more"),
        ("projection-filters", {"ratio": 1.0}, r"must be in \[0, 1\)"),
        ("projection-filters", {"ratio": -0.1}, r"must be in \[0, 1\)"),
    ],
)
def test_impossible_parameters(defense: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        mail((defense, options))


@pytest.mark.parametrize(
    ("defense", "hook"), [("attention-noise", "channel-gate"), ("projection-filters", "convolution")]
)
def test_a_model_without_the_hook_is_refused(defense: str, hook: str) -> None:
    with pytest.raises(UserError) as error:
        DEFENSES.get(defense)().apply(seeded(ConvNet, CHANNELS, CLASSES))
    said = f"the defense {defense!r} needs the hook {hook!r}, which ConvNet does not offer"
    assert said in str(error.value)


def test_filters_fit_any_model_with_convolutions() -> None:
    model = Concat(takes(TWO), asks(CLASSES), width=NARROW)
    DEFENSES.get("projection-filters")().apply(model)
    assert model.eval().draws_shared_by == "batch"
    assert changes(model)


def input_gradient(model: FusionModel) -> tuple[Tensor, Tensor]:
    inputs = {name: x.requires_grad_() for name, x in images(TWO).items()}
    model.noise.reseed(0)
    logits = model(inputs)["first"]
    return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), inputs["x"])[0]


def test_straight_through_changes_gradients_only() -> None:
    honest = input_gradient(mail(("attention-noise", {"straight_through": False})))
    straight = input_gradient(mail(("attention-noise", {"straight_through": True})))
    torch.testing.assert_close(honest[0], straight[0])
    assert not torch.allclose(honest[1], straight[1])


def test_noise_has_the_size_it_is_asked_for() -> None:
    source, like = NoiseSource(), torch.zeros(1)
    draw = source.normal("x", (20000,), 0.6, like)
    assert draw.std().item() == pytest.approx(0.6, rel=0.03)
    source.scale = 0.5
    assert source.normal("x", (20000,), 0.6, like).std().item() == pytest.approx(0.3, rel=0.03)
    source.scale = 1.0
    assert source.keep(torch.Size((20000,)), 0.9, like).mean().item() == pytest.approx(0.9, abs=0.01)
    source.recorded = {"x": torch.ones(3)}
    assert torch.equal(source.normal("x", (3,), 0.6, like), torch.ones(3))


def test_the_noise_off_twin_of_inference_dropout_is_the_net_without_it() -> None:
    net, plain = mail(inference_dropout=True), mail()
    net.noise.scale = 0.0
    for task, logits in net(images(TWO)).items():
        assert torch.equal(logits, plain(images(TWO))[task])


@pytest.mark.parametrize(("size", "millions"), [(128, 657), (64, 168)])
def test_multiply_accumulates_of_the_whole_mail(size: int, millions: float) -> None:
    """Of the full width, against a count made on the released Keras model (657 M and 168 M)."""
    modalities, heads = takes({"x": (3, size, size), "y": (3, size, size)}), asks({"first": 5, "second": 7})
    net = MAIL(modalities, heads).eval()
    info = DatasetInfo("d", "d", "paired", modalities, heads, "none", "none", True)
    assert multiply_accumulates(net, info) / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("name", ["concat", "mail", "bottleneck", "healnet", "mmtm", "low-rank"])
def test_multiply_accumulates_are_those_of_torchs_own_counter(name: str, phantom: Split) -> None:
    """With attention, which is no layer of its own, among them."""
    net = build_model(model_config(name).with_options({"width": NARROW}), phantom.info).eval()
    sample = {m.name: torch.zeros(1, *m.shape) for m in phantom.info.modalities}
    net.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(sample)
    assert multiply_accumulates(net, phantom.info) == counter.get_total_flops() // 2 > 0


def test_multiply_accumulates_count_every_pass_of_a_wrapper() -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    info = random_split().info
    once = multiply_accumulates(net, info)
    DEFENSES.get("randomized-smoothing")(sigma=0.1, n=3).apply(net)
    assert multiply_accumulates(net, info) == 3 * once > 0
