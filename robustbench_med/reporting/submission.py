"""The texts of a submission: what it claims, what was checked, and what its author must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_med.measure.verdict import Finding
from robustbench_med.reporting.leaderboard import COLUMNS, row
from robustbench_med.reporting.text import markdown_cell, stored_percent

QUESTIONS = (
    "I may publish everything in this folder, weights and adversarial inputs included, under these licences.",
    "The licence of the data allows its use here, and the publication of inputs that were made from it.",
    "No test sample was used to train or to choose the net.",
    "No patient can be recognised from the sample ids or the inputs.",
    "The command below makes the record again.",
)
FIELDS = (
    "Licence of the weights",
    "Licence of the data, and where that is said",
    "Name for the row",
    "Link to a paper or code (or none)",
)
CONFIG, INPUTS = "run.yaml", "adversarial.npz"
SHOWN = (*COLUMNS[: COLUMNS.index("clean")], "verdict")


def card(record: Mapping[str, Any], findings: Sequence[Finding], files: Sequence[str]) -> str:
    """What is claimed, in Markdown."""
    cells, aimed = row(record), record["accuracy"][record["headline"]]
    lines = [f"# {markdown_cell(cells['model'])} on {markdown_cell(cells['dataset'])}", ""]
    lines += _table(
        [
            ("robust", f"{stored_percent(aimed['robust'])} % ({record['headline']})"),
            ("clean", f"{stored_percent(aimed['clean'])} %"),
            *((name, cells[name]) for name in SHOWN),
            ("weights", f"SHA-256 {record['model']['weights_sha256']}"),
            ("data", f"fingerprint {record['dataset']['fingerprint']}"),
            ("run", record["run"]),
        ]
    )
    caveats = [*record["model"].get("caveats", ()), *record["dataset"].get("caveats", ())]
    lines += ["", "## Caveats", "", *(f"- {markdown_cell(each)}" for each in caveats or ["none"])]
    lines += ["", "## Checked before it was handed in", ""]
    lines += _table([(f.check, f"{f.result}: {f.evidence}") for f in findings])
    lines += ["", "## Files", "", *(f"- {markdown_cell(name)}" for name in files)]
    return "\n".join(lines) + "\n"


def form(record: Mapping[str, Any], notes: Sequence[str]) -> str:
    """What the author must answer, in Markdown."""
    data = record["dataset"]
    lines = ["# Submission", "", "Answer in place; tick what is true.", ""]
    lines += [f"- [ ] {question}" for question in QUESTIONS]
    lines += ["", *(f"**{field}:**\n" for field in FIELDS)]
    lines += [f"The data says of its licence: {markdown_cell(data.get('licence') or 'nothing')}", ""]
    lines += [f"Note: {markdown_cell(note)}\n" for note in notes]
    lines += ["**Command:**", "", f"    {command(record)}", ""]
    return "\n".join(lines)


def command(record: Mapping[str, Any]) -> str:
    """What makes the record again, in the folder of the submission."""
    if "refutes" in record:
        return f"robmed refute RECORD-OF-{record['refutes']['run']} {INPUTS} --finder NAME"
    if "members" in record:
        members = ", ".join(record["members"])
        return f"robmed run, once for each of the runs {members}, or with all their attacks"
    return f"robmed run {CONFIG} --save-adversarial"


def _table(rows: Sequence[tuple[str, object]]) -> list[str]:
    return [
        "| | |",
        "|---|---|",
        *(f"| {markdown_cell(name)} | {markdown_cell(value)} |" for name, value in rows),
    ]
