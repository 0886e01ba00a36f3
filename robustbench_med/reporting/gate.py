"""What a gate says: for people, for CI (JUnit XML) and for the page of a build (Markdown)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from robustbench_med.measure.decision import Result
from robustbench_med.measure.gate import Gate
from robustbench_med.reporting.text import markdown_cell
from robustbench_med.util.terminal import say, visible

WORDS: Mapping[Result, str] = {"passed": "passed", "failed": "FAILED", "undecided": "UNDECIDED"}
STATUS: Mapping[Result, int] = {"passed": 0, "failed": 1, "undecided": 2}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Changes = Mapping[str, Sequence[tuple[str, str, str]]]


def overall(gates: Sequence[Gate]) -> Result:
    """Of all attacks: a failure outweighs what cannot be decided."""
    found = {gate.result for gate in gates}
    return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"


def show(gates: Sequence[Gate]) -> None:
    """Print one verdict a line, each with its reason."""
    for gate in gates:
        say()
        say(gate.title)
        for line in gate.lines:
            say(f"{WORDS[line.result]:<9} {line.name}: {line.reason}")
        for note in gate.notes:
            say(f"note      {note}")
    say()
    say(f"gate      {WORDS[overall(gates)]}")


def show_update(changes: Changes, doubts: Sequence[str], warnings: Sequence[str]) -> None:
    """Print what a new baseline changes."""
    for name, rows in changes.items():
        say()
        say(name if rows else f"{name}: as before")
        for what, before, now in rows:
            say(f"  {what}: {now}" if before == "none" else f"  {what}: {before} -> {now}")
    for doubt in doubts:
        say(f"DOUBT     {doubt}")
    for warning in warnings:
        say(f"warning   {warning}")


def junit(gates: Sequence[Gate], error: str | None = None) -> str:
    """JUnit XML: a suite an attack, a case a verdict; what is undecided is an error.

    Args:
        error: why nothing could be judged.
    """
    root = ElementTree.Element("testsuites", name="robmed check")
    if error is not None:
        suite = _suite(root, "robmed check", [error], 0, 1)
        case = ElementTree.SubElement(suite, "testcase", classname="robmed check", name="can be judged")
        ElementTree.SubElement(case, "error", message=_xml(error)).text = _xml(error)
    for gate in gates:
        results = [line.result for line in gate.lines]
        suite = _suite(root, gate.title, results, results.count("failed"), results.count("undecided"))
        for line in gate.lines:
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(gate.title), name=_xml(line.name))
            if line.result == "passed":
                ElementTree.SubElement(case, "system-out").text = _xml(line.reason)
                continue
            tag = "failure" if line.result == "failed" else "error"
            ElementTree.SubElement(case, tag, message=_xml(line.reason)).text = _xml(line.reason)
        if gate.notes:
            ElementTree.SubElement(suite, "system-out").text = _xml("\n".join(map(visible, gate.notes)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _suite(
    root: ElementTree.Element, title: str, cases: Sequence[object], failures: int, errors: int
) -> ElementTree.Element:
    counts = {"tests": len(cases), "failures": failures, "errors": errors}
    told = {"name": _xml(title), **{name: str(count) for name, count in counts.items()}}
    return ElementTree.SubElement(root, "testsuite", told)


def _xml(text: str) -> str:
    """A text without what XML cannot hold, escaped or not."""
    return NOT_XML.sub("?", visible(text, keep="\n"))


def summary(gates: Sequence[Gate], error: str | None = None) -> str:
    """Markdown for the page of a build.

    Args:
        error: why nothing could be judged.
    """
    if error is not None:
        return f"## robmed check: cannot be judged\n\n{markdown_cell(error)}\n"
    parts = [f"## robmed check: {WORDS[overall(gates)]}\n"]
    for gate in gates:
        rows = [_row(WORDS[line.result], line.name, line.reason) for line in gate.lines]
        table = ["| verdict | of | reason |", "|---|---|---|", *rows]
        notes = [f"- {markdown_cell(note)}" for note in gate.notes]
        parts.append("\n".join([f"### {markdown_cell(gate.title)}\n", *table, "", *notes]).rstrip() + "\n")
    return "\n".join(parts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(markdown_cell, cells))} |"


def summary_of_update(changes: Changes, doubts: Sequence[str], warnings: Sequence[str]) -> str:
    """Markdown on a new baseline, for its reviewer."""
    parts = ["## robmed check --update\n"]
    for name, rows in changes.items():
        cells = [_row(*row) for row in rows]
        table = ["| | before | now |", "|---|---|---|", *cells] if cells else ["as before"]
        parts.append("\n".join([f"### {markdown_cell(name)}\n", *table]) + "\n")
    told = [f"- doubt: {markdown_cell(d)}" for d in doubts] + [f"- {markdown_cell(w)}" for w in warnings]
    return "\n".join([*parts, *told]).rstrip() + "\n"
