"""``robmed check``: run what ``robmed.yaml`` asks for, and judge it against the committed baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robustbench_med.evaluation.identity import code_of_run
from robustbench_med.evaluation.prepare import Prepared, RunConfig, Subject, prepare
from robustbench_med.measure.gate import Gate, judge
from robustbench_med.measure.margins import Margins
from robustbench_med.measure.same import require_same, require_same_attack
from robustbench_med.reporting.record import describe_claim
from robustbench_med.studies.baseline import read_baseline
from robustbench_med.studies.gate_config import NONE, CheckConfig, Entry, said_of
from robustbench_med.studies.run import checked, run_prepared, say_guesses
from robustbench_med.util.errors import UserError

Record = Mapping[str, Any]
Announce = Callable[[str], None]
UPDATE = "; if that is meant, robmed check --update makes a new baseline"


def gate_runs(baseline: Path, new: Path, margins: Margins) -> Gate:
    """``robmed compare --gate``: judge a run, or one claim under several attack seeds, against a baseline.

    Args:
        baseline, new: a run's folder, a record, or a folder of them that differ in their seed alone.

    Raises:
        UserError: see ``judge``; a path holds no records.
    """
    names = str(baseline), str(new)
    before, after = (read_baseline(path) for path in (baseline, new))
    return judge(before, after, names, margins, advice="; make the baseline again, if that is meant")


def check(config: CheckConfig, announce: Announce = lambda _: None) -> list[Gate]:
    """Judge every attack; what is finished is read back.

    Args:
        announce: told what is run.

    Raises:
        UserError: no baseline, or one of other samples or attacks; anything that cannot be used.
    """
    path = config.folder
    if not path.exists():
        raise UserError(f"no baseline is at {path} yet; robmed check --update writes it")
    records = read_baseline(path)
    work = Work(config, announce)
    before = [work.baseline_of(entry, records, str(path)) for entry in config.attacks]
    return [work.judged(entry, old, str(path)) for entry, old in zip(config.attacks, before, strict=True)]


@dataclass
class Work:
    """The runs of a check, on one loaded model.

    Attributes:
        subject: that model and the data, once they are loaded.
    """

    config: CheckConfig
    announce: Announce
    subject: Subject | None = field(default=None)

    def prepared(self, entry: Entry, seed: int) -> Prepared:
        """A run before its first pass; what was guessed about the model and data is said once."""
        with said_of(f"the attack {entry.called!r} of the config"):
            made = prepare(checked(_run_config(self.config, entry, seed)), self.subject)
        if self.subject is None:
            self.subject = made.subject
            say_guesses(made.subject, self.config.data)
        return made

    def baseline_of(self, entry: Entry, records: Sequence[Record], where: str) -> list[Record]:
        """The records that an attack is judged against, its own seed first; found before anything is run.

        Raises:
            UserError: there are none of the same attack, options, threat model, package and samples.
        """
        made = self.prepared(entry, self.config.seed)
        wanted = {**describe_claim(made), "code": code_of_run(made)}
        named = [each for each in records if each["attack"]["name"] == entry.attack]
        if not named:
            there = ", ".join(sorted({str(each["attack"]["name"]) for each in records}))
            raise UserError(f"{where} has no record of {entry.attack}, but of {there}{UPDATE}")
        called, odd = f"robmed.yaml ({entry.called})", None
        fitting = []
        for each in named:
            try:
                require_same_attack(each, wanted, (where, called), UPDATE)
                require_same(each, wanted, (where, called), UPDATE)
            except UserError as error:
                odd = odd or error
                continue
            fitting.append(each)
        if not fitting:
            raise odd or UserError(f"{where} has no record of {entry.called}{UPDATE}")
        return sorted(fitting, key=lambda each: each.get("seed") != self.config.seed)

    def judged(self, entry: Entry, before: Sequence[Record], where: str) -> Gate:
        """One attack against its baseline; with further attack seeds where one is too few."""
        names = where, "the new run"
        first = self.run(entry, self.config.seed, self.config.audit)
        watch = self.watch(entry)
        margins = self.config.margins
        gate = judge(before[:1], [first], names, margins, watch, UPDATE)
        seeds = [each["seed"] for each in before if isinstance(each.get("seed"), int)]
        seeds = [seed for seed in seeds if seed != self.config.seed]
        if not gate.wants_seeds or not seeds:
            return gate
        after = [first, *(self.run(entry, seed) for seed in seeds)]
        return judge(before, after, names, margins, watch, UPDATE)

    def run(self, entry: Entry, seed: int, audit: str = NONE) -> Record:
        """The record of a run."""
        made = self.prepared(entry, seed)
        further = "" if seed == self.config.seed else f", seed {seed}"
        self.announce(f"run       {made.loaded.config.label} under {entry.called}{further}")
        return run_prepared(made, None if audit == NONE else audit, reuse=True, pictures=False).record

    def watch(self, entry: Entry) -> Record | None:
        """The record of the cheap attack that the run's must not fall short of."""
        name = self.config.watch
        blind = self.subject is None or not self.subject.loaded.model.differentiable
        if blind or name in (NONE, entry.attack):
            return None
        return self.run(replace(entry, attack=name, options={}, name=name), self.config.seed)

    def runs(self, entry: Entry) -> Iterator[Record]:
        """The records that a baseline of an attack consists of; the first is audited."""
        first = self.config.seed
        for seed in range(first, first + (1 if self.config.is_single else self.config.seeds)):
            yield self.run(entry, seed, self.config.audit if seed == first else NONE)


def _run_config(config: CheckConfig, entry: Entry, seed: int) -> RunConfig:
    return RunConfig(
        model=config.model,
        attack=entry.attack,
        dataset=config.data,
        weights=config.weights,
        model_options=config.model_options,
        eps=entry.eps,
        norm=entry.norm,
        modality=entry.modality,
        head=entry.head,
        towards=entry.towards,
        defenses=config.defenses,
        attack_options=entry.options,
        eot=entry.eot,
        draws=config.draws,
        samples=config.samples,
        batch_size=config.batch_size,
        seed=seed,
        device=config.device,
        out=config.out,
    )
