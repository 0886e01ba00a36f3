"""FAB and CW, which look for the nearest adversarial point: closed forms on linear models, and the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tiny import (
    CHANNELS,
    CLASSES,
    SHAPES,
    ConvNet,
    Linear,
    RandomNet,
    batch_of,
    goal_of,
    labelled_by,
    random_split,
    seeded,
    split_of,
    target_of,
    threat_of,
)
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch
from robustbench_med.api.losses import margin
from robustbench_med.api.model import FusionModel
from robustbench_med.api.threat import Norm
from robustbench_med.attacks._space import Space, water_level
from robustbench_med.attacks.cw import CW
from robustbench_med.attacks.fab import FAB
from robustbench_med.util.errors import UserError

# Enough for linear models.
QUICK = CW(steps=80, search_steps=5)
KINDS: list[tuple[Attack, Norm]] = [
    (FAB(steps=8), "linf"),
    (FAB(steps=8, restarts=2, targets=2), "l2"),
    (CW(steps=15, search_steps=3), "l2"),
]
ATTACK_AND_NORM = pytest.mark.parametrize(("attack", "norm"), KINDS, ids=["fab-linf", "fab-l2", "cw-l2"])


def linear(classes: Mapping[str, int], samples: int = 30, flat: float | None = None) -> tuple[Linear, Batch]:
    """A linear model and samples it gets right, far from the box or all at the value ``flat``."""
    split = random_split(samples, classes)
    images = {n: 0.3 + 0.4 * x if flat is None else np.full_like(x, flat) for n, x in split.arrays.items()}
    model = seeded(Linear, SHAPES, classes)
    assert isinstance(model, Linear)
    return model, batch_of(labelled_by(model, split_of(images, split.labels, classes)))


def weight(model: Linear, head: str) -> Tensor:
    return model.heads[head].get_parameter("weight")


def bias(model: Linear, head: str) -> Tensor:
    return model.heads[head].get_parameter("bias")


def gaps_and_normals(model: Linear, batch: Batch, head: str) -> tuple[Tensor, dict[str, Tensor]]:
    """What each class lacks to the right one, (B, K), and the weights of that by modality, (B, K, N)."""
    labels = batch.labels[head]
    logits = model(batch.inputs)[head]
    gaps = (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)
    normals = weight(model, head)[None] - weight(model, head)[labels][:, None]
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    return gaps, dict(zip(SHAPES, torch.split(normals, sizes, 2), strict=True))


def exact(model: Linear, batch: Batch, head: str, norm: Norm, radii: Mapping[str, float]) -> Tensor:
    """The distance to the nearest boundary of ``head`` in units of the radii, where no box is met."""
    gaps, normals = gaps_and_normals(model, batch, head)
    dual = 1 if norm == "linf" else 2
    reach = torch.stack([eps * normals[name].norm(dual, dim=2) for name, eps in radii.items()]).sum(0)
    return (gaps / reach).amin(1)


def robust(model: FusionModel, batch: Batch, found: Mapping[str, Tensor], head: str = "any") -> Tensor:
    return goal_of(model, head).success(model(found), batch.labels) == 0


def at_median(
    model: Linear, batch: Batch, norm: Norm, shape: Mapping[str, float]
) -> tuple[dict[str, float], Tensor]:
    """Radii in the ratios of ``shape`` at which half of the samples fall; distances in units of them."""
    head = next(iter(model.answers))
    distances = exact(model, batch, head, norm, shape)
    scale = distances.sort().values[len(distances) // 2 - 1 : len(distances) // 2 + 1].mean().item()
    return {name: scale * eps for name, eps in shape.items()}, distances / scale


@pytest.mark.parametrize("shape", [{"a": 1.0}, {"b": 1.0}, {"a": 1.0, "b": 3.0}], ids=["a", "b", "both"])
@pytest.mark.parametrize("classes", [2, 3, 4, 8])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_is_exact_on_linear_models(norm: Norm, classes: int, shape: dict[str, float]) -> None:
    model, batch = linear({"first": classes})
    radii, distances = at_median(model, batch, norm, shape)
    target = target_of(model, threat_of(norm, **radii))
    found, reached = FAB(steps=30).minimise(target, batch)
    assert not robust(model, batch, found).any()
    torch.testing.assert_close(reached, distances, rtol=0.02, atol=0)
    assert (reached >= distances * (1 - 1e-4)).all()
    inside = FAB(steps=30).perturb(target, batch)
    target.threat.check(inside, batch.inputs, "fab")
    assert torch.equal(robust(model, batch, inside), distances > 1)


@pytest.mark.parametrize("classes", [2, 3, 4, 8])
def test_cw_is_exact_on_linear_models(classes: int) -> None:
    model, batch = linear({"first": classes}, 20)
    radii, distances = at_median(model, batch, "l2", {"a": 1.0})
    target = target_of(model, threat_of("l2", **radii))
    found, reached = QUICK.minimise(target, batch)
    assert not robust(model, batch, found).any()
    torch.testing.assert_close(reached, (found["a"] - batch.inputs["a"]).flatten(1).norm(dim=1))
    ratio = reached / radii["a"] / distances
    assert ratio.min() > 1 - 1e-4
    # It makes for the class that is nearest in logits; with more than two, not always in distance.
    assert (ratio if classes == 2 else ratio.median()).max() < 1.02
    inside = QUICK.perturb(target, batch)
    near = reached < radii["a"]
    assert not robust(model, batch, inside)[near].any()
    assert torch.allclose(inside["a"][near], found["a"][near], atol=1e-6), "not the closest it found"


def test_cw_under_several_radii() -> None:
    """Distances are joint, in units of the radii; yet every modality's radius is used to the full."""
    model, batch = linear({"first": 2})
    radii, distances = at_median(model, batch, "l2", {"a": 1.0, "b": 3.0})
    target = target_of(model, threat_of("l2", **radii))
    gaps, normals = gaps_and_normals(model, batch, "first")
    reach = torch.stack([normals[name].norm(dim=2) * eps for name, eps in radii.items()]).norm(dim=0)
    _, reached = QUICK.minimise(target, batch)
    torch.testing.assert_close(reached, (gaps / reach).amin(1) * radii["b"], rtol=0.02, atol=0)
    assert torch.equal(robust(model, batch, QUICK.perturb(target, batch)), distances > 1)


