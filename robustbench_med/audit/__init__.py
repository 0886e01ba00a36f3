"""Is the number to be trusted? Checks of a run's robust accuracy (docs/method.md, "Audit").

An attack that fails and a model that resists look the same in a table. The checks tell them apart: some
look at the model and the gradients the attack lives on (``of_model``, ``of_gradients``), the others run
further attacks on a part of the samples and ask whether the first one was as strong as it should be
(``by_attacks``). Which attacks those are is said in ``configs/audit``; this package names none. Which
checks have nothing to ask of which run is said in ``applies``.
"""

from __future__ import annotations

import time

from robustbench_med.audit.applies import waived
from robustbench_med.audit.bench import Audit, AuditConfig, Bench, Check, Other
from robustbench_med.audit.by_attacks import (
    converged,
    longer,
    monotone,
    more_draws,
    no_better_together,
    no_other_is_stronger,
    silent_success,
    unbounded,
)
from robustbench_med.audit.of_gradients import gradients
from robustbench_med.audit.of_model import (
    finite_outputs,
    logits_not_probabilities,
    no_memory,
    repeatable,
    went_through,
)
from robustbench_med.audit.thresholds import Thresholds
from robustbench_med.measure.verdict import Finding
from robustbench_med.util.errors import UserError

__all__ = [
    "CHEAP_SAMPLES",
    "Audit",
    "AuditConfig",
    "Bench",
    "Finding",
    "Other",
    "Thresholds",
    "audit",
    "converged",
]

# What costs next to nothing is checked in every run.
CHEAP: tuple[Check, ...] = (
    went_through,
    finite_outputs,
    logits_not_probabilities,
    no_memory,
    repeatable,
    gradients,
)
CHEAP_SAMPLES = 20
CHECKS: tuple[Check, ...] = (
    *CHEAP,
    unbounded,
    monotone,
    silent_success,
    longer,
    more_draws,
    no_other_is_stronger,
    no_better_together,  # of all that ran before it
)
# How the evidence calls a check that yields no finding of its own.
TITLES = {
    "longer": "more steps",
    "more_draws": "more draws",
    "silent_success": "silent success",
    "no_other_is_stronger": "other attacks",
    "no_better_together": "together",
    "no_memory": "memory",
    "finite_outputs": "finite",
    "went_through": "every sample attacked",
    "logits_not_probabilities": "logits",
}


def audit(bench: Bench, complete: bool = True) -> Audit:
    """Run the checks. What one found before it met an error is kept, and what it could not make is said.

    Args:
        complete: all of them; else those alone that cost next to nothing.
    """
    started = time.perf_counter()
    findings = tuple(f for check in (CHECKS if complete else CHEAP) for f in _findings(check, bench))
    seconds, passes = round(time.perf_counter() - started, 3), bench.passes
    knowledge = "" if bench.plan.model.differentiable else "score"
    samples = len(bench.plan.split)
    return Audit(complete, findings, samples, passes.forward, passes.backward, seconds, knowledge)


def _findings(check: Check, bench: Bench) -> list[Finding]:
    title = TITLES.get(check.__name__, check.__name__)
    reason = waived(check.__name__, bench)
    if reason is not None:
        return [Finding(title, "does not apply", reason)]
    found: list[Finding] = []
    try:
        found.extend(check(bench))
    except UserError as error:  # such as an attack that cannot express this threat model
        found.append(Finding(title, "not made", str(error)))
    return found
