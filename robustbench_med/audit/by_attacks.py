"""Checks that run further attacks and ask whether the run's was as strong as it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_med.api.attack import Batch, Target, take
from robustbench_med.api.model import Forward, Wrapper
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.audit.bench import Bench, Finding, Other, percent
from robustbench_med.audit.draws import Curve
from robustbench_med.evaluation.batches import Plan
from robustbench_med.util.errors import UserError

ONE_SIDED = 1.6448536269514722  # normal quantile of 95 %
INSIDE = 1e-5  # how far from ball and box, in units of the pixel range, rounding may put what lies inside


def unbounded(bench: Bench) -> Iterator[Finding]:
    """With any image allowed, no model can be better than one that gives a constant answer.

    Unless it sees an image that is not attacked.
    """
    plan, strong = bench.plan, bench.config.strong
    budgets = {name: _whole_range(bench, name, b) for name, b in plan.threat.budgets.items()}
    threat = ThreatModel(budgets, plan.threat.joint)
    right = bench.under("unbounded", attack=bench.make(strong.attack, strong.options), threat=threat)
    reached, constant = float(right.mean()), _constant_answer(bench)
    slack = ONE_SIDED * math.sqrt(max(constant * (1 - constant), 0.01) / right.shape[1])
    said = f"{percent(reached)} right when every pixel may change; a constant answer gets {percent(constant)}"
    whole = set(budgets) == set(plan.model.channels)
    passed = reached <= constant + slack or not whole
    if not whole:
        said += "; other images are not attacked"
    yield Finding("unbounded", passed, said, {"robust": reached, "constant": constant})


def _whole_range(bench: Bench, name: str, budget: Budget) -> Budget:
    """A radius within which every image of the box lies; in a joint ball, all of them together."""
    if budget.norm == "linf":
        return replace(budget, epsilon=1.0)
    names = bench.plan.threat.budgets if bench.plan.threat.joint else [name]
    pixels = sum(bench.batch.inputs[each].shape[1:].numel() for each in names)
    return replace(budget, epsilon=math.sqrt(pixels))


def _constant_answer(bench: Bench) -> float:
    """The best accuracy of an answer that is the same for all samples, by the run's goal."""
    labels = {task: y[: bench.right.shape[1]] for task, y in bench.outcomes.labels.items()}
    head = bench.plan.goal.head
    if head not in ("any", "all"):
        return float(np.bincount(labels[head]).max() / len(labels[head]))
    joint = np.stack(list(labels.values()))
    answers = np.unique(joint, axis=1).T
    equal = answers[:, :, None] == joint[None]
    hits = equal.all(1) if head == "any" else equal.any(1)
    return float(hits.mean(1).max())


def monotone(bench: Bench) -> Iterator[Finding]:
    """A larger radius contains the smaller one: accuracy cannot rise with it."""
    plan, rights = bench.plan, {}
    for factor in (0.5, 1.0, 2.0):
        threat = plan.threat.scaled(factor)
        rights[factor] = bench.right if factor == 1 else bench.under(f"{factor:g} epsilon", threat=threat)
    rises = [_lead(rights[b], rights[a]) for a, b in ((0.5, 1.0), (1.0, 2.0))]
    passed = all(low <= bench.thresholds.stronger for _, low in rises)
    shares = ", ".join(f"{percent(float(r.mean()))} at {f:g} epsilon" for f, r in rights.items())
    yield Finding("monotone", passed, shares)


def no_other_is_stronger(bench: Bench) -> Iterator[Finding]:
    """Weaker or otherwise informed attacks must leave at least as much as the run's."""
    for other in bench.config.others:
        try:
            attack = bench.make(other.attack, other.options)
            right = bench.under(other.role, attack=attack, eot=_draws(bench.plan, other))
        except UserError as error:
            yield Finding(other.role, True, f"not run: {error}")
            continue
        yield _compared(bench, other.role, right, other.refined)


def _draws(plan: Plan, other: Other) -> int:
    return plan.eot if plan.model.draws_shared_by == "none" else max(plan.eot, other.eot)


def no_better_together(bench: Bench) -> Iterator[Finding]:
    """The worst case over all attacks is the number that the run's attack claims to have found."""
    if bench.plan.model.draws_shared_by != "none" and bench.plan.draws == 1:
        return  # the least of several single draws is too low, however strong the attacks
    everyone = np.stack([bench.right, *bench.tried])
    worst, lead = _worst_case(everyone), float(bench.right.mean())
    gain = lead - worst
    spread = math.sqrt(max(gain * (1 - gain), 0.0) / everyone.shape[2])
    passed = gain - ONE_SIDED * spread <= bench.thresholds.stronger or gain <= bench.thresholds.together
    said = f"the worst case of {len(everyone)} attacks leaves {percent(worst)}, the run's {percent(lead)}"
    yield Finding("together", passed, said, {"run": lead, "other": worst})


def _worst_case(rights: NDArray[np.bool_]) -> float:
    """What the best attack on each sample leaves right, of (A, R, N).

    Of random models it is chosen on half of the draws and scored on the others, both ways: the least
    of several noisy means is too low.
    """
    draws = rights.shape[1]
    halves = [np.arange(draws) % 2 == half for half in (0, 1)] if draws > 1 else [np.array([True])] * 2
    samples = np.arange(rights.shape[2])
    left = [
        rights[:, score].mean(1)[rights[:, choose].mean(1).argmin(0), samples].mean()
        for choose, score in (halves, halves[::-1])
    ]
    return float(np.mean(left))


