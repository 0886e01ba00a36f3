"""Commands about records: gates, pages of them, and whether others find the same."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path
from robustbench_med.util.terminal import console, say


def compare(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """``robmed compare``; see ``studies.gate`` for what it returns with ``--gate``."""
    del argv
    from robustbench_med.measure.compare import MARGIN
    from robustbench_med.measure.margins import Margins
    from robustbench_med.reporting.comparison import show
    from robustbench_med.reporting.gate import STATUS
    from robustbench_med.reporting.gate import show as show_gate
    from robustbench_med.studies.compare import compare_runs
    from robustbench_med.studies.gate import gate_runs
    from robustbench_med.util.fields import number

    margin = number(options.margin, "--margin") if options.margin is not None else MARGIN
    worse = False
    if options.non_inferior or not options.gate:
        found = compare_runs(options.baseline, options.new, margin)
        show(found, console(), options.non_inferior)
        worse = options.non_inferior and not found.is_no_worse
    if not options.gate:
        return int(worse)
    gate = gate_runs(options.baseline, options.new, Margins(clean=margin, robust=margin))
    show_gate([gate])
    return max(int(worse), STATUS[gate.result])


def check(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """``robmed check``: 0 passed, 1 failed, 2 undecided."""
    del argv
    from robustbench_med.studies.gate_config import read_config

    if options.accept is not None and not options.update:
        raise UserError("--accept says why a new baseline is taken; it goes with --update")
    config = read_config(options.config)
    from robustbench_med.studies.gate_command import check_command, update_command

    if options.update:
        return update_command(config, options.accept, options.summary)
    return check_command(config, options.junit, options.summary)


def html_board(options: argparse.Namespace) -> None:
    """``robmed board --html``."""
    from robustbench_med.studies import board

    made = board.html_board(options.paths, options.html)
    passed = f", {made.passed} other JSON files passed over" if made.passed else ""
    say(f"runs    {made.runs}, {made.ranked} of them ranked{passed}")
    say(f"pages   {made.records} of records")
    say(f"open    {made.index}")


def _places(options: argparse.Namespace) -> Any:
    from robustbench_med.evaluation.recorded import Places

    return Places(options.model, options.dataset, options.weights, options.device)


def verify(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """``robmed verify``; 0 when the number stands, 1 when it does not, 2 when that cannot be told."""
    del argv
    from robustbench_med.reporting.verification import show
    from robustbench_med.studies import verify as study

    found = study.verify(options.record, options.adversarial, _places(options))
    show(found, console())
    return found.status


def refute(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """``robmed refute``."""
    del argv
    from robustbench_med.reporting.verification import show_refutation
    from robustbench_med.studies import refute as study

    submission = study.Submission(options.inputs, options.finder, options.adversarial)
    result = study.refute(options.record, submission, _places(options), options.out, options.leaderboard)
    show_refutation(result.record, result.before, console())
    say()
    say(f"record  {result.folder / 'record.json'}")
    say(f"inputs  {result.folder / 'adversarial.npz'}")
    say(f"row     {result.leaderboard}")


def submit(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """``robmed submit``."""
    del argv
    from robustbench_med.studies import submit as study

    made = study.submit(options.record, given_path(options.out), options.adversarial, _places(options))
    for path in made.files:
        say(f"wrote   {path}")
    for note in made.notes:
        say(f"note    {note}")
