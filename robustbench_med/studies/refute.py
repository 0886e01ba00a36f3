"""``robmed refute``: somebody's adversarial inputs against a record; the lower number stands."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.evaluation import kept as files
from robustbench_med.evaluation.handed_in import HandedIn, handed_in
from robustbench_med.evaluation.identity import code_of, refuting_id, scoring_seed
from robustbench_med.evaluation.kept import Ends, Kept, Origin, packed
from robustbench_med.evaluation.outcomes import Outcomes, Scores, chosen_from
from robustbench_med.evaluation.recorded import Places, Recorded, recorded
from robustbench_med.evaluation.rescore import Inputs, clean_inputs, kept_inputs, outcomes_of, scored
from robustbench_med.measure import metrics
from robustbench_med.measure.accuracy import Accuracy, accuracies, correct
from robustbench_med.measure.redrawn import Redrawn, redrawn, retold, successes
from robustbench_med.measure.samples import Samples
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.record import refuting_record
from robustbench_med.studies.records import folder_name, run_folder
from robustbench_med.studies.verify import belonging, inputs_of, named_rightly, numbers_follow, whole_record
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, write_json
from robustbench_med.util.progress import progress_bar

LONGEST = 80  # characters of a finder's name
ROOTS = (
    "robustbench_med.evaluation.rescore",
    "robustbench_med.measure.accuracy",
    "robustbench_med.measure.metrics",
)


@dataclass(frozen=True)
class Submission:
    """What is handed in.

    Attributes:
        inputs: the file.
        finder: who found them.
        adversarial: the record's own inputs, if they do not lie beside it.
    """

    inputs: Path
    finder: str
    adversarial: str | None = None


@dataclass(frozen=True)
class Refutation:
    """What came of it.

    Attributes:
        record: the new one.
        before: the one that it refutes.
    """

    record: Mapping[str, Any]
    before: Mapping[str, Any]
    folder: Path
    leaderboard: Path


@dataclass(frozen=True)
class _Lowered:
    """Sample by sample the lower of the record and what was handed in.

    Attributes:
        stronger: positions at which what was handed in is the lower one.
        inputs: of all samples whose inputs are known.
        further: of ``metrics.describe``.
    """

    samples: Samples
    measured: Mapping[str, Accuracy]
    further: Mapping[str, Any]
    stronger: NDArray[np.int64]
    inputs: Kept


def refute(
    given: Path, submission: Submission, places: Places, out: str = "runs", board: str | None = None
) -> Refutation:
    """Score somebody's inputs and write the record and row of the lower number.

    Raises:
        UserError: one line: the record cannot be judged, an input is not allowed, or nothing is refuted.
    """
    started, begun = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    finder = _finder(submission.finder)
    file, record = whole_record(given)
    samples = None if record["outcomes"] is None else Samples.from_record(record, str(file))
    _require_consistent(file, record, samples)
    setting = recorded(record, file, places)
    handed = handed_in(given_path(submission.inputs), setting)
    own = _own_inputs(record, file, submission, setting)
    lowered = _lowered(setting, handed, own, samples)
    _require_lower(setting, lowered, samples)
    name = refuting_id(record["run"], handed.digest, finder)
    refutes = {
        "run": record["run"],
        "finder": finder,
        "inputs_sha256": handed.digest,
        "samples": len(handed.index),
        "stronger": len(lowered.stronger),
        "robust_before": record["accuracy"][record["headline"]]["robust"]["value"],
    }
    seconds = time.perf_counter() - begun
    made = refuting_record(
        name,
        record,
        refutes,
        lowered.measured,
        lowered.further,
        lowered.samples,
        code_of(ROOTS),
        started,
        seconds,
    )
    return _written(made, record, lowered, setting, given_path(out, "the folder --out"), board)


def _finder(name: str) -> str:
    """A name for a row.

    Raises:
        UserError: none that fits one line.
    """
    said = " ".join(name.split())
    if not said or len(said) > LONGEST or not said.isprintable():
        raise UserError(f"--finder must be a name of 1 to {LONGEST} characters, on one line")
    return said


def _require_consistent(file: Path, record: Mapping[str, Any], samples: Samples | None) -> None:
    """Raises UserError: the record contradicts itself, so that there is nothing to refute."""
    findings = [named_rightly(record), *([numbers_follow(record, samples)] if samples else [])]
    failed = next((finding for finding in findings if finding.result == "failed"), None)
    if failed is not None:
        raise UserError(f"{file} does not stand as it is: {failed.evidence}")


def _own_inputs(
    record: Mapping[str, Any], file: Path, submission: Submission, setting: Recorded
) -> Kept | None:
    """The record's own inputs of all samples; None where they were not kept or are not at hand."""
    if submission.adversarial is None:
        said = record.get("adversarial")
        beside = file.parent / Path(str(said.get("file"))).name if isinstance(said, dict) else None
        if beside is None or not beside.is_file():
            return None
    kept, _ = belonging(inputs_of(record, file, submission.adversarial), record, setting)
    return kept if len(kept.ids) == len(setting.split) else None


