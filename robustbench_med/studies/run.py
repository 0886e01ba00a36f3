"""One run, from a config to a row: data and model, threat model, attack, scoring, record."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from filelock import FileLock

from robustbench_med.api.data import DatasetInfo, Split
from robustbench_med.api.registry import unknown
from robustbench_med.audit import CHEAP_SAMPLES, Audit, AuditConfig, Bench, Thresholds, audit, converged
from robustbench_med.audit.draws import Curve, converge
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.adversary import (
    LINF_DEFAULT,
    attack_class,
    make_attack,
    make_goal,
    make_threat_model,
)
from robustbench_med.evaluation.batches import Outcomes, Plan, evaluate, worst_case
from robustbench_med.measure import metrics
from robustbench_med.models.load import (
    DefenseConfig,
    DefenseSpec,
    LoadedModel,
    build_model,
    card_model,
    config_from_card,
    default_weights,
    load_weights,
    model_config,
    model_names,
    on_device,
    read_card,
)
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.picture import draw, draw_curve
from robustbench_med.reporting.record import (
    Accuracy,
    accuracies,
    correct,
    ensemble_record,
    headline,
    identify,
    record,
)
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import Fraction
from robustbench_med.util.files import read_json, require_writable, sha256_file, sha256_json, write_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.seeding import derive

DEFAULT_EOT = 10


@dataclass(frozen=True)
class RunConfig:
    """What ``robmed run`` does; the same from flags, from YAML and from Python.

    Attributes:
        model: a model's name or config path.
        attack: a name, or "library:Class" for an adapter; ``run_all`` takes several, with commas.
        dataset: a data set's name.
        weights: a safetensors file; the shipped weights of (model, data set) when not given.
        eps: radius of every attacked modality, or of each by name; 4/255 is MAIL's release.
        norm: "linf", "l2", or "l2-joint": one L2 ball for all attacked modalities together.
        modality: the attacked modalities; all when empty.
        head: "any", "all" or a task.
        defenses: put on top of the model's own, in this order; flags and YAML may write one as
            "gaussian-noise:sigma=0.1".
        attack_options: fields of the attack (steps, step_size, restarts, …).
        eot: draws behind each gradient; 10 for random models when not given, 1 for others. "auto"
            doubles them on a part of the samples until that stops to matter.
        draws: scoring draws of random models.
        samples: how many test samples, a fixed subset that grows with the number; 0 means all.
        batch_size: changes no outcome of a deterministic model.
        out: folder of run folders.
        leaderboard: CSV that gets the row; ``<out>/leaderboard.csv`` when not given.
    """

    model: str
    attack: str
    dataset: str = "phantom"
    weights: str | None = None
    eps: Fraction | Mapping[str, Fraction] = LINF_DEFAULT
    norm: str = "linf"
    modality: tuple[str, ...] = ()
    head: str = "any"
    defenses: tuple[DefenseSpec, ...] = ()
    attack_options: Mapping[str, Any] = field(default_factory=dict)
    eot: int | Literal["auto"] | None = None
    draws: int = 10
    samples: int = 200
    batch_size: int = 100
    seed: int = 0
    device: str = "cpu"
    out: str = "runs"
    leaderboard: str | None = None

    @classmethod
    def from_yaml(cls, name: str, **changes: Any) -> RunConfig:
        """Read a protocol by the name it ships under or its path; ``changes`` win over it.

        Raises:
            UserError: unreadable file, unknown or missing option, wrong type.
        """
        path = find("protocol", "protocols", name)
        return build(cls, {**read_yaml(path), **changes}, str(path))


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


def prepare(config: RunConfig) -> tuple[LoadedModel, Plan]:
    """Everything before the first pass; all bad input is found here.

    Raises:
        UserError: see ``run``.
    """
    attack = make_attack(config.attack, config.attack_options)
    counts = (config.batch_size, config.draws, _draws(config))
    if config.samples < 0 or min(counts) < 1:
        raise UserError("samples must be 0 (all) or more; batch-size, draws and eot 1 or more")
    _require_model(config.model)
    whole, split = load_split(config.dataset, config.samples)
    threat = make_threat_model(config.eps, config.norm, config.modality, split.info)
    goal = make_goal(config.head, split.info)
    loaded = load_trained(config, whole)
    random = loaded.model.draws_shared_by != "none"
    plan = Plan(
        model=loaded.model,
        split=split,
        attack=attack,
        name=config.attack,
        threat=threat,
        goal=goal,
        eot=_draws(config) if random else 1,
        draws=config.draws if random else 1,
        batch_size=config.batch_size,
        seed=config.seed,
        device=config.device,
    )
    return loaded, plan


def _draws(config: RunConfig) -> int:
    """EOT draws of a random model, before any search for them."""
    return DEFAULT_EOT if config.eot in (None, "auto") else int(config.eot)


class ModelChoice(Protocol):
    """The part of a config that says which model is meant; see ``RunConfig``."""

    @property
    def model(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def device(self) -> str: ...
    @property
    def defenses(self) -> tuple[DefenseConfig, ...]: ...


def load_trained(config: ModelChoice, whole: Split) -> LoadedModel:
    """The model of a config, with what its weights' card says of ``whole``, the test split.

    Raises:
        UserError: see ``load_model``; weights trained on another split of the same data.
    """
    _require_model(config.model)
    loaded = load_model(
        config.model, config.dataset, config.weights, config.device, whole.info, config.defenses
    )
    return replace(loaded, caveats=_weights_caveats(loaded, whole))


def _require_model(name: str) -> None:
    if name not in model_names() and not name.endswith((".yaml", ".yml")):
        raise unknown("model", name, model_names())


def load_model(
    model: str,
    dataset: str = "phantom",
    weights: str | None = None,
    device: str = "cpu",
    info: DatasetInfo | None = None,
    defenses: Sequence[DefenseConfig] = (),
) -> LoadedModel:
    """A trained model, ready to be evaluated.

    Args:
        model: a model's name, or the path of a config. By name, the card beside the weights says
            what exactly was trained (its width, its defenses' parameters); a config's own words
            stand, so that a defense's parameters can be changed.
        info: the data set's, if it is at hand already.
        defenses: put on top of the model's own, in this order.

    Raises:
        UserError: unknown model or defense, missing or foreign weights.
    """
    named = model_config(model)
    path = Path(weights) if weights else default_weights(named.name, dataset)
    card = read_card(path)
    by_path = model.endswith((".yaml", ".yml"))
    config = named if by_path or not card else config_from_card(card, str(path.with_suffix(".json")))
    if config.name != named.name:
        raise UserError(
            f"{path} holds weights of {config.name!r}, not {named.name!r}; say --model {config.name}"
        )
    config = config.with_defenses(defenses)
    net = on_device(build_model(config, info or load_dataset(dataset, "test").info), device)
    load_weights(net, path)
    if net.channels_last and torch.device(device).type == "cpu":
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(net.eval(), config, path, sha256_file(path), card)


def _weights_caveats(loaded: LoadedModel, whole: Split) -> tuple[str, ...]:
    """What a reader must know about where the weights come from.

    Raises:
        UserError: they were trained on this data set, split otherwise: test samples may be among
            those they learned.
    """
    trained_on = loaded.card.get("dataset")
    if not isinstance(trained_on, dict) or "members" not in trained_on:
        return ("no card says what these weights were trained on; test samples may be among it",)
    if trained_on.get("name") != whole.info.name:
        return (f"these weights were trained on {trained_on.get('name')}",)
    if trained_on["members"].get("test") != whole.members:
        raise UserError(
            f"{loaded.weights} was trained on another split of {whole.info.name!r}, so test samples may be "
            "among those it learned; import the complete download, or train on your own (robmed train)"
        )
    return ()


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


def load_split(dataset: str, samples: int) -> tuple[Split, Split]:
    """The whole test split, and the subset of it that ``samples`` stands for (0: all).

    Raises:
        UserError: unknown data set, or more samples than it has.
    """
    whole = load_dataset(dataset, "test")
    return whole, _subset(whole, samples)


def _subset(split: Split, samples: int) -> Split:
    """The first ``samples`` in the order of a hash of their ids: the same for everyone, and a
    smaller subset is part of a larger one.
    """
    if samples > len(split):
        raise UserError(
            f"samples is {samples}, but {split.info.name} has {len(split)} test samples; 0 means all"
        )
    order = sorted(range(len(split)), key=lambda i: derive(0, "subset", split.ids[i]))
    return split.take(np.array(order[: samples or len(split)]))
