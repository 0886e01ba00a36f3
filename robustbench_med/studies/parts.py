"""The parts of a run that need nothing of each other: batches, the search for EOT draws, steps of an audit.

A worker makes a part (``make_part``) from the run's config, so that nothing but configs and results travels;
the driver keeps it where ``studies.run`` looks for it (``Parts``). A run is then finished as if it had been
killed after all of its parts: its record cannot tell who made them.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from robustbench_med.audit.bench import AuditConfig, Bench
from robustbench_med.audit.draws import Curve, converge, curve_path, keep_curve
from robustbench_med.audit.steps import Checked, Step, done_in, folder_of, made, steps
from robustbench_med.audit.thresholds import Thresholds
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.batches import Copies, evaluate_batch, missing, part_path
from robustbench_med.evaluation.outcomes import Outcomes, joined
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import Prepared, RunConfig, Subject, choice_of, load_subject, prepare
from robustbench_med.studies.run import Work, run_id, with_draws
from robustbench_med.util.errors import UserError

KEPT = 2  # models that a worker has loaded: of the run at hand, and of the one whose audit still waits


class Task(Protocol):
    """What is to be made of a run."""

    @property
    def title(self) -> str:
        """For people."""

    def make(self, plan: Plan, scratch: Path) -> Any:
        """Make it; ``scratch`` is an empty folder that nobody else has."""


@dataclass(frozen=True)
class Search:
    """The search for the number of EOT draws."""

    title: str = "search for EOT draws"

    def make(self, plan: Plan, scratch: Path) -> Curve:
        """The curve of the search."""
        return converge(plan, scratch, lambda _: None)


@dataclass(frozen=True)
class BatchOf:
    """One batch, by its number.

    Attributes:
        keep: with its adversarial inputs.
    """

    number: int
    eot: int
    keep: bool = False

    @property
    def title(self) -> str:
        """For people."""
        return f"batch {self.number + 1}"

    def make(self, plan: Plan, scratch: Path) -> Outcomes:
        """Attacked and scored."""
        del scratch
        plan = replace(plan, eot=self.eot, keep=self.keep)
        return evaluate_batch(plan, Copies.of(plan), self.number, plan.batches[self.number])


@dataclass(frozen=True)
class StepOf:
    """One step of an audit.

    Attributes:
        outcomes: of the run.
        checks: with as many samples as are to be looked at.
    """

    number: int
    eot: int
    outcomes: Outcomes
    checks: AuditConfig
    complete: bool

    @property
    def title(self) -> str:
        """For people."""
        return f"audit, {self._step.name}"

    @property
    def _step(self) -> Step:
        return steps(self.checks, self.complete)[self.number]

    def make(self, plan: Plan, scratch: Path) -> Checked:
        """What its checks found."""
        plan = replace(plan, eot=self.eot)
        bench = Bench(plan, self.outcomes, self.checks, make_attack, scratch, lambda _: None, Thresholds())
        return made(bench, self._step)


@dataclass(frozen=True)
class Part:
    """A task of a run, as it travels.

    Attributes:
        config: of the run.
        run: its name; a worker with other code, data or weights would give it another one.
    """

    config: RunConfig
    run: str
    task: Task

    @property
    def subject(self) -> str:
        """Tells which model and data it is about: whoever has them loaded is asked first."""
        return choice_of(self.config)


class Hands:
    """One worker's: the model and the data, loaded once for all parts that are about them."""

    def __init__(self) -> None:
        self._subjects: dict[str, Subject] = {}  # the last ones, the latest at the end
        self._prepared: tuple[str, Prepared] | None = None

    def make(self, part: Part) -> Any:
        """Make a part.

        Raises:
            UserError: what this worker has is not what the driver has.
        """
        prepared = self._of(part)
        with tempfile.TemporaryDirectory(prefix="robmed-") as scratch:
            return part.task.make(prepared.plan, Path(scratch))

    def _of(self, part: Part) -> Prepared:
        if self._prepared is None or self._prepared[0] != part.run:
            self._prepared = None
            prepared = prepare(part.config, self._about(part))
            if run_id(prepared) != part.run:
                raise UserError(
                    f"a worker has other code, data, weights or versions of libraries than this process: run "
                    f"{run_id(prepared)} there is {part.run} here; give all machines the same"
                )
            self._prepared = part.run, prepared
        return self._prepared[1]

    def _about(self, part: Part) -> Subject:
        found = self._subjects.pop(part.subject, None)
        if found is None:
            for oldest in list(self._subjects)[: len(self._subjects) + 1 - KEPT]:  # more may not fit
                del self._subjects[oldest]
            whole = load_dataset(part.config.dataset, "test")
            found = load_subject(part.config, whole)
        self._subjects[part.subject] = found
        return found


@functools.lru_cache(maxsize=1)
def _hands() -> Hands:
    return Hands()


def make_part(part: Part) -> Any:
    """Make a part in a worker, which keeps what it has loaded."""
    return _hands().make(part)


class Parts:
    """The parts of one run, kept in its folder by the driver."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def pending(self) -> list[Part]:
        """What can be made now; when nothing is left, the run can be finished."""
        config, run = self.work.prepared.config, self.work.name
        return [Part(config, run, task) for task in self._tasks()]

    def keep(self, task: Task, result: Any) -> None:
        """Write what came of a task."""
        work = self.work
        if isinstance(task, Search):
            keep_curve(result, work.folder / "eot")
        elif isinstance(task, BatchOf):
            result.save(part_path(work.parts, task.number))
        elif isinstance(task, StepOf):
            bench = work.bench(replace(work.prepared.plan, eot=task.eot), task.outcomes)
            result.save(folder_of(bench, steps(task.checks, task.complete)[task.number]))

    @property
    def count(self) -> int:
        """How many parts the run has in all."""
        work = self.work
        if work.served:
            return 0
        audit = len(steps(work.checks, work.audited is not None))
        return audit + (0 if work.audits_only else len(work.prepared.plan.batches) + int(work.searches))

    def _tasks(self) -> list[Task]:
        work, plan = self.work, self.work.prepared.plan
        if work.served:
            return []
        if work.audits_only:
            return self._steps(with_draws(plan, work.found_before()), work.outcomes_before())
        if work.searches:
            if not curve_path(work.folder / "eot").exists():
                return [Search()]
            plan = with_draws(plan, converge(plan, work.folder / "eot", lambda _: None))
        left = missing(plan, work.parts)
        if left:
            return [BatchOf(number, plan.eot, work.keeps) for number in left]
        every = range(len(plan.batches))
        made = joined([Outcomes.load(part_path(work.parts, n)) for n in every])
        return self._steps(plan, replace(made, kept={}))

    def _steps(self, plan: Plan, outcomes: Outcomes) -> list[Task]:
        work = self.work
        bench, complete = work.bench(plan, outcomes), work.audited is not None
        sent = replace(outcomes, shown={})
        return [
            StepOf(number, plan.eot, sent, bench.config, complete)
            for number, step in enumerate(steps(bench.config, complete))
            if not step.looks_back and done_in(bench, step) is None
        ]