@pytest.mark.parametrize("attack", [FAB(steps=30), QUICK], ids=["fab", "cw"])
def test_a_joint_ball_is_attacked_exactly(attack: FAB | CW) -> None:
    """The distance is that of all modalities together, in closed form; so is who falls."""
    model, batch = linear({"first": 2})
    gaps, normals = gaps_and_normals(model, batch, "first")
    distances = (gaps / torch.stack([n.norm(dim=2) for n in normals.values()]).norm(dim=0)).amin(1)
    radius = distances.median().item() * 1.01
    target = target_of(model, threat_of("joint", a=radius, b=radius))
    _, reached = attack.minimise(target, batch)
    unit = radius if isinstance(attack, FAB) else 1.0
    torch.testing.assert_close(reached * unit, distances, rtol=0.02, atol=0)
    inside = attack.perturb(target, batch)
    target.threat.check(inside, batch.inputs, "joint")
    assert torch.equal(robust(model, batch, inside), distances > radius)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(FAB(steps=50), "linf"), (FAB(steps=50), "l2"), (QUICK, "l2")],
    ids=["fab-linf", "fab-l2", "cw"],
)
@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_black_and_white_images_can_move(attack: FAB | CW, norm: Norm, flat: float) -> None:
    """Pixels at the edge of the box move to one side only, which the closed form knows."""
    model, batch = linear({"first": 2}, 2, flat)
    gaps, normals = gaps_and_normals(model, batch, "first")
    usable = normals["a"].clamp_min(0) if flat == 0 else normals["a"].clamp_max(0)
    wanted = 0.3 * usable.norm(dim=2).amax()
    with torch.no_grad():
        bias(model, "first")[batch.labels["first"][0]] += wanted - gaps.min()
    expected = (wanted / usable.norm(1 if norm == "linf" else 2, dim=2)).amin(1)
    found, reached = attack.minimise(target_of(model, threat_of(norm, a=1.0)), batch)
    torch.testing.assert_close(reached, expected, rtol=0.02, atol=0)
    assert 0 <= found["a"].min() <= found["a"].max() <= 1


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(FAB(steps=50), "linf"), (FAB(steps=50), "l2"), (CW(), "l2")],
    ids=["fab-linf", "fab-l2", "cw"],
)
def test_two_heads(attack: FAB | CW, norm: Norm) -> None:
    classes = {"first": 2, "second": 3}
    model, batch = linear(classes)
    each = torch.stack([exact(model, batch, head, norm, {"a": 1.0}) for head in classes])
    expected = {"first": each[0], "second": each[1], "any": each.amin(0)}
    for head in (*expected, "all"):
        found, reached = attack.minimise(target_of(model, threat_of(norm, a=1.0), head), batch)
        assert not robust(model, batch, found, head).any()
        if head == "all":
            # No closed form; it is at least as far as the further head.
            assert (reached >= each.amax(0) * (1 - 1e-4)).all()
            assert reached.median() < 2 * each.amax(0).median()
        else:
            torch.testing.assert_close(reached, expected[head], rtol=0.02, atol=0)


