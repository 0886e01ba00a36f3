"""Bring records of schema 1 to schema 2: python leaderboards/migrate.py FILE …, in place.

What schema 1 did not keep stays unknown and is said to be: the samples' outcomes, the commit and the hash of
the code. No number is made anew: every accuracy and every row is asserted to be what it was. A migrated
record serves boards and suites; comparisons in pairs need one made anew (``publish.py --again``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_med.measure.accuracy import EVERY, SOME
from robustbench_med.measure.verdict import FAILED, SOUND, UNAUDITED
from robustbench_med.reporting.record import require_record
from robustbench_med.util.files import write_json

RENAMED = {"any head": EVERY, "all heads": SOME}
"""Schema 1 named two accuracies by what an attacker wants, not by what is true of a sample."""


def migrated(old: Mapping[str, Any]) -> dict[str, Any]:
    """The record in schema 2; ``old`` itself if it is in it."""
    if old.get("schema") == 2:
        return dict(old)
    new = {name: value for name, value in old.items() if name != "versions"}
    budgets = old["threat_model"]["budgets"]
    findings = [_finding(finding) for finding in old["audit"].get("findings", [])]
    return {
        "schema": 2,
        **new,
        "migrated": "from schema 1, which kept neither the samples' outcomes nor the code's commit",
        "config": {
            **old["config"],
            "eps": {name: budget["epsilon"] for name, budget in budgets.items()},
            "modality": list(budgets),
            "towards": None,
        },
        "threat_model": {
            "joint": False,
            **old["threat_model"],
            "budgets": {name: {**budget, "unit": 1.0} for name, budget in budgets.items()},
            "towards": None,
        },
        "attack": {**old["attack"], "follows_samples": None},
        "headline": RENAMED.get(old["headline"], old["headline"]),
        "accuracy": {
            RENAMED.get(name, name): {**kinds, "samples": old["dataset"]["samples"]}
            for name, kinds in old["accuracy"].items()
        },
        "attack_success": {RENAMED.get(name, name): v for name, v in old["attack_success"].items()},
        "audit": {**old["audit"], "verdict": _verdict(old["audit"]["verdict"]), "findings": findings},
        "dataset": {
            **old["dataset"],
            # All of schema 1 was images, and heads of one label.
            "modalities": {name: {"kind": "image"} for name in budgets},
            "heads": {name: {"kind": "single-label", "questions": [name]} for name in old["metrics"]},
        },
        "outcomes": None,
        "code": {"sources": None, "versions": old["versions"], "commit": None, "dirty": None},
    }


def _verdict(old: str) -> str:
    """Schema 1 named what failed, and nothing else."""
    return old if old in (SOUND, UNAUDITED) else f"{FAILED}: {old}"


def _finding(old: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in old.items() if name not in ("check", "passed")}
    return {"check": old["check"], "result": "passed" if old["passed"] else "failed", **rest}


def main(files: list[str]) -> int:
    """Migrate the files."""
    for name in files:
        path = Path(name)
        old = json.loads(path.read_text(encoding="utf-8"))
        new = require_record(migrated(old), name)
        for head, kinds in old["accuracy"].items():
            for kind, value in kinds.items():
                assert new["accuracy"][RENAMED.get(head, head)][kind] == value, (name, head, kind)
        write_json(path, new)
    print(f"{len(files)} records")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