def _lowered(setting: Recorded, handed: HandedIn, own: Kept | None, samples: Samples | None) -> _Lowered:
    """Combine; see ``_Lowered``.

    Raises:
        UserError: a random model's record without inputs, and not all samples handed in.
    """
    if own is None and setting.random and len(handed.index) < len(setting.split):
        raise UserError(
            f"the record of a random model has kept no inputs, and {len(handed.index)} of "
            f"{len(setting.split)} samples were handed in; hand in all, or give the record's by --adversarial"
        )
    if own is None and not setting.random and samples is not None:
        return _by_bits(setting, handed, samples)
    return _by_scores(setting, handed, own)


def _by_scores(setting: Recorded, handed: HandedIn, own: Kept | None) -> _Lowered:
    """Score both sides; without inputs of the record (of schema 1) its side are the clean ones.

    A random model's side is chosen on draws that do not score it.
    """
    base = kept_inputs(own, setting) if own is not None else clean_inputs
    seed = _seed(handed)
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=(5 if setting.random else 3) * len(setting.split))

        def ask(inputs: Inputs, seed: int, purpose: str) -> Scores:
            return scored(setting, inputs, setting.draws, seed, purpose, lambda done: bar.advance(task, done))

        clean = ask(clean_inputs, setting.config.seed, "clean")
        theirs = _over(base, setting, handed)
        sides = [outcomes_of(setting, clean, ask(inputs, seed, "score")) for inputs in (base, theirs)]
        if setting.random:
            choosing = [ask(inputs, seed, "choose") for inputs in (base, theirs)]
            sides = [dataclasses.replace(side, choosing=z) for side, z in zip(sides, choosing, strict=True)]
    left = [correct(side.choosing or side.adversarial, side.labels, setting.goal).mean(0) for side in sides]
    choice = np.zeros(len(setting.split), np.int64)
    choice[handed.index] = (left[1] < left[0])[handed.index]
    if own is None and setting.random:  # the record's side is unknown: what was handed in stands for all
        choice[:] = 1
    outcomes = chosen_from(sides, choice)
    return _measured(setting, outcomes, handed, own, choice)


def _measured(
    setting: Recorded, outcomes: Outcomes, handed: HandedIn, own: Kept | None, choice: NDArray[np.int64]
) -> _Lowered:
    shared, goal = setting.loaded.model.draws_shared_by, setting.goal
    return _Lowered(
        Samples.of(outcomes, goal, shared),
        accuracies(outcomes, goal, shared),
        metrics.describe(outcomes, goal, shared, setting.split.subgroups),
        np.flatnonzero(choice),
        _joined_inputs(setting, handed, own, choice),
    )


def _by_bits(setting: Recorded, handed: HandedIn, samples: Samples) -> _Lowered:
    """Of a deterministic model the record's outcomes do for the samples that were not broken now.

    What needs scores of all samples (metrics beside accuracy, subgroups) is not known.
    """
    seed, goal = _seed(handed), setting.goal
    scores = scored(setting, _over(clean_inputs, setting, handed), 1, seed, "score")
    now = Samples.of(outcomes_of(setting, scores, scores), goal, samples.draws_shared_by)
    key = setting.record["headline"]
    here = np.isin(np.arange(len(setting.split)), handed.index)
    lower = here & (now.robust[key][0] < samples.robust[key][0])
    robust = {name: np.where(lower, now.robust[name], bits) for name, bits in samples.robust.items()}
    combined = dataclasses.replace(samples, robust=robust)
    measured = {
        name: Accuracy(**kinds, samples=int(combined.known[name].sum()))
        for name, kinds in retold(combined).items()
    }
    unknown = dict.fromkeys(("macro_f1", "auroc", "sensitivity", "calibration_error"))
    further = {
        "metrics": {name: {**kinds, "robust": unknown} for name, kinds in setting.record["metrics"].items()},
        "attack_success": successes(combined),
        "persistent_attacker": metrics.persistent(robust[key]),
        "subgroups": [],
        "worst_subgroup": None,
    }
    stronger = np.flatnonzero(lower)
    inputs = _joined_inputs(setting, handed, None, lower.astype(np.int64)).take(stronger.tolist())
    return _Lowered(combined, measured, further, stronger, inputs)


