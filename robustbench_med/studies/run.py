"""One run, from a config to a row: data and model, threat model, attack, scoring, audit, record."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustbench_med.audit import CHEAP_SAMPLES, Audit, AuditConfig, Bench, Thresholds, audit, converged
from robustbench_med.audit.draws import Curve, converge
from robustbench_med.data.catalog import is_own
from robustbench_med.evaluation import kept
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.identity import code_of, code_of_run, identify
from robustbench_med.evaluation.kept import Blobs
from robustbench_med.evaluation.outcomes import Outcomes, chosen_from
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import Prepared, RunConfig, Subject, prepare, prepare_all
from robustbench_med.measure import metrics
from robustbench_med.measure.accuracy import Accuracy, accuracies
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.worst import strongest
from robustbench_med.models.cost import multiply_accumulates
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.figures import drawn
from robustbench_med.reporting.picture import draw, draw_draws
from robustbench_med.reporting.record import ensemble_record, record
from robustbench_med.studies import keeping
from robustbench_med.studies.records import folder_name, read_record, run_folder
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, sha256_json, write_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.terminal import say

KEEPING = "parts-kept"  # parts without adversarial inputs are no parts of a run that keeps them

__all__ = ["Result", "RunConfig", "audit_config", "run", "run_all", "run_id", "run_prepared"]


@dataclass(frozen=True)
class Result:
    """What a run produced.

    Attributes:
        accuracy: by head, question, and all heads together (``measure.accuracy.EVERY``).
        record: the JSON record, as written to ``folder``.
        folder: record.json, outcomes.npz, picture.png (an ensemble has no picture of its own), and
            adversarial.npz if that was asked for.
        leaderboard: the CSV that holds the row.
        inputs: the file of the adversarial inputs, if they were to be kept.
    """

    accuracy: Mapping[str, Accuracy]
    record: Mapping[str, Any]
    folder: Path
    leaderboard: Path
    inputs: Path | None = None


def run(config: RunConfig, audited: str | None = None, reuse: bool = False) -> Result:
    """Load, attack, score, audit, record.

    A run that was killed goes on where it stopped when the same config is run again.

    Args:
        audited: name (``configs/audit``) or path of an audit; its checks are then all made, and of a
            finished run nothing else. Those that are cheap are always made.
        reuse: read back the same run, made by the same code, if it is finished, instead of making it again.

    Raises:
        UserError: anything in the config, data or weights that cannot be used.
    """
    return run_prepared(prepare(checked(config)), audited, reuse)


def checked(config: RunConfig) -> RunConfig:
    """A config from Python with the checks that flags and YAML get ("4/255", names, types)."""
    return build(
        RunConfig, {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, "RunConfig"
    )


def run_all(config: RunConfig, audited: str | None = None, pictures: bool = True) -> list[Result]:
    """Run each attack of a comma-separated list, and with several their per-sample worst case.

    The attacks are run by rising name; with several, those that are finished are read back. What was guessed
    about somebody's own net or data is said first.

    Raises:
        UserError: see ``run``; an option that none of the attacks has.
    """
    each = prepare_all(checked(config))
    say_guesses(each[0].subject, config.dataset)
    if len(each) == 1:
        return [run_prepared(each[0], audited, pictures=pictures)]
    keeping.require_one(config, f"--attack {config.attack}")
    results = [run_prepared(prepared, audited, reuse=True, pictures=pictures) for prepared in each]
    return [*results, _ensemble(results, each[0].plan)]


def say_guesses(subject: Subject, dataset: str) -> None:
    """Print what was guessed about a net or data that somebody brought, while it can still be mended.

    Args:
        dataset: as it was given; what is said of registered data is no guess.
    """
    for line in (*subject.loaded.caveats, *(subject.whole.info.caveats if is_own(dataset) else ())):
        for part in textwrap.wrap(f"note: {line}", 80, subsequent_indent=" " * 6, break_on_hyphens=False):
            say(part)


def run_prepared(
    prepared: Prepared, audited: str | None = None, reuse: bool = False, pictures: bool = True
) -> Result:
    """``run`` on objects that are there already; without pictures if they are not wanted."""
    checks = audit_config(audited or "default")  # what is wrong with it is said before the run, not after
    config, plan = prepared.config, prepared.plan
    out, board = places(config)
    code = code_of_run(prepared)
    name = _id(prepared, code)
    called = folder_name(prepared.loaded.config.label, config.attack, config.dataset, name)
    place = keeping.place_of(config, out / called)
    with run_folder(out, board, leaderboard.COLUMNS, called) as folder:
        before = read_record(folder) if (folder / "record.json").exists() else None
        there = place is None or (before is not None and keeping.still_there(before, place))
        if reuse and before is not None and _serves(before, audited) and there:
            if pictures and not (folder / "picture.png").exists():  # killed before it was drawn
                _Work(prepared, folder, checks, None).draw_again(before)
            return replace(_read_back(before, folder, board), inputs=place)
        work = _Work(prepared, folder, checks, audited, keep=place is not None)
        made = work.make(before, there)
        samples = Samples.of(made.outcomes, plan.goal, plan.model.draws_shared_by)
        result = record(
            name,
            replace(prepared, plan=made.plan),
            code,
            made.outcomes,
            made.measured,
            metrics.describe(made.outcomes, plan.goal, samples.draws_shared_by, plan.split.subgroups),
            samples,
            made.audit,
            multiply_accumulates(plan.fresh(), plan.split.info),
            made.started,
        )
        if made.curve is not None:
            result["eot_curve"] = made.curve.as_record()
        if place is not None and made.kept:
            result["adversarial"] = keeping.keep(place, made.kept, plan, name)
        elif before is not None and before["outcomes"] == result["outcomes"] and "adversarial" in before:
            result["adversarial"] = before["adversarial"]  # the same run once more
        made.outcomes.save(folder / "outcomes.npz")
        write_json(folder / "record.json", result)
        leaderboard.append(board, leaderboard.row(result))
        if pictures:
            work.draw(made)
        _clean(folder)
    return Result(made.measured, result, folder, board, place)


def places(config: RunConfig) -> tuple[Path, Path]:
    """The folder of run folders and the leaderboard of a config."""
    out = given_path(config.out, "the folder --out")
    board = (
        given_path(config.leaderboard, "the file --leaderboard")
        if config.leaderboard is not None
        else out / "leaderboard.csv"
    )
    return out, board


def run_id(prepared: Prepared) -> str:
    """The name that this run gets."""
    return _id(prepared, code_of_run(prepared))


def _id(prepared: Prepared, code: Mapping[str, Any]) -> str:
    loaded, split = prepared.loaded, prepared.plan.split
    return identify(prepared.stored, loaded.config, loaded.weights_sha256, split.fingerprint, code)


def audit_config(name: str) -> AuditConfig:
    """An audit by the name it ships under, or by its path.

    Raises:
        UserError: unreadable file, unknown option, wrong type.
    """
    path = find("audit", "audit", name)
    return build(AuditConfig, read_yaml(path), str(path))


def _audit_code() -> str:
    """A hash of the audit's sources: a verdict is no better than the checks behind it."""
    return str(code_of(("robustbench_med.audit",))["sources"])


