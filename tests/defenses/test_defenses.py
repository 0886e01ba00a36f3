"""Defenses: known values, gradients with and without BPDA, and where their draws come from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Robmed
from narrow import NARROW, TWO, images, mail
from PIL import Image
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    ConvNet,
    asks,
    batch_of,
    labelled_by,
    random_split,
    seeded,
    takes,
    target_of,
    threat_of,
)
from torch import Tensor, nn

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel, straight_through
from robustbench_med.api.registry import Registry
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.models.fusion import Concat
from robustbench_med.models.load import load_model
from robustbench_med.models.mail import MAIL
from robustbench_med.models.named import DefenseConfig, ModelConfig
from robustbench_med.studies.run import run
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.seeding import derive

DEFENSES: Registry[Callable[..., Defense]] = Registry("defense", "robustbench_med.defenses")


class Pixels(FusionModel):
    """Logits are the pixels themselves, so that what a defense does to images can be read off."""

    def __init__(self, channels: Mapping[str, int] = CHANNELS) -> None:
        super().__init__(takes(channels), asks(CLASSES))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: inputs[name].flatten(1) for task, name in zip(CLASSES, CHANNELS, strict=True)}


class Hidden(FusionModel):
    """A pixel-wise net with dropout in two places, one layer used in both."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__(takes(CHANNELS), asks(CLASSES))
        self.dropout = nn.Dropout(rate)
        self.trunk = nn.Sequential(self.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"first": self.trunk(inputs["a"]).flatten(1), "second": self.dropout(inputs["b"]).flatten(1)}


def defended(model: FusionModel, *defenses: tuple[str, dict[str, Any]]) -> FusionModel:
    for name, options in defenses:
        DEFENSES.get(name)(**options).apply(model)
    return model.eval().requires_grad_(False)


def pixels(*defenses: tuple[str, dict[str, Any]]) -> FusionModel:
    return defended(Pixels(), *defenses)


def specks(samples: int = 3, height: int = 6, width: int = 8) -> dict[str, Tensor]:
    """Random images with values over the whole of [0, 1]."""
    stream = torch.Generator().manual_seed(1)
    return {n: torch.rand(samples, c, height, width, generator=stream) for n, c in CHANNELS.items()}


