"""Is the number to be trusted? Checks of a run's robust accuracy (evaluation.md, section 4).

An attack that fails and a model that resists look the same in a table. The checks tell them apart: some
look at the gradients the attack lives on, the others run further attacks on a part of the samples
and ask whether the first one was as strong as it should be. Which attacks those are is said in
``configs/audit``; this module names none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Evaluation, Passes, Target
from robustbench_med.api.errors import UserError
from robustbench_med.api.fields import STRICT
from robustbench_med.api.objective import Loss, cross_entropy, margin
from robustbench_med.api.seeding import derive
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.eot import Curve
from robustbench_med.evaluation import Outcomes, Plan, evaluate, load_batch
from robustbench_med.files import sha256_json
from robustbench_med.reporting.record import correct, headline

SOUND = "sound"
UNAUDITED = "unaudited"
ONE_SIDED = 1.6448536269514722  # normal quantile of 95 %


@dataclass(frozen=True)
class Thresholds:
    """Where a check fails, each with its reason.

    Attributes:
        zero_gradients: share of samples whose gradient is exactly zero. No sound network has any: in
            float32 a cross-entropy must be right by some 100 logits for that.
        zero_entries: share of a gradient's entries that are exactly zero. Backgrounds and dead units give
            a sound network many; steps in front of the whole image give nearly all.
        uphill: share of samples on which a small step along the gradient raises the margin. What is
            differentiable rises to first order; plateaus and shattered gradients do not (Athalye et al.
            2018, section 3).
        small_step: that step, as a share of epsilon.
        stronger: by how much (in share of samples) another attack may be stronger before this run's
            counts as weak, on top of chance. Weaker kinds of attack have no business being stronger at
            all (Carlini et al. 2019, section 4).
        refined: the same for attacks that cost more than the run's, which may well gain a little.
            A number further off than this is no longer the one that is reported.
        together: by how much the best of all attacks, chosen for each sample, may be stronger than the
            run's. Every attack misses a few samples; one that misses many was not the worst case.
    """

    zero_gradients: float = 0.0
    zero_entries: float = 0.98
    uphill: float = 0.9
    small_step: float = 0.05
    stronger: float = 0.002
    refined: float = 0.02
    together: float = 0.05


@dataclass(frozen=True)
class Other:
    """Another attack to compare with.

    Attributes:
        role: how the evidence calls it.
        attack: name, as in ``--attack``.
        options: its fields.
        refined: True for one that is costlier than most headline attacks (see ``Thresholds.refined``).
        eot: least number of draws behind its gradients on a random model; else it has the run's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    role: str
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    refined: bool = False
    eot: int = 1


@dataclass(frozen=True)
class AuditConfig:
    """What an audit runs.

    Attributes:
        samples: at most so many of the run's.
        others: attacks that must not be stronger than the run's.
        strong: the attack that is to break everything when nothing bounds it.
        longer: factor on the steps of the run's attack.
        more_draws: factor on its EOT draws.
    """

    others: tuple[Other, ...]
    strong: Other
    samples: int = 100
    longer: int = 4
    more_draws: int = 4


@dataclass(frozen=True)
class Finding:
    """One check: whether it passed, and on what evidence."""

    check: str
    passed: bool
    evidence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """All findings on a run and what they add up to.

    Attributes:
        complete: False when only the cheap checks were made.
        samples: how many of the run's were looked at.
        forward, backward, seconds: what it cost.
    """

    complete: bool
    findings: tuple[Finding, ...]
    samples: int
    forward: int
    backward: int
    seconds: float

    @property
    def verdict(self) -> str:
        """ "sound", or the names of the failed checks; "unaudited" if few were made and none failed."""
        failed = ", ".join(f.check for f in self.findings if not f.passed)
        return failed or (SOUND if self.complete else UNAUDITED)

    def as_record(self) -> dict[str, Any]:
        """For the run's record."""
        return {"verdict": self.verdict, **asdict(self)}