@ATTACK_AND_NORM
def test_ball_box_and_untouched_modality(net: FusionModel, batch: Batch, attack: Attack, norm: Norm) -> None:
    edge = replace(batch, inputs={name: x.round() for name, x in batch.inputs.items()})
    for samples in (batch, edge):
        for radii in ({"a": 0.05}, {"b": 0.1}, {"b": 0.0}, {"a": 0.05, "b": 0.1}, {"a": 0.0, "b": 0.1}):
            target = target_of(net, threat_of(norm, **radii))
            before = {name: x.clone() for name, x in samples.inputs.items()}
            found = attack.perturb(target, samples)
            target.threat.check(found, samples.inputs, "attack")
            for name, x in samples.inputs.items():
                assert torch.equal(x, before[name]), "the attack wrote into its input"
                assert not found[name].requires_grad
                if radii.get(name, 0) == 0:
                    assert torch.equal(found[name], x)
            stronger = goal_of(net).loss(margin, net(found), samples.labels)
            assert (stronger >= goal_of(net).loss(margin, net(samples.inputs), samples.labels) - 1e-5).all()


@ATTACK_AND_NORM
def test_a_sample_alone_fares_as_in_company(
    net: FusionModel, batch: Batch, attack: Attack, norm: Norm
) -> None:
    target = target_of(net, threat_of(norm, a=0.05, b=0.1))
    together = attack.perturb(target, batch)
    picked = torch.tensor([7, 2])
    apart = attack.perturb(target, batch.take(picked))
    for name in SHAPES:
        torch.testing.assert_close(apart[name], together[name][picked], atol=1e-4, rtol=0)


@ATTACK_AND_NORM
def test_randomness_is_the_seeds_own(net: FusionModel, batch: Batch, attack: Attack, norm: Norm) -> None:
    target = target_of(net, threat_of(norm, b=0.02))
    torch.manual_seed(1)
    first = attack.perturb(target, batch)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(attack.perturb(target, batch)["b"], first["b"])
    assert torch.equal(state, torch.get_rng_state())


