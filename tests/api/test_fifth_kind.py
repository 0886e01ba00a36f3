"""A kind of head that this package does not have, in one file: attacked, scored, measured and trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from tiny import asks, batch_of, plan_of, takes, target_of, threat_of
from torch import Tensor, nn

from robustbench_med.api import UNKNOWN, FusionModel, Goal, Head, Split, UserError, margin
from robustbench_med.api.data import DatasetInfo
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.probe import probe
from robustbench_med.measure.accuracy import EVERY, accuracies
from robustbench_med.measure.metrics import describe

SHAPE, SAMPLES, RADIUS = (1, 4, 6), 40, 0.03


@dataclass(frozen=True)
class Ordinal(Head):
    """A grade, from one logit each; the grade beside the right one is right too.

    As a problem of two answers: the highest logit of a grade that is near enough, and the highest of the
    others. The first is always the right one.

    Attributes:
        grades: their names, in rising order; four or more, so that no answer is right whatever the label.
    """

    grades: tuple[str, ...] = field(kw_only=True)

    kind: ClassVar[str] = "ordinal"
    measured_by: ClassVar[tuple[str, ...]] = ("calibration_error",)
    logits_need_labels: ClassVar[bool] = True

    @property
    def questions(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def answers(self) -> tuple[str, ...]:
        return ("near", "far")

    @property
    def columns(self) -> tuple[int, ...]:
        return (len(self.grades),)

    def problems(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        near = (torch.arange(len(self.grades), device=scores.device) - labels[:, None]).abs() <= 1
        best = [scores.masked_fill(~some, -torch.inf).amax(-1) for some in (near, ~near)]
        truth = torch.where(labels == UNKNOWN, UNKNOWN, 0)
        return torch.stack(best, -1).unsqueeze(-2), truth[:, None]

    def label_problem(self, labels: NDArray[np.int64]) -> tuple[int, str] | None:
        bad = np.flatnonzero((labels < UNKNOWN) | (labels >= len(self.grades)))
        return (int(bad[0]), f"{self.name} has no grade {labels[bad[0]]}") if len(bad) else None

    def class_weights(self, labels: NDArray[np.int64], power: float) -> NDArray[np.float32]:
        del labels, power
        return np.ones((1, 2), np.float32)


GRADE = Ordinal("grade", grades=("0", "1", "2", "3", "4"), modalities=("a",))
SIDE = asks({"side": 2}, ("a",))[0]
HEADS = (GRADE, SIDE)


class Graded(FusionModel):
    """One linear layer per head, on the difference from grey."""

    def __init__(self) -> None:
        super().__init__(takes({"a": SHAPE}), HEADS)
        self.heads = nn.ModuleDict({h.name: nn.Linear(int(np.prod(SHAPE)), h.columns[0]) for h in HEADS})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        flat = inputs["a"].flatten(1) - 0.5
        return {name: head(flat) for name, head in self.heads.items()}


def graded() -> FusionModel:
    torch.manual_seed(0)
    return Graded().eval().requires_grad_(False)


def split_of_grades(model: FusionModel) -> Split:
    """Samples that the model gets right, half of them one grade off; nobody knows the first one's grade."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.8, (SAMPLES, *SHAPE)).astype(np.float32)
    answers = {h: z.argmax(1).numpy() for h, z in model({"a": torch.from_numpy(images)}).items()}
    off = np.where(answers["grade"] < 4, 1, -1) * (np.arange(SAMPLES) % 2)
    grades = answers["grade"] + off
    grades[0] = UNKNOWN
    info = DatasetInfo("grades", "Grades", "paired", takes({"a": SHAPE}), HEADS, "CC0-1.0", "none", True)
    ids = tuple(f"s{i:02}" for i in range(SAMPLES))
    rows = {"a": np.arange(SAMPLES)}
    labels = {"grade": grades, "side": answers["side"]}
    return Split("test", info, {"a": images}, rows, labels, ids, ids).validate()


MODEL = graded()
SPLIT = split_of_grades(MODEL)


