"""``robmed suite``: a question that takes many runs, models by data sets by protocols."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from robustbench_med.api.data import Split
from robustbench_med.data.catalog import load_dataset, require_dataset
from robustbench_med.evaluation.identity import code_of_run, key_of, subject_key
from robustbench_med.evaluation.prepare import Prepared, RunConfig, Subject, choice_of, load_subject, prepare
from robustbench_med.evaluation.workers import ALONE, Workers
from robustbench_med.models.cards import labelled, net_at, trained_model
from robustbench_med.models.named import require_model, variant_of
from robustbench_med.models.weights import default_weights
from robustbench_med.reporting import suite as report
from robustbench_med.reporting import zoo
from robustbench_med.reporting.figures import drawn
from robustbench_med.studies.crew import Order, carry_out
from robustbench_med.studies.modalities import modality_table
from robustbench_med.studies.result import OnRecord, Result
from robustbench_med.studies.run import audit_config, checked
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT
from robustbench_med.util.files import write_text

Key = tuple[str, str, str]
Records = dict[tuple[str, str, str], Mapping[str, Any]]
Situations = dict[tuple[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One column of the table.

    Attributes:
        protocol: name or path of a protocol.
        audit: name or path of an audit; "" for the cheap checks alone.
        samples: at most so many test samples; 0 for all.
        batch_size: see ``RunConfig``.
        title: of the column; the protocol's name when not given.
        only: the nets that it is for; "" for all.
        modalities: attack each modality alone and take each away, too; not audited, no rows of the table.

    Raises:
        UserError: fewer samples than none, or batches of none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    protocol: str
    audit: str = ""
    samples: int = 0
    batch_size: int = 100
    title: str = ""
    only: Literal["", "deterministic", "random"] = ""
    modalities: bool = False

    def __post_init__(self) -> None:
        if self.samples < 0 or self.batch_size < 1:
            raise UserError(f"{self.column}: samples must be 0 (all) or more, batch_size 1 or more")

    @property
    def column(self) -> str:
        """How the table calls it."""
        return self.title or Path(self.protocol).stem


@dataclass(frozen=True)
class Suite:
    """What is run.

    Attributes:
        title: the question.
        widths: of the nets, by data set; the largest at hand where nothing is said, and of variants that
            were trained to resist, which takes a wider net.
        nets: labels of the nets to take instead, by data set and model.
        report: what table and figure show: protocols side by side, or members of a zoo.

    Raises:
        UserError: nothing or one thing twice in a list, a width that is none, a width or net for what is not
            asked.
    """

    title: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    runs: tuple[Entry, ...]
    widths: Mapping[str, float] = field(default_factory=dict)
    nets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    report: Literal["protocols", "zoo"] = "protocols"

    def __post_init__(self) -> None:
        titles = tuple(entry.column for entry in self.runs)
        for what, names in (("datasets", self.datasets), ("models", self.models), ("runs", titles)):
            if not names:
                raise UserError(f"{what} names none")
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                advice = "; give each a title" if what == "runs" else ""
                raise UserError(f"{what} has {twice!r} twice{advice}")
        for dataset, width in self.widths.items():
            if dataset not in self.datasets or not 0 < width < math.inf:
                raise UserError(f"widths: {dataset}: {width:g}; give a number above 0 for one of datasets")
        for dataset, model in ((dataset, model) for dataset, of in self.nets.items() for model in of):
            if dataset not in self.datasets or model not in self.models:
                raise UserError(f"nets: {model} on {dataset} is no part of this suite")

    @classmethod
    def from_yaml(cls, name: str) -> Suite:
        """Read a suite by the name it ships under or its path.

        Raises:
            UserError: unreadable file, unknown option, wrong type or value, unknown model, data set, protocol
                or audit, a net that is another model's.
        """
        path = find("suite", "suites", name)
        values = read_yaml(path)
        try:
            suite = build(cls, values, str(path))
        except UserError as error:  # of the values alone, it does not say whose they are
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
        for each in suite.models:
            require_model(each)
        for each in suite.datasets:
            require_dataset(each)
        for model, label in ((model, label) for of in suite.nets.values() for model, label in of.items()):
            card = labelled(label)
            if card is not None and trained_model(card) != model:
                raise UserError(f"{path}: nets: {label} is no net of {model}")
        for entry in suite.runs:
            find("protocol", "protocols", entry.protocol)
            if entry.audit:
                audit_config(entry.audit)
        return suite


@dataclass
class SuiteResult:
    """What a suite found.

    Attributes:
        records: by (data set, model, column).
        situations: by (data set, model), each modality attacked alone or missing (``ModalityTable``), with
            the run that attacks all of them.
        left_out: what has no data or no weights at hand.
        failed: what ended in an error; the others were run all the same.
        other_code: published records that were taken over though other code made them.
        table, figure: where they lie.
    """

    table: Path
    figure: Path
    records: Records = field(default_factory=dict)
    situations: Situations = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    other_code: int = 0


@dataclass(frozen=True)
class _Published:
    """Records that need not be made again, by what they are about."""

    records: Mapping[str, Mapping[str, Any]]
    again: bool

    def of(self, prepared: Prepared, entry: Entry) -> tuple[Mapping[str, Any] | None, bool]:
        """The record of a run, if there is one audited as is asked, and whether other code made it."""
        record = self.records.get(key_of(prepared))
        if record is None or (entry.audit and record["audit"].get("config") != entry.audit):
            return None, False
        code = code_of_run(prepared)
        other = any(record["code"][part] != code[part] for part in ("sources", "versions"))
        return (None if other and self.again else record), other


@dataclass(frozen=True)
class Making:
    """How a suite is made.

    Attributes:
        out: run folders, leaderboard.csv, table.md and figure.png go there.
        announce: told what is run, and what is left out and why.
        published: records; a run that has one, audited as is asked, is not made.
        again: make those again that other code made.
        situations: as in ``SuiteResult``, by the run that attacks all modalities; not made again.
        workers: who makes the batches and checks; by default this process.
        on_record: given each record that is made or read back, once it is on disk.
    """

    out: Path
    device: str = "cpu"
    announce: Callable[[str], None] = lambda _: None
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    again: bool = False
    situations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workers: Workers = ALONE
    on_record: OnRecord | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Attributes:
        model: as the suite calls it.
        found: a published record that stands for it.
        other: other code made that.
    """

    model: str
    entry: Entry
    prepared: Prepared
    found: Mapping[str, Any] | None
    other: bool

    @property
    def key(self) -> Key:
        """Data set, model, column."""
        return self.prepared.config.dataset, self.model, self.entry.column

    @property
    def title(self) -> str:
        """For people."""
        dataset, model, column = self.key
        return f"{model} on {dataset}, {column}"


