"""What the columns of a leaderboard mean: a Frictionless table schema (leaderboards/schema.json)."""

from __future__ import annotations

from typing import Any

from robustbench_med.reporting.leaderboard import COLUMNS

AIMED = "of what the attack aimed at (goal)"
SHARE = "share of samples, 0 to 1"
FIELDS: dict[str, tuple[str, str]] = {
    "dataset": ("string", "data set; (synthetic) where it is drawn"),
    "model": ("string", "label of the net: name, width, defenses"),
    "attack": ("string", "name of the attack, with every option it ran with"),
    "epsilon": (
        "string",
        "radius of every attacked modality: grey levels for Linf, lengths for L2, scales for tables",
    ),
    "norm": ("string", "norm of every attacked modality; -joint where one ball is for all of them"),
    "goal": ("string", "what had to be wrong: any head, all heads, a head, a question"),
    "samples": ("integer", "how many were attacked"),
    "eot": ("integer", "draws behind each gradient of a random net; 1 of others"),
    "scoring_draws": ("integer", "draws that scored; 1: the interval holds for that draw"),
    "clean": ("number", f"accuracy before the attack, {AIMED}; {SHARE}, mean over draws"),
    "clean_low": ("number", "lower end of its 95 % interval"),
    "clean_high": ("number", "upper end"),
    "robust": ("number", f"accuracy under the attack, {AIMED}; {SHARE}, mean over draws"),
    "robust_low": ("number", "lower end of its 95 % interval"),
    "robust_high": ("number", "upper end"),
    "majority": ("number", "robust accuracy of the vote over draws"),
    "majority_low": ("number", "lower end of its 95 % interval"),
    "majority_high": ("number", "upper end"),
    "worst_of_draws": ("number", "share that is right in every draw: the persistent attacker"),
    "worst_of_draws_low": ("number", "lower end of its 95 % interval"),
    "worst_of_draws_high": ("number", "upper end"),
    "clean_by_head": ("string", "head=accuracy; … before the attack"),
    "robust_by_head": ("string", "head=accuracy; … under it"),
    "attack_success": (
        "number",
        "share of the samples right before the attack that it broke; empty where none was",
    ),
    "macro_f1_by_head": ("string", "head=macro-F1; … under the attack"),
    "auroc_by_head": ("string", "head=AUROC; … under the attack"),
    "sensitivity_by_head": (
        "string",
        "head=sensitivity under the attack at the clean net's 90 % specificity; …",
    ),
    "calibration_error_by_head": ("string", "head=expected calibration error; … under the attack"),
    "worst_subgroup": ("string", "column=value: robust accuracy of the subgroup where it is lowest"),
    "verdict": ("string", "of the audit: sound, not sound: …, incomplete: …, unaudited"),
    "forward_per_sample": ("number", "forward passes of the attack a sample"),
    "backward_per_sample": ("number", "backward passes of the attack a sample"),
    "seed": ("integer", "from which every draw derives"),
    "weights_sha256": ("string", "first twelve digits of the hash of the weights"),
    "dataset_fingerprint": ("string", "first twelve digits of the hash of the samples"),
    "run": ("string", "name of the run, and of its record"),
    "version": ("string", "of robustbench-med"),
    "seconds": ("number", "spent in attack and scoring, over all workers"),
    "started": ("datetime", "when the run was started, UTC"),
}


def schema() -> dict[str, Any]:
    """The Frictionless table schema of a leaderboard."""
    fields = [{"name": name, "type": FIELDS[name][0], "description": FIELDS[name][1]} for name in COLUMNS]
    return {"fields": fields, "missingValues": [""], "primaryKey": "run"}


def dictionary() -> str:
    """The same as a Markdown table, as docs/columns.md has it."""
    rows = [f"| `{name}` | {FIELDS[name][0]} | {FIELDS[name][1]} |" for name in COLUMNS]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"
