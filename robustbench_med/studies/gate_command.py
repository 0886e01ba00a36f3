"""``robmed check`` from a config to an exit code: run, judge, print, write."""

from __future__ import annotations

from robustbench_med.reporting import gate as report
from robustbench_med.studies.gate import check
from robustbench_med.studies.gate_config import CheckConfig
from robustbench_med.studies.gate_files import write_out
from robustbench_med.studies.gate_update import update
from robustbench_med.util.errors import UserError
from robustbench_med.util.terminal import say


def check_command(config: CheckConfig, junit: str | None = None, summary: str | None = None) -> int:
    """Judge, and write what was found; also why nothing could be judged, so that a build shows it.

    Returns:
        0 when everything passed, 1 when something failed, 2 when something cannot be decided.

    Raises:
        UserError: see ``check``.
    """
    try:
        gates = check(config, say)
    except UserError as error:
        write_out(report.junit([], str(error)), report.summary([], str(error)), junit, summary)
        raise
    report.show(gates)
    write_out(report.junit(gates), report.summary(gates), junit, summary)
    return report.STATUS[report.overall(gates)]


def update_command(config: CheckConfig, accepted: str | None = None, summary: str | None = None) -> int:
    """Make a new baseline and say what it changes.

    Returns:
        0 when it was written, 1 when it was not, since a number in it is in doubt.

    Raises:
        UserError: see ``update``.
    """
    made = update(config, accepted, say)
    told = made.changes, made.doubts, made.warnings
    report.show_update(*told)
    write_out(None, report.summary_of_update(*told), None, summary)
    say()
    if made.written:
        say(f"baseline  {config.folder}")
        return 0
    say(f"baseline  not written: mend the attack, or say --accept REASON ({config.folder} is as it was)")
    return 1