def _serves(before: Mapping[str, Any], audited: str | None) -> bool:
    """Whether a finished run was audited as is asked, by the audit as it is now."""
    found = before["audit"]
    return audited is None or (found.get("config") == audited and found.get("code") == _audit_code())


def _read_back(before: Mapping[str, Any], folder: Path, board: Path) -> Result:
    _clean(folder)
    if not leaderboard.holds(board, before["run"]):
        leaderboard.append(board, leaderboard.row(before))
    return Result(_measured(before), before, folder, board)


def _measured(before: Mapping[str, Any]) -> dict[str, Accuracy]:
    """The accuracies of a record."""
    return {name: Accuracy.from_record(value) for name, value in before["accuracy"].items()}


def _clean(folder: Path) -> None:
    """Take away what only a killed run goes on from."""
    for parts in ("parts", KEEPING, "audit", "eot"):
        shutil.rmtree(folder / parts, ignore_errors=True)


@dataclass(frozen=True)
class _Made:
    """What a run found.

    Attributes:
        plan: with as many EOT draws as were used.
        curve: of the search for them, if there was one.
        audit: for the record.
        kept: the adversarial inputs, packed, if they are to be kept.
    """

    plan: Plan
    curve: Curve | None
    outcomes: Outcomes
    measured: Mapping[str, Accuracy]
    audit: Mapping[str, Any]
    started: str
    kept: Blobs = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """The work of one run in its folder."""

    prepared: Prepared
    folder: Path
    checks: AuditConfig
    audited: str | None
    keep: bool = False

    def make(self, before: Mapping[str, Any] | None, complete: bool = True) -> _Made:
        """Attack and audit; of a run that is finished, and is to be audited, only that.

        Args:
            before: the record of the finished run, if there is one.
            complete: it has kept all that is to be kept.
        """
        plan, started = self.prepared.plan, datetime.now(UTC).isoformat(timespec="seconds")
        if before is not None and self.audited is not None and complete:
            curve = Curve.from_record(before["eot_curve"]) if "eot_curve" in before else None
            outcomes, started = Outcomes.load(self.folder / "outcomes.npz"), before["started"]
        else:
            curve = self._searched(plan) if self.prepared.stored["eot"] == "auto" else None
            outcomes = self._evaluated(replace(plan, eot=curve.draws) if curve else plan)
        plan = replace(plan, eot=curve.draws) if curve else plan
        inputs, outcomes = outcomes.kept, replace(outcomes, kept={})
        measured = accuracies(outcomes, plan.goal, plan.model.draws_shared_by)
        found = self._audited(plan, outcomes)
        if curve is not None:
            found = replace(found, findings=(*found.findings, converged(curve)))
        audit_record = {"config": self.audited, "code": _audit_code(), **found.as_record()}
        if self.audited is None and before is not None and before["audit"].get("complete"):
            same = before["accuracy"] == {name: asdict(value) for name, value in measured.items()}
            audit_record = dict(before["audit"]) if same else audit_record
        return _Made(plan, curve, outcomes, measured, audit_record, started, inputs)

    def _searched(self, plan: Plan) -> Curve:
        with progress_bar() as bar:
            task = bar.add_task("EOT auto", total=None)
            return converge(
                plan, self.folder / "eot", lambda title: bar.update(task, description=f"auto: {title}")
            )

    def _evaluated(self, plan: Plan) -> Outcomes:
        with progress_bar() as bar:
            task = bar.add_task(
                f"{self.prepared.loaded.config.label} under {plan.name}", total=len(plan.split)
            )
            parts = self.folder / (KEEPING if self.keep else "parts")
            return evaluate(replace(plan, keep=self.keep), parts, lambda done: bar.advance(task, done))

    def _audited(self, plan: Plan, outcomes: Outcomes) -> Audit:
        complete = self.audited is not None
        checks = self.checks if complete else replace(self.checks, samples=CHEAP_SAMPLES)
        with progress_bar() as bar:
            task = bar.add_task("audit", total=None)

            def announce(title: str) -> None:
                bar.update(task, description=f"audit: {title}")

            bench = Bench(plan, outcomes, checks, make_attack, self.folder / "audit", announce, Thresholds())
            return audit(bench, complete)

    def draw(self, made: _Made) -> None:
        """The pictures; the record is on disk, and a picture that fails costs a warning."""
        loaded = self.prepared.loaded
        pictures: list[tuple[str, Callable[[Path], None]]] = [
            (
                "picture.png",
                lambda path: draw(made.outcomes, made.plan, made.measured, loaded.config.label, path),
            )
        ]
        if (curve := made.curve) is not None:
            pictures.append(("eot.png", lambda path: draw_draws(curve, path)))
        for name, draw_one in pictures:
            drawn(draw_one, self.folder / name)

    def draw_again(self, before: Mapping[str, Any]) -> None:
        """The pictures of a finished run, from what it left."""
        curve = Curve.from_record(before["eot_curve"]) if "eot_curve" in before else None
        outcomes, measured = Outcomes.load(self.folder / "outcomes.npz"), _measured(before)
        self.draw(_Made(self.prepared.plan, curve, outcomes, measured, before["audit"], before["started"]))


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


def require_single(config: RunConfig, what: str) -> None:
    """Refuse a list of attacks where one is meant.

    Raises:
        UserError: several.
    """
    if "," in config.attack:
        raise UserError(f"{what} takes one attack, not {config.attack!r}")
    keeping.require_one(config, what)