def right_by_hand(scores: Tensor, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(scores.argmax(1).numpy() - labels) <= 1
    return near


def breakable(epsilon: float) -> NDArray[np.float64]:
    """By linear programs over the ball: the highest margin of a far grade over all near ones, (N,)."""
    weight = MODEL.get_submodule("heads.grade").get_parameter("weight").double().numpy()
    scores = MODEL(batch_of(SPLIT).inputs)["grade"].double().numpy()
    out = np.full(SAMPLES, -np.inf)
    for i, label in enumerate(SPLIT.labels["grade"]):
        near = [k for k in range(5) if abs(k - label) <= 1]
        for far in (k for k in range(5) if k not in near and label != UNKNOWN):
            above = [np.append(weight[k] - weight[far], 1.0) for k in near]
            gaps = [scores[i, far] - scores[i, k] for k in near]
            bounds = [*[(-epsilon, epsilon)] * weight.shape[1], (None, None)]
            goal = np.append(np.zeros(weight.shape[1]), -1.0)
            out[i] = max(out[i], -linprog(goal, A_ub=np.stack(above), b_ub=gaps, bounds=bounds).fun)
    return out


def test_problems_by_hand() -> None:
    scores = torch.tensor([[1.0, 0, 0, 3.0, 2.0]]).repeat(4, 1)
    labels = torch.tensor([0, 2, 4, UNKNOWN])
    logits, truth = GRADE.problems(scores, labels)
    assert logits[:3, 0].tolist() == [[1, 3], [3, 2], [3, 1]]
    assert truth[:, 0].tolist() == [0, 0, 0, UNKNOWN]
    each = margin(logits[:3, 0], truth[:3, 0])
    assert each.tolist() == [2, -1, -2]
    goal = Goal(HEADS, "grade")
    assert goal.success({"grade": scores}, {"grade": labels}).tolist() == [1, 0, 0, 1]
    draws = GRADE.problems(scores.expand(3, -1, -1), labels)[0]
    assert torch.equal(draws, logits.expand(3, -1, -1, -1))


def test_a_split_may_hold_it() -> None:
    assert probe(MODEL, SPLIT, "cpu", "graded").least == 1
    wrong = {**SPLIT.labels, "grade": np.where(np.arange(SAMPLES) == 3, 5, SPLIT.labels["grade"])}
    with pytest.raises(UserError, match="sample 's03': grade has no grade 5"):
        replace(SPLIT, labels=wrong).validate()


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("pgd", {"steps": 30}, 0.8),
        ("pgd", {"steps": 30, "loss": "margin"}, 0.8),
        ("apgd:t", {"steps": 30}, 0.8),
        ("fab", {"steps": 20}, 0.8),
        ("square", {"queries": 200}, 0.5),
    ],
)
def test_attacks_come_near_the_exact_answer(name: str, options: dict[str, Any], least: float) -> None:
    batch, goal = batch_of(SPLIT), Goal(HEADS, "grade")
    exact = breakable(RADIUS)
    found = make_attack(name, options).perturb(target_of(MODEL, threat_of(a=RADIUS), "grade"), batch)
    threat_of(a=RADIUS).check(found, batch.inputs, name)
    broken = (goal.success(MODEL(found), batch.labels) > 0).numpy()[1:]
    near = right_by_hand(MODEL(found)["grade"], SPLIT.labels["grade"])[1:]
    np.testing.assert_array_equal(broken, ~near)
    assert not broken[exact[1:] < -1e-4].any()
    assert 0.3 < (exact[1:] > 0).mean() < 0.7
    assert broken[exact[1:] > 1e-3].mean() >= least


@pytest.mark.parametrize(
    "library", ["torchattacks:PGD", "art:PGD", "foolbox:LinfPGD", "pyautoattack:apgd-ce"]
)
def test_libraries_say_that_they_cannot(library: str) -> None:
    if library.startswith(("foolbox", "pyautoattack")):
        pytest.importorskip(library.partition(":")[0])
    with pytest.raises(UserError, match=f"^{library} takes heads whose answers are classes; use --attack"):
        make_attack(library, {}).perturb(target_of(MODEL, threat_of(a=RADIUS)), batch_of(SPLIT))


@pytest.mark.parametrize("aim", ["any", "all", "grade"])
def test_a_run_scores_and_measures_it(aim: str, tmp_path: Path) -> None:
    goal = Goal(HEADS, aim)
    attack = make_attack("pgd", {"steps": 10})
    plan = plan_of(MODEL, SPLIT, attack, threat_of(a=3 * RADIUS), goal=goal, batch_size=16)
    outcomes = evaluate(plan, tmp_path, lambda _: None)
    known = SPLIT.labels["grade"] != UNKNOWN
    found = accuracies(outcomes, goal, "none")
    assert found["grade"].samples == SAMPLES - 1
    shares = {}
    for kind in ("clean", "adversarial"):
        right = right_by_hand(torch.from_numpy(getattr(outcomes, kind)["grade"][0]), SPLIT.labels["grade"])
        shares[kind] = right[known].mean()
    assert found["grade"].clean.value == shares["clean"] == 1
    assert found["grade"].robust.value == pytest.approx(shares["adversarial"])
    assert shares["adversarial"] < 0.8
    # The first sample, whose side is known, counts there too.
    assert (
        round(found[EVERY].robust.value * SAMPLES) <= round(found["grade"].robust.value * (SAMPLES - 1)) + 1
    )

    measured = describe(outcomes, goal, "none", {"half": ["first", "second"] * (SAMPLES // 2)})
    kinds = measured["metrics"]["grade"]
    for of_kind, scores in (("clean", outcomes.clean), ("robust", outcomes.adversarial)):
        assert {n for n, value in kinds[of_kind].items() if value is not None} == set(GRADE.measured_by)
        by_hand = calibration_error(torch.from_numpy(scores["grade"][0]))
        assert kinds[of_kind]["calibration_error"] == pytest.approx(by_hand)
    assert measured["attack_success"]["grade"] == pytest.approx(1 - shares["adversarial"])
    assert GRADE.as_record() == {
        "kind": "ordinal",
        "questions": ["grade"],
        "answers": ["near", "far"],
        "modalities": ["a"],
    }


def calibration_error(scores: Tensor) -> float:
    """How far from the truth it is that a grade is near, or far, as surely as the softmax says."""
    logits = GRADE.problems(scores, torch.from_numpy(SPLIT.labels["grade"]))[0][1:, 0].double()
    confidence = logits.softmax(1).amax(1).numpy()
    gaps = (logits.argmax(1) == 0).numpy() - confidence
    bins = np.minimum(np.floor(confidence * 15), 14)
    return float(sum(abs(gaps[bins == place].sum()) for place in range(15)) / (SAMPLES - 1))


def test_training_lowers_its_loss() -> None:
    """Until the grades are near enough, on samples whose grade is the brightness of a pixel."""
    torch.manual_seed(0)
    model = Graded()
    images = torch.rand(200, *SHAPE)
    labels = (images[:, 0, 0, 0] * 5).long()
    labels[0] = UNKNOWN
    weights = torch.from_numpy(GRADE.class_weights(labels.numpy(), 1.0))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        GRADE.train_loss(model({"a": images})["grade"], labels, weights, 0.0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    right = right_by_hand(model({"a": images})["grade"], labels.numpy())[1:]
    untrained = right_by_hand(graded()({"a": images})["grade"], labels.numpy())[1:]
    assert untrained.mean() < 0.7
    assert right.mean() > 0.9