class Bench:
    """What checks work with: a part of the run, and a way to run other attacks on it.

    Attributes:
        plan: the run's, on the first samples of its split.
        right: (R, N) which of them the run's attack left right, on each scoring draw.
        tried: the same of every other attack so far within the run's threat model.
    """

    def __init__(
        self,
        plan: Plan,
        outcomes: Outcomes,
        config: AuditConfig,
        make: Callable[[str, Mapping[str, Any]], Attack],
        folder: Path,
        announce: Callable[[str], None],
        thresholds: Thresholds,
    ) -> None:
        count = min(config.samples, len(plan.split))
        self.plan = replace(plan, split=plan.split.take(np.arange(count)))
        self.config, self.make, self.folder, self.announce = config, make, folder, announce
        self.thresholds, self.passes = thresholds, Passes()
        self.outcomes = outcomes
        self.right = correct(outcomes.adversarial, outcomes.labels, plan.goal)[headline(plan.goal)][:, :count]
        self.clean = correct(outcomes.clean, outcomes.labels, plan.goal)[headline(plan.goal)][:, :count]
        self.batch = load_batch(self.plan.split, np.arange(count), plan.device)
        self.tried: list[NDArray[np.bool_]] = []

    def under(self, title: str, **changes: Any) -> NDArray[np.bool_]:
        """(R, N): what is right under the plan with ``changes``; kept on disk for after a kill."""
        plan = replace(self.plan, **changes)
        self.announce(title)
        attack = {"class": type(plan.attack).__name__, **asdict(plan.attack)}  # type: ignore[call-overload]
        key = sha256_json([attack, asdict(plan.threat), plan.eot, plan.goal.head])[:12]
        outcomes = evaluate(plan, self.folder / key, lambda _: None)
        self.passes.forward += outcomes.forward
        self.passes.backward += outcomes.backward
        right = correct(outcomes.adversarial, outcomes.labels, plan.goal)[headline(plan.goal)]
        if plan.threat == self.plan.threat:
            self.tried.append(right)
        return right

    def target(self, eot: int | None = None) -> Target:
        """The model under the run's threat model, its draws started anew."""
        plan = self.plan
        plan.model.eval().requires_grad_(False)
        plan.model.noise.reseed(derive(plan.seed, "audit"))
        seed = derive(plan.seed, "audit")
        return Target(plan.model, plan.threat, plan.goal, eot or plan.eot, seed, self.passes, plan.batch_size)

    def look(self, inputs: Mapping[str, Tensor], loss: Loss, gradient: bool = True) -> Evaluation:
        """Loss and gradient, on the same draws every time."""
        return self.target().evaluate(inputs, self.batch.labels, loss, gradient)


class Check(Protocol):
    """What can be asked about a run."""

    __name__: str

    def __call__(self, bench: Bench) -> Iterator[Finding]: ...


def audit(bench: Bench, complete: bool = True) -> Audit:
    """Run the checks; one that cannot be run says so as its evidence and passes.

    Args:
        complete: all of them; else those alone that cost next to nothing.
    """
    started = time.perf_counter()
    findings = tuple(f for check in (CHECKS if complete else CHEAP) for f in _findings(check, bench))
    seconds, passes = round(time.perf_counter() - started, 3), bench.passes
    return Audit(complete, findings, len(bench.plan.split), passes.forward, passes.backward, seconds)


def _findings(check: Check, bench: Bench) -> list[Finding]:
    try:
        return list(check(bench))
    except UserError as error:  # such as an attack that cannot express this threat model
        return [Finding(check.__name__, True, f"not run: {error}")]


def finite_outputs(bench: Bench) -> Iterator[Finding]:
    """NaN or infinity in the logits makes every comparison false, and an attack stop."""
    odd = [
        task
        for kind in (bench.outcomes.clean, bench.outcomes.adversarial)
        for task, logits in kind.items()
        if not np.isfinite(logits).all()
    ]
    said = f"NaN or infinite logits of {', '.join(sorted(set(odd)))}" if odd else "all logits are finite"
    yield Finding("finite", not odd, said)


def logits_not_probabilities(bench: Bench) -> Iterator[Finding]:
    """A softmax inside the model flattens what attacks climb, and costs them precision."""
    both = (bench.outcomes.clean, bench.outcomes.adversarial)
    heads = [task for task in bench.plan.model.classes if all(_probabilities(kind[task]) for kind in both)]
    said = f"outputs of {', '.join(heads)} are probabilities" if heads else "outputs are logits"
    yield Finding("logits", not heads, said)


def _probabilities(rows: NDArray[np.float32]) -> bool:
    return bool(rows.min() >= 0 and rows.max() <= 1 and np.abs(rows.sum(-1) - 1).max() < 1e-3)


def gradients(bench: Bench) -> Iterator[Finding]:
    """Gradients exist, are finite, are not zero, and point uphill, at a random point of the ball.

    At the clean point itself a random start would start no attack; masking shows anywhere.
    """
    limits, batch = bench.thresholds, bench.batch
    start = bench.plan.threat.random_start(batch.inputs, batch.ids, derive(bench.plan.seed, "audit"))
    try:
        seen, steep = bench.look(start, cross_entropy), bench.look(start, margin)
    except UserError as error:
        yield Finding("gradients", False, str(error))
        return
    flat = torch.cat([g.flatten(1) for g in seen.gradients.values()], 1)
    missing = float((flat == 0).all(1).float().mean())
    entries = float((flat == 0).float().mean())
    wrong = float((~torch.isfinite(flat)).any(1).float().mean())
    numbers = {"zero": missing, "zero_entries": entries, "not_finite": wrong}
    passed = missing <= limits.zero_gradients and entries <= limits.zero_entries and wrong == 0
    said = f"{_percent(missing)} of samples have none, {_percent(wrong)} have NaN"
    yield Finding("gradients", passed, f"{said}; {_percent(entries)} of all entries are 0", numbers)
    if wrong == 0:
        yield _uphill(bench, start, steep)


