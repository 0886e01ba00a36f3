"""What became of a record that was scored again, and of one that was refuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from robustbench_med.measure.verdict import Finding
from robustbench_med.reporting.text import headed, plain, stored_percent

WORDS = ("stands", "does not stand", "cannot be judged")


class Judged(Protocol):
    """A record and what was found of it."""

    @property
    def record(self) -> Mapping[str, Any]: ...
    @property
    def findings(self) -> Sequence[Finding]: ...
    @property
    def said(self) -> float: ...
    @property
    def found(self) -> float | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def status(self) -> int: ...


def show(judged: Judged, console: Console) -> None:
    """Print every check, and whether the number stands."""
    headed(console, _title(judged.record))
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in judged.findings:
        table.add_row(plain(finding.check), finding.result, plain(finding.evidence))
    console.print(table)
    console.print(plain(sentence(judged)))


def sentence(judged: Judged) -> str:
    """The verdict in a line."""
    said = f"{100 * judged.said:.1f} % ({judged.record['headline']})"
    found = "" if judged.found is None else f", {100 * judged.found:.1f} % here"
    return f"{WORDS[judged.status]}: {said} recorded{found}; {judged.seconds:.1f} s"


def show_refutation(record: Mapping[str, Any], before: Mapping[str, Any], console: Console) -> None:
    """Print the lower number beside the one that it refutes."""
    headed(console, _title(before))
    table = Table(box=None, pad_edge=False, show_header=False)
    key, refutes = record["headline"], record["refutes"]
    for what, each in (("recorded", before), ("refuted", record)):
        table.add_row(what, plain(f"{stored_percent(each['accuracy'][key]['robust'])} % {key}"))
    table.add_row("finder", plain(refutes["finder"]))
    table.add_row(
        "inputs", plain(f"{refutes['samples']} handed in, {refutes['stronger']} stronger than the record's")
    )
    table.add_row("verdict", plain(record["audit"]["verdict"]))
    console.print(table)


def _title(record: Mapping[str, Any]) -> str:
    attack, data = record["attack"]["name"], record["dataset"]["name"]
    return f"run {record['run']}: {record['model']['label']} on {data} under {attack}"
