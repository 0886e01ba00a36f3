"""What is printed of a run fits 80 columns: no number is cut, and no name within a word."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from robustbench_med.measure.accuracy import EVERY
from robustbench_med.measure.modalities import ModalityTable, Situation
from robustbench_med.measure.statistics import Estimate
from robustbench_med.reporting import modalities
from robustbench_med.reporting.table import show
from robustbench_med.reporting.text import NumberRow, number_table

FINDINGS = [f"enlarged_cardiomediastinum_number_{n}" for n in range(14)]
ALL = {"value": 1.0, "low": 0.923, "high": 1.0, "method": "wilson"}
EVIDENCE = (
    "leaves 20.0 %, the run's attack 40.0 %: " + "a long reason that goes on over several lines " * 3
).strip()


def printed(show_one: Any, *arguments: object) -> list[str]:
    file = io.StringIO()
    show_one(*arguments, Console(width=80, file=file, highlight=False))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    return lines


def record(verdict: str, *findings: dict[str, Any], complete: bool = True, draws: int = 10) -> dict[str, Any]:
    """A run on three modalities and a head of fourteen findings, all that is printed of it."""
    questions = [f"findings.{name}" for name in FINDINGS]
    names = ["diagnosis", "findings", *questions, EVERY]
    metric = {"macro_f1": 1.0, "auroc": 0.98, "sensitivity": None, "calibration_error": 0.01}
    budgets = {
        m: {"norm": "linf", "epsilon": 4 / 255, "unit": 1.0} for m in ("radiograph", "tomography", "record")
    }
    audit = {"verdict": verdict, "findings": list(findings), "samples": 20, "seconds": 1.25}
    return {
        "model": {
            "label": "a-net",
            "parameters": 1e6,
            "macs": 2e6,
            "draws_shared_by": "element",
            "caveats": [],
        },
        "dataset": {
            "name": "d",
            "samples": 200,
            "synthetic": False,
            "caveats": ["one" + " word" * 40],
            "heads": {"diagnosis": {"questions": ["diagnosis"]}, "findings": {"questions": questions}},
        },
        "threat_model": {"budgets": budgets, "joint": False, "goal": "any", "towards": None},
        "attack": {"name": "pgd", "eot": 10, "follows_samples": True},
        "scoring": {"draws": draws},
        "headline": EVERY,
        "accuracy": {n: dict.fromkeys(("clean", "robust", "majority", "worst_of_draws"), ALL) for n in names},
        "metrics": {n: {"clean": metric, "robust": metric} for n in names[:-1]},
        "attack_success": dict.fromkeys(names[:-1], 1.0),
        "cost": {"forward_passes": 1, "backward_passes": 1, "seconds": 1.0},
        "worst_subgroup": None,
        "audit": {**audit, "complete": complete},
    }


def finding(check: str, result: str, evidence: str = "e") -> dict[str, Any]:
    return {"check": check, "result": result, "evidence": evidence}


@pytest.mark.parametrize("draws", [1, 10])
def test_a_run_of_fourteen_findings(draws: int) -> None:
    lines = printed(show, record("sound", draws=draws))
    text = "\n".join(lines)
    for name in FINDINGS:
        assert f"findings.{name} (collateral)" in lines
        assert f"· {name}" in lines
    assert text.count("100.0 (92.3 to 100.0)") == 2 * 17
    assert len(re.findall(r"1\.00 → 1\.00", text)) == 16


def said(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def test_verdicts_are_sentences() -> None:
    failed = [finding("more steps", "failed", EVIDENCE), finding("transfer", "failed", "leaves 1.0 %")]
    text = said(printed(show, record("not sound: more steps, transfer", *failed, finding("x", "passed"))))
    assert f"verdict NOT SOUND: more steps: {EVIDENCE} NOT SOUND: transfer: leaves 1.0 % caveat" in text
    text = said(printed(show, record("incomplete: scores", finding("scores", "not made", EVIDENCE))))
    assert f"verdict INCOMPLETE: scores: {EVIDENCE} caveat" in text
    for words, sentence in (
        ("sound", "SOUND: no check that can be made found"),
        ("sound against score attackers", "SOUND against score attackers: no check"),
        ("not sound: more steps", "NOT SOUND: more steps caveat"),  # of several runs, without evidence
    ):
        assert f"verdict {sentence}" in said(printed(show, record(words)))
    cheap = [finding(name, "passed") for name in ("finite", "logits", "logits")]
    skipped = finding("gradients", "does not apply")
    text = said(printed(show, record("unaudited", *cheap, skipped, complete=False)))
    assert "checks finite, logits passed; gradients does not apply (20 samples, 1.2 s)" in text
    assert "UNAUDITED: the cheap checks passed; robmed audit with the same flags makes all" in text


def test_many_columns_stand_below_each_other() -> None:
    heads = [f"a_head_with_a_long_name_{n}" for n in range(6)]
    accuracy = dict.fromkeys(heads, Estimate(1.0, 0.923, 1.0, "wilson"))
    rows = (
        Situation("clean", (), "", accuracy),
        Situation("attacked", ("radiograph", "tomography", "laboratory_record"), "any", accuracy),
    )
    found = ModalityTable("a title", rows, {"tomography -> a_head_with_a_long_name_0": 0.5})
    text = "\n".join(printed(modalities.show, found))
    assert text.count("100.0 (92.3 to 100.0)") == 12
    assert "radiograph + tomography + laboratory_record attacked, aimed at any" in text
    joined = re.sub(r"\s+", "", text)
    for word in ("a_head_with_a_long_name_0", "name_5"):
        assert word in joined or word in text


def test_names_of_any_length_and_width() -> None:
    def show_rows(console: Console) -> None:
        wide, long = "名" * 50, "x" * 200
        rows = [NumberRow(wide, ["1.0"]), NumberRow(long, ["2.0"]), NumberRow("[b]\x1b[31m", ["3.0"])]
        number_table(console, ["name\n", "value\x1b"], rows)

    text = "".join(printed(show_rows)).replace(" ", "")
    assert "x" * 200 in text
    assert r"[b]\x1b[31m" in text
    assert "\x1b" not in text
