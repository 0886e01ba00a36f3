"""What a person reads after a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from robustbench_med.measure.accuracy import EVERY
from robustbench_med.measure.verdict import RESULTS, SOUND, UNAUDITED, is_failed, is_sound
from robustbench_med.reporting.leaderboard import radius
from robustbench_med.reporting.text import NumberRow, headed, notes_table, number_table, plain, stored_percent

FOUND_SOUND = "no check that can be made found the attack too weak or the gradients masked"
METRICS = {
    "macro_f1": "F1",
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "calibration_error": "calibration",
}


def show(record: Mapping[str, Any], console: Console) -> None:
    """Print the accuracies of a run's record and what they rest on."""
    model, data, attack = record["model"], record["dataset"], record["attack"]
    synthetic = "synthetic, " if data["synthetic"] else ""
    headed(
        console,
        f"{model['label']} on {data['name']} ({synthetic}{data['samples']} samples) under {attack['name']}",
    )
    number_table(console, *_accuracies(record))
    number_table(console, *_metrics(record))
    console.print(_conditions(record))
    if record["audit"]["findings"] and record["audit"].get("complete"):
        console.print(_findings(record["audit"]))


def _accuracies(record: Mapping[str, Any]) -> tuple[list[str], list[NumberRow]]:
    random = record["scoring"]["draws"] > 1
    draws = ("majority", "every\ndraw") if random else ()
    rows = []
    single = len(record["dataset"]["heads"]) == 1
    for name, value in record["accuracy"].items():
        if name == EVERY and single and name != record["headline"]:
            continue
        cells = [stored_percent(value["clean"]), stored_percent(value["robust"])]
        if random:
            cells += [f"{100 * value[kind]['value']:.1f}" for kind in ("majority", "worst_of_draws")]
        style = "bold" if name == record["headline"] else ""
        rows.append(NumberRow(name + collateral(record, name), cells, style))
    return ["accuracy in % (95 %)", "clean", "robust", *draws], rows


def collateral(record: Mapping[str, Any], name: str) -> str:
    """Figures of a finding say nothing of an attack on that finding, unless it was the one aimed at."""
    finding = asked_by(record, name) is not None
    return " (collateral)" if finding and name != record["headline"] else ""


def asked_by(record: Mapping[str, Any], name: str) -> str | None:
    """The head that a finding belongs to; None for a head."""
    heads = record["dataset"]["heads"].items()
    return next((h for h, head in heads if name in head["questions"] and name != h), None)


def _metrics(record: Mapping[str, Any]) -> tuple[list[str], list[NumberRow]]:
    """What else is asked of each head, before and after the attack."""
    measured = [name for name in METRICS if any(_both(k, name) for k in record["metrics"].values())]
    rows = []
    for name, kinds in record["metrics"].items():
        pairs = [_pair(kinds, metric) for metric in measured]
        success = record["attack_success"].get(name)
        head = asked_by(record, name)
        # Findings stand below their head.
        shown = f"· {name.removeprefix(f'{head}.')}" if head in record["metrics"] else name
        rows.append(NumberRow(shown, [*pairs, "-" if success is None else f"{100 * success:.1f} %"]))
    return ["clean → attacked", *(METRICS[name] for name in measured), "success"], rows


def _both(kinds: Mapping[str, Any], name: str) -> bool:
    return any(kinds[kind][name] is not None for kind in ("clean", "robust"))


def _pair(kinds: Mapping[str, Any], name: str) -> str:
    values = [kinds[kind][name] for kind in ("clean", "robust")]
    return " → ".join("-" if value is None else f"{value:.2f}" for value in values)


