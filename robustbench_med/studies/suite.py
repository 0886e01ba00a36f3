"""A question that takes many runs: models by data sets by protocols, one table and one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from robustbench_med.data.catalog import SOURCES, load_dataset
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.models.load import default_weights, model_names
from robustbench_med.reporting import suite as report
from robustbench_med.studies.run import audit_config, run, run_id
from robustbench_med.util.config import build, find, read_yaml
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import STRICT
from robustbench_med.util.files import read_json, write_text


@dataclass(frozen=True)
class Entry:
    """One column of the table.

    Attributes:
        protocol: name or path of a protocol.
        audit: name or path of an audit; "" for the cheap checks alone.
        samples: at most so many test samples; 0 for all.
        batch_size: see ``RunConfig``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    protocol: str
    audit: str = ""
    samples: int = 0
    batch_size: int = 100


@dataclass(frozen=True)
class Suite:
    """What is run.

    Attributes:
        title: the question.
    """

    title: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    runs: tuple[Entry, ...]

    @classmethod
    def from_yaml(cls, name: str) -> Suite:
        """Read a suite by the name it ships under or its path.

        Raises:
            UserError: unreadable file, unknown option, wrong type, unknown model, data set or protocol.
        """
        path = find("suite", "suites", name)
        suite = build(cls, read_yaml(path), str(path))
        for kind, given, known in (
            ("model", suite.models, model_names()),
            ("dataset", suite.datasets, SOURCES.names()),
        ):
            for each in given:
                if each not in known:
                    raise unknown(kind, each, known)
        for entry in suite.runs:
            find("protocol", "protocols", entry.protocol)
            if entry.audit:
                audit_config(entry.audit)
        return suite


@dataclass(frozen=True)
class SuiteResult:
    """Records by (data set, model, protocol), and where table and figure lie."""

    records: Mapping[tuple[str, str, str], Mapping[str, Any]]
    left_out: tuple[str, ...]
    table: Path
    figure: Path


def run_suite(
    suite: Suite,
    out: Path,
    device: str = "cpu",
    announce: Callable[[str], None] = lambda _: None,
    published: Path | None = None,
) -> SuiteResult:
    """Run what has data and weights at hand; finished runs are not repeated.

    Args:
        out: run folders, leaderboard.csv, table.md and figure.png go there.
        announce: told what is run, and what is left out and why.
        published: folder of records by run; a run that has one, audited as is asked, is not made.
    """
    records: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    left_out = []
    for dataset in suite.datasets:
        for model in suite.models:
            try:
                size = len(load_dataset(dataset, "test"))
                default_weights(model, dataset)
            except UserError as error:
                left_out.append(f"{model} on {dataset}: {error}")
                announce(f"left out: {left_out[-1]}")
                continue
            for entry in suite.runs:
                config = RunConfig.from_yaml(
                    entry.protocol,
                    model=model,
                    dataset=dataset,
                    samples=entry.samples if entry.samples < size else 0,
                    batch_size=entry.batch_size,
                    device=device,
                    out=str(out),
                )
                found = _published(published, config, entry) if published else None
                if found is None:
                    announce(f"{model} on {dataset}, {entry.protocol}")
                    found = run(config, entry.audit or None, reuse=True).record
                records[dataset, model, entry.protocol] = found
    if not records:
        raise UserError("nothing of this suite has both data and weights at hand")
    table, figure = out / "table.md", out / "figure.png"
    write_text(table, report.table(suite.title, records))
    report.draw(suite.title, records, figure)
    return SuiteResult(records, tuple(left_out), table, figure)


def _published(folder: Path, config: RunConfig, entry: Entry) -> Mapping[str, Any] | None:
    """The record of a run that need not be made; None if there is none, or it was not audited so."""
    path = folder / f"{run_id(config)}.json"
    if not path.exists():
        return None
    record: Mapping[str, Any] = read_json(path)
    return record if not entry.audit or record["audit"].get("config") == entry.audit else None