def seen(model: FusionModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Images as the net behind ``Pixels`` sees them, when their size stays."""
    outputs = list(model(inputs).values())
    return {name: out.view_as(inputs[name]) for name, out in zip(CHANNELS, outputs, strict=True)}


# Values


def test_gaussian_noise_has_its_size_and_is_not_clipped() -> None:
    inputs = specks(20, 40, 40)
    noisy = seen(pixels(("gaussian-noise", {"sigma": 0.3})), inputs)
    noise = {name: noisy[name] - inputs[name] for name in inputs}
    for n in noise.values():
        assert n.std().item() == pytest.approx(0.3, rel=0.02)
        assert n.mean().item() == pytest.approx(0, abs=0.01)
    assert noisy["a"].min() < 0
    assert noisy["a"].max() > 1
    flat = torch.stack([noise["a"][:, 0].flatten(), noise["b"][:, 0].flatten()])
    assert abs(torch.corrcoef(flat)[0, 1].item()) < 0.03, "the modalities share their noise"


@pytest.mark.parametrize(
    ("bits", "value", "rounded"),
    [(1, 0.49, 0), (1, 0.51, 1), (3, 0.2, 1 / 7), (3, 1, 1), (8, 0.5, 128 / 255)],
)
def test_bit_depth_by_hand(bits: int, value: float, rounded: float) -> None:
    inputs = {name: torch.full_like(x, value) for name, x in specks().items()}
    for x in seen(pixels(("bit-depth", {"bits": bits})), inputs).values():
        torch.testing.assert_close(x, torch.full_like(x, rounded))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("quality", [5, 75])
def test_jpeg_is_pillows(channels: int, quality: int) -> None:
    stream = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(2, channels, 3, 4, generator=stream), (17, 24), mode="bilinear")
    model = Pixels({"a": channels, "b": channels})
    found = seen(defended(model, ("jpeg", {"quality": quality})), {"a": x, "b": x})["a"]

    def through_pillow(grey_or_rgb: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray((grey_or_rgb * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(file))) / 255

    for image, compressed in zip(x, found, strict=True):
        if channels == 3:
            expected = through_pillow(image.permute(1, 2, 0)).permute(2, 0, 1)
        else:
            expected = torch.stack([through_pillow(channel) for channel in image])
        assert torch.equal(compressed, expected)
    assert 0 < (found - x).abs().mean() < (0.2 if quality == 5 else 0.03)


def test_jpeg_keeps_a_grey_image_and_clips_what_has_no_grey_level() -> None:
    model = pixels(("jpeg", {}))
    grey = {name: torch.full_like(x, 128 / 255) for name, x in specks().items()}
    assert all(torch.equal(x, grey[name]) for name, x in seen(model, grey).items())
    beyond = {name: torch.full_like(x, 1.7) for name, x in grey.items()}
    assert all((x == 1).all() for x in seen(model, beyond).values())


def test_resize_pad_resizes_and_places_at_random() -> None:
    x = {name: image + 0.1 for name, image in specks(2, 10, 15).items()}
    model, found = pixels(("resize-pad", {"low": 0.6, "high": 1.2})), set()
    for _ in range(300):
        padded = model(x)["first"].view(2, 1, 12, 18)
        rows, columns = (padded[0, 0] != 0).any(1), (padded[0, 0] != 0).any(0)
        top, height = int(rows.nonzero()[0]), int(rows.sum())
        left, width = int(columns.nonzero()[0]), int(columns.sum())
        inside = padded[:, :, top : top + height, left : left + width]
        assert width == round(1.5 * height)
        # Both samples of the batch, by the same draw.
        assert torch.equal(inside, F.interpolate(x["a"], (height, width), mode="nearest"))
        assert padded.count_nonzero() == inside.numel()
        found.add((top, left, height))
    assert {height for _, _, height in found} == set(range(6, 12))
    assert {top for top, _, height in found if height == 6} == set(range(7))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (32, 32), (299, 299), (7, 100), (100, 7)])
@pytest.mark.parametrize("options", [{}, {"low": 310 / 299, "high": 331 / 299}, {"low": 0.1, "high": 0.2}])
def test_resize_pad_of_any_size(size: tuple[int, int], options: dict[str, float]) -> None:
    model = pixels(("resize-pad", options))
    expected = [max(round(options.get("high", 1.0) * side), 1) for side in size]
    for _ in range(20):
        assert model(specks(1, *size))["first"].numel() == expected[0] * expected[1]
    if size == (299, 299) and options.get("high", 0) > 1:
        assert expected == [331, 331]


def test_resize_pad_keeps_the_size_unless_told_otherwise() -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    assert defended(net, ("resize-pad", {}))(specks())["first"].shape == (3, 2)
    assert seen(pixels(("resize-pad", {})), specks())["a"].shape == (3, 1, 6, 8)


@pytest.mark.parametrize(("rate", "share"), [(None, 0.5), (0.2, 0.2)])
def test_inference_dropout_drops_its_share(rate: float | None, share: float) -> None:
    inputs = {name: torch.ones(20, c, 40, 40) for name, c in CHANNELS.items()}
    model = defended(Hidden(), ("inference-dropout", {"rate": rate}))
    first, second = model(inputs).values()
    for x in (first, second):
        assert (x == 0).float().mean().item() == pytest.approx(share, abs=0.02)
        torch.testing.assert_close(x[x > 0], torch.full_like(x[x > 0], 1 / (1 - share)))
    assert not torch.equal(first[:, :1600], second[:, :1600]), "one layer in two places drew once"


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_inference_dropout_finds_the_layers_of_the_models_that_ship(dropout: float) -> None:
    for net in (
        mail(dropout=dropout),
        Concat(takes(TWO), asks(CLASSES), width=NARROW, dropout=dropout).eval(),
    ):
        if dropout == 0:
            with pytest.raises(UserError, match="needs dropout layers"):
                defended(net, ("inference-dropout", {}))
            continue
        before = net.state_dict().keys()
        random = defended(net, ("inference-dropout", {"rate": 0.4}))
        assert random.draws_shared_by == "element"
        assert random.state_dict().keys() == before
        one, other = (random(images(TWO))["first"] for _ in range(2))
        assert not torch.equal(one, other)


def test_inference_dropout_is_mails_own_option() -> None:
    as_option, as_defense = mail(inference_dropout=True), defended(mail(), ("inference-dropout", {}))
    for model in (as_option, as_defense):
        model.noise.reseed(5)
    expected = as_option(images(TWO))
    for task, logits in as_defense(images(TWO)).items():
        assert torch.equal(logits, expected[task])


def test_logit_averaging_is_the_mean_over_its_recorded_draws() -> None:
    noise: tuple[str, dict[str, Any]] = ("gaussian-noise", {"sigma": 0.3})
    averaged, random = pixels(noise, ("logit-averaging", {"draws": 3, "seed": 7})), pixels(noise)
    passes = []
    for draw in range(3):
        with random.noise.frozen(derive(7, "logit-averaging", draw)):
            passes.append(random(specks())["first"])
    torch.testing.assert_close(averaged(specks())["first"], torch.stack(passes).mean(0))
    assert not torch.equal(passes[0], passes[1])
    other = pixels(noise, ("logit-averaging", {"draws": 3, "seed": 8}))
    assert not torch.equal(averaged(specks())["first"], other(specks())["first"])


def test_randomized_smoothing_is_the_mean_probability_over_noisy_copies() -> None:
    net, inputs = seeded(ConvNet, CHANNELS, CLASSES), specks()
    smoothed = defended(seeded(ConvNet, CHANNELS, CLASSES), ("randomized-smoothing", {"sigma": 0.3, "n": 4}))
    for model in (net, smoothed):
        model.noise.reseed(2)
    probabilities = []
    for _ in range(4):
        noisy = {name: x + net.noise.normal(name, x.shape, 0.3, x) for name, x in inputs.items()}
        probabilities.append(net(noisy)["second"].softmax(1))
    torch.testing.assert_close(smoothed(inputs)["second"].exp(), torch.stack(probabilities).mean(0))


# Gradients


@pytest.mark.parametrize(
    "defense", [("jpeg", {"quality": 20}), ("bit-depth", {"bits": 2})], ids=lambda d: d[0]
)
def test_straight_through_gradients(defense: tuple[str, dict[str, Any]]) -> None:
    """With BPDA the gradient is that of the bare net at the defended image; without, none or zero."""
    name, options = defense
    inputs = {modality: x.requires_grad_() for modality, x in specks().items()}
    net = seeded(ConvNet, CHANNELS, CLASSES)
    bpda = defended(seeded(ConvNet, CHANNELS, CLASSES), (name, options))
    honest = defended(seeded(ConvNet, CHANNELS, CLASSES), (name, {**options, "straight_through": False}))
    assert torch.equal(bpda(inputs)["first"], honest(inputs)["first"])
    processed = {n: x.detach().requires_grad_() for n, x in seen(pixels(defense), inputs).items()}
    (expected,) = torch.autograd.grad(net(processed)["first"][:, 0].sum(), processed["a"])
    (found,) = torch.autograd.grad(bpda(inputs)["first"][:, 0].sum(), inputs["a"])
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0
    logits = honest(inputs)["first"]
    if name == "bit-depth":
        assert torch.autograd.grad(logits.sum(), inputs["a"])[0].count_nonzero() == 0
    else:
        assert not logits.requires_grad


def test_straight_through_keeps_the_value_bit_for_bit() -> None:
    x, value = torch.rand(1000).requires_grad_(), torch.rand(1000)
    out = straight_through(x, value)
    assert torch.equal(out, value)
    weights = torch.rand(1000)
    assert torch.equal(torch.autograd.grad((weights * out).sum(), x)[0], weights)


@pytest.mark.parametrize(
    "name", ["gaussian-noise", "resize-pad", "logit-averaging", "randomized-smoothing", "inference-dropout"]
)
def test_gradients_reach_every_modality(name: str) -> None:
    net = defended(Concat(takes(TWO), asks(CLASSES), width=NARROW), ("gaussian-noise", {}), (name, {}))
    inputs = {modality: x.requires_grad_() for modality, x in images(TWO).items()}
    logits = torch.cat(list(net(inputs).values()), 1)
    for gradient in torch.autograd.grad(logits.square().sum(), list(inputs.values())):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


def test_the_gradient_of_smoothing_is_that_of_the_answer() -> None:
    """Central differences on the same copies."""
    model = defended(
        seeded(ConvNet, CHANNELS, CLASSES).double(), ("randomized-smoothing", {"sigma": 0.2, "n": 3})
    )
    inputs = {name: x.double() for name, x in specks(1).items()}

    def answer(a: Tensor) -> Tensor:
        model.noise.reseed(0)
        return model({**inputs, "a": a})["second"][0, 1]

    assert torch.autograd.gradcheck(answer, inputs["a"].requires_grad_(), eps=1e-6, atol=1e-5)


# Draws

RANDOM: dict[str, tuple[Callable[[], FusionModel], str]] = {
    "gaussian-noise": (
        lambda: defended(seeded(ConvNet, CHANNELS, CLASSES), ("gaussian-noise", {})),
        "element",
    ),
    "resize-pad": (
        lambda: defended(seeded(ConvNet, CHANNELS, CLASSES), ("resize-pad", {"low": 0.3})),
        "batch",
    ),
    "inference-dropout": (lambda: defended(Hidden(), ("inference-dropout", {})), "element"),
    "randomized-smoothing": (
        lambda: defended(seeded(ConvNet, CHANNELS, CLASSES), ("randomized-smoothing", {"n": 3})),
        "element",
    ),
    "both": (
        lambda: defended(
            seeded(ConvNet, CHANNELS, CLASSES), ("resize-pad", {"low": 0.3}), ("gaussian-noise", {})
        ),
        "batch",
    ),
}
ON_MAIL: dict[str, tuple[Callable[[], FusionModel], str]] = {
    "attention-noise": (lambda: defended(mail(), ("attention-noise", {})), "element"),
    "projection-filters": (lambda: defended(mail(), ("projection-filters", {})), "batch"),
    "replaced": (lambda: defended(mail(), ("projection-filters", {"layout": "replaced"})), "batch"),
    "stem": (lambda: defended(mail(), ("projection-filters", {"where": "stem", "ratio": 0.5})), "batch"),
}


def inputs_of(name: str) -> dict[str, Tensor]:
    return images(TWO) if name in ON_MAIL else specks(2)


@pytest.mark.parametrize("name", [*RANDOM, *ON_MAIL])
def test_frozen_draws(name: str) -> None:
    make, shared_by = (RANDOM | ON_MAIL)[name]
    model, inputs = make(), inputs_of(name)
    assert model.draws_shared_by == shared_by
    model.noise.reseed(1)
    fresh = [model(inputs)["first"] for _ in range(8)]
    assert any(not torch.equal(fresh[0], later) for later in fresh[1:])
    with model.noise.frozen(3):
        assert model.draws_shared_by == "none"
        assert list(model.random_layers()) == []
        recorded = model(inputs)["first"]
        assert torch.equal(model(inputs)["first"], recorded)
        model.noise.reseed(9)
        alone = model({modality: x[1:] for modality, x in inputs.items()})["first"]
        torch.testing.assert_close(alone[0], recorded[1], rtol=1e-4, atol=1e-5)
    assert model.draws_shared_by == shared_by
    others = []
    for seed in range(4, 12):
        with model.noise.frozen(seed):
            others.append(model(inputs)["first"])
    assert any(not torch.equal(recorded, other) for other in others)
    with model.noise.frozen(3):
        assert torch.equal(model(inputs)["first"], recorded)


@pytest.mark.parametrize("name", [*RANDOM, *ON_MAIL])
def test_freezing_leaves_the_stream_of_fresh_draws_alone(name: str) -> None:
    model, inputs = (RANDOM | ON_MAIL)[name][0](), inputs_of(name)
    model.noise.reseed(1)
    expected = [model(inputs)["first"] for _ in range(2)]
    model.noise.reseed(1)
    found = [model(inputs)["first"]]
    with model.noise.frozen(3):
        model(inputs)
        with model.noise.frozen(4):
            model(inputs)
    found.append(model(inputs)["first"])
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", [*RANDOM, *ON_MAIL])
def test_nothing_draws_from_the_global_generator(name: str) -> None:
    model, inputs = (RANDOM | ON_MAIL)[name][0](), inputs_of(name)
    state = torch.get_rng_state()
    model(inputs)
    with model.noise.frozen(0):
        model(inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", RANDOM)
def test_switched_off_it_is_the_bare_model(name: str) -> None:
    model, inputs = RANDOM[name][0](), specks(2)
    bare = Hidden().eval() if name == "inference-dropout" else seeded(ConvNet, CHANNELS, CLASSES)
    model.noise.scale = 0.0
    for task, logits in bare(inputs).items():
        expected = logits.log_softmax(1) if name == "randomized-smoothing" else logits
        torch.testing.assert_close(model(inputs)[task], expected)


@pytest.mark.parametrize(
    ("defenses", "shared_by"),
    [
        ([("gaussian-noise", {"sigma": 0.0})], "none"),
        ([("jpeg", {}), ("bit-depth", {})], "none"),
        ([("gaussian-noise", {}), ("logit-averaging", {})], "none"),
        ([("resize-pad", {}), ("logit-averaging", {"draws": 1})], "none"),
        ([("logit-averaging", {}), ("gaussian-noise", {})], "none"),
        ([("resize-pad", {}), ("randomized-smoothing", {})], "batch"),
        ([("resize-pad", {}), ("logit-averaging", {}), ("randomized-smoothing", {})], "element"),
        ([("randomized-smoothing", {}), ("logit-averaging", {"draws": 2})], "none"),
    ],
)
def test_what_a_draw_is_shared_by(defenses: list[tuple[str, dict[str, Any]]], shared_by: str) -> None:
    net, inputs = defended(seeded(ConvNet, CHANNELS, CLASSES), *defenses), specks()
    assert net.draws_shared_by == shared_by
    passes = [net(inputs)["first"] for _ in range(4)]
    assert all(torch.equal(passes[0], later) for later in passes[1:]) == (shared_by == "none")


def test_a_frozen_element_draw_serves_every_sample() -> None:
    model = pixels(("gaussian-noise", {"sigma": 0.1}))
    twins = {name: x[:1].expand(5, -1, -1, -1) for name, x in specks().items()}
    fresh = model(twins)["first"]
    assert not torch.equal(fresh[0], fresh[1])
    with model.noise.frozen(0):
        assert len(torch.unique(model(twins)["first"], dim=0)) == 1


# Projection filters


def test_frozen_projection_filters_are_part_of_the_net() -> None:
    def frozen(seed: int, **options: Any) -> Tensor:
        net = defended(mail(), ("projection-filters", {"draw": "frozen", "seed": seed, **options}))
        assert net.draws_shared_by == "none"
        net.noise.reseed(seed + 1)
        first, second = net(images(TWO))["first"], net(images(TWO))["first"]
        assert torch.equal(first, second)
        return first

    assert torch.equal(frozen(0), frozen(0))
    assert not torch.equal(frozen(0), frozen(1))
    assert not torch.equal(frozen(0, layout="replaced"), defended(mail())(images(TWO))["first"])


@pytest.mark.parametrize("layout", ["appended", "replaced"])
def test_the_published_recipe_changes_the_stems_only(layout: str) -> None:
    for bare in (
        MAIL(takes(TWO), asks(CLASSES), width=1 / 8).eval(),
        Concat(takes(TWO), asks(CLASSES), width=1 / 8).eval(),
    ):
        kept = {name: x.clone() for name, x in bare.state_dict().items()}
        options = {"where": "stem", "ratio": 0.75, "layout": layout}
        net = defended(bare, ("projection-filters", options))
        changed = {name for name in kept if name not in net.state_dict()}
        stems = [site for site in ("stems.0.conv", "stems.1.conv") if f"{site}.weight" in kept]
        stems = stems or ["trunks.x.0.conv", "trunks.y.0.conv"]
        assert {name.rpartition(".")[0] for name in changed} == set(stems)
        for layer in net.random_layers():
            assert layer.site in stems
            weight = net.state_dict()[f"{layer.site}.trained.weight"]
            assert len(weight) == (2 if layout == "appended" else 8)
            assert torch.equal(weight, kept[f"{layer.site}.weight"][: len(weight)])
        assert len(list(net.random_layers())) == 2
        assert not torch.equal(net(images(TWO))["first"], net(images(TWO))["first"])


def test_stem_filters_need_a_stem() -> None:
    with pytest.raises(UserError, match="needs the hook 'stem-convolution', which ConvNet does not offer"):
        DEFENSES.get("projection-filters")(where="stem").apply(seeded(ConvNet, CHANNELS, CLASSES))


# Stacking, names and parameters


def test_images_pass_the_defenses_in_the_order_of_the_config() -> None:
    noise: tuple[str, dict[str, Any]] = ("gaussian-noise", {"sigma": 0.2})
    grid: tuple[str, dict[str, Any]] = ("bit-depth", {"bits": 1})
    assert set(pixels(noise, grid)(specks())["first"].flatten().tolist()) <= {-1.0, 0.0, 1.0, 2.0}
    assert len(set(pixels(grid, noise)(specks())["first"].flatten().tolist())) == 3 * 48


def test_a_defense_may_be_stacked_twice() -> None:
    inputs = specks(20, 40, 40)
    twice = seen(pixels(*[("gaussian-noise", {"sigma": 0.3})] * 2), inputs)["a"] - inputs["a"]
    assert twice.std().item() == pytest.approx(0.3 * 2**0.5, rel=0.02)
    with (model := pixels(*[("gaussian-noise", {"sigma": 0.3})] * 2)).noise.frozen(0):
        twice = seen(model, inputs)["a"] - inputs["a"]
    assert twice.std().item() == pytest.approx(0.3 * 2**0.5, rel=0.1), "both took one recorded draw"
    once = pixels(("jpeg", {"quality": 10}))
    again = seen(once, seen(once, specks()))
    assert torch.equal(again["a"], seen(pixels(*[("jpeg", {"quality": 10})] * 2), specks())["a"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian-noise", {"sigma": -0.1}),
        ("gaussian-noise", {"sigma": float("nan")}),
        ("randomized-smoothing", {"sigma": 0.0}),
        ("randomized-smoothing", {"n": 0}),
        ("logit-averaging", {"draws": 0}),
        ("bit-depth", {"bits": 0}),
        ("bit-depth", {"bits": 9}),
        ("jpeg", {"quality": 0}),
        ("jpeg", {"quality": 96}),
        ("resize-pad", {"low": 1.0, "high": 1.0}),
        ("resize-pad", {"low": 0.0}),
        ("inference-dropout", {"rate": 1.0}),
        ("inference-dropout", {"rate": -0.1}),
    ],
)
def test_impossible_parameters(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^{name}: .* must be ") as error:
        DEFENSES.get(name)(**options)
    assert "\n" not in str(error.value)


ANYWHERE = ["bit-depth", "gaussian-noise", "inference-dropout", "jpeg", "logit-averaging"]
ANYWHERE += ["randomized-smoothing", "resize-pad"]


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("model", ["concat", "robust-mail-rpf"])
def test_the_weights_of_the_bare_net_load(name: str, model: str, weights: dict[str, Path]) -> None:
    bare = load_model(model, weights=str(weights[model]))
    loaded = load_model(model, weights=str(weights[model]), defenses=[DefenseConfig(name)])
    assert loaded.model.state_dict().keys() == bare.model.state_dict().keys()
    assert loaded.weights_sha256 == bare.weights_sha256
    assert loaded.config.label.startswith(f"{bare.config.label}+{name}(") == (name != "inference-dropout")


def test_labels_say_what_was_added_with_every_option() -> None:
    config = ModelConfig("concat", "concat", options={"width": 0.1875})
    stacked = config.with_defenses([DefenseConfig("gaussian-noise", {"sigma": 0.1}), DefenseConfig("jpeg")])
    assert stacked.label == (
        "concat-x0.1875+gaussian-noise(sigma=0.1)+jpeg(quality=75,straight_through=True)"
    )
    assert config.with_defenses([DefenseConfig("inference-dropout")]).label == (
        "concat-x0.1875+inference-dropout"
    )
    fraction = config.with_defenses([DefenseConfig("gaussian-noise", {"sigma": "8/255"})])
    assert fraction.label == "concat-x0.1875+gaussian-noise(sigma=0.03137254901960784)"


# Runs

STACK = (DefenseConfig("gaussian-noise", {"sigma": 0.1}), DefenseConfig("bit-depth", {"bits": 4}))


def run_config(weights: dict[str, Path], out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {"attack_options": {"steps": 2}, "eot": 2, "draws": 3, "samples": 4}
    return RunConfig("concat", "pgd", weights=str(weights["concat"]), out=str(out), **values | changes)


@pytest.mark.parametrize("name", ANYWHERE)
def test_the_same_run_twice(name: str, weights: dict[str, Path], tmp_path: Path) -> None:
    outcomes: list[dict[str, Any]] = []
    for out in ("one", "two"):
        torch.manual_seed(len(outcomes))
        result = run(run_config(weights, tmp_path / out, defenses=(DefenseConfig(name),)))
        with np.load(result.folder / "outcomes.npz") as stored:
            outcomes.append({key: stored[key] for key in stored.files if key != "seconds"})
    for key, array in outcomes[0].items():
        np.testing.assert_array_equal(array, outcomes[1][key], err_msg=key)


def test_a_run_records_its_defenses(weights: dict[str, Path], tmp_path: Path) -> None:
    bare = run(run_config(weights, tmp_path))
    result = run(run_config(weights, tmp_path, defenses=STACK))
    label = "concat-x0.03125+gaussian-noise(sigma=0.1)+bit-depth(bits=4,straight_through=True)"
    model = result.record["model"]
    assert model["label"] == label
    assert [d["name"] for d in model["added"]] == ["gaussian-noise", "bit-depth"]
    assert model["added"][1]["options"] == {"bits": 4, "straight_through": True}
    assert model["draws_shared_by"] == "element"
    assert result.record["run"] != bare.record["run"]
    assert "added" not in bare.record["model"]
    with result.leaderboard.open(newline="") as stream:
        assert [line["model"] for line in csv.DictReader(stream)] == ["concat-x0.03125", label]
    again = build(RunConfig, {**result.record["config"], "weights": str(weights["concat"]), "out": "x"}, "")
    assert again.defenses == (STACK[0], DefenseConfig("bit-depth", {"bits": 4, "straight_through": True}))
    reversed_ = run(run_config(weights, tmp_path, defenses=STACK[::-1]))
    assert reversed_.record["run"] != result.record["run"]


def test_flags_and_yaml_give_the_run_that_python_gives(
    robmed: Robmed, weights: dict[str, Path], tmp_path: Path
) -> None:
    python = run(run_config(weights, tmp_path / "python", defenses=STACK))
    common = f"--samples 4 --draws 3 --eot 2 --steps 2 --weights {weights['concat']} --out {tmp_path / 'cli'}"
    named = "--model concat --attack pgd"
    flags = "--defense gaussian-noise:sigma=0.1 --defense bit-depth:bits=4,straight-through=true"
    assert robmed("run", *named.split(), *common.split(), *flags.split()) == (0, [])
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text(
        "model: concat\nattack: pgd\ndefenses:\n"
        "  - {name: gaussian-noise, options: {sigma: 0.1}}\n  - bit-depth:bits=4\n"
    )
    assert robmed("run", protocol, *common.split()) == (0, [])
    (folder,) = (path for path in (tmp_path / "cli").iterdir() if path.is_dir())
    assert json.loads((folder / "record.json").read_text())["run"] == python.record["run"]


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("gausian-noise", "unknown defense 'gausian-noise'; did you mean 'gaussian-noise'?"),
        ("gaussian-noise:sgma=1", "unknown option 'sgma'; did you mean 'sigma'?"),
        ("gaussian-noise:sigma", "write NAME:OPTION=VALUE,OPTION=VALUE"),
        ("gaussian-noise:sigma=loud", "defense gaussian-noise: sigma"),
        ("gaussian-noise:sigma=-1", "must be 0 or more"),
        ("jpeg:quality=400", "must be 1 to 95"),
        ("attention-noise", "does not offer"),
        ("projection-filters", "no --defense that changes weights"),
        ("jpeg:straight-through=false", "choose an attack without gradients"),
    ],
)
def test_bad_flags(
    flag: str, complaint: str, robmed: Robmed, weights: dict[str, Path], tmp_path: Path
) -> None:
    common = ("--model", "concat", "--attack", "fgsm", "--samples", 4, "--out", tmp_path)
    code, lines = robmed("run", *common, "--weights", weights["concat"], "--defense", flag)
    assert (code, len(lines)) == (2, 1), lines
    assert complaint in lines[0]


def test_a_model_file_may_carry_any_defense(tmp_path: Path, weights: dict[str, Path], robmed: Robmed) -> None:
    """Its own come first, and stand in the label where the shipped model of that name has others."""
    file = tmp_path / "concat.yaml"
    file.write_text("architecture: concat\noptions: {width: 0.03125}\ndefenses: [bit-depth:bits=1]\n")
    flags = ("--defense", "gaussian-noise:sigma=0.1", "--weights", weights["concat"], "--samples", 4)
    assert robmed("run", "--model", file, "--attack", "fgsm", *flags, "--out", tmp_path / "runs") == (0, [])
    record = json.loads(next(tmp_path.glob("runs/*/record.json")).read_text())
    assert record["model"]["label"] == "concat-x0.03125-bit-depth-bits-1+gaussian-noise(sigma=0.1)"
    assert record["model"]["defenses"] == [{"name": "bit-depth", "options": {"bits": 1}}]


def test_images_of_the_split_are_left_alone() -> None:
    split = random_split(3)
    before = {name: split.values(name, [0, 1, 2]) for name in CHANNELS}
    inputs = {name: torch.from_numpy(x.copy()) for name, x in before.items()}
    net = defended(
        seeded(ConvNet, CHANNELS, CLASSES),
        *[(name, {}) for name in ("jpeg", "bit-depth", "gaussian-noise", "resize-pad")],
    )
    net(inputs)
    for name, x in before.items():
        np.testing.assert_array_equal(inputs[name].numpy(), x)


def test_bpda_goes_where_the_honest_gradient_ends() -> None:
    """Rounding has a gradient of zero; as if it were the identity, the net behind it falls."""
    batch = batch_of(labelled_by(seeded(ConvNet, CHANNELS, CLASSES), random_split(12)))
    net = defended(seeded(ConvNet, CHANNELS, CLASSES), ("bit-depth", {"bits": 6, "straight_through": False}))
    target = target_of(net.eval().requires_grad_(False), threat_of(a=0.05, b=0.05))
    left = {}
    for name in ("apgd", "bpda"):
        found = ATTACKS.get(name)(steps=10).perturb(target, batch)
        with torch.no_grad():
            left[name] = 1 - float(target.goal.success(net(found), batch.labels).ceil().mean())
    assert left["apgd"] > 0.6
    assert left["bpda"] < left["apgd"] - 0.3
    plain = target_of(seeded(ConvNet, CHANNELS, CLASSES), threat_of(a=0.05, b=0.05))
    with pytest.raises(UserError, match="apgd has the same gradients"):
        ATTACKS.get("bpda")().perturb(plain, batch)
