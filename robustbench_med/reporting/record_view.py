"""What the page of one record shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_med.measure.modalities import Situation
from robustbench_med.models.named import is_code, is_path
from robustbench_med.reporting.charts import over_epsilon
from robustbench_med.reporting.command import command
from robustbench_med.reporting.leaderboard import radius
from robustbench_med.reporting.modalities import situation
from robustbench_med.reporting.table import (
    METRICS,
    asked_by,
    collateral,
    goal_words,
    randomness_words,
    verdict_lines,
)
from robustbench_med.reporting.views import Bar, Record, defenses, heads_of, kinds, randomness

MOST_LINES = 8
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {c: "\\" + c for c in "{}$&%#_"}


@dataclass(frozen=True)
class Accuracy:
    """A line of the table of accuracies; ``majority`` and ``every`` in per cent, "" without draws."""

    name: str
    headline: bool
    clean: Bar
    robust: Bar
    majority: str
    every: str


@dataclass(frozen=True)
class Finding:
    """Metrics of a head or a finding, clean and attacked.

    Attributes:
        below: whether it is a finding that belongs to the head above it.
        aimed: "" or "collateral".
        pairs: clean and attacked by metric; None where it could not be measured.
    """

    name: str
    below: bool
    aimed: str
    pairs: Sequence[tuple[float | None, float | None]]
    success: float | None

    @property
    def auroc(self) -> tuple[float | None, float | None]:
        """Clean and attacked."""
        return self.pairs[list(METRICS).index("auroc")]


@dataclass(frozen=True)
class Group:
    """A subgroup of samples."""

    column: str
    value: str
    samples: int
    clean: Bar
    robust: Bar
    worst: bool


@dataclass(frozen=True)
class Grid:
    """A table of accuracies: over radii, or over situations of modalities.

    Attributes:
        rows: name, run behind it ("" for none), accuracies (None where there is none).
        notes: lines below.
        chart: for plotly, or None.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Bar | None, ...]], ...]
    notes: tuple[str, ...] = ()
    chart: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RecordView:
    """Everything on a page of a record.

    Attributes:
        members: of a worst case over several runs, each with its page ("" where it is not on the board).
        curves, tables: that this run is a part of.
        picture: its place, width and height.
        standing: on its board; of a record by itself the audit's verdict.
        place: lines about its rank and its neighbours.
    """

    run: str
    label: str
    title: str
    dataset: str
    attack: str
    headline: Accuracy
    standing: str
    evidence: tuple[str, ...]
    checks: tuple[tuple[str, str, str], ...]
    checked_on: str
    accuracies: tuple[Accuracy, ...]
    random: bool
    persistent: tuple[str, ...]
    metric_names: tuple[str, ...]
    findings: tuple[Finding, ...]
    several: bool
    groups: tuple[Group, ...]
    facts: tuple[tuple[str, str], ...]
    costs: tuple[tuple[str, str], ...]
    caveats: tuple[str, ...]
    command: str
    command_note: str
    licence: str
    citation: str
    bibtex: str
    members: tuple[tuple[str, str], ...] = ()
    curves: tuple[Grid, ...] = ()
    tables: tuple[Grid, ...] = ()
    picture: tuple[str, int, int] | None = None
    place: tuple[str, ...] = ()


def record_view(record: Record) -> RecordView:
    """The view of a record by itself."""
    audit, data, model = record["audit"], record["dataset"], record["model"]
    accuracies = tuple(_accuracy(record, name) for name in heads_of(record))
    findings = tuple(_finding(record, name) for name in record["metrics"])
    return RecordView(
        run=record["run"],
        label=model["label"],
        title=str(model.get("title") or ""),
        dataset=data["name"],
        attack=record["attack"]["name"],
        headline=next(a for a in accuracies if a.headline),
        standing=audit["verdict"],
        evidence=(audit["verdict"],) if record.get("refutes") else tuple(verdict_lines(audit)),
        checks=tuple((f["check"], f["result"], f["evidence"]) for f in audit["findings"]),
        checked_on=_checked_on(audit),
        accuracies=accuracies,
        random=record["scoring"]["draws"] > 1,
        persistent=tuple(f"{100 * share:.1f}" for share in record.get("persistent_attacker", ())),
        metric_names=tuple(METRICS.values()),
        findings=findings,
        several=any(f.below for f in findings),
        groups=tuple(_groups(record)),
        facts=tuple(_facts(record)),
        costs=tuple(_costs(record)),
        caveats=(*model["caveats"], *data["caveats"]),
        command=command(record),
        command_note=_command_note(record),
        licence=str(data.get("licence") or ""),
        citation=str(data.get("citation") or ""),
        bibtex=bibtex(record),
    )


