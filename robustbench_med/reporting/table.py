"""What a person reads after a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from robustbench_med.measure.accuracy import ANY
from robustbench_med.measure.statistics import Estimate
from robustbench_med.reporting.leaderboard import radius


def show(record: Mapping[str, Any], console: Console) -> None:
    """Print the accuracies of a run's record and what they rest on."""
    model, data, attack = record["model"], record["dataset"], record["attack"]
    synthetic = "synthetic, " if data["synthetic"] else ""
    title = (
        f"{model['label']} on {data['name']} ({synthetic}{data['samples']} samples) under {attack['name']}"
    )
    console.print(f"\n[bold]{title}[/bold]")
    console.print(_accuracies(record))
    console.print(_metrics(record))
    console.print(_conditions(record))
    if record["audit"]["findings"] and record["audit"]["complete"]:
        console.print(_findings(record["audit"]))


def _accuracies(record: Mapping[str, Any]) -> Table:
    random = record["scoring"]["draws"] > 1
    table = Table(box=None, pad_edge=False)
    table.add_column("head", no_wrap=True)
    for title in ("clean", "robust", *(("majority", "every draw") if random else ())):
        table.add_column(f"{title} (95 %)", justify="right", no_wrap=True)
    several = len(record["accuracy"]) > 2
    for head, value in record["accuracy"].items():
        if head == ANY and not several:
            continue
        cells = [head, _cell(value["clean"]), _cell(value["robust"])]
        if random:
            cells += [_cell(value["majority"]), _cell(value["worst_of_draws"])]
        table.add_row(*cells, style="bold" if head == record["headline"] else "")
    return table


def _metrics(record: Mapping[str, Any]) -> Table:
    """What else is asked of each head, before and after the attack."""
    table = Table(box=None, pad_edge=False)
    table.add_column("\nclean → attacked", no_wrap=True)
    titles = {
        "macro_f1": "macro-F1",
        "auroc": "AUROC",
        "sensitivity": "sensitivity at\n90 % specificity",
        "calibration_error": "calibration\nerror",
    }
    for title in (*titles.values(), "attack\nsuccess"):
        table.add_column(title, justify="right", no_wrap=True, vertical="bottom")
    for head, kinds in record["metrics"].items():
        pairs = [[_number(kinds[kind][name]) for kind in ("clean", "robust")] for name in titles]
        table.add_row(
            head, *(" → ".join(pair) for pair in pairs), _percentage(record["attack_success"][head])
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percentage(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _cell(stored: Mapping[str, Any]) -> str:
    return percent(Estimate(**stored))


def percent(estimate: Estimate) -> str:
    """A share and its interval for people."""
    value, low, high = (100 * share for share in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _conditions(record: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    budgets, cost = record["threat_model"]["budgets"], record["cost"]
    radii = ", ".join(f"{name} {b['norm']} {radius(b['norm'], b['epsilon'])}" for name, b in budgets.items())
    samples, draws = record["dataset"]["samples"], record["scoring"]["draws"]
    shared = record["model"]["draws_shared_by"]
    goal = record["threat_model"]["goal"]
    joint = " (one ball for all of them together)" if record["threat_model"].get("joint") else ""
    table.add_row("attacked", radii + joint)
    table.add_row("goal", {"any": "any head wrong", "all": "all heads wrong"}.get(goal, f"head {goal} wrong"))
    if ANY in record["accuracy"] and len(record["accuracy"]) > 2:
        table.add_row("any head", "a sample is right only if every head is")
    if shared == "none":
        table.add_row("randomness", "none: one gradient and one scoring pass each are exact")
    else:
        table.add_row("EOT", f"{record['attack']['eot']} draws a gradient (one draw per {shared})")
        table.add_row("scoring", f"{draws} fresh draws, never seen by the attack")
        if draws == 1:
            table.add_row("intervals", "given this one draw; another may give another accuracy")
    per_sample = ", ".join(f"{cost[f'{way}_passes'] / samples:.1f} {way}" for way in ("forward", "backward"))
    table.add_row("cost", f"{per_sample} passes a sample, {cost['seconds']:.1f} s")
    net = record["model"]
    table.add_row("net", f"{net['parameters'] / 1e6:.2f} M parameters, {net['macs'] / 1e6:.1f} M MACs a pass")
    if (worst := record["worst_subgroup"]) is not None:
        said = f"{worst['column']} {worst['value']} ({worst['samples']} samples)"
        table.add_row("worst group", f"{said}: robust {_cell(worst['robust'])}")
    table.add_row("verdict", record["audit"]["verdict"])
    for caveat in (*record["model"]["caveats"], *record["dataset"]["caveats"]):
        table.add_row("caveat", caveat)
    return table


def _findings(audit: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("check", "passed", f"evidence ({audit['samples']} samples, {audit['seconds']:.0f} s)"):
        table.add_column(title)
    for finding in audit["findings"]:
        passed = "yes" if finding["passed"] else "NO"
        table.add_row(
            finding["check"], passed, finding["evidence"], style="" if finding["passed"] else "bold"
        )
    return table
