"""The picture of a run: clean, magnified perturbation and adversarial values of each modality."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.data import Modality
from robustbench_med.api.heads import UNKNOWN, Head
from robustbench_med.audit.draws import Curve
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan
from robustbench_med.measure.accuracy import Accuracy, headline
from robustbench_med.reporting.figures import label as named
from robustbench_med.reporting.figures import pyplot, saved
from robustbench_med.reporting.leaderboard import radius
from robustbench_med.reporting.text import percent

RIGHT, WRONG, QUIET = "#1a7f37", "#cf222e", "#57606a"
LINES = 10  # of answers beside a sample
VISIBLE = 1e-6  # a change below this, in units of the modality, is none


def draw(outcomes: Outcomes, plan: Plan, measured: Mapping[str, Accuracy], label: str, path: Path) -> None:
    """Write a PNG: a row a sample, three columns a modality, answers beside the values."""
    plt = pyplot()
    index, modalities = outcomes.shown["index"], plan.split.info.modalities
    columns = 3 * len(modalities) + 1
    widths = [1.0] * (columns - 1) + [1.6]
    figure, axes = plt.subplots(
        len(index),
        columns,
        figsize=(1.7 * columns + 1.6, 1.75 * len(index) + 1.1),
        squeeze=False,
        gridspec_kw={"width_ratios": widths},
    )
    for row, sample in enumerate(index):
        for number, modality in enumerate(modalities):
            clean, adversarial = (
                outcomes.shown[f"{kind}/{modality.name}"][row] for kind in ("clean", "adversarial")
            )
            places = axes[row, 3 * number : 3 * number + 3]
            _draw_modality(places, modality, clean, adversarial, plan, row == 0)
        _write_answers(axes[row, -1], outcomes, plan, int(sample))
    figure.suptitle(named(_title(plan, measured, label)), fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    saved(figure, path)


def _title(plan: Plan, measured: Mapping[str, Accuracy], label: str) -> str:
    synthetic = ", synthetic" if plan.split.info.synthetic else ""
    key = headline(plan.goal)
    aimed = measured[key]
    said = f"{key}: clean {percent(aimed.clean)}, robust {percent(aimed.robust)} %"
    return f"{label} on {plan.split.info.name}{synthetic} under {plan.name}\n{said}"


def draw_draws(curve: Curve, path: Path) -> None:
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
    saved(figure, path)


def _draw_modality(
    axes: NDArray[Any],
    modality: Modality,
    clean: NDArray[np.float32],
    adversarial: NDArray[np.float32],
    plan: Plan,
    top: bool,
) -> None:
    """Clean values, what was changed, and adversarial values."""
    budget = plan.threat.budgets.get(modality.name)
    change = (adversarial - clean) / np.asarray(modality.unit)
    most = float(np.abs(change).max())
    gain = 0.5 / most if most > VISIBLE else 0.0
    said = "not attacked" if budget is None else f"change x{gain:.0f}" if gain else "no change"
    titles = [modality.name, said, "adversarial"]
    if top and budget is not None:
        titles[1] += f"\n{budget.norm} {radius(budget.as_record())}"
    drawers = {"image": _image, "volume": _volume, "signal": _signal, "table": _bars}
    draw_one = drawers[modality.kind]
    for place, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        if place == 1 and not gain:
            axis.set_axis_off()
        else:
            draw_one(axis, modality, (clean, change * gain, adversarial)[place], place == 1)
        if top or place == 1:
            axis.set_title(named(title), fontsize=8)


def _share(modality: Modality, values: NDArray[np.float32], change: bool) -> NDArray[np.float32]:
    """Values, or a magnified change of them, from 0 to 1."""
    if change:
        return np.asarray(0.5 + values, np.float32)
    low, high = np.asarray(modality.low), np.asarray(modality.high)
    return np.asarray((values - low) / (high - low), np.float32)


def _image(axis: Any, modality: Modality, values: NDArray[np.float32], change: bool) -> None:
    shown = _share(modality, values, change)
    grey = np.clip(shown.transpose(1, 2, 0), 0, 1) if len(shown) == 3 else shown.mean(0)
    axis.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()


def _volume(axis: Any, modality: Modality, values: NDArray[np.float32], change: bool) -> None:
    """The slice in the middle; of a change the slice in which most was changed."""
    shown = _share(modality, values, change).mean(0)
    place = int(np.abs(shown - 0.5).sum((1, 2)).argmax()) if change else len(shown) // 2
    axis.imshow(shown[place], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.text(0.02, 0.02, f"slice {place}", fontsize=6, color="white", transform=axis.transAxes)
    axis.set_axis_off()


def _signal(axis: Any, modality: Modality, values: NDArray[np.float32], change: bool) -> None:
    """A line a channel, one above the other."""
    for number, channel in enumerate(_share(modality, values, change)):
        axis.plot(channel - number, linewidth=0.6)
    axis.set_axis_off()


def _bars(axis: Any, modality: Modality, values: NDArray[np.float32], change: bool) -> None:
    """A bar a feature, over its range; hollow where nothing may be changed."""
    shown = _share(modality, values, change) - (0.5 if change else 0.0)
    mutable = np.broadcast_to(True if modality.mutable is None else modality.mutable, shown.shape)
    for place, (length, free) in enumerate(zip(shown, mutable, strict=True)):
        style = {"color": "#4c72b0"} if free else {"facecolor": "white", "edgecolor": "#4c72b0"}
        axis.barh(-place, length, **style)
    names = modality.features or tuple(str(i) for i in range(len(shown)))
    axis.set_yticks([-i for i in range(len(shown))], [named(name) for name in names], fontsize=5)
    axis.set_xticks([])
    axis.set_xlim((-0.6, 0.6) if change else (0, 1))


def _write_answers(axis: Any, outcomes: Outcomes, plan: Plan, sample: int) -> None:
    """The label of every question and what was answered before and after; those that changed first."""
    axis.set_axis_off()
    lines = [line for head in plan.goal.heads for line in _answers(head, outcomes, sample, plan.draws > 1)]
    lines.sort(key=lambda line: line[0])
    shown, height = lines[:LINES], 1 / (min(len(lines), LINES) + 1)
    for number, (_, said, color) in enumerate(shown):
        axis.text(0, 1 - (number + 0.5) * height, said, fontsize=6, color=color, va="center")
    if len(lines) > LINES:
        rest = f"and {len(lines) - LINES} more questions"
        axis.text(0, 0.5 * height, rest, fontsize=6, color=QUIET, va="center")


def _answers(head: Head, outcomes: Outcomes, sample: int, random: bool) -> list[tuple[int, str, str]]:
    """By question: rank (0 where the answer was turned), a line, its colour."""
    out = []
    labels = torch.from_numpy(outcomes.labels[head.name][sample : sample + 1])
    votes, truth = [], None
    for scores in (outcomes.clean, outcomes.adversarial):
        logits, labels_q = head.problems(torch.from_numpy(scores[head.name][:, sample : sample + 1]), labels)
        votes.append(logits.argmax(-1)[:, 0].numpy())
        truth = labels_q[0].numpy()
    assert truth is not None
    for q, question in enumerate(head.questions):
        before, after = (np.bincount(v[:, q], minlength=len(head.answers)) for v in votes)
        shares = f" ({after.max()}/{after.sum()})" if random else ""
        known = truth[q] != UNKNOWN
        label = head.answers[truth[q]] if known else "unknown"
        first, then = (head.answers[int(v.argmax())] for v in (before, after))
        said = (
            f"{question}: {label}; {first} → {then}{shares}"
            if first != then
            else f"{question}: {label}; {then}{shares}"
        )
        right = not known or then == label
        out.append((0 if first != then else 1, textwrap.fill(named(said), 38), RIGHT if right else WRONG))
    return out