def _conditions(record: Mapping[str, Any]) -> Table:
    table = notes_table()
    threat, cost = record["threat_model"], record["cost"]
    budgets = threat["budgets"]
    radii = ", ".join(f"{name} {b['norm']} {radius(b)}" for name, b in budgets.items())
    joint = " (one ball for all of them together)" if threat["joint"] else ""
    table.add_row("attacked", plain(radii + joint))
    table.add_row("goal", plain(goal_words(record)))
    for line in randomness_words(record):
        table.add_row(*line)
    if not record["attack"]["follows_samples"]:
        table.add_row(
            "batches", "this library starts a sample by its place in the batch; another size, other starts"
        )
    samples = record["dataset"]["samples"]
    per_sample = ", ".join(f"{cost[f'{way}_passes'] / samples:.1f} {way}" for way in ("forward", "backward"))
    table.add_row("cost", f"{per_sample} passes a sample, {cost['seconds']:.1f} s")
    net = record["model"]
    table.add_row("net", f"{net['parameters'] / 1e6:.2f} M parameters, {net['macs'] / 1e6:.1f} M MACs a pass")
    if (worst := record["worst_subgroup"]) is not None:
        said = f"{worst['column']} {worst['value']} ({worst['samples']} samples)"
        table.add_row("worst group", plain(f"{said}: robust {stored_percent(worst['robust'])}"))
    audit = record["audit"]
    if audit["findings"] and not audit.get("complete"):
        table.add_row("checks", plain(_cheap(audit)))
    style = "" if is_sound(audit["verdict"]) else "bold"
    for number, said in enumerate(verdict_lines(audit)):
        table.add_row("" if number else "verdict", plain(said), style=style)
    for caveat in (*record["model"]["caveats"], *record["dataset"]["caveats"]):
        table.add_row("caveat", plain(caveat))
    return table


def goal_words(record: Mapping[str, Any]) -> str:
    """What the attacker wants: "any head wrong"."""
    threat = record["threat_model"]
    goal, towards = threat["goal"], threat.get("towards")
    if towards:
        return f"{goal} to be answered {towards.rpartition('=')[2]}"
    several = len(record["dataset"]["heads"]) > 1
    words = {"any": "any head wrong" if several else "a wrong answer", "all": "all heads wrong"}
    return words.get(goal, f"{goal} wrong")


def randomness_words(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a model's draws were met: what is said of, and what."""
    shared, draws = record["model"]["draws_shared_by"], record["scoring"]["draws"]
    if shared == "none":
        return [("randomness", "none: one gradient and one scoring pass each are exact")]
    lines = [
        ("EOT", f"{record['attack']['eot']} draws a gradient (one draw per {shared})"),
        ("scoring", f"{draws} fresh draws, never seen by the attack"),
    ]
    if draws == 1:
        lines.append(("intervals", "given this one draw; another may give another accuracy"))
    return lines


def verdict_lines(audit: Mapping[str, Any]) -> list[str]:
    """The verdict in words, a line a check that failed or was not made, with its evidence.

    "NOT SOUND: more steps: leaves 20.0 %, the run's attack 40.0 %".
    """
    words = audit["verdict"]
    if words == UNAUDITED:
        return ["UNAUDITED: the cheap checks passed; robmed audit with the same flags makes all"]
    if is_sound(words):
        return [f"{words.replace(SOUND, 'SOUND', 1)}: {FOUND_SOUND}"]
    failed = is_failed(words)
    start, result = ("NOT SOUND", "failed") if failed else ("INCOMPLETE", "not made")
    lines = [f"{start}: {f['check']}: {f['evidence']}" for f in audit["findings"] if f["result"] == result]
    return lines or [f"{start}: {words.partition(': ')[2] or words}"]


def _cheap(audit: Mapping[str, Any]) -> str:
    """The checks of every run: which, on how many samples, how long."""
    by_result: dict[str, list[str]] = {}
    for finding in audit["findings"]:
        by_result.setdefault(finding["result"], []).append(finding["check"])
    parts = [
        f"{', '.join(dict.fromkeys(by_result[result]))} {result}" for result in RESULTS if result in by_result
    ]
    return f"{'; '.join(parts)} ({audit['samples']} samples, {audit['seconds']:.1f} s)"


def _findings(audit: Mapping[str, Any]) -> Table:
    table = notes_table()
    table.add_column(overflow="fold")
    seconds = f"evidence ({audit['samples']} samples, {audit['seconds']:.0f} s)"
    table.add_row("check", "result", seconds, style="bold")
    for finding in audit["findings"]:
        failed = finding["result"] in ("failed", "not made")
        said = (plain(finding[key]) for key in ("check", "result", "evidence"))
        table.add_row(*said, style="bold" if failed else "")
    return table