class Recorder(ConvNet):
    """Remembers every input."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.__dict__.setdefault("seen", []).append(inputs["b"].detach().clone())
        return super().forward(inputs)


def test_restarts_derive_from_the_seed(batch: Batch) -> None:
    """The first walk to each target starts from the clean point, the others from half the ball."""
    seen = {}
    for run, seed in (("first", 0), ("again", 0), ("other", 7)):
        model = seeded(Recorder, CHANNELS, CLASSES)
        target = replace(target_of(model, threat_of(b=1e-4)), seed=seed)
        FAB(steps=1, restarts=2, targets=1).perturb(target, batch)
        # Ranking of the targets (one a head), then start and end of each of four walks.
        assert len(model.__dict__["seen"]) == 1 + 4 * 2
        seen[run] = [x - batch.inputs["b"] for x in model.__dict__["seen"][1::2]]
    for walk, moved in enumerate(seen["first"]):
        assert torch.equal(moved, seen["again"][walk])
        assert torch.equal(moved, seen["other"][walk]) == (walk % 2 == 0)
        assert moved.abs().max() <= (0.5e-4 + 1e-7) * (walk % 2)
    assert not torch.equal(seen["first"][1], seen["first"][3])


@ATTACK_AND_NORM
def test_random_models_are_attacked_to_the_end(batch: Batch, attack: Attack, norm: Norm) -> None:
    model = seeded(RandomNet, CHANNELS, CLASSES)
    target = target_of(model, threat_of(norm, a=0.5, b=0.5), eot=2)
    found = attack.perturb(target, batch)
    target.threat.check(found, batch.inputs, "attack")
    model.noise.reseed(0)
    goal = goal_of(model)
    after, before = (goal.loss(margin, model(inputs), batch.labels) for inputs in (found, batch.inputs))
    assert (after - before).mean() > 0.1
    if isinstance(attack, FAB):
        rounds = attack.restarts * sum(min(attack.targets, k - 1) for k in CLASSES.values())
        assert target.passes.backward == 10 * 2 * attack.steps * rounds


def test_fab_leaves_broken_samples_alone(net: FusionModel, batch: Batch) -> None:
    """Each pass serves for judging and for the gradient; a sample broken inside the ball gets no more."""
    narrow, wide = target_of(net, threat_of(b=1e-4)), target_of(net, threat_of(b=0.3))
    FAB(steps=10).perturb(narrow, batch)
    walks = 1 + 2  # one for each wrong class of each head
    assert narrow.passes.backward == 10 * 10 * walks
    assert narrow.passes.forward == 10 * (1 + 11 * walks)
    FAB(steps=10).perturb(wide, batch)
    assert wide.passes.backward < narrow.passes.backward / 2


def test_cw_ignores_shift_and_scale_of_the_logits() -> None:
    model, batch = linear({"first": 3})
    target = target_of(model, threat_of("l2", a=1.0))
    expected = QUICK.minimise(target, batch)[1]
    with torch.no_grad():
        weight(model, "first").mul_(20)
        bias(model, "first").mul_(20).sub_(50)
    torch.testing.assert_close(QUICK.minimise(target, batch)[1], expected, rtol=2e-3, atol=0)


def test_confidence_is_a_margin() -> None:
    model, batch = linear({"first": 3})
    found, _ = replace(QUICK, confidence=0.5).minimise(target_of(model, threat_of("l2", a=1.0)), batch)
    reached = goal_of(model).loss(margin, model(found), batch.labels)
    assert (reached >= 0.5).all()
    assert reached.max() < 0.6


def hard_case(rows: int, pixels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of very different sizes, many of them 0, and caps of which some are 0; goals to 95 %."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, pixels, generator=rng).mul(2).exp()
    weight *= torch.rand(rows, pixels, generator=rng) > 0.3
    cap = torch.rand(rows, pixels, generator=rng) * (torch.rand(rows, pixels, generator=rng) > 0.2)
    return weight, cap, torch.linspace(0.001, 0.95, rows) * (weight * cap).sum(1)


def by_trying_all_pieces(weight: Tensor, speed: Tensor, cap: Tensor, goal: Tensor) -> Tensor:
    """``water_level`` in float64: the sum at every level at which some cap is met, then interpolation."""
    levels = []
    for w, s, c, g in zip(weight.double(), speed.double(), cap.double(), goal.double(), strict=True):
        corners = torch.cat([torch.zeros(1), c[s > 0] / s[s > 0]]).double().sort().values
        sums = (w * torch.minimum(corners[:, None] * s, c)).sum(1)
        i = int((sums < g).sum())
        share = (g - sums[i - 1]) / (sums[i] - sums[i - 1])
        levels.append(corners[i - 1] + share * (corners[i] - corners[i - 1]))
    return torch.stack(levels)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_projection_against_brute_force(norm: Norm) -> None:
    weight, cap, goal = hard_case(40, 400)
    speed = torch.ones_like(weight) if norm == "linf" else weight
    level = water_level(weight, speed, cap, goal)
    expected = by_trying_all_pieces(weight, speed, cap, goal)
    torch.testing.assert_close(level.double(), expected, rtol=1e-4, atol=0)
    beyond = water_level(weight, speed, cap, goal * 0 + 2 * (weight * cap).sum(1))
    assert torch.equal(torch.minimum(beyond[:, None] * speed, cap)[weight > 0], cap[weight > 0])
    assert torch.equal(water_level(weight, speed, cap, goal * 0), goal * 0)


def space_of(norms: Mapping[str, Norm], radii: Mapping[str, float], rows: int) -> Space:
    """Spaces of three pixels a modality, some at the edge of the box."""
    rng = torch.Generator().manual_seed(1)
    clean = {name: torch.rand(rows, 1, 1, 3, generator=rng) for name in norms}
    for x in clean.values():
        x[:, 0, 0, 0] = (torch.rand(rows, generator=rng) > 0.5).float()
    threat = threat_of("linf", **radii)
    budgets = {name: replace(budget, norm=norms[name]) for name, budget in threat.budgets.items()}
    space = Space.around(clean, replace(threat, budgets=budgets))
    assert space is not None
    return space


@pytest.mark.parametrize(
    "norms",
    [
        {"a": "linf"},
        {"a": "l2"},
        {"a": "linf", "b": "linf"},
        {"a": "l2", "b": "l2"},
        {"a": "l2", "b": "linf"},
    ],
    ids=["linf", "l2", "linf-linf", "l2-l2", "l2-linf"],
)
def test_the_move_is_the_shortest(norms: dict[str, Norm]) -> None:
    """Against a general solver: the least length r such that a move of length r reaches the plane."""
    rows = 8
    space = space_of(norms, {"a": 0.5, "b": 0.2} if "b" in norms else {"a": 0.5}, rows)
    rng = torch.Generator().manual_seed(2)
    origin = torch.zeros_like(space.low)
    normal = torch.randn(origin.shape, generator=rng)
    most = torch.where(normal > 0, normal * space.high, normal * space.low).sum(1)
    least = torch.where(normal > 0, normal * space.low, normal * space.high).sum(1)
    gap = torch.where(torch.arange(rows) % 2 == 0, most, least) * torch.linspace(0.05, 0.95, rows)
    move = space.towards(origin, normal, gap)
    torch.testing.assert_close((normal * move).sum(1), gap, rtol=1e-4, atol=1e-6)
    assert ((move >= space.low - 1e-6) & (move <= space.high + 1e-6)).all()
    for i in range(rows):
        assert space.lengths(move)[i].item() == pytest.approx(
            shortest(space.take(torch.tensor([i])), normal[i], gap[i].item()), rel=2e-3
        )


def shortest(space: Space, normal: Tensor, gap: float) -> float:
    """The length of the shortest move, by sequential quadratic programming from a few starts."""
    pixels, weights = normal.numel(), normal.double().numpy()
    parts = np.split(np.arange(pixels), pixels // 3)

    def slack(z: Any) -> Any:
        values = []
        for budget, part in zip(space.budgets.values(), parts, strict=True):
            if budget.norm == "linf":
                values.extend([z[-1] - z[part], z[-1] + z[part]])
            else:
                values.append([z[-1] ** 2 - (z[part] ** 2).sum()])
        return np.concatenate(values)

    low, high = space.low[0].double().numpy(), space.high[0].double().numpy()
    results = [
        minimize(
            lambda z: z[-1],
            np.append(share * np.where(weights * gap > 0, high, low), 10.0),
            bounds=[*zip(low, high, strict=True), (0, None)],
            constraints=[
                {"type": "eq", "fun": lambda z: z[:-1] @ weights - gap},
                {"type": "ineq", "fun": slack},
            ],
            options={"maxiter": 500, "ftol": 1e-10},
        )
        for share in (0.1, 0.5, 1.0)
    ]
    return float(min(r.x[-1] for r in results if r.success))


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: FAB(steps=0), "fab: steps, restarts and targets"),
        (lambda: FAB(alpha_max=1.5), "fab: alpha-max is 1.5"),
        (lambda: FAB(eta=0.9), "fab: eta is 0.9"),
        (lambda: FAB(beta=0), "fab: beta is 0"),
        (lambda: CW(search_steps=0), "cw: steps and search-steps"),
        (lambda: CW(step_size=0), "cw: step-size is 0"),
        (lambda: CW(confidence=-1), "cw: confidence is -1"),
    ],
)
def test_bad_parameters(build: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        build()
    assert "\n" not in str(error.value)


def test_cw_knows_l2_only(net: FusionModel, batch: Batch) -> None:
    with pytest.raises(UserError, match="--norm l2"):
        CW().perturb(target_of(net, threat_of(a=0.1)), batch)
    for attack in (CW(), FAB()):
        with pytest.raises(UserError, match="every radius is 0"):
            attack.minimise(target_of(net, threat_of("l2", a=0.0)), batch)
