"""Checks that run further attacks and ask whether the run's was as strong as it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.threat import ThreatModel
from robustbench_med.audit.applies import other_waived
from robustbench_med.audit.bench import Bench, Other, percent
from robustbench_med.audit.draws import Curve
from robustbench_med.audit.witness import silently_broken
from robustbench_med.evaluation.plan import Plan
from robustbench_med.measure.accuracy import answers, constant_answer, correct
from robustbench_med.measure.statistics import Scored, lead
from robustbench_med.measure.verdict import Finding
from robustbench_med.measure.worst import worst_case
from robustbench_med.util.errors import UserError

ONE_SIDED = 1.6448536269514722  # normal quantile of 95 %
# What can be drawn at random about a sound model's few survivors of an unbounded attack.
SURVIVORS = 0.02


def unbounded(bench: Bench) -> Iterator[Finding]:
    """With any input allowed, no model can hold; unless it sees a modality that is not attacked.

    A question that gets right and wrong answers on these data can be led to either. One that always gets the
    same answer, or a threat that leaves something fixed, is held against a constant answer.
    """
    plan, strong = bench.plan, bench.config.strong
    names, free = plan.threat.budgets, True
    budgets = {}
    for name, budget in names.items():
        shapes = [bench.batch.inputs[n].shape[1:] for n in (names if plan.threat.joint else [name])]
        whole = [names[name].box.longest(shape, budget.norm) for shape in shapes]
        most = math.hypot(*whole) if plan.threat.joint else whole[0]
        budgets[name] = replace(budget, epsilon=max(budget.epsilon, most))
        free &= budget.box.mutable is None
    if plan.threat.joint:
        budgets = {
            n: replace(b, epsilon=max(b.epsilon for b in budgets.values())) for n, b in budgets.items()
        }
    threat = ThreatModel(budgets, plan.threat.joint)
    attack = bench.make(strong.attack, strong.options)
    outcomes = bench.run("unbounded", attack=attack, threat=threat)
    reached = float(correct(outcomes.adversarial, outcomes.labels, plan.goal).mean())
    constant = constant_answer(bench.outcomes.labels, plan.goal)
    whole_input = free and set(budgets) == set(plan.model.takes)
    limit = bench.thresholds.unbounded if whole_input and _movable(bench) else constant
    slack = ONE_SIDED * math.sqrt(max(limit * (1 - limit), SURVIVORS * (1 - SURVIVORS)) / len(bench.outcomes))
    said = f"{percent(reached)} right when any value may change; a constant answer gets {percent(constant)}"
    if not whole_input:
        said += "; not everything is attacked"
    passed = reached <= limit + slack or not whole_input
    yield Finding.of("unbounded", passed, said, {"robust": reached, "constant": constant})


def _movable(bench: Bench) -> bool:
    """Whether a question aimed at gets more than one answer, and right and wrong ones, on these data.

    Of the goal "all", whether one of every head does.
    """
    outcomes, heads = bench.outcomes, []
    kinds = [
        answers(getattr(outcomes, k), outcomes.labels, bench.plan.goal.heads)
        for k in ("clean", "adversarial")
    ]
    for head, chosen in bench.plan.goal.aimed:
        given = np.concatenate([kind[head.name].given[..., list(chosen)] for kind in kinds])
        right = np.concatenate([kind[head.name].right[..., list(chosen)] for kind in kinds])
        varied = (given != given[:1, :1]).any((0, 1))
        heads.append(bool((varied & right.any((0, 1)) & ~right.all((0, 1))).any()))
    return all(heads) if bench.plan.goal.aim == "all" else any(heads)


def monotone(bench: Bench) -> Iterator[Finding]:
    """A larger radius contains the smaller one: accuracy cannot rise with it."""
    plan = bench.plan
    rights = {1.0: bench.right}
    for factor in (0.5, 2.0):
        outcomes = bench.run(f"{factor:g} epsilon", threat=plan.threat.scaled(factor))
        rights[factor] = correct(outcomes.adversarial, outcomes.labels, plan.goal)
    rises = [_lead(bench, rights[b], rights[a]) for a, b in ((0.5, 1.0), (1.0, 2.0))]
    passed = all(low <= bench.thresholds.stronger for _, low in rises)
    shares = ", ".join(f"{percent(float(rights[f].mean()))} at {f:g} epsilon" for f in (0.5, 1.0, 2.0))
    yield Finding.of("monotone", passed, shares)


def no_other_is_stronger(bench: Bench, number: int) -> Iterator[Finding]:
    """A weaker or otherwise informed attack, one of ``others``, must leave at least as much as the run's."""
    other = bench.config.others[number]
    try:
        found = _against(bench, other)
    except UserError as error:
        found = Finding(other.role, "not made", str(error))
    yield found


