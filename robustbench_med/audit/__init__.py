"""Is the number to be trusted? Checks of a run's robust accuracy (docs/method.md, "Audit").

An attack that fails and a model that resists look the same in a table. The checks tell them apart: some
look at the model and the gradients the attack lives on (``of_model``, ``of_gradients``), the others run
further attacks on a part of the samples and ask whether the first one was as strong as it should be
(``by_attacks``). Which attacks those are is said in ``configs/audit``; this package names none. Which
checks have nothing to ask of which run is said in ``applies``.
"""

from __future__ import annotations

from robustbench_med.audit.bench import Audit, AuditConfig, Bench, Other
from robustbench_med.audit.by_attacks import converged
from robustbench_med.audit.steps import Checked, done_in, folder_of, made, steps
from robustbench_med.audit.thresholds import Thresholds
from robustbench_med.measure.verdict import Finding

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

CHEAP_SAMPLES = 20  # that the checks which cost next to nothing look at


def audit(bench: Bench, complete: bool = True) -> Audit:
    """Make the checks; steps that are on disk already are read.

    Args:
        complete: all of them; else those alone that cost next to nothing.
    """
    found = list[Checked]()
    for step in steps(bench.config, complete):
        before = done_in(bench, step)
        if before is None:
            tried = [outcomes for checked in found for outcomes in checked.tried]
            made(bench, step, tried).save(before := folder_of(bench, step))
        found.append(Checked.load(before))
    return Audit(
        complete,
        tuple(finding for checked in found for finding in checked.findings),
        len(bench.plan.split),
        sum(checked.forward for checked in found),
        sum(checked.backward for checked in found),
        round(sum(checked.seconds for checked in found), 3),
        "" if bench.plan.model.differentiable else "score",
    )