def run_suite(suite: Suite, making: Making) -> SuiteResult:
    """Run what has data and weights at hand; what is finished is not repeated, a failure ends no other run.

    Raises:
        UserError: nothing of the suite can be run.
    """
    result = SuiteResult(making.out / "table.md", making.out / "figure.png")
    asked = _make(suite, making, result)
    for key, (config, situated) in asked.items():
        if situated and key in result.records:
            making.announce(f"{' on '.join(key[1::-1])}, {key[2]}, one modality at a time")
            _situate(key[1], config, result.records[key]["run"], result, making)
    if not result.records:
        if result.failed:
            raise UserError(f"nothing of this suite could be run; the first failure: {result.failed[0]}")
        raise UserError("nothing of this suite has both data and weights at hand")
    if result.other_code:
        making.announce(
            f"{result.other_code} published records were made by other code; --again makes them anew"
        )
    if suite.report == "zoo":
        table, draw = zoo.table(suite.title, result.records, result.situations), zoo.draw
    else:
        table, draw = report.table(suite.title, result.records), report.draw
    write_text(result.table, table)
    drawn(partial(draw, suite.title, result.records), result.figure)
    return result


Asked = dict[Key, tuple[RunConfig, bool]]
"""Config of every cell, in the suite's order, and whether its modalities are attacked one by one, too."""


def _make(suite: Suite, making: Making, result: SuiteResult) -> Asked:
    """Make the runs; their records go into ``result`` in the suite's order, whoever was done first."""
    made: Records = {}
    asked: Asked = {}

    def done(order: Order, found: Result) -> None:
        made[order.key.key] = found.record

    def failed(order: Order, error: Exception) -> None:
        _failed(order.key.title, error, result, making.announce)

    count = len(suite.datasets) * len(suite.models) * len(suite.runs)
    carry_out(_orders(suite, making, result, made, asked), making.workers, done, failed, count)
    result.records.update({key: made[key] for key in asked if key in made})
    return asked