def _checked_on(audit: Mapping[str, Any]) -> str:
    if not audit.get("samples"):
        return ""
    return f"on {audit['samples']} samples, {audit.get('seconds', 0):.0f} s"


def _accuracy(record: Record, name: str) -> Accuracy:
    value = record["accuracy"][name]
    random = record["scoring"]["draws"] > 1
    majority, every = (
        Bar.of(value[kind]).percent if random else "" for kind in ("majority", "worst_of_draws")
    )
    return Accuracy(
        name + collateral(record, name),
        name == record["headline"],
        Bar.of(value["clean"]),
        Bar.of(value["robust"]),
        majority,
        every,
    )


def _finding(record: Record, name: str) -> Finding:
    both = record["metrics"][name]
    head = asked_by(record, name)
    return Finding(
        name=name.removeprefix(f"{head}.") if head else name,
        below=head is not None,
        aimed=collateral(record, name).strip(" ()"),
        pairs=tuple((_number(both["clean"][m]), _number(both["robust"][m])) for m in METRICS),
        success=_number(record["attack_success"].get(name)),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _groups(record: Record) -> Sequence[Group]:
    worst = record["worst_subgroup"]
    key = (worst["column"], worst["value"]) if worst else None
    return [
        Group(
            *(g["column"], g["value"], g["samples"]),
            Bar.of(g["clean"]),
            Bar.of(g["robust"]),
            (g["column"], g["value"]) == key,
        )
        for g in record["subgroups"]
    ]


def _facts(record: Record) -> Sequence[tuple[str, str]]:
    data, threat, model = record["dataset"], record["threat_model"], record["model"]
    budgets = "; ".join(f"{name} {b['norm']} {radius(b)}" for name, b in threat["budgets"].items())
    joint = " (one ball for all of them together)" if threat["joint"] else ""
    synthetic = ", synthetic" if data["synthetic"] else ""
    options = {
        k: v
        for k, v in record["attack"].items()
        if k not in ("name", "eot", "follows_samples", "members") and v not in (None, {})
    }
    return [
        (
            "Data",
            f"{data['title']}: {data['samples']} samples of {data['split']}, {data['pairing']}{synthetic}",
        ),
        ("Inputs", f"{', '.join(data['modalities'])} ({kinds(record)})"),
        ("Net", f"{model['architecture']}, {randomness(record)}; defenses: {defenses(record)}"),
        ("Weights", f"{model['weights']}, SHA-256 {model['weights_sha256']}"),
        ("Attacked", budgets + joint),
        ("Goal", goal_words(record)),
        ("Attacker knows", str(threat["knowledge"])),
        (
            "Attack",
            "; ".join(
                [record["attack"]["name"], *(f"{k.replace('_', '-')} {v}" for k, v in options.items())]
            ),
        ),
        *((what[0].upper() + what[1:], said) for what, said in randomness_words(record)),
        ("Seed", str(record["seed"])),
        ("Code", _code(record["code"])),
        ("Started", str(record["started"])),
        *([("Note", f"brought over {record['migrated']}")] if record.get("migrated") else []),
        *([("Adversarial inputs", _kept(record["adversarial"]))] if record.get("adversarial") else []),
    ]


def _kept(kept: Mapping[str, Any]) -> str:
    """Where a run's adversarial inputs are: robmed verify scores them again."""
    return ", ".join(f"{name.replace('_', ' ')} {said}" for name, said in kept.items())


def _code(code: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in code["versions"].items())
    commit = (
        f"commit {code['commit']}{' with changes' if code.get('dirty') else ''}; "
        if code.get("commit")
        else ""
    )
    return commit + versions


def _costs(record: Record) -> Sequence[tuple[str, str]]:
    cost, samples, net = record["cost"], record["dataset"]["samples"], record["model"]
    return [
        ("Forward passes a sample", f"{cost['forward_passes'] / samples:.1f}"),
        ("Backward passes a sample", f"{cost['backward_passes'] / samples:.1f}"),
        ("Seconds, attack and scoring", f"{cost['seconds']:.1f}"),
        ("Parameters of the net", f"{net['parameters']:,}".replace(",", " ")),
        ("Multiply-accumulates a pass", f"{net['macs']:,}".replace(",", " ")),
    ]


def _command_note(record: Record) -> str:
    model, said = record["config"]["model"], []
    if record.get("members"):
        said.append("This is the worst case over several runs; the options of each are in its own command.")
    if is_code(model) or is_path(model) or not record["model"].get("name"):
        said.append(
            "The net is somebody's own: add --weights, and --inputs, --outputs or --normalize, where they "
            "were given. A net handed over in Python has no command."
        )
    if record["code"]["versions"].get("torch"):
        said.append("Other versions of torch or another processor may move a sample on the boundary.")
    return " ".join(said)


def bibtex(record: Record) -> str:
    """An entry for the record, and one for its data."""
    model, data, code = record["model"]["label"], record["dataset"], record["code"]["versions"]
    title = f"Robust accuracy of {model} on {data['name']} under {record['attack']['name']}"
    year = re.match(r"\d{4}", str(record["started"]))
    entries = [
        _entry(
            f"robmed-{record['run']}",
            title=title,
            howpublished=f"robustbench-med {code.get('robustbench-med', '')}, record {record['run']}",
            year=year[0] if year else "",
        )
    ]
    if data.get("citation"):
        entries.append(
            _entry(
                f"data-{data['name']}",
                title=data["title"],
                note=data["citation"],
                howpublished=data.get("licence"),
            )
        )
    return "\n".join(entries)


def _entry(key: str, **fields: str | None) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", key, flags=re.ASCII)
    lines = [f"  {name} = {{{_latex(value)}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{plain},", *lines, "}"])