def silent_success(bench: Bench) -> Iterator[Finding]:
    """No attack may break a sample on its way and hand back another image (one that keeps the last does).

    Only a deterministic model's samples are broken for good when they are seen broken once.
    """
    plan = bench.plan
    if plan.model.draws_shared_by != "none":
        return
    bench.announce("silent success")
    lost, standing = 0, np.flatnonzero(bench.clean[0])
    for some in np.array_split(standing, max(1, math.ceil(len(standing) / plan.batch_size))):
        part = bench.batch.take(torch.from_numpy(some).to(next(iter(bench.batch.inputs.values())).device))
        if len(part) == 0:
            continue
        witness = Witness(bench.target(), part)
        with plan.model.enclosed_by(witness):
            found = plan.attack.perturb(bench.target(), part)
        lost += int((witness.broken & ~witness.breaks(found)).sum())
    share = lost / len(bench.batch)
    said = f"{percent(share)} of samples are broken on the way but not in what the attack returns"
    yield Finding("silent success", share <= bench.thresholds.refined, said, {"silent": share})


class Witness(Wrapper):
    """Sees every pass of an attack, and which of them broke a sample within the rules.

    Libraries hand the model their own choice of samples; each row belongs to the clean image next to it.

    Attributes:
        broken: (B,) whether the goal was reached in any pass.
    """

    def __init__(self, target: Target, batch: Batch) -> None:
        super().__init__()
        self.target, self.batch = target, batch
        self.names = list(target.threat.budgets)
        self.clean = self._pixels(batch.inputs)
        self.broken = torch.zeros(len(batch), dtype=torch.bool, device=self.clean.device)

    @property
    def is_random(self) -> bool:
        return False

    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = model(inputs)
        with torch.no_grad():
            self._look(inputs, logits)
        return logits

    def breaks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Whether the goal is reached at ``inputs``, one a sample of the batch."""
        with torch.inference_mode():
            return self.target.goal.success(self.target.model(inputs), self.batch.labels) > 0

    def _look(self, inputs: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> None:
        sample = torch.cdist(self._pixels(inputs), self.clean).argmin(1)
        clean, labels = take(self.batch.inputs, sample), take(self.batch.labels, sample)
        allowed = self.target.threat.project(inputs, clean)
        inside = [(allowed[n] - inputs[n]).abs().flatten(1).amax(1) < INSIDE for n in self.names]
        broken = torch.stack(inside).all(0) & (self.target.goal.success(logits, labels) > 0)
        self.broken[sample[broken]] = True

    def _pixels(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([inputs[name].detach().flatten(1) for name in self.names], 1)


def longer(bench: Bench) -> Iterator[Finding]:
    """An attack that has converged gains nothing from further steps."""
    many = bench.plan.attack.prolonged(bench.config.longer)
    if many is not None:
        right = bench.under(f"{bench.config.longer} times as many steps", attack=many)
        yield _compared(bench, "more steps", right, refined=True)


def more_draws(bench: Bench) -> Iterator[Finding]:
    """Gradients over more draws (EOT) must not help, nor must as many steps on single draws."""
    plan = bench.plan
    if plan.model.draws_shared_by == "none":
        return
    eot = plan.eot * bench.config.more_draws
    yield _compared(bench, "more draws", bench.under(f"EOT {eot}", eot=eot), refined=True)
    many = plan.attack.prolonged(plan.eot)
    if plan.eot > 1 and many is not None:
        right = bench.under("EOT 1 at the same cost", eot=1, attack=many)
        yield _compared(bench, "single draws", right, refined=True)


def converged(curve: Curve) -> Finding:
    """Whether the search for the number of EOT draws came to an end."""
    last = curve.points[-1]
    said = f"{percent(last.robust)} at {last.draws} draws, where gradients agree to {last.agreement:.2f}"
    return Finding("EOT", curve.converged, said if curve.converged else f"not converged: {said}")


def _compared(bench: Bench, role: str, right: NDArray[np.bool_], refined: bool) -> Finding:
    """Passes unless the other attack is stronger than the run's by more than is allowed and by chance."""
    lead, low = _lead(bench.right, right)
    limits = bench.thresholds
    passed = low <= limits.stronger or (refined and lead <= limits.refined)
    numbers = {"run": float(bench.right.mean()), "other": float(right.mean())}
    said = f"leaves {percent(numbers['other'])}, the run's attack {percent(numbers['run'])}"
    return Finding(role, passed, said, numbers)


def _lead(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much more ``first`` (R, N) leaves right than ``second`` (R', N); and its 95 % lower bound.

    Paired by sample; draws shared by a batch are allowed for by the spread of whole draws.
    """
    each = first.mean(0) - second.mean(0)
    variance = float(each.var(ddof=1)) / len(each) if len(each) > 1 else 1.0
    for right in (first, second):
        if len(right) > 1:
            variance += float(right.mean(1).var(ddof=1)) / len(right)
    return float(each.mean()), float(each.mean()) - ONE_SIDED * math.sqrt(variance)
