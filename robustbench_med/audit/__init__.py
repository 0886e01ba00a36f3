"""Is the number to be trusted? Checks of a run's robust accuracy (evaluation.md, section 4).

An attack that fails and a model that resists look the same in a table. The checks tell them apart: some
look at the model and the gradients the attack lives on (``of_model``), the others run further attacks on a
part of the samples and ask whether the first one was as strong as it should be (``by_attacks``). Which
attacks those are is said in ``configs/audit``; this package names none.
"""

from __future__ import annotations

import time

from robustbench_med.audit.bench import (
    Audit,
    AuditConfig,
    Bench,
    Check,
    Finding,
    Other,
    Thresholds,
)
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
from robustbench_med.audit.of_model import finite_outputs, gradients, logits_not_probabilities, repeatable
from robustbench_med.measure.verdict import SOUND, UNAUDITED
from robustbench_med.util.errors import UserError

__all__ = [
    "CHEAP_SAMPLES",
    "SOUND",
    "UNAUDITED",
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
CHEAP: tuple[Check, ...] = (finite_outputs, logits_not_probabilities, repeatable, gradients)
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
