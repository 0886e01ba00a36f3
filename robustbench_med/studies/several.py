"""Several attacks on one net, and their per-sample worst case as a row of its own."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_med.evaluation import kept
from robustbench_med.evaluation.outcomes import Outcomes, chosen_from
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import RunConfig, prepare_all
from robustbench_med.evaluation.workers import ALONE, Workers
from robustbench_med.measure import metrics
from robustbench_med.measure.accuracy import accuracies
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.worst import strongest
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.record import ensemble_record
from robustbench_med.studies import keeping
from robustbench_med.studies.crew import Order, in_order
from robustbench_med.studies.records import folder_name
from robustbench_med.studies.result import OnRecord, Result
from robustbench_med.studies.run import checked, say_guesses
from robustbench_med.util.files import sha256_json, write_json


def run_all(
    config: RunConfig,
    audited: str | None = None,
    pictures: bool = True,
    workers: Workers = ALONE,
    on_record: OnRecord | None = None,
) -> list[Result]:
    """Run each attack of a comma-separated list, and with several their per-sample worst case.

    The attacks are run by rising name. With several, those that are finished are read back, and the worst
    case alone gets a row in the leaderboard: it is one claim, with its members in its record. What was
    guessed about somebody's own net or data is said first.

    Args:
        workers: who makes their batches and checks; by default this process.
        on_record: given each record once it is on disk.

    Raises:
        UserError: see ``run``; an option that none of the attacks has.
    """
    each = prepare_all(checked(config))
    say_guesses(each[0].subject, config.dataset)
    several = len(each) > 1
    if several:
        keeping.require_one(config, f"--attack {config.attack}")
    orders = [
        Order(prepared, None, audited, several, pictures, on_record, row=not several) for prepared in each
    ]
    results = in_order(orders, workers)
    if not several:
        return results
    worst = _ensemble(results, each[0].plan)
    if on_record is not None:
        on_record({**worst.record, "folder": str(worst.folder)})
    return [*results, worst]


def _ensemble(results: Sequence[Result], plan: Plan) -> Result:
    """The row of the worst case of ``results``."""
    outcomes = [Outcomes.load(result.folder / "outcomes.npz") for result in results]
    choice, shared_by = strongest(outcomes, plan.goal), plan.model.draws_shared_by
    worst = chosen_from(outcomes, choice)
    measured = accuracies(worst, plan.goal, shared_by)
    members = [result.record for result in results]
    name = sha256_json([member["run"] for member in members])[:12]
    further = metrics.describe(worst, plan.goal, shared_by, plan.split.subgroups)
    made = ensemble_record(name, members, measured, further, Samples.of(worst, plan.goal, shared_by))
    board = results[0].leaderboard
    folder = folder_name(made["model"]["label"], "ensemble", made["dataset"]["name"], name)
    place = results[0].folder.parent / folder
    inputs = keeping.of_members([result.folder for result in results], choice.tolist())
    if inputs is not None:
        made["adversarial"] = keeping.store(place / kept.FILE, inputs, plan, name)
    worst.save(place / "outcomes.npz")
    write_json(place / "record.json", made)
    if not leaderboard.holds(board, name):
        leaderboard.append(board, leaderboard.row(made))
    return Result(measured, made, place, board, place / kept.FILE if inputs is not None else None)
