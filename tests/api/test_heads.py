"""Attacks on several heads, against the exact answer for linear models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tiny import (
    SHAPES,
    Linear,
    batch_of,
    class_counts,
    goal_of,
    labelled_by,
    random_split,
    seeded,
    split_of,
    target_of,
)
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch
from robustbench_med.api.model import FusionModel
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.attacks.apgd import APGD
from robustbench_med.attacks.autoattack import AutoAttack
from robustbench_med.attacks.pgd import PGD

EPSILON = 0.05


def broken(model: FusionModel, batch: Batch, attack: Attack, aim: str, radii: dict[str, float]) -> Tensor:
    """Which samples' goal an attack on ``aim`` reaches."""
    threat = ThreatModel({name: Budget("linf", epsilon) for name, epsilon in radii.items()})
    found = attack.perturb(target_of(model, threat, aim), batch)
    return goal_of(model, aim).success(model(found), batch.labels) > 0


def distracting(gap: float) -> tuple[FusionModel, Batch]:
    """Two heads of MAIL's 5 and 7 classes.

    "lesion" has small gaps and cannot be broken; "side" is right by ``gap``, and one of its classes is in
    reach all the same. An attack that follows the nearest boundary looks at the wrong head.
    """
    classes, pixels = {"lesion": 5, "side": 7}, 64
    model = seeded(Linear, {"a": (1, 8, 8)}, classes)
    direction = torch.randn(pixels)
    direction /= direction.abs().sum()
    with torch.no_grad():
        for head, gaps in {"lesion": [0.5] * 4, "side": [gap] + [gap + 1] * 5}.items():
            weight = 1e-3 * torch.randn(classes[head], pixels)
            if head == "side":
                weight[2] = weight[0] + direction * 1.3 * (gap + 1) / EPSILON
            layer = model.get_submodule(f"heads.{head}")
            layer.get_parameter("weight").copy_(weight)
            layer.get_parameter("bias").copy_(torch.tensor([0.0, *(-g for g in gaps)]) - weight.sum(1) / 2)
    images = np.full((20, 1, 8, 8), 0.5, np.float32)
    images += np.random.default_rng(0).uniform(-0.002, 0.002, images.shape).astype(np.float32)
    labels = {task: np.zeros(20, int) for task in classes}
    return model, batch_of(split_of({"a": images}, labels, classes))


@pytest.mark.parametrize(
    ("attack", "gap"),
    [
        (APGD(loss="dlr"), 20.0),
        (APGD(loss="targeted-dlr"), 2.0),
        (APGD(loss="targeted-dlr"), 20.0),
        (AutoAttack(), 2.0),
        (AutoAttack(), 20.0),
        (AutoAttack(version="rand"), 2.0),
        (AutoAttack(version="rand"), 20.0),
    ],
)
def test_any_head_is_the_union_of_the_heads(attack: Attack, gap: float) -> None:
    model, batch = distracting(gap)
    assert not broken(model, batch, attack, "lesion", {"a": EPSILON}).any()
    alone = broken(model, batch, attack, "side", {"a": EPSILON})
    assert alone.float().mean() > 0.5
    missed = alone & ~broken(model, batch, attack, "any", {"a": EPSILON})
    # The cross-entropy of "rand" stays that of both heads together; a sample may need it on one alone.
    assert missed.sum() <= (1 if attack == AutoAttack(version="rand") else 0)


def breakable_together(model: FusionModel, batch: Batch, radii: dict[str, float]) -> Tensor:
    """By linear programs over ball and box: how far all heads can be wrong at once, (B,)."""
    clean = {n: batch.inputs[n].flatten(1).double().numpy() for n in radii}
    low = np.concatenate([np.maximum(-e, -clean[n]) for n, e in radii.items()], 1)
    high = np.concatenate([np.minimum(e, 1 - clean[n]) for n, e in radii.items()], 1)
    with torch.no_grad():
        logits = {task: z.double().numpy() for task, z in model(batch.inputs).items()}
    classes, best = class_counts(model), []
    weights = {t: model.get_submodule(f"heads.{t}").get_parameter("weight").double().numpy() for t in classes}
    for i in range(len(batch)):
        right = {task: int(batch.labels[task][i]) for task in classes}
        wrong = [[k for k in range(count) if k != right[task]] for task, count in classes.items()]
        reached = []
        for aims in itertools.product(*wrong):
            aimed = list(zip(classes, aims, strict=True))
            above = [np.append(weights[t][right[t]] - weights[t][k], 1.0) for t, k in aimed]
            gaps = [logits[t][i, k] - logits[t][i, right[t]] for t, k in aimed]
            bounds = [*zip(low[i], high[i], strict=True), (None, None)]
            objective = np.append(np.zeros(low.shape[1]), -1.0)
            reached.append(-linprog(objective, A_ub=np.stack(above), b_ub=gaps, bounds=bounds).fun)
        best.append(max(reached))
    return torch.tensor(best)


@pytest.mark.parametrize(
    ("attack", "slack"),
    [(AutoAttack(), 0.1), (APGD(loss="targeted-dlr"), 0.15), (APGD(loss="dlr"), 0.15), (PGD(steps=60), 0.45)],
)
@pytest.mark.parametrize("classes", [(2, 3), (3, 4)])
def test_all_heads_come_near_the_exact_answer(attack: Attack, slack: float, classes: tuple[int, int]) -> None:
    """A step that helps one head may cost another, so that sign steps do not reach the optimum itself."""
    heads = dict(zip(("first", "second"), classes, strict=True))
    model = seeded(Linear, SHAPES, heads, seed=1)
    batch = batch_of(labelled_by(model, random_split(40, heads, seed=1)))
    radii = {"a": 0.03, "b": 0.06}
    exact, found = breakable_together(model, batch, radii), broken(model, batch, attack, "all", radii)
    assert not (found & (exact < -1e-4)).any()
    exactly = float((exact > 0).float().mean())
    assert exactly > 0.5
    assert float(found.float().mean()) >= exactly - slack
