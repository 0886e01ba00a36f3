"""An audit in steps that need nothing of each other, so that workers can share them out.

Only the last one looks back, at what the others tried. A step that is done lies on disk while the run lasts:
an audit that was killed goes on after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from robustbench_med.audit.applies import waived
from robustbench_med.audit.bench import AuditConfig, Bench
from robustbench_med.audit.by_attacks import (
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
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure.verdict import Finding
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, sha256_json, write_json

Check = Callable[[Bench], Iterator[Finding]]

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


@dataclass(frozen=True)
class Step:
    """A part of an audit.

    Attributes:
        name: tells it from the others of one audit.
        checks: by the name under which ``applies`` knows them.
        looks_back: it is about what the steps before it tried.
        says_waived: says so when a check does not apply; one of several that share a check is enough.
    """

    name: str
    checks: tuple[tuple[str, Check], ...]
    looks_back: bool = False
    says_waived: bool = True


# What costs next to nothing is checked in every run.
CHEAP = Step(
    "looks",
    (
        ("went_through", went_through),
        ("finite_outputs", finite_outputs),
        ("logits_not_probabilities", logits_not_probabilities),
        ("no_memory", no_memory),
        ("repeatable", repeatable),
        ("gradients", gradients),
    ),
)
COSTLY: tuple[tuple[str, Check], ...] = (
    ("unbounded", unbounded),
    ("monotone", monotone),
    ("silent_success", silent_success),
    ("longer", longer),
    ("more_draws", more_draws),
)
LAST = Step("together", (("no_better_together", no_better_together),), looks_back=True)


def steps(config: AuditConfig, complete: bool) -> tuple[Step, ...]:
    """The steps of an audit, in the order of their findings.

    Args:
        complete: all of them; else those alone that cost next to nothing.
    """
    if not complete:
        return (CHEAP,)
    others = [
        Step(
            f"other {number}",
            (("no_other_is_stronger", partial(no_other_is_stronger, number=number)),),
            says_waived=number == 0,
        )
        for number in range(len(config.others))
    ]
    return (CHEAP, *(Step(name, ((name, check),)) for name, check in COSTLY), *others, LAST)


@dataclass(frozen=True)
class Checked:
    """What a step found.

    Attributes:
        tried: outcomes on the standing samples of the attacks it made within the run's threat model.
        forward, backward, seconds: what it cost.
    """

    findings: tuple[Finding, ...]
    tried: tuple[Outcomes, ...]
    forward: int
    backward: int
    seconds: float

    def save(self, folder: Path) -> None:
        """Write it; it counts as done once all of it is there."""
        for number, outcomes in enumerate(self.tried):
            outcomes.save(folder / f"{number:03d}.npz")
        stored = {**asdict(self), "tried": len(self.tried)}
        write_json(folder / "checked.json", stored)

    @classmethod
    def load(cls, folder: Path) -> Checked:
        """Read what ``save`` wrote.

        Raises:
            UserError: it is damaged.
        """
        path = folder / "checked.json"
        try:
            stored = read_json(path)
            findings = tuple(Finding(**found) for found in stored["findings"])
            tried = tuple(Outcomes.load(folder / f"{number:03d}.npz") for number in range(stored["tried"]))
            return cls(findings, tried, stored["forward"], stored["backward"], stored["seconds"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; delete its folder and run again") from error


def done_in(bench: Bench, step: Step) -> Path | None:
    """The folder in which a step that was made lies; None if it was not."""
    folder = folder_of(bench, step)
    return folder if (folder / "checked.json").exists() else None


def folder_of(bench: Bench, step: Step) -> Path:
    """Where what a step finds is kept; other audits of the same run have other folders."""
    return bench.folder / sha256_json([step.name, asdict(bench.config), asdict(bench.thresholds)])[:12]


def made(bench: Bench, step: Step, tried: Sequence[Outcomes] = ()) -> Checked:
    """Make the checks of one step. What one found before it met an error is kept, and what it could not make
    is said."""
    started, bench = time.perf_counter(), bench.anew(tried if step.looks_back else ())
    findings = tuple(found for name, check in step.checks for found in _findings(name, check, bench, step))
    seconds = round(time.perf_counter() - started, 3)
    new = () if step.looks_back else tuple(bench.tried)
    return Checked(findings, new, bench.passes.forward, bench.passes.backward, seconds)


def _findings(name: str, check: Check, bench: Bench, step: Step) -> list[Finding]:
    title = TITLES.get(name, name)
    reason = waived(name, bench)
    if reason is not None:
        return [Finding(title, "does not apply", reason)] if step.says_waived else []
    found: list[Finding] = []
    try:
        found.extend(check(bench))
    except UserError as error:  # such as an attack that cannot express this threat model
        found.append(Finding(title, "not made", str(error)))
    return found
