"""One run, from a config to a row: data and model, threat model, attack, scoring, record."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from robustbench_med.audit import CHEAP_SAMPLES, Audit, AuditConfig, Bench, Thresholds, audit, converged
from robustbench_med.audit.draws import Curve, converge
from robustbench_med.evaluation.adversary import (
    attack_class,
    make_attack,
)
from robustbench_med.evaluation.batches import Plan, evaluate, worst_case
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.prepare import (
    RunConfig,
    prepare,
)
from robustbench_med.measure import metrics
from robustbench_med.measure.accuracy import Accuracy, accuracies, correct, headline
from robustbench_med.models.load import (
    LoadedModel,
    card_model,
)
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.picture import draw, draw_curve
from robustbench_med.reporting.record import ensemble_record, identify, record
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, require_writable, sha256_json, write_json
from robustbench_med.util.progress import progress_bar


@dataclass(frozen=True)
class Result:
    """What a run produced.

    Attributes:
        accuracy: per task and under ``record.ANY``.
        record: the JSON record, as written to ``folder``.
        folder: record.json, outcomes.npz, and picture.png (an ensemble has no picture of its own).
        leaderboard: the CSV that holds the row.
    """

    accuracy: Mapping[str, Accuracy]
    record: Mapping[str, Any]
    folder: Path
    leaderboard: Path


def run(config: RunConfig, audited: str | None = None, reuse: bool = False) -> Result:
    """Load, attack, score, audit, record.

    A run that was killed goes on where it stopped when the same config is run again.

    Args:
        audited: name (``configs/audit``) or path of an audit; its checks are then all made, and of a
            finished run nothing else. Those that are cheap are always made.
        reuse: read back the same run if it is finished, instead of making it again.

    Raises:
        UserError: anything in the config, data or weights that cannot be used.
    """
    # Python callers get the checks that flags and YAML get ("4/255", names, types).
    config = build(
        RunConfig, {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, "RunConfig"
    )
    if audited is not None:
        audit_config(audited)  # what is wrong with it is said before the run, not after
    out = Path(config.out)
    board = Path(config.leaderboard) if config.leaderboard else out / "leaderboard.csv"
    loaded, plan = prepare(config)
    leaderboard.check_header(board)
    for folder in (out, board.parent):
        require_writable(folder)
    stored = _stored_config(config, plan, loaded)
    run_id = _run_id(stored, plan, loaded)
    folder = out / folder_name(loaded.config.label, config.attack, config.dataset, run_id)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    # Two equal runs at once take turns: they would share their parts.
    with FileLock(out / f".{folder.name}.lock"):
        if reuse and (finished := _finished(folder, board, audited)):
            return finished
        if audited is not None and (folder / "record.json").exists():
            curve, outcomes, started = _made(folder)
        else:
            curve, outcomes = _make(plan, folder, loaded.config.label, stored["eot"] == "auto")
        if curve is not None:
            plan = replace(plan, eot=curve.draws)
        measured = accuracies(outcomes, plan)
        findings = _audited(plan, outcomes, folder / "audit", audited)
        if curve is not None:
            findings = replace(findings, findings=(*findings.findings, converged(curve)))
        further = metrics.describe(outcomes, plan)
        checked = {"config": audited, **findings.as_record()}
        if audited is None:
            checked = _audit_before(folder, measured) or checked
        result = record(run_id, stored, plan, loaded, outcomes, measured, further, checked, started)
        if curve is not None:
            result["eot_curve"] = curve.as_record()
            draw_curve(curve, folder / "eot.png")
        draw(outcomes, plan, folder / "picture.png")
        outcomes.save(folder / "outcomes.npz")
        write_json(folder / "record.json", result)
        leaderboard.append(board, leaderboard.row(result))
        for parts in ("parts", "audit", "eot"):
            shutil.rmtree(folder / parts, ignore_errors=True)
    return Result(measured, result, folder, board)


def _finished(folder: Path, board: Path, audited: str | None) -> Result | None:
    """The run that lies in ``folder``; None if it is not there or was not audited as is asked."""
    if not (folder / "record.json").exists():
        return None
    result = read_json(folder / "record.json")
    if audited is not None and result["audit"].get("config") != audited:
        return None
    if not leaderboard.holds(board, result["run"]):
        leaderboard.append(board, leaderboard.row(result))
    measured = {name: Accuracy.from_record(value) for name, value in result["accuracy"].items()}
    return Result(measured, result, folder, board)


def _make(plan: Plan, folder: Path, label: str, auto: bool) -> tuple[Curve | None, Outcomes]:
    """The search for EOT draws, if it is asked for, and the attack with its scoring."""
    curve = _searched(plan, folder / "eot") if auto else None
    if curve is not None:
        plan = replace(plan, eot=curve.draws)
    return curve, _evaluated(plan, folder, f"{label} under {plan.name}")


def _made(folder: Path) -> tuple[Curve | None, Outcomes, str]:
    """What a finished run found, and when it was started; an audit asks no attack for it again."""
    before = read_json(folder / "record.json")
    curve = Curve.from_record(before["eot_curve"]) if "eot_curve" in before else None
    return curve, Outcomes.load(folder / "outcomes.npz"), before["started"]


def _audit_before(folder: Path, measured: Mapping[str, Accuracy]) -> dict[str, Any] | None:
    """The complete audit of this run when it was made before and came to the same accuracies."""
    if not (folder / "record.json").exists():
        return None
    before = read_json(folder / "record.json")
    same = before["accuracy"] == {name: asdict(value) for name, value in measured.items()}
    kept: dict[str, Any] | None = before["audit"] if same and before["audit"]["complete"] else None
    return kept


def _run_id(stored: Mapping[str, Any], plan: Plan, loaded: LoadedModel) -> str:
    release = version("robustbench-med")
    return identify(stored, card_model(loaded.config), loaded.weights_sha256, plan.split.fingerprint, release)


def run_id(config: RunConfig) -> str:
    """The name that ``run`` gives this run.

    Raises:
        UserError: see ``run``.
    """
    loaded, plan = prepare(config)
    return _run_id(_stored_config(config, plan, loaded), plan, loaded)


def _searched(plan: Plan, folder: Path) -> Curve:
    with progress_bar() as bar:
        task = bar.add_task("EOT auto", total=None)
        return converge(plan, folder, lambda title: bar.update(task, description=f"auto: {title}"))


def audit_config(name: str) -> AuditConfig:
    """An audit by the name it ships under, or by its path.

    Raises:
        UserError: unreadable file, unknown option, wrong type.
    """
    path = find("audit", "audit", name)
    return build(AuditConfig, read_yaml(path), str(path))


def _audited(plan: Plan, outcomes: Outcomes, folder: Path, audited: str | None) -> Audit:
    complete = audited is not None
    checks = audit_config(audited or "default")
    if not complete:
        checks = replace(checks, samples=CHEAP_SAMPLES)

    with progress_bar() as bar:
        task = bar.add_task("audit", total=None)

        def announce(title: str) -> None:
            bar.update(task, description=f"audit: {title}")

        return audit(Bench(plan, outcomes, checks, make_attack, folder, announce, Thresholds()), complete)


def run_all(config: RunConfig, audited: str | None = None) -> list[Result]:
    """Run each attack of a comma-separated list, and with several their per-sample worst case.

    Every attack gets those of ``attack_options`` that it has.

    Raises:
        UserError: see ``run``; an option that none of the attacks has.
    """
    names = [name.strip() for name in config.attack.split(",")]
    if len(names) == 1:
        return [run(config, audited)]
    if len(set(names)) < len(names):
        raise UserError(f"attack {config.attack!r} names an attack twice; drop one")
    options = {
        name: {f.name for f in dataclasses.fields(attack_class(name))}  # type: ignore[arg-type]
        for name in names
    }
    for option in config.attack_options:
        if not any(option in known for known in options.values()):
            raise UserError(f"none of {config.attack} has the option {option!r}; drop it")
    configs = [
        replace(
            config,
            attack=name,
            attack_options={k: v for k, v in config.attack_options.items() if k in options[name]},
        )
        for name in names
    ]
    plans = [prepare(each)[1] for each in configs]  # what is wrong with the last is said before the first
    results = [run(each, audited) for each in configs]
    return [*results, _ensemble(results, plans[0])]


def _ensemble(results: list[Result], plan: Plan) -> Result:
    """The row of the worst case of ``results``."""
    outcomes = [Outcomes.load(result.folder / "outcomes.npz") for result in results]
    key = headline(plan.goal)
    right = [correct(o.adversarial, o.labels, plan.goal)[key] for o in outcomes]
    worst = worst_case(outcomes, right)
    measured = accuracies(worst, plan)
    run_id = sha256_json([result.record["run"] for result in results])[:12]
    members = [result.record for result in results]
    made = ensemble_record(run_id, members, measured, metrics.describe(worst, plan))
    board = results[0].leaderboard
    name = folder_name(made["model"]["label"], "ensemble", made["dataset"]["name"], run_id)
    folder = results[0].folder.parent / name
    worst.save(folder / "outcomes.npz")
    write_json(folder / "record.json", made)
    leaderboard.append(board, leaderboard.row(made))
    return Result(measured, made, folder, board)


def _evaluated(plan: Plan, folder: Path, title: str) -> Outcomes:
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(plan.split))
        return evaluate(plan, folder / "parts", lambda done: bar.advance(task, done))


def _stored_config(config: RunConfig, plan: Plan, loaded: LoadedModel) -> dict[str, Any]:
    """The config with every default filled in, less what changes no number."""
    stored = asdict(config)
    for name in ("out", "leaderboard", "weights"):
        del stored[name]
    random = plan.model.draws_shared_by != "none"
    counts = {
        "eot": "auto" if random and config.eot == "auto" else plan.eot,
        "draws": plan.draws,
        "samples": len(plan.split),
    }
    # The last of the model's: a model file may have some of its own.
    given = loaded.config.added[len(loaded.config.added) - len(config.defenses) :]
    options = asdict(plan.attack)  # type: ignore[call-overload]
    return stored | counts | {"defenses": [asdict(defense) for defense in given], "attack_options": options}


def folder_name(label: str, what: str, dataset: str, run_id: str) -> str:
    """The folder of a run, without what file systems and shells trip over, and short enough for them.

    Args:
        label: the model's.
        what: was done with it.
    """
    model = re.sub(r"[^\w.+-]+", "-", label).strip("-")[:120]
    return f"{model}-{what.replace(':', '-')}-{dataset}-{run_id}"
