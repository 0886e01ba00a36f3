"""The picture of a run: clean, magnified perturbation and adversarial image of each modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import Task
from robustbench_med.audit.draws import Curve
from robustbench_med.evaluation.batches import Plan
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.reporting.figures import pyplot
from robustbench_med.reporting.leaderboard import radius
from robustbench_med.util.files import replacing

RIGHT, WRONG = "#1a7f37", "#cf222e"


def draw(outcomes: Outcomes, plan: Plan, path: Path) -> None:
    """Write a PNG: a row a sample, three columns a modality, predictions beside the images."""
    plt = pyplot()
    index, modalities = outcomes.shown["index"], [m.name for m in plan.split.info.modalities]
    columns = 3 * len(modalities) + 1
    figure, axes = plt.subplots(
        len(index), columns, figsize=(1.7 * columns + 0.6, 1.75 * len(index) + 0.9), squeeze=False
    )
    for row, sample in enumerate(index):
        for number, name in enumerate(modalities):
            clean, adversarial = (outcomes.shown[f"{kind}/{name}"][row] for kind in ("clean", "adversarial"))
            _draw_modality(axes[row, 3 * number : 3 * number + 3], name, clean, adversarial, plan, row == 0)
        _write_predictions(axes[row, -1], outcomes, plan, int(sample))
    synthetic = ", synthetic" if plan.split.info.synthetic else ""
    figure.suptitle(f"{plan.split.info.name}{synthetic}: {plan.name}", fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def draw_curve(curve: Curve, path: Path) -> None:
    """Write a PNG: robust accuracy with its interval, and agreement of gradients, over EOT draws."""
    plt = pyplot()
    draws = [p.draws for p in curve.points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3))
    left.errorbar(
        draws,
        [100 * p.robust for p in curve.points],
        yerr=np.array([(p.robust - p.low, p.high - p.robust) for p in curve.points]).T * 100,
        marker="o",
        capsize=3,
    )
    left.set_ylabel(f"robust accuracy (%), {curve.samples} samples")
    right.plot(draws, [p.agreement for p in curve.points], marker="o")
    right.set_ylabel("cosine of two gradients")
    right.set_ylim(0, 1)
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(draws, [str(d) for d in draws])
        axis.set_xlabel("draws a gradient (EOT)")
    figure.suptitle("converged" if curve.converged else "not converged", fontsize=10)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _draw_modality(
    axes: NDArray[Any], name: str, clean: NDArray[Any], adversarial: NDArray[Any], plan: Plan, top: bool
) -> None:
    delta = adversarial - clean
    gain = 0.5 / max(float(np.abs(delta).max()), 1e-6)
    attacked = name in plan.threat.budgets
    titles = (name, f"x{gain:.0f}" if attacked else "not attacked", "adversarial")
    if top and attacked:
        budget = plan.threat.budgets[name]
        titles = (
            name,
            f"change x{gain:.0f}\n{budget.norm} {radius(budget.norm, budget.epsilon)}",
            "adversarial",
        )
    for axis, image, title in zip(axes, (clean, 0.5 + gain * delta, adversarial), titles, strict=True):
        axis.imshow(_displayable(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
        if top or title.startswith("x"):
            axis.set_title(title, fontsize=8)


def _displayable(image: NDArray[Any]) -> NDArray[Any]:
    """(C, H, W) as grey (H, W) or RGB (H, W, 3)."""
    shown: NDArray[Any] = image.mean(0)
    if len(image) == 3:
        shown = np.clip(image.transpose(1, 2, 0), 0, 1)
    return shown


def _write_predictions(axis: Any, outcomes: Outcomes, plan: Plan, sample: int) -> None:
    axis.set_axis_off()
    for line, task in enumerate(plan.split.info.tasks):
        truth = int(outcomes.labels[task.name][sample])
        top = 0.95 - line * 0.5
        axis.text(0, top, f"{task.name}: {task.classes[truth]}", fontsize=8, weight="bold", va="top")
        for offset, kind in ((0.16, "clean"), (0.30, "adversarial")):
            guess, share = _prediction(getattr(outcomes, kind)[task.name][:, sample], task)
            color = RIGHT if guess == task.classes[truth] else WRONG
            draws = f" ({share})" if plan.draws > 1 else ""
            axis.text(0, top - offset, f"{kind}: {guess}{draws}", fontsize=7, color=color, va="top")


def _prediction(logits: NDArray[Any], task: Task) -> tuple[str, str]:
    """Most frequent class over the draws (R, K), and in how many of them."""
    votes = np.bincount(logits.argmax(1), minlength=logits.shape[1])
    return task.classes[int(votes.argmax())], f"{votes.max()}/{len(logits)}"