def _latex(said: object) -> str:
    return "".join(LATEX.get(c, c) for c in " ".join(str(said).split()))


def curve_grid(stored: Mapping[str, Any]) -> Grid:
    """The table and figure of a curve.json."""
    grey = stored["norm"].startswith("linf")
    radii = [float(r) for r in stored["radii"]]
    shown = [255 * r if grey else r for r in radii]
    names = list(stored["accuracy"])[:MOST_LINES]
    bars = {name: [Bar.of(e) for e in stored["accuracy"][name]] for name in names}
    runs = ["", *stored["runs"]]
    unit = "/255" if grey else ""
    rows = tuple(
        (f"{s:.4g}{unit}" if s else "clean", runs[i], tuple(bars[name][i] for name in names))
        for i, s in enumerate(shown)
    )
    low, high = stored["median"]
    scale = 255 if grey else 1
    median = (
        f"{low * scale:.4g} to {high * scale:.4g}{unit}"
        if high is not None
        else f"over {low * scale:.4g}{unit}"
    )
    title = f"epsilon of {stored['of']} ({'1/255' if grey else stored['norm']})"
    return Grid(
        title=stored["title"],
        corner=f"epsilon of {stored['of']}",
        columns=tuple(names),
        rows=rows,
        notes=(
            f"Area below the curve of {stored['headline']}: {100 * stored['area']:.1f} %, a mean over radii.",
            f"Median of the least perturbation that breaks a sample: {median}.",
        ),
        chart=over_epsilon([(name, shown, bars[name]) for name in names], title),
    )


def modality_grid(stored: Mapping[str, Any]) -> Grid:
    """The table of a modalities.json."""
    columns = tuple(stored["rows"][0]["accuracy"])
    rows = tuple(
        (
            situation(Situation(row["kind"], tuple(row["modalities"]), row["goal"], {})),
            row.get("run", ""),
            tuple(Bar.of(row["accuracy"][c]) if c in row["accuracy"] else None for c in columns),
        )
        for row in stored["rows"]
    )
    leaks = [
        f"Leakage {path}: {100 * lost:.1f} points lost to an input the label is not about."
        for path, lost in stored["leakage"].items()
    ]
    return Grid(stored["title"], "accuracy", columns, rows, tuple(leaks))