def _against(bench: Bench, other: Other) -> Finding:
    attack = bench.make(other.attack, other.options)
    reason = other_waived(attack, bench)
    if reason is not None:
        return Finding(other.role, "does not apply", reason)
    right = bench.under(other.role, attack=attack, eot=_draws(bench.plan, other))
    return _compared(bench, other.role, right, other.refined)


def _draws(plan: Plan, other: Other) -> int:
    return plan.eot if plan.model.draws_shared_by == "none" else max(plan.eot, other.eot)


def no_better_together(bench: Bench) -> Iterator[Finding]:
    """The worst case over all attacks is the number that the run's attack claims to have found.

    Of random models it is chosen on draws that do not score it.
    """
    lead_of_run = float(bench.right.mean())
    gain, spread = 0.0, 0.0
    if bench.tried:
        standing = bench.outcomes.take(bench.standing)
        worst = worst_case([standing, *bench.tried], bench.plan.goal)
        left = np.zeros(len(bench.outcomes))
        left[bench.standing] = correct(worst.adversarial, worst.labels, bench.plan.goal).mean(0)
        gain = lead_of_run - float(left.mean())
        spread = math.sqrt(max(gain * (1 - gain), 0.0) / len(left))
    limits = bench.thresholds
    passed = gain - ONE_SIDED * spread <= limits.stronger or gain <= limits.together
    said = f"the worst case of {1 + len(bench.tried)} attacks leaves {percent(lead_of_run - gain)}"
    numbers = {"run": lead_of_run, "other": lead_of_run - gain}
    yield Finding.of("together", passed, f"{said}, the run's {percent(lead_of_run)}", numbers)


def silent_success(bench: Bench) -> Iterator[Finding]:
    """No attack may break a sample on its way and hand back another input (one that keeps the last does).

    Only a deterministic model's samples are broken for good when they are seen broken once.
    """
    share = silently_broken(bench)
    said = f"the attack broke {percent(share)} of the samples on its way and returned other inputs for them"
    yield Finding.of("silent success", share <= bench.thresholds.refined, said, {"lost": share})


def longer(bench: Bench) -> Iterator[Finding]:
    """An attack that has converged gains nothing from further steps."""
    many = bench.plan.attack.prolonged(bench.config.longer)
    if many is None:
        yield Finding("more steps", "does not apply", "the attack has no steps to multiply")
        return
    right = bench.under(f"{bench.config.longer} times as many steps", attack=many)
    yield _compared(bench, "more steps", right, refined=True)


def more_draws(bench: Bench) -> Iterator[Finding]:
    """Gradients over more draws (EOT) must not help, nor must as many steps on single draws."""
    plan = bench.plan
    eot = plan.eot * bench.config.more_draws
    yield _compared(bench, "more draws", bench.under(f"EOT {eot}", eot=eot), refined=True)
    many = plan.attack.prolonged(plan.eot)
    if plan.eot == 1 or many is None:
        yield Finding("single draws", "does not apply", "the attack takes single draws, or has no steps")
        return
    right = bench.under("EOT 1 at the same cost", eot=1, attack=many)
    yield _compared(bench, "single draws", right, refined=True)


def converged(curve: Curve) -> Finding:
    """Whether the search for the number of EOT draws came to an end."""
    last = curve.points[-1]
    said = f"{percent(last.robust)} at {last.draws} draws, where gradients agree to {last.agreement:.2f}"
    return Finding.of("EOT", curve.converged, said if curve.converged else f"not converged: {said}")


def _compared(bench: Bench, role: str, right: NDArray[np.bool_], refined: bool) -> Finding:
    """Passes unless the other attack is stronger than the run's by more than is allowed and by chance."""
    gain, low = _lead(bench, bench.right, right)
    limits = bench.thresholds
    passed = low <= limits.stronger or (refined and gain <= limits.refined)
    numbers = {"run": float(bench.right.mean()), "other": float(right.mean())}
    said = f"leaves {percent(numbers['other'])}, the run's attack {percent(numbers['run'])}"
    return Finding.of(role, passed, said, numbers)


def _lead(bench: Bench, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """By how much more ``first`` leaves right than ``second``, with its bound."""
    shared_by, outcomes = bench.plan.model.draws_shared_by, bench.outcomes
    one, two = (Scored.mean(right, shared_by) for right in (first, second))
    return lead(one, two, outcomes.groups, outcomes.batches)