def _seed(handed: HandedIn) -> int:
    return scoring_seed({"refutes": {"inputs_sha256": handed.digest}})


def _over(base: Inputs, setting: Recorded, handed: HandedIn) -> Inputs:
    """What was handed in, over the other side's inputs."""
    row = {int(place): i for i, place in enumerate(handed.index)}

    def found(
        index: NDArray[np.int64], clean: Mapping[str, NDArray[np.float32]]
    ) -> Mapping[str, NDArray[np.float32]]:
        out = {name: x.copy() for name, x in base(index, clean).items()}
        for i, place in enumerate(index.tolist()):
            for name in setting.threat.budgets:
                if place in row:
                    out[name][i] = handed.values[name][row[place]]
        return out

    return found


def _joined_inputs(setting: Recorded, handed: HandedIn, own: Kept | None, choice: NDArray[np.int64]) -> Kept:
    """The inputs behind the lower number: what was handed in where it was chosen, else the record's own."""
    split = setting.split
    ends = {name: Ends.of(budget) for name, budget in setting.threat.budgets.items()}
    chosen = _over(
        kept_inputs(own, setting) if own is not None else clean_inputs, setting, _chosen(handed, choice)
    )
    blobs: dict[str, list[bytes]] = {name: [] for name in ends}
    for index in setting.batches:
        clean = {m.name: split.values(m.name, index) for m in split.info.modalities}
        for name, each in packed(chosen(index, clean), clean, setting.threat).items():
            blobs[name] += each
    return Kept(split.ids, ends, {name: tuple(each) for name, each in blobs.items()})


def _chosen(handed: HandedIn, choice: NDArray[np.int64]) -> HandedIn:
    some = np.flatnonzero(choice[handed.index])
    values = {name: x[some] for name, x in handed.values.items()}
    return HandedIn(handed.index[some], values, handed.digest)


def _require_lower(setting: Recorded, lowered: _Lowered, samples: Samples | None) -> None:
    """Raises UserError: the number is not lower, or not lower than draws explain."""
    key = setting.record["headline"]
    said = float(setting.record["accuracy"][key]["robust"]["value"])
    left = lowered.measured[key].robust.value
    if left >= said - 1e-9 or not len(lowered.stronger):
        raise UserError(
            f"nothing is refuted: with these inputs {100 * left:.1f} % ({key}) are left, the record says "
            f"{100 * said:.1f} %"
        )
    if not setting.random:
        return
    index = np.flatnonzero(lowered.samples.known[key])
    bits = lowered.samples.robust[key][:, index]
    before = bits if samples is None else samples.robust[key][:, index]
    found = redrawn(before, bits, lowered.samples.batches[index], lowered.samples.draws_shared_by)
    found = Redrawn(said, left, found.reach)
    if not found.lower:
        raise UserError(
            f"nothing is refuted: {100 * left:.1f} % ({key}) are left, the record says {100 * said:.1f} %, "
            f"and draws alone explain {100 * found.reach:.1f} points"
        )


def _written(
    made: dict[str, Any],
    before: Mapping[str, Any],
    lowered: _Lowered,
    setting: Recorded,
    out: Path,
    board: str | None,
) -> Refutation:
    csv = given_path(board, "the file --leaderboard") if board is not None else out / "leaderboard.csv"
    label, data = made["model"]["label"], made["dataset"]["name"]
    called = folder_name(label, "submission", data, made["run"])
    with run_folder(out, csv, leaderboard.COLUMNS, called) as folder:
        digest = lowered.inputs.digest(setting.split)
        origin = Origin(made["run"], setting.split.fingerprint, digest)
        files.write(folder / files.FILE, lowered.inputs, origin)
        said = {"file": files.FILE, "inputs_sha256": digest, "samples": len(lowered.inputs.ids)}
        made["adversarial"] = said
        write_json(folder / "record.json", made)
        if not leaderboard.holds(csv, before["run"]):  # a board says what was refuted
            leaderboard.append(csv, leaderboard.row(before))
        leaderboard.append(csv, leaderboard.row(made))
    return Refutation(made, before, folder, csv)
