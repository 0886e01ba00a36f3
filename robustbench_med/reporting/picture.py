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
from robustbench_med.measure.accuracy import Accuracy, correct, headline
from robustbench_med.reporting.figures import label as named
from robustbench_med.reporting.figures import pyplot, saved
from robustbench_med.reporting.leaderboard import radius
from robustbench_med.reporting.text import broken, percent

Values = NDArray[np.float32]
RIGHT, WRONG, QUIET = "#1a7f37", "#cf222e", "#57606a"
LINES = 14  # of text beside a sample
WIDE = 40  # letters of such a line
VISIBLE = 1e-4  # a change below this, in units of the modality, is rounding: magnified it would mislead


def draw(outcomes: Outcomes, plan: Plan, measured: Mapping[str, Accuracy], label: str, path: Path) -> None:
    """Write a PNG: a row a sample, three columns a modality, answers beside the values."""
    plt = pyplot()
    index, modalities = outcomes.shown["index"], plan.split.info.modalities
    columns = 3 * len(modalities) + 1
    widths = [1.0] * (columns - 1) + [1.6]
    figure, axes = plt.subplots(
        len(index),
        columns,
        figsize=(1.4 * columns + 2.4, 1.75 * len(index) + 1.1),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"width_ratios": widths},
    )
    before = np.any(correct(outcomes.clean, outcomes.labels, plan.goal), axis=0)
    for row, sample in enumerate(index):
        for number, modality in enumerate(modalities):
            clean, adversarial = (
                outcomes.shown[f"{kind}/{modality.name}"][row] for kind in ("clean", "adversarial")
            )
            places = axes[row, 3 * number : 3 * number + 3]
            _draw_modality(places, modality, clean, adversarial, plan, row == 0, bool(before[sample]))
        _write_answers(axes[row, -1], outcomes, plan, int(sample))
    title = _title(plan, measured, label, int(14 * figure.get_figwidth()))
    figure.suptitle(title, fontsize=10)
    saved(figure, path)


def _title(plan: Plan, measured: Mapping[str, Accuracy], label: str, wide: int) -> str:
    """Model, data and attack, then the accuracies of the headline and of every head, in lines that fit."""
    synthetic = ", synthetic" if plan.split.info.synthetic else ""
    key = headline(plan.goal)
    heads = [head.name for head in plan.goal.heads if head.name in measured and head.name != key]
    names = [key, *(heads if len(plan.goal.heads) > 1 else [])]
    said = "; ".join(
        f"{name}: clean {percent(measured[name].clean)}, robust {percent(measured[name].robust)} %"
        for name in names[:4]
    )
    what = f"{label} on {plan.split.info.name}{synthetic} under {plan.name}"
    return "\n".join(textwrap.fill(named(line), wide) for line in (what, said))


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
    clean: Values,
    adversarial: Values,
    plan: Plan,
    top: bool,
    right_before: bool,
) -> None:
    """Clean values, what was changed, and adversarial values.

    Args:
        right_before: else there was nothing to attack.
    """
    budget = plan.threat.budgets.get(modality.name)
    change = (adversarial - clean) / np.asarray(modality.unit)
    most = float(np.abs(change).max())
    gain = 0.5 / most if most > VISIBLE else 0.0
    said = f"change x{gain:.0f}" if gain else "no change"
    if budget is None or not (gain or right_before):
        said = "not attacked" if budget is None else "not attacked:\nwrong before"
    if modality.kind == "volume":
        clean, change, adversarial = _slices(clean, change, adversarial)
    titles = [modality.name, said, "adversarial"]
    if top and budget is not None and gain:
        titles[1] += f"\n{budget.norm} {radius(budget.as_record())}"
    drawers = {"image": _image, "volume": _image, "signal": _signal, "table": _bars}
    draw_one = drawers[modality.kind]
    for place, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        if place == 1 and not gain:
            axis.set_axis_off()
        else:
            draw_one(axis, modality, (clean, change * gain, adversarial)[place], place == 1)
            if place:
                axis.set_yticks([])  # what a table's bars are stands beside the first
        if top or place == 1:
            axis.set_title(named(title), fontsize=8)


def _share(modality: Modality, values: Values, change: bool) -> Values:
    """Values, or a magnified change of them, from 0 to 1."""
    if change:
        return np.asarray(0.5 + values, np.float32)
    low, high = np.asarray(modality.low), np.asarray(modality.high)
    return np.asarray((values - low) / (high - low), np.float32)


def _image(axis: Any, modality: Modality, values: Values, change: bool) -> None:
    shown = _share(modality, values, change)
    grey = np.clip(shown.transpose(1, 2, 0), 0, 1) if len(shown) == 3 else shown.mean(0)
    axis.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()


def _slices(clean: Values, change: Values, adversarial: Values) -> tuple[Values, Values, Values]:
    """Of volumes the same slice: that in the middle, or where that was left alone the one changed most."""
    most = np.abs(change).max((0, 2, 3))
    middle = len(most) // 2
    place = middle if most[middle] > VISIBLE or most.max() <= VISIBLE else int(most.argmax())
    return clean[:, place], change[:, place], adversarial[:, place]


def _signal(axis: Any, modality: Modality, values: Values, change: bool) -> None:
    """A line a channel, one above the other."""
    for number, channel in enumerate(_share(modality, values, change)):
        axis.plot(channel - number, linewidth=0.6)
    axis.set_axis_off()


def _bars(axis: Any, modality: Modality, values: Values, change: bool) -> None:
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
    found = [each for head in plan.goal.heads for each in _answers(head, outcomes, sample, plan.draws > 1)]
    found.sort(key=lambda each: each[0])
    lines: list[tuple[str, str]] = []
    for number, (_, said, color) in enumerate(found):
        own = [(line, color) for line in _indented(broken(named(said), WIDE))]
        if len(lines) + len(own) > LINES - (number < len(found) - 1):
            lines.append((f"and {len(found) - number} more questions", QUIET))
            break
        lines += own
    height = 1 / max(len(lines), 6)
    for number, (line, color) in enumerate(lines):
        axis.text(0, 1 - (number + 0.5) * height, line, fontsize=6, color=color, va="center")


def _indented(lines: list[str]) -> list[str]:
    return [lines[0], *(f"   {line}" for line in lines[1:])]


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
        out.append((0 if first != then else 1, said, RIGHT if right else WRONG))
    return out