def _uphill(bench: Bench, start: Mapping[str, Tensor], seen: Evaluation) -> Finding:
    threat, share = bench.plan.threat, bench.thresholds.small_step
    steps = {name: share * budget.epsilon for name, budget in threat.budgets.items()}
    with torch.no_grad():
        moved = threat.ascend(start, seen.gradients, steps)
        moved = {n: x.clamp(0, 1) if n in threat.budgets else x for n, x in moved.items()}
    rise = bench.look(moved, margin, gradient=False).margin - seen.margin
    uphill = float((rise > 0).float().mean())
    said = f"a step of {share:g} epsilon along the gradient raises the margin of {_percent(uphill)}"
    return Finding("uphill", uphill >= bench.thresholds.uphill, said, {"uphill": uphill})


def unbounded(bench: Bench) -> Iterator[Finding]:
    """With any image allowed, no model can be better than one that gives a constant answer."""
    plan, strong = bench.plan, bench.config.strong
    budgets = {name: _whole_range(bench.batch, name, b) for name, b in plan.threat.budgets.items()}
    threat = ThreatModel(budgets, plan.threat.joint)
    right = bench.under("unbounded", attack=bench.make(strong.attack, strong.options), threat=threat)
    reached, constant = float(right.mean()), _constant_answer(bench)
    slack = ONE_SIDED * math.sqrt(max(constant * (1 - constant), 0.01) / right.shape[1])
    said = (
        f"{_percent(reached)} right when every pixel may change; a constant answer gets {_percent(constant)}"
    )
    yield Finding("unbounded", reached <= constant + slack, said, {"robust": reached, "constant": constant})


def _whole_range(batch: Batch, name: str, budget: Budget) -> Budget:
    """A radius within which every image of the box lies."""
    pixels = batch.inputs[name].shape[1:].numel()
    return replace(budget, epsilon=1.0 if budget.norm == "linf" else math.sqrt(pixels))


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
    shares = ", ".join(f"{_percent(float(r.mean()))} at {f:g} epsilon" for f, r in rights.items())
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
    said = f"the worst case of {len(everyone)} attacks leaves {_percent(worst)}, the run's {_percent(lead)}"
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


def longer(bench: Bench) -> Iterator[Finding]:
    """An attack that has converged gains nothing from further steps."""
    attack = bench.plan.attack
    if not is_dataclass(attack) or "steps" not in {f.name for f in fields(attack)}:
        return
    steps = attack.steps * bench.config.longer
    right = bench.under(f"{steps} steps", attack=replace(attack, steps=steps))
    yield _compared(bench, "more steps", right, refined=True)


def more_draws(bench: Bench) -> Iterator[Finding]:
    """Gradients over more draws (EOT) must not help, nor must as many steps on single draws."""
    plan, attack = bench.plan, bench.plan.attack
    if plan.model.draws_shared_by == "none":
        return
    eot = plan.eot * bench.config.more_draws
    yield _compared(bench, "more draws", bench.under(f"EOT {eot}", eot=eot), refined=True)
    if plan.eot > 1 and is_dataclass(attack) and "steps" in {f.name for f in fields(attack)}:
        many = replace(attack, steps=attack.steps * plan.eot)
        right = bench.under("EOT 1 at the same cost", eot=1, attack=many)
        yield _compared(bench, "single draws", right, refined=True)


def converged(curve: Curve) -> Finding:
    """Whether the search for the number of EOT draws came to an end."""
    last = curve.points[-1]
    said = f"{_percent(last.robust)} at {last.draws} draws, where gradients agree to {last.agreement:.2f}"
    return Finding("EOT", curve.converged, said if curve.converged else f"not converged: {said}")


def _compared(bench: Bench, role: str, right: NDArray[np.bool_], refined: bool) -> Finding:
    """Passes unless the other attack is stronger than the run's by more than is allowed and by chance."""
    lead, low = _lead(bench.right, right)
    limits = bench.thresholds
    passed = low <= limits.stronger or (refined and lead <= limits.refined)
    numbers = {"run": float(bench.right.mean()), "other": float(right.mean())}
    said = f"leaves {_percent(numbers['other'])}, the run's attack {_percent(numbers['run'])}"
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


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# What costs next to nothing is checked in every run.
CHEAP: tuple[Check, ...] = (finite_outputs, logits_not_probabilities, gradients)
CHEAP_SAMPLES = 20
CHECKS: tuple[Check, ...] = (
    *CHEAP,
    unbounded,
    monotone,
    longer,
    more_draws,
    no_other_is_stronger,
    no_better_together,  # of all that ran before it
)
