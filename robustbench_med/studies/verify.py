"""``robmed verify``: the number of a record, scored again from the adversarial inputs that were kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_med.evaluation import kept as files
from robustbench_med.evaluation.identity import claimed_id, scoring_seed
from robustbench_med.evaluation.kept import Kept, Origin
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.recorded import Places, Recorded, recorded
from robustbench_med.evaluation.rescore import clean_inputs, kept_inputs, outcomes_of, scored
from robustbench_med.evaluation.within import strays
from robustbench_med.measure.accuracy import accuracies, headline
from robustbench_med.measure.redrawn import DOUBT, differing, redrawn, retold, successes
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.verdict import Finding
from robustbench_med.reporting.record import require_record
from robustbench_med.studies.records import record_file
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, read_json
from robustbench_med.util.progress import progress_bar
from robustbench_med.util.seeding import derive

SAME = 1e-6  # shares and their intervals, computed by other versions of the same libraries
LEAST_DRAWS = 10
NAMED = 3  # samples that a line names


@dataclass(frozen=True)
class Verification:
    """What came of a record.

    Attributes:
        findings: what was checked.
        said, found: robust accuracy as recorded and as scored here; None where it was not scored.
    """

    record: Mapping[str, Any]
    findings: tuple[Finding, ...]
    said: float
    found: float | None
    seconds: float

    @property
    def status(self) -> int:
        """0: the number stands; 1: it does not; 2: it cannot be judged."""
        if any(finding.result == "failed" for finding in self.findings):
            return 1
        return 2 if any(finding.result == "not made" for finding in self.findings) else 0


def verify(given: Path, adversarial: str | None = None, places: Places | None = None) -> Verification:
    """Judge a record by scoring its adversarial inputs again.

    Args:
        given: a record, or the folder that holds it.
        adversarial: file of its inputs; by default the one beside it that it names.

    Raises:
        UserError: it cannot be judged: inputs, data, weights or outcomes are missing or are others.
    """
    started = time.perf_counter()
    file, record = whole_record(given)
    samples = Samples.from_record(record, str(file))
    cheap = [named_rightly(record), numbers_follow(record, samples)]
    said = float(record["accuracy"][record["headline"]]["robust"]["value"])
    if any(finding.result == "failed" for finding in cheap):
        return Verification(record, tuple(cheap), said, None, time.perf_counter() - started)
    path = inputs_of(record, file, adversarial)
    setting = recorded(record, file, places or Places())
    kept, _ = belonging(path, record, setting)
    found, robust = _rescored(setting, kept, samples)
    findings = (*cheap, terms_kept(setting), covered(setting, kept), within(setting, kept), *found)
    return Verification(record, findings, said, robust, time.perf_counter() - started)


def whole_record(given: Path) -> tuple[Path, dict[str, Any]]:
    """A record and the file that it is, with all that is asked of it here.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = record_file(given)
    record = require_record(read_json(file), str(file))
    kinds: Mapping[str, tuple[str, type]] = {
        "draws": ("scoring", int),
        "weights_sha256": ("model", str),
        "weights": ("model", str),
        "architecture": ("model", str),
    }
    for name, (section, kind) in kinds.items():
        value = record.get(section)
        if not isinstance(value, dict) or not isinstance(value.get(name), kind):
            raise UserError(f"{file} is no whole record of robmed run: '{section}.{name}' is damaged")
    if not isinstance(record.get("seed"), int) or not isinstance(record.get("code"), dict):
        raise UserError(f"{file} is no whole record of robmed run: 'seed' or 'code' is damaged")
    try:
        {name: _estimates(value) for name, value in record["accuracy"].items()}
        _estimates(record["accuracy"][record["headline"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is no whole record of robmed run: 'accuracy' is damaged") from error
    return file, record


def _estimates(value: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    kinds = ("clean", "robust", "majority", "worst_of_draws")
    return {kind: tuple(float(value[kind][end]) for end in ("value", "low", "high")) for kind in kinds}


def named_rightly(record: Mapping[str, Any]) -> Finding:
    """Whether the run's name is that of what the record says was run."""
    claimed = claimed_id(record)
    if claimed is None:
        return Finding("name", "does not apply", "the record is too old to be named by what it says")
    same = claimed == record["run"]
    made_of = "the run, inputs and finder" if "refutes" in record else "its config, net, data and code"
    made_of = "its members" if "members" in record else made_of
    said = f"run {record['run']} is the hash of {made_of}"
    other = f"run {record['run']} is not the hash of {made_of} ({claimed})"
    return Finding.of("name", same, said if same else other)


def numbers_follow(record: Mapping[str, Any], samples: Samples) -> Finding:
    """Whether accuracies, intervals and success are those of the record's own bits."""
    told, wrong = retold(samples), []
    if set(told) != set(record["accuracy"]):
        return Finding.of("numbers", False, "its accuracies and its outcomes have other names")
    for name, kinds in told.items():
        said = _estimates(record["accuracy"][name])
        for kind, estimate in kinds.items():
            true = (estimate.value, estimate.low, estimate.high)
            if not np.allclose(true, said[kind], rtol=0, atol=SAME):
                wrong.append(f"{name}, {kind}: {_percent(said[kind][0])} % said, {_percent(true[0])} % true")
    successful = record.get("attack_success")
    for name, share in successes(samples).items():
        said_share = successful.get(name) if isinstance(successful, dict) else None
        if name in told and not _near(share, said_share):
            wrong.append(f"{name}, attack success")
    if record["dataset"].get("samples") != len(samples.ids):
        wrong.append(f"{record['dataset'].get('samples')} samples said, {len(samples.ids)} there")
    if wrong:
        return Finding.of("numbers", False, f"not what the samples' outcomes add up to: {_few(wrong)}")
    return Finding.of("numbers", True, f"accuracies and intervals are those of {len(samples.ids)} outcomes")


def _near(one: float | None, other: object) -> bool:
    if one is None or not isinstance(other, int | float):
        return one is other
    return abs(one - other) <= SAME


def inputs_of(record: Mapping[str, Any], file: Path, adversarial: str | None) -> Path:
    """The file of a record's adversarial inputs.

    Raises:
        UserError: it keeps none, or the file is not there.
    """
    if adversarial is not None:
        return given_path(adversarial, "the file --adversarial")
    said = record.get("adversarial")
    if not isinstance(said, dict):
        raise UserError(
            f"{file} was made without --save-adversarial, so its attacked inputs are missing and cannot be "
            "scored again; make the run once more with that flag"
        )
    path = file.parent / Path(str(said.get("file"))).name
    if not path.is_file():
        raise UserError(f"{path}, the adversarial inputs of the record, is missing; give it by --adversarial")
    return path


def belonging(path: Path, record: Mapping[str, Any], setting: Recorded) -> tuple[Kept, str]:
    """The inputs of a file, if they are the record's; and their digest.

    Raises:
        UserError: they are damaged, or of another record.
    """
    kept, origin = files.read(path)
    try:
        digest = kept.digest(setting.split)
    except ValueError as error:
        raise UserError(f"{path} does not fit the data of the record: {error}") from error
    said = record.get("adversarial")
    wanted = said.get("inputs_sha256") if isinstance(said, dict) else digest
    if origin != Origin(record["run"], record["dataset"]["fingerprint"], digest) or wanted != digest:
        raise UserError(
            f"{path} holds other inputs than those of run {record['run']} (by their SHA-256, or the run that "
            "they name); give the ones that were kept"
        )
    return kept, digest


def terms_kept(setting: Recorded) -> Finding:
    """Whether the record's threat model is that of its config, and so the one that is checked."""
    said, threat = setting.record["threat_model"], setting.threat
    budgets = {name: budget.as_record() for name, budget in threat.budgets.items()}
    wrong = [
        what
        for what, same in (
            ("radii, norms or ranges", said["budgets"] == budgets),
            ("the joint ball", said.get("joint") == threat.joint),
            ("the goal", (said["goal"], said.get("towards")) == (setting.goal.aim, setting.config.towards)),
            ("seed or draws", (setting.record["seed"], setting.draws) == _drawn(setting)),
            ("the headline", setting.record["headline"] == headline(setting.goal)),
            (
                "how draws are shared",
                setting.record["model"]["draws_shared_by"] == setting.loaded.model.draws_shared_by,
            ),
        )
        if not same
    ]
    if wrong:
        return Finding.of("terms", False, f"not those of its config, data and net: {', '.join(wrong)}")
    return Finding.of(
        "terms", True, "threat model and goal are those of its config; weights and data by hash"
    )


def _drawn(setting: Recorded) -> tuple[int, int]:
    return setting.config.seed, setting.config.draws if setting.random else 1


def covered(setting: Recorded, kept: Kept) -> Finding:
    """Whether every sample's input was kept."""
    missing = len(setting.split) - len(kept.ids)
    if missing:
        return Finding(
            "inputs", "not made", f"the inputs of {missing} of {len(setting.split)} samples are missing"
        )
    return Finding.of("inputs", True, f"{len(kept.ids)} inputs are those that were attacked, by SHA-256")


def within(setting: Recorded, kept: Kept) -> Finding:
    """Whether every input is one that the attacker may hand in."""
    found = []
    for _, index, clean, values in kept.batches(setting.split):
        ids = [setting.split.ids[i] for i in index]
        found += strays(values, clean, setting.threat, ids)
    if found:
        named = _few([f"{stray.sample}: {stray.why}" for stray in found])
        return Finding.of("ball, range and masks", False, named)
    return Finding.of("ball, range and masks", True, "every input is within the threat model")


def _rescored(setting: Recorded, kept: Kept, samples: Samples) -> tuple[list[Finding], float]:
    """Score everything on the record's own draws, and what is random on others as well."""
    inputs, seed = kept_inputs(kept, setting), setting.config.seed
    with progress_bar() as bar:
        passes = 4 if setting.random else 2
        task = bar.add_task("scoring again", total=passes * len(setting.split))

        def advance(done: int) -> None:
            bar.advance(task, done)

        clean = scored(setting, clean_inputs, setting.draws, seed, "clean", advance)
        after = scored(setting, inputs, setting.draws, scoring_seed(setting.record), "score", advance)
        outcomes = outcomes_of(setting, clean, after)
        judged = _judged(setting, kept, samples, outcomes)
        if not setting.random:
            return judged, _robust(setting, outcomes)
        fresh = _on_fresh_draws(setting, kept, advance)
    shown = [_as_information(finding) for finding in judged]
    return [*shown, *_drawn_again(setting, kept, samples, fresh)], _robust(setting, fresh)


def _robust(setting: Recorded, outcomes: Outcomes) -> float:
    shared = setting.loaded.model.draws_shared_by
    return accuracies(outcomes, setting.goal, shared)[headline(setting.goal)].robust.value


def _judged(setting: Recorded, kept: Kept, samples: Samples, outcomes: Outcomes) -> list[Finding]:
    """Sample by sample, on the record's own draws."""
    now = Samples.of(outcomes, setting.goal, setting.loaded.model.draws_shared_by)
    some = np.isin(np.array(outcomes.ids), np.array(kept.ids))
    out, boundary = [], 0
    for kind, scores in (("clean", outcomes.clean), ("robust", outcomes.adversarial)):
        index = np.flatnonzero(some) if kind == "robust" else np.arange(len(some))
        said, found = ({n: bits[:, index] for n, bits in getattr(s, kind).items()} for s in (samples, now))
        if any(found[name].shape != bits.shape for name, bits in said.items()) or set(said) != set(found):
            return [
                Finding.of(f"{kind} scores", False, "its outcomes are of other draws or heads than its net's")
            ]
        part = {head: z[:, index] for head, z in scores.items()}
        off = differing(said, found, part, outcomes.take(index), setting.goal)
        boundary += len(off.boundary)
        ids = [outcomes.ids[index[i]] for i in off.others]
        if ids:
            out.append(
                Finding.of(f"{kind} scores", False, f"{len(ids)} samples are scored otherwise: {_few(ids)}")
            )
            continue
        near = f"; {len(off.boundary)} lie on the boundary and fell otherwise here" if off.boundary else ""
        out.append(Finding.of(f"{kind} scores", True, f"{len(index)} samples scored as recorded{near}"))
    return [*out, *_votes(setting, outcomes, boundary)] if some.all() else out


def _votes(setting: Recorded, outcomes: Outcomes, boundary: int) -> list[Finding]:
    """Whether the votes over several draws, which no bits tell, are those of the same draws here."""
    if setting.draws == 1:
        return []
    slack, wrong = boundary / len(outcomes) + SAME, []
    for name, found in accuracies(outcomes, setting.goal, setting.loaded.model.draws_shared_by).items():
        said = float(setting.record["accuracy"][name]["majority"]["value"])
        if abs(said - found.majority.value) > slack:
            wrong.append(f"{name}: {_percent(said)} % said, {_percent(found.majority.value)} % here")
    return [Finding.of("votes", not wrong, _few(wrong) or "the vote over the draws is as recorded")]


def _as_information(finding: Finding) -> Finding:
    """On its own draws a random model repeats itself on like machines only; others decide."""
    if finding.result != "failed":
        return finding
    return Finding(
        finding.check, "does not apply", f"its own draws do not come again here ({finding.evidence})"
    )


def _on_fresh_draws(setting: Recorded, kept: Kept, advance: Callable[[int], None]) -> Outcomes:
    """The same inputs on draws that nobody has seen."""
    seed = derive(0, "verify", kept.digest(setting.split))
    draws = max(setting.draws, LEAST_DRAWS)
    clean = scored(setting, clean_inputs, draws, seed, "clean", advance)
    after = scored(setting, kept_inputs(kept, setting), draws, seed, "score", advance)
    return outcomes_of(setting, clean, after)


def _drawn_again(setting: Recorded, kept: Kept, samples: Samples, fresh: Outcomes) -> list[Finding]:
    shared = setting.loaded.model.draws_shared_by
    now = Samples.of(fresh, setting.goal, shared)
    some, out = np.isin(np.array(fresh.ids), np.array(kept.ids)), []
    doubt = DOUBT / len(now.robust)
    for kind in ("clean", "robust"):
        wrong, said = [], ""
        for name, bits in getattr(now, kind).items():
            index = np.flatnonzero(now.known[name] & (some if kind == "robust" else True))
            if not len(index):
                continue
            before = getattr(samples, kind)[name]
            again = redrawn(before[:, index], bits[:, index], fresh.batches[index], shared, doubt)
            line = (
                f"{name}: {_percent(again.first)} % recorded, {_percent(again.second)} % on {len(bits)} "
                f"fresh draws (draws explain {_percent(again.reach)} points)"
            )
            said = line if name == setting.record["headline"] else said
            wrong += [] if again.agree else [line]
        out.append(Finding.of(f"{kind}, other draws", not wrong, _few(wrong) or said))
    return out


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _few(lines: list[str]) -> str:
    more = f" … and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return "; ".join(lines[:NAMED]) + more


def as_json(found: Verification) -> dict[str, Any]:
    """For machines."""
    return {
        "run": found.record["run"],
        "status": found.status,
        "robust_recorded": found.said,
        "robust_scored": found.found,
        "findings": [asdict(finding) for finding in found.findings],
    }
