"""``robmed suite --plan``: which runs of a suite there are to be made, and what they will cost here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from robustbench_med.audit import CHEAP_SAMPLES
from robustbench_med.audit.draws import MOST
from robustbench_med.audit.forecast import audit_cost, looks_cost, search_cost
from robustbench_med.evaluation.forecast import FREE, Cost, Pass, attack_cost, scoring_cost, time_pass
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import Prepared
from robustbench_med.studies.modalities import alone
from robustbench_med.studies.run import audit_config, is_finished
from robustbench_med.studies.suite import Cell, Making, Suite, SuiteResult, cells
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_json
from robustbench_med.util.progress import progress_bar


@dataclass(frozen=True)
class Forecast:
    """Of one run.

    Attributes:
        dataset, model, column: which run.
        state: "to make", "finished", or "published" (by this code or another); "to make", too, while
            modalities are still to be attacked one by one.
        samples: that are attacked.
        passes: at most so many forward passes a sample, audit, search and modalities included; None where
            nothing is to be made or the attack cannot be tried.
        seconds: at most, with one thread, at the speed of one pass here.
        memory: bytes of a worker, about.
    """

    dataset: str
    model: str
    column: str
    state: str
    samples: int
    passes: float | None = None
    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class SuiteForecast:
    """Of a suite.

    Attributes:
        left_out: what has no data or no weights at hand, or cannot be prepared, with the reason.
    """

    title: str
    runs: tuple[Forecast, ...]
    left_out: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """At most, of one worker."""
        return sum(run.seconds or 0.0 for run in self.runs)

    @property
    def memory(self) -> int:
        """Of a worker, at most, about."""
        return max((run.memory or 0 for run in self.runs), default=0)


def forecast_suite(suite: Suite, making: Making) -> SuiteForecast:
    """Look at every run of a suite, and make none.

    The passes of an attack are counted on a stand-in that it never breaks, so that they are an upper bound;
    the time of a pass is measured on the model.
    """
    found, result = list[Forecast](), SuiteResult(making.out / "table.md", making.out / "figure.png")
    known, timed = dict[str, Cost](), dict[tuple[str, str], Pass]()
    quiet = replace(making, announce=lambda _: None)
    with progress_bar() as bar:
        task = bar.add_task("estimate", total=len(suite.datasets) * len(suite.models) * len(suite.runs))
        for cell in cells(suite, quiet, result):
            found.append(_forecast(cell, making, known, timed))
            bar.advance(task)
    return SuiteForecast(suite.title, tuple(found), (*result.left_out, *result.failed))


def _forecast(
    cell: Cell, making: Making, known: dict[str, Cost], timed: dict[tuple[str, str], Pass]
) -> Forecast:
    dataset, model, column = cell.key
    plan = cell.prepared.plan
    state, left = _left(cell, making)
    bare = Forecast(dataset, model, column, state, len(plan.split))
    if not left:
        return bare
    if (dataset, model) not in timed:
        timed[dataset, model] = time_pass(plan)
    measured = timed[dataset, model]
    try:
        total = sum((_cost(prepared, audit, known) for prepared, audit in left), FREE)
        total += _looks_at_modalities(plan) if cell.entry.modalities else FREE
    except UserError:
        return replace(bare, memory=measured.memory)
    passes = total.forward / len(plan.split)
    return replace(bare, passes=passes, seconds=measured.seconds(total), memory=measured.memory)


def _left(cell: Cell, making: Making) -> tuple[str, list[tuple[Prepared, str]]]:
    """The state of a cell, and the runs of it that are still to be made, each with its audit."""
    state, left = "published", list[tuple[Prepared, str]]()
    if cell.found is None:
        done = is_finished(cell.prepared, cell.entry.audit or None)
        state, left = ("finished", left) if done else ("to make", [(cell.prepared, cell.entry.audit)])
    if cell.entry.modalities and not (cell.found is not None and cell.found["run"] in making.situations):
        left += [(each, "") for each in alone(cell.prepared) if not is_finished(each, None)]
    return ("to make" if left else state), left


def _looks_at_modalities(plan: Plan) -> Cost:
    """Clean, without each modality, and four values of each on one batch, to see whether it is looked at."""
    count = len(plan.split.info.modalities)
    return scoring_cost(plan) * (len(plan.split) * (count + 1) + 4 * count * len(plan.batches[0]))


def _cost(prepared: Prepared, audit: str, known: dict[str, Cost]) -> Cost:
    """Of all samples of a run together, with its audit."""
    plan = prepared.plan
    auto = prepared.stored["eot"] == "auto"
    of_run = _once(replace(plan, eot=1), known)
    total = search_cost(plan, of_run) if auto else FREE
    plan = replace(plan, eot=MOST) if auto else plan
    of_run = of_run * plan.eot
    total += (of_run + scoring_cost(plan)) * len(plan.split)
    if not audit:
        return total + looks_cost(plan) * min(CHEAP_SAMPLES, len(plan.split))
    config = audit_config(audit)
    key = _key(plan, ["audit", asdict(config)])
    if key not in known:
        known[key] = audit_cost(plan, config, of_run)
    return total + known[key] * min(config.samples, len(plan.split))


def _once(plan: Plan, known: dict[str, Cost]) -> Cost:
    key = _key(plan, ["attack"])
    if key not in known:
        known[key] = attack_cost(plan)
    return known[key]


def _key(plan: Plan, of: Sequence[object]) -> str:
    """Runs with the same key cost the same: the stand-in knows no more of a model."""
    heads = [(type(head).__name__, head.questions, head.answers) for head in plan.model.answers.values()]
    attack = asdict(plan.attack)  # type: ignore[call-overload]
    about = [attack, plan.name, heads, plan.model.draws_shared_by, plan.eot, plan.goal.aim, list(of)]
    return sha256_json(about)