def _orders(
    suite: Suite, making: Making, result: SuiteResult, made: Records, asked: Asked
) -> Iterator[Order]:
    """The runs that are to be made; those that are published go into ``made`` at once."""
    for cell in cells(suite, making, result):
        asked[cell.key] = cell.prepared.config, cell.entry.modalities
        result.other_code += cell.other and cell.found is not None
        if cell.found is not None:
            made[cell.key] = cell.found
            continue
        making.announce(cell.title)
        yield Order(cell.prepared, cell, cell.entry.audit or None, on_record=making.on_record)


def cells(suite: Suite, making: Making, result: SuiteResult) -> Iterator[Cell]:
    """Every run of a suite whose data and weights are at hand; what is not goes into ``result``."""
    taken = _Published({subject_key(r): r for r in making.published.values()}, making.again)
    for dataset in suite.datasets:
        try:
            whole = load_dataset(dataset, "test")
        except UserError as error:
            result.left_out.append(f"{dataset}: {error}")
            making.announce(f"left out: {result.left_out[-1]}")
            continue
        except Exception as error:  # see ``_failed``
            _failed(dataset, error, result, making.announce)
            continue
        for model in suite.models:
            yield from _cells_of(suite, model, whole, making, result, taken)


def _cells_of(
    suite: Suite, model: str, whole: Split, making: Making, result: SuiteResult, taken: _Published
) -> Iterator[Cell]:
    """All columns of one model, which is loaded once for all that ask for the same defenses and options."""
    dataset, subject = whole.info.name, None
    try:
        named = _net(suite, model, dataset)
        default_weights(named, dataset, whole)
    except UserError as error:
        result.left_out.append(f"{model} on {dataset}: {error}")
        making.announce(f"left out: {result.left_out[-1]}")
        return
    for entry in suite.runs:
        try:
            config = _config(entry, named, dataset, len(whole), making.device, making.out)
            if subject is None or subject.choice != choice_of(config):
                subject = load_subject(config, whole)
            if not _is_for(entry, subject):
                continue
            prepared = prepare(config, subject)
        except Exception as error:  # see ``_failed``
            _failed(f"{model} on {dataset}, {entry.column}", error, result, making.announce)
            continue
        yield Cell(model, entry, prepared, *taken.of(prepared, entry))


def _net(suite: Suite, model: str, dataset: str) -> str:
    """Which net of a model a suite takes: its label, or the model's name where any will do.

    Raises:
        UserError: there is none at hand.
    """
    if label := suite.nets.get(dataset, {}).get(model):
        return label
    width = None if variant_of(model)[1] else suite.widths.get(dataset)
    return model if width is None else net_at(model, dataset, width)


def _is_for(entry: Entry, subject: Subject) -> bool:
    random = subject.loaded.model.draws_shared_by != "none"
    return not entry.only or (entry.only == "random") == random


def _situate(model: str, config: RunConfig, run: str, result: SuiteResult, making: Making) -> None:
    """Attack each modality alone, and take each away, unless that is published."""
    key = config.dataset, model
    if run in making.situations:
        result.situations[key] = making.situations[run]
        return
    try:
        table, _ = modality_table(config, pictures=False, workers=making.workers)
    except Exception as error:  # see ``_failed``
        _failed(f"{model} on {config.dataset}, one modality at a time", error, result, making.announce)
        return
    result.situations[key] = {**table.as_record(), "run": run}


def _config(entry: Entry, model: str, dataset: str, size: int, device: str, out: Path) -> RunConfig:
    return checked(
        RunConfig.from_yaml(
            entry.protocol,
            model=model,
            dataset=dataset,
            samples=entry.samples if entry.samples < size else 0,
            batch_size=entry.batch_size,
            device=device,
            out=str(out),
        )
    )


def _failed(where: str, error: Exception, result: SuiteResult, announce: Callable[[str], None]) -> None:
    """What is wrong in one cell is said and ends nothing else; a bug's traceback is kept."""
    if isinstance(error, UserError):
        said = str(error)
    else:
        traceback.print_exception(error)
        said = f"{type(error).__name__}: {error}"
    result.failed.append(f"{where}: {said}")
    announce(f"FAILED: {result.failed[-1]}")
