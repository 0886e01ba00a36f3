"""Certificates against closed forms, against attacks, and against a kill."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Robmed
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from tiny import (
    ATTACKS,
    CHANNELS,
    SHAPES,
    CoinFlip,
    ConvNet,
    Linear,
    random_split,
    seeded,
    split_of,
    target_of,
)
from torch import Tensor

from robustbench_med.api.attack import Batch
from robustbench_med.api.data import Split
from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.api.registry import Registry
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.evaluation import votes as module
from robustbench_med.evaluation.plan import load_batch
from robustbench_med.evaluation.votes import Smoothing, Votes, count_all, count_votes
from robustbench_med.measure.accuracy import EVERY
from robustbench_med.measure.certificate import (
    certificates,
    certified_accuracy,
    certified_radius,
    default_radii,
    lower_bound,
)
from robustbench_med.models.named import DefenseConfig
from robustbench_med.studies.certify import CertifyConfig, _summaries, certify
from robustbench_med.util.errors import UserError

DEFENSES: Registry[Callable[..., Defense]] = Registry("defense", "robustbench_med.defenses")
TWO_CLASSES = {"first": 2}


def smoothing_of(sigma: float | Mapping[str, float] = 0.25, **changes: Any) -> Smoothing:
    sigmas = sigma if isinstance(sigma, Mapping) else dict.fromkeys(SHAPES, sigma)
    values: dict[str, Any] = {"n0": 50, "n": 500, "alpha": 0.001, "batch_size": 200, "seed": 0}
    return Smoothing(sigmas, **values | changes)


def counted(model: FusionModel, split: Split, smoothing: Smoothing) -> list[Votes]:
    return [count_votes(model, load_batch(split, np.array([i]), "cpu"), smoothing) for i in range(len(split))]


def whole(split: Split) -> Batch:
    return load_batch(split, np.arange(len(split)), "cpu")


# The bound and the radius


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (7, 10), (10, 10), (990, 1000)])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_bound_is_clopper_pearsons(hits: int, n: int, alpha: float) -> None:
    interval = binomtest(hits, n, alternative="greater").proportion_ci(1 - alpha, method="exact")
    assert lower_bound(hits, n, alpha) == pytest.approx(interval.low, abs=1e-12)


def test_radii_by_hand() -> None:
    """All of n hits bound pA by alpha^(1/n); the radius is sigma times its normal quantile."""
    assert certified_radius(1000, 1000, 0.001, 0.5) == pytest.approx(0.5 * norm.ppf(0.001**0.001))
    assert np.isnan(certified_radius(500, 1000, 0.001, 0.5))
    assert np.isnan(certified_radius(0, 1000, 0.001, 0.5))
    # Six heads of ten are more than half, but no evidence of more than half.
    assert np.isnan(certified_radius(6, 10, 0.001, 0.5))


def test_default_radii_end_at_the_largest_that_can_be_certified() -> None:
    radii, smoothing = default_radii(smoothing_of(0.2, n=1000)), smoothing_of(0.2, n=1000)
    largest = certified_radius(1000, 1000, smoothing.alpha, 0.2)
    assert radii[0] == 0
    assert radii[-1] <= largest < radii[-1] + 0.05
    np.testing.assert_allclose(np.diff(radii), 0.05)
    assert default_radii(smoothing_of(0.2, n=5)) == (0.0,)


# A linear model, where everything is known


def linear(seed: int = 0) -> tuple[FusionModel, Split, NDArray[np.float64], Tensor]:
    """A linear two-class model without bias towards a class, its split, margins and weights."""
    model, split = seeded(Linear, SHAPES, TWO_CLASSES, seed=seed), random_split(12, TWO_CLASSES)
    head = model.get_submodule("heads.first")
    assert isinstance(head, torch.nn.Linear)
    weight = head.weight[1] - head.weight[0]
    head.bias.zero_()
    middle = weight.sum() / 2
    head.bias[1] = -middle
    logits = model(whole(split).inputs)["first"]
    answers, margins = logits.argmax(1).numpy(), (logits[:, 1] - logits[:, 0]).abs().double().numpy()
    images = {name: split.arrays[name] for name in SHAPES}
    return model, split_of(images, {"first": answers}, TWO_CLASSES), margins, weight


def test_radii_of_a_linear_model_are_its_distances_to_the_boundary() -> None:
    """pA is Φ(margin / (sigma ‖w‖)), so that with endless copies the radius is margin / ‖w‖."""
    model, split, margins, weight = linear()
    distance = margins / float(weight.norm())
    sigma = float(np.median(distance))
    smoothing = smoothing_of(sigma, n=20000, batch_size=5000)
    votes = counted(model, split, smoothing)
    radii = certificates(votes, split, smoothing).radii["first"]
    certain = ~np.isnan(radii)
    assert certain.sum() >= 8
    assert (radii[certain] <= distance[certain]).all(), "a certificate beyond the boundary"
    chance = norm.cdf(distance / sigma)
    # What a count four standard deviations low, less the width of the bound, would give.
    slack = 8 * np.sqrt(chance * (1 - chance) / smoothing.n) + 10 / smoothing.n
    least = sigma * norm.ppf(np.clip(chance - slack, 1e-9, 1 - 1e-9))
    assert (radii[certain] >= least[certain]).all()
    assert (chance[~certain] < 0.6).all()


def test_sigmas_by_modality_certify_the_ball_inside_their_ellipsoid() -> None:
    """For a linear model theorem 1 is exact: the nearest point of the ellipsoid is on the boundary."""
    model, split, margins, weight = linear()
    pixels = int(np.prod(SHAPES["a"]))
    lengths = {"a": float(weight[:pixels].norm()), "b": float(weight[pixels:].norm())}
    sigma = float(np.median(margins)) / float(weight.norm())
    for sigmas in ({"a": sigma, "b": 3 * sigma}, {"a": sigma}, {"b": sigma}):
        smoothing = smoothing_of(sigmas, n=4000, batch_size=4000)
        spread = np.sqrt(sum((s * lengths[name]) ** 2 for name, s in sigmas.items()))
        expected = min(sigmas.values()) * margins / spread
        radii = certificates(counted(model, split, smoothing), split, smoothing).radii["first"]
        assert np.isfinite(radii).any()
        assert (radii[np.isfinite(radii)] <= expected[np.isfinite(radii)]).all()
        # The inscribed ball: no change of that joint length in the smoothed modalities crosses over.
        distance = margins / np.sqrt(sum(lengths[name] ** 2 for name in sigmas))
        assert (expected <= distance + 1e-9).all()
        middling = (margins / spread < 1.5) & (margins / spread > 0.5)
        np.testing.assert_allclose(radii[middling], expected[middling], rtol=0.25)


def test_modalities_without_noise_are_seen_as_they_are() -> None:
    class Spy(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            seen.append({name: x.clone() for name, x in inputs.items()})
            return super().forward(inputs)

    seen: list[dict[str, Tensor]] = []
    model, split = seeded(Spy, CHANNELS, TWO_CLASSES), random_split(1, TWO_CLASSES)
    counted(model, split, smoothing_of({"a": 5.0}, n=60, batch_size=30))
    clean = whole(split).inputs
    assert len(seen) == 4
    for inputs in seen:
        assert (inputs["b"] == clean["b"]).all()
        assert (inputs["a"] < 0).any(), "the noise was clipped"
    noise = torch.cat([inputs["a"] for inputs in seen]) - clean["a"]
    assert noise.std().item() == pytest.approx(5.0, rel=0.05)


# Abstaining, several heads


def abstaining() -> tuple[list[Votes], Split, Smoothing]:
    """Three samples of two heads: sure, unsure in the second head, and sure of a wrong answer."""
    split = random_split(3, {"first": 2, "second": 3})
    labels = {task: y.copy() for task, y in split.labels.items()}
    split = replace(split, labels=labels)
    right = [{task: int(y[i]) for task, y in labels.items()} for i in range(3)]
    votes = [
        Votes(right[0], {"first": 500, "second": 490}),
        Votes(right[1], {"first": 500, "second": 251}),
        Votes({**right[2], "first": 1 - right[2]["first"]}, {"first": 500, "second": 500}),
    ]
    return votes, split, smoothing_of(0.5)


def test_abstaining_and_wrong_samples_are_certified_nowhere() -> None:
    votes, split, smoothing = abstaining()
    found = certificates(votes, split, smoothing)
    assert np.isnan(found.radii["second"][1])
    assert np.isnan(found.radii[EVERY][1])
    assert found.certified("first", 0).tolist() == [True, True, False]
    assert found.certified("second", 0).tolist() == [True, False, True]
    assert found.certified(EVERY, 0).tolist() == [True, False, False]
    accuracy = certified_accuracy(found, split, [0.0, 10.0])
    assert accuracy["second"][0.0].value == pytest.approx(2 / 3)
    assert accuracy[EVERY][0.0].value == pytest.approx(1 / 3)
    assert accuracy["first"][10.0].value == 0


def test_all_heads_are_certified_where_the_weakest_is_with_alpha_split() -> None:
    votes, split, smoothing = abstaining()
    found = certificates(votes, split, smoothing)
    radius = found.radii[EVERY][0]
    assert radius == certified_radius(490, 500, smoothing.alpha / 2, 0.5)
    assert radius < found.radii["second"][0] < found.radii["first"][0]
    assert found.certified(EVERY, radius)[0]
    assert not found.certified(EVERY, radius + 1e-9)[0]


def test_a_model_that_cannot_tell_abstains() -> None:
    """It answers by the brighter of two pixels, and all are equally bright."""

    class Brighter(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {"first": inputs["a"].flatten(1)[:, :2]}

    images = {name: np.full((6, *shape), 0.5, np.float32) for name, shape in SHAPES.items()}
    split = split_of(images, {"first": np.zeros(6, np.int64)}, TWO_CLASSES)
    smoothing = smoothing_of(0.25)
    found = certificates(counted(seeded(Brighter, CHANNELS, TWO_CLASSES), split, smoothing), split, smoothing)
    assert np.isnan(found.radii["first"]).all()
    assert certified_accuracy(found, split, [0.0])["first"][0.0].value == 0


def test_random_models_are_certified_for_the_answer_of_most_draws() -> None:
    """A model that flips 10 % of its answers has pA 0.9 far from the boundary, whatever the image."""
    pixels = {"a": np.full((20, 1, 6, 8), 0.9, np.float32), "b": np.zeros((20, 2, 4, 4), np.float32)}
    split = split_of(pixels, {"first": np.ones(20, np.int64)}, TWO_CLASSES)
    smoothing = smoothing_of(0.01, n=1000)
    model = CoinFlip().eval()
    votes = counted(model, split, smoothing)
    shares = np.array([vote.hits["first"] for vote in votes]) / 1000
    assert shares.mean() == pytest.approx(0.9, abs=0.01)
    assert votes == counted(model, split, smoothing)


# Against attacks


def two_sided(samples: int, seed: int) -> Split:
    """Brighter on the right in class 1, on the left in class 0, in both modalities."""
    rng = np.random.default_rng(seed)
    labels, images = rng.integers(0, 2, samples), {}
    for name, shape in SHAPES.items():
        half = np.where(np.arange(shape[2]) < shape[2] // 2, -1, 1) * (2 * labels - 1)[:, None, None, None]
        strength = rng.uniform(0, 0.12, (samples, 1, 1, 1))
        images[name] = np.clip(0.5 + strength * half + rng.normal(0, 0.1, (samples, *shape)), 0, 1)
    images = {name: x.astype(np.float32) for name, x in images.items()}
    return split_of(images, {"first": labels}, TWO_CLASSES)


@pytest.fixture(scope="module")
def trained() -> FusionModel:
    """A small net trained under noise for a second."""
    model = seeded(ConvNet, CHANNELS, TWO_CLASSES).train().requires_grad_(True)
    batch, stream = whole(two_sided(256, 1)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        noisy = {n: x + 0.1 * torch.randn(x.shape, generator=stream) for n, x in batch.inputs.items()}
        loss = F.cross_entropy(model(noisy)["first"], batch.labels["first"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval().requires_grad_(False)


def test_no_attack_gets_below_certified_accuracy(trained: FusionModel) -> None:
    """PGD in the joint ball, through the smoothed classifier, sample by sample."""
    split, sigma = two_sided(60, 2), 0.1
    smoothing = smoothing_of(sigma, n=1000, batch_size=1000)
    found = certificates(counted(trained, split, smoothing), split, smoothing)
    smoothed = seeded(ConvNet, CHANNELS, TWO_CLASSES)
    smoothed.load_state_dict(trained.state_dict())
    DEFENSES.get("randomized-smoothing")(sigma=sigma, n=32).apply(smoothed)
    clean, broken = majority(trained, whole(split), sigma), 0
    for radius in (0.08, 0.16):
        certified = found.certified("first", radius)
        assert 5 < certified.sum() < clean.sum()
        stands = clean.copy()
        for share in (0.0, 0.5, 1.0):
            attacked = attack(smoothed, whole(split), radius, share)
            stands &= majority(trained, attacked, sigma)
        assert not (certified & ~stands).any(), "an attack broke a certified sample"
        assert certified.mean() <= stands.mean()
        broken += int((clean & ~stands).sum())
    assert broken > 5, "the attack is too weak to test anything"


def attack(model: FusionModel, batch: Batch, radius: float, share: float) -> Batch:
    """PGD-20 with that share of the squared joint radius on the first modality."""
    lengths = {"a": radius * share**0.5, "b": radius * (1 - share) ** 0.5}
    threat = ThreatModel({name: Budget("l2", length) for name, length in lengths.items() if length})
    target = target_of(model, threat)
    return replace(batch, inputs=ATTACKS.get("pgd")(steps=20).perturb(target, batch))


def majority(model: FusionModel, batch: Batch, sigma: float) -> NDArray[np.bool_]:
    """Which samples the smoothed classifier gets right, by the votes of 2000 copies."""
    stream, right = torch.Generator().manual_seed(5), torch.zeros(len(batch))
    for _ in range(2000):
        noisy = {n: x + sigma * torch.randn(x.shape, generator=stream) for n, x in batch.inputs.items()}
        right += model(noisy)["first"].argmax(1) == batch.labels["first"]
    found: NDArray[np.bool_] = (right > 1000).numpy()
    return found


# Runs


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_votes_do_not_depend_on_the_batch_size_or_the_company(size: int) -> None:
    model, split = seeded(ConvNet, CHANNELS, {"first": 2, "second": 3}), random_split(3)
    expected = counted(model, split, smoothing_of(n=120, batch_size=50))
    assert counted(model, split, smoothing_of(n=120, batch_size=size)) == expected
    alone = split.take(np.array([2]))
    assert counted(model, alone, smoothing_of(n=120)) == expected[2:]
    assert counted(model, split, smoothing_of(n=120, seed=1)) != expected
    assert sum(vote.hits["first"] for vote in expected) < 3 * 120, "the noise decides nothing here"


def certify_config(weights: dict[str, Path], out: Path, **changes: Any) -> CertifyConfig:
    values: dict[str, Any] = {"sigma": 0.1, "n0": 10, "n": 60, "samples": 4, "batch_size": 30}
    return CertifyConfig("concat", weights=str(weights["concat"]), out=str(out), **values | changes)


def test_the_same_certification_twice(weights: dict[str, Path], tmp_path: Path) -> None:
    first = certify(certify_config(weights, tmp_path / "one"))
    torch.manual_seed(7)
    second = certify(certify_config(weights, tmp_path / "two"))
    for record in (first.record, second.record):
        assert isinstance(record, dict)
        del record["started"]
    assert first.record == second.record
    assert first.accuracy == second.accuracy
    other = certify(certify_config(weights, tmp_path / "one", seed=1))
    assert other.record["run"] != first.record["run"]
    assert other.leaderboard.read_text().count("\n") == 3
    assert not (first.folder / "parts").exists()


def test_a_killed_certification_goes_on(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = certify(certify_config(weights, tmp_path / "whole"))
    done: list[str] = []

    def count(model: FusionModel, batch: Batch, smoothing: Smoothing) -> Votes:
        if len(done) == 2:
            done.append("killed")
            raise KeyboardInterrupt
        done.extend(batch.ids)
        return count_votes(model, batch, smoothing)

    monkeypatch.setattr(module, "count_votes", count)
    with pytest.raises(KeyboardInterrupt):
        certify(certify_config(weights, tmp_path / "cut"))
    found = certify(certify_config(weights, tmp_path / "cut"))
    assert len(set(done)) == len(done) == 5, "a sample was counted twice"
    assert found.accuracy == expected.accuracy
    assert found.record["samples"] == expected.record["samples"]


WRONG_VOTES = (
    '{"guess": {"x": "y"}, "hits": {}}',
    '{"guess": {}, "hits": {}}',
    '{"guess": {"zebra": 0}, "hits": {"zebra": 1}}',
    '{"guess": {"first": 9}, "hits": {"first": 1}}',
    '{"guess": {"first": 0}, "hits": {"first": 999999}}',
    '{"guess": {"first": 0}, "hits": {"first": -1}}',
)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"guess": {}}', *WRONG_VOTES])
def test_a_damaged_part_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "000000.json").write_text(text)
    model, split = seeded(ConvNet, CHANNELS, TWO_CLASSES), random_split(1, TWO_CLASSES)
    with pytest.raises(UserError, match=r"000000\.json is damaged; delete its folder and run again"):
        count_all(model, split, smoothing_of(), "cpu", tmp_path, lambda: None)


def test_what_the_record_says(weights: dict[str, Path], tmp_path: Path) -> None:
    result = certify(certify_config(weights, tmp_path, sigma={"ct": 0.2}, radii=(0.0, 0.1)))
    record = json.loads((result.folder / "record.json").read_text())
    assert record == json.loads(json.dumps(result.record))
    terms = record["certificate"]
    assert terms["smoothed"] == {"ct": 0.2}
    assert terms["unchanged"] == ["mr"]
    assert terms["noise_clipped"] is False
    assert set(record["accuracy"]) == {"lesion", "side", EVERY}
    with result.leaderboard.open(newline="") as stream:
        (line,) = csv.DictReader(stream)
    for head, value in record["accuracy"].items():
        radii = [sample["radius"][head] for sample in record["samples"]]
        assert value["abstained"] == np.mean([r is None for r in radii])
        assert [point["radius"] for point in value["certified"]] == [0.0, 0.1]
        assert all(p["low"] <= p["value"] <= p["high"] for p in value["certified"])
    assert line["certified"] == "; ".join(
        f"{p['radius']:g}={p['value']:.4f}" for p in record["accuracy"][EVERY]["certified"]
    )
    assert line["run"] == record["run"]


def test_the_average_radius_counts_wrong_and_withheld_answers_as_zero() -> None:
    votes, split, smoothing = abstaining()
    found = certificates(votes, split, smoothing)
    summary = _summaries(found, certified_accuracy(found, split, [0.0]))
    assert summary["second"]["average_radius"] == pytest.approx(
        (found.radii["second"][0] + found.radii["second"][2]) / 3
    )
    assert summary[EVERY]["abstained"] == pytest.approx(1 / 3)


def test_the_command(robmed: Robmed, weights: dict[str, Path], tmp_path: Path) -> None:
    flags = ["--model", "concat", "--weights", weights["concat"], "--samples", 4, "--n0", 10, "--n", 60]
    flags += ["--batch-size", 30, "--out", tmp_path / "cli"]
    assert robmed("certify", "--sigma", "0.1", *flags) == (0, [])
    python = certify(certify_config(weights, tmp_path / "python"))
    (path,) = (tmp_path / "cli").glob("*/record.json")
    assert json.loads(path.read_text())["run"] == python.record["run"]
    more = ["--defense", "bit-depth:bits=2", "--radii", "0,1/10", "--seed", 3, "--sigma", "mr=51/255,ct=0.1"]
    assert robmed("certify", *flags, *more) == (0, [])
    (path,) = (tmp_path / "cli").glob("*bit-depth*/record.json")
    stored = json.loads(path.read_text())["config"]
    assert stored["sigma"] == {"mr": 0.2, "ct": 0.1}
    assert stored["radii"] == [0.0, 0.1]


def test_random_layers_that_share_their_draw_are_refused(weights: dict[str, Path], tmp_path: Path) -> None:
    model: dict[str, Any] = {"model": "robust-mail-rpf", "weights": str(weights["robust-mail-rpf"])}
    shared = replace(certify_config(weights, tmp_path, n0=2, n=12, samples=1), **model)
    with pytest.raises(UserError, match=r"not independent .* --defense logit-averaging:draws=1"):
        certify(shared)
    frozen = replace(shared, defenses=(DefenseConfig("logit-averaging", {"draws": 1}),))
    assert certify(frozen).record["model"]["draws_shared_by"] == "none"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--sigma 0", "sigma is 0.0; it must be positive"),
        ("--sigma loud", "--sigma: 'loud' is not a standard deviation"),
        ("--sigma pet=0.1", "unknown modality 'pet'"),
        ("--sigma nan", "it must be positive"),
        ("--sigma 0.1 --n 0", "n0, n and batch-size must be 1 or more"),
        ("--sigma 0.1 --alpha 1", "must be between 0 and 1"),
        ("--sigma 0.1 --radii 0,-1", "each must be 0 or more"),
        ("--sigma 0.1 --radii far", "--radii: 'far' is not a radius"),
        ("--sigma 0.1 --samples 2000", "phantom has 1000 test samples"),
        ("--sigma 0.1 --defense jpg", "did you mean 'jpeg'?"),
        ("--sigma 0.1 --dataset fantom", "unknown data set"),
    ],
)
def test_bad_flags(
    flags: str, complaint: str, robmed: Robmed, weights: dict[str, Path], tmp_path: Path
) -> None:
    common = ("--model", "concat", "--weights", weights["concat"], "--out", tmp_path)
    code, lines = robmed("certify", *common, *flags.split())
    assert (code, len(lines)) == (2, 1), lines
    assert complaint in lines[0]


def test_a_leaderboard_is_no_place_for_certificates(weights: dict[str, Path], tmp_path: Path) -> None:
    board = tmp_path / "leaderboard.csv"
    board.write_text("dataset,model,attack\n")
    with pytest.raises(UserError, match="choose another"):
        certify(certify_config(weights, tmp_path, leaderboard=str(board)))
