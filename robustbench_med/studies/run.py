"""One run, from a config to a row: data and model, threat model, attack, scoring, audit, record."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from robustbench_med.audit import CHEAP_SAMPLES, Audit, AuditConfig, Bench, Thresholds, audit, converged
from robustbench_med.audit.draws import Curve, converge
from robustbench_med.data.catalog import is_own
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.identity import code_of, code_of_run, identify
from robustbench_med.evaluation.kept import Blobs
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import Prepared, RunConfig, Subject, prepare
from robustbench_med.measure import metrics
from robustbench_med.measure.accuracy import Accuracy, accuracies
from robustbench_med.measure.samples import Samples
from robustbench_med.models.cost import multiply_accumulates
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.figures import drawn
from robustbench_med.reporting.picture import draw, draw_draws
from robustbench_med.reporting.record import record
from robustbench_med.studies import keeping
from robustbench_med.studies.records import folder_name, read_record, run_folder
from robustbench_med.studies.result import OnRecord, Result
from robustbench_med.studies.working import KEEPING, clean, forget, same_threads
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, sha256_json, write_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.spent import counted
from robustbench_med.util.terminal import say

__all__ = ["OnRecord", "Result", "RunConfig", "audit_config", "run", "run_id", "run_prepared"]


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


def say_guesses(subject: Subject, dataset: str) -> None:
    """Print what was guessed about a net or data that somebody brought, while it can still be mended.

    Args:
        dataset: as it was given; what is said of registered data is no guess.
    """
    for line in (*subject.loaded.caveats, *(subject.whole.info.caveats if is_own(dataset) else ())):
        for part in textwrap.wrap(f"note: {line}", 80, subsequent_indent=" " * 6, break_on_hyphens=False):
            say(part)


def run_prepared(
    prepared: Prepared,
    audited: str | None = None,
    reuse: bool = False,
    pictures: bool = True,
    on_record: OnRecord | None = None,
    row: bool = True,
) -> Result:
    """``run`` on objects that are there already; without pictures if they are not wanted.

    Args:
        row: put it into the leaderboard; not what is a part of another claim. A row that is there is kept.
    """
    with opened(prepared, audited, reuse) as work:
        return work.finish(pictures, on_record, row)


@contextmanager
def opened(
    prepared: Prepared, audited: str | None = None, reuse: bool = False, quiet: bool = False
) -> Iterator[Work]:
    """The work of a run in its folder, to which nobody else has access meanwhile.

    Args:
        quiet: no progress bars of its own.
    """
    checks = audit_config(audited or "default")  # what is wrong with it is said before the run, not after
    config = prepared.config
    out, board = places(config)
    code = code_of_run(prepared)
    name = _id(prepared, code)
    called = folder_name(prepared.loaded.config.label, config.attack, config.dataset, name)
    place = keeping.place_of(config, out / called)
    with run_folder(out, board, leaderboard.COLUMNS, called) as folder:
        before = read_record(folder) if (folder / "record.json").exists() else None
        if before is None:
            same_threads(folder, torch.get_num_threads())
        whole = place is None or (before is not None and keeping.still_there(before, place))
        served = reuse and before is not None and _serves(before, audited) and whole
        try:
            yield Work(
                prepared, folder, checks, audited, name, code, board, before, served, quiet, place, whole
            )
        finally:
            forget(folder)


def places(config: RunConfig) -> tuple[Path, Path]:
    """The folder of run folders and the leaderboard of a config."""
    out = given_path(config.out, "the folder --out")
    board = (
        given_path(config.leaderboard, "the file --leaderboard")
        if config.leaderboard is not None
        else out / "leaderboard.csv"
    )
    return out, board


def is_finished(prepared: Prepared, audited: str | None) -> bool:
    """Whether a run was made, by the same code, and audited as is asked."""
    name = run_id(prepared)
    called = folder_name(prepared.loaded.config.label, prepared.config.attack, prepared.config.dataset, name)
    folder = places(prepared.config)[0] / called
    return (folder / "record.json").exists() and _serves(read_record(folder), audited)


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


def _measured(before: Mapping[str, Any]) -> dict[str, Accuracy]:
    """The accuracies of a record."""
    return {name: Accuracy.from_record(value) for name, value in before["accuracy"].items()}


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
class Work:
    """The work of one run in its folder.

    Attributes:
        name: of the run.
        code: that makes it.
        before: its record, if it is finished.
        served: that record is what is asked for.
        place: where the adversarial inputs are to be kept, if they are.
        whole: a finished run has kept all that is to be kept.
        spent: seconds by what they were spent on here.
    """

    prepared: Prepared
    folder: Path
    checks: AuditConfig
    audited: str | None
    name: str
    code: Mapping[str, Any]
    board: Path
    before: Mapping[str, Any] | None
    served: bool
    quiet: bool = False
    place: Path | None = None
    whole: bool = True
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """The adversarial inputs are to be kept."""
        return self.place is not None

    @property
    def parts(self) -> Path:
        """The folder of the batches that are made."""
        return self.folder / (KEEPING if self.keeps else "parts")

    def finish(self, pictures: bool = True, on_record: OnRecord | None = None, row: bool = True) -> Result:
        """Make what is not made yet, and the record of it; see ``run_prepared``."""
        result = self._read_back(pictures, row) if self.served else self._recorded(pictures, row)
        if on_record is not None:
            on_record({**result.record, "folder": str(result.folder)})
        return result

    def _read_back(self, pictures: bool, row: bool) -> Result:
        assert self.before is not None
        if pictures and not (self.folder / "picture.png").exists():  # killed before it was drawn
            self.draw_again(self.before)
        clean(self.folder)
        if row and not leaderboard.holds(self.board, self.name):
            leaderboard.append(self.board, leaderboard.row(self.before))
        return Result(_measured(self.before), self.before, self.folder, self.board, self.place)

    def _recorded(self, pictures: bool, row: bool) -> Result:
        made = self.make(self.before)
        with counted(self.spent, "record"):
            return self._written(made, pictures, row)

    def _written(self, made: _Made, pictures: bool, row: bool) -> Result:
        plan = self.prepared.plan
        samples = Samples.of(made.outcomes, plan.goal, plan.model.draws_shared_by)
        result = record(
            self.name,
            replace(self.prepared, plan=made.plan),
            self.code,
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
        self._keep(made, result)
        made.outcomes.save(self.folder / "outcomes.npz")
        write_json(self.folder / "record.json", result)
        if row or leaderboard.holds(self.board, self.name):
            leaderboard.append(self.board, leaderboard.row(result))
        if pictures:
            self.draw(made)
        clean(self.folder)
        return Result(made.measured, result, self.folder, self.board, self.place, self.spent)

    def _keep(self, made: _Made, result: dict[str, Any]) -> None:
        """Write the adversarial inputs, if they are to be kept, and say so in the record."""
        if self.place is not None and made.kept:
            result["adversarial"] = keeping.keep(self.place, made.kept, self.prepared.plan, self.name)
            return
        before = self.before or {}
        if "adversarial" in before and before["outcomes"] == result["outcomes"]:  # the same run once more
            result["adversarial"] = before["adversarial"]

    @property
    def audits_only(self) -> bool:
        """The run is finished, and is asked for its audit."""
        return self.before is not None and self.audited is not None and self.whole

    def make(self, before: Mapping[str, Any] | None) -> _Made:
        """Attack and audit; of a run that is finished, and is to be audited, only that.

        Args:
            before: the record of the finished run, if there is one.
        """
        plan, started = self.prepared.plan, datetime.now(UTC).isoformat(timespec="seconds")
        if before is not None and self.audits_only:
            curve, outcomes, started = self.found_before(), self.outcomes_before(), before["started"]
        else:
            curve = self._searched(plan) if self.searches else None
            outcomes = self._evaluated(with_draws(plan, curve))
        plan = with_draws(plan, curve)
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

    def found_before(self) -> Curve | None:
        """The curve of a finished run, if it has one."""
        before = self.before or {}
        return Curve.from_record(before["eot_curve"]) if "eot_curve" in before else None

    def outcomes_before(self) -> Outcomes:
        """Those of a finished run."""
        return Outcomes.load(self.folder / "outcomes.npz")

    @property
    def searches(self) -> bool:
        """The number of EOT draws is to be found."""
        return bool(self.prepared.stored["eot"] == "auto")

    def _searched(self, plan: Plan) -> Curve:
        with counted(self.spent, "EOT draws"), progress_bar(not self.quiet) as bar:
            task = bar.add_task("EOT auto", total=None)
            return converge(
                plan, self.folder / "eot", lambda title: bar.update(task, description=f"auto: {title}")
            )

    def _evaluated(self, plan: Plan) -> Outcomes:
        with counted(self.spent, "attack and score"), progress_bar(not self.quiet) as bar:
            task = bar.add_task(
                f"{self.prepared.loaded.config.label} under {plan.name}", total=len(plan.split)
            )
            plan = replace(plan, keep=self.keeps)
            return evaluate(plan, self.parts, lambda done: bar.advance(task, done))

    def _audited(self, plan: Plan, outcomes: Outcomes) -> Audit:
        with counted(self.spent, "checks"), progress_bar(not self.quiet) as bar:
            task = bar.add_task("audit", total=None)

            def announce(title: str) -> None:
                bar.update(task, description=f"audit: {title}")

            return audit(self.bench(plan, outcomes, announce), self.audited is not None)

    def bench(
        self, plan: Plan, outcomes: Outcomes, announce: Callable[[str], None] = lambda _: None
    ) -> Bench:
        """What the checks that are asked for work with."""
        checks = self.checks if self.audited is not None else replace(self.checks, samples=CHEAP_SAMPLES)
        folder = self.folder / "audit" / sha256_json([_audit_code(), torch.get_num_threads()])[:12]
        return Bench(plan, outcomes, checks, make_attack, folder, announce, Thresholds())

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
        made = (self.found_before(), self.outcomes_before(), _measured(before))
        self.draw(_Made(self.prepared.plan, *made, before["audit"], before["started"]))


def with_draws(plan: Plan, curve: Curve | None) -> Plan:
    """A plan with as many EOT draws as a search found, if there was one."""
    return plan if curve is None else replace(plan, eot=curve.draws)


def require_single(config: RunConfig, what: str) -> None:
    """Refuse a list of attacks where one is meant.

    Raises:
        UserError: several.
    """
    if "," in config.attack:
        raise UserError(f"{what} takes one attack, not {config.attack!r}")
