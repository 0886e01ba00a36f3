"""Where a gate's verdicts go besides the screen."""

from __future__ import annotations

import os
from pathlib import Path

from robustbench_med.util.files import given_path, write_text
from robustbench_med.util.terminal import warn

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file that a step of GitHub's appends its page to


def write_out(junit: str | None, summary: str, junit_path: str | None, summary_path: str | None) -> None:
    """Write the XML and the Markdown where they are asked for, and append the latter to the page of a build.

    Raises:
        UserError: a file that was asked for cannot be written.
    """
    if junit is not None and junit_path is not None:
        write_text(given_path(junit_path, "the file --junit"), junit)
    if summary_path is not None:
        write_text(given_path(summary_path, "the file --summary"), summary)
    page = os.environ.get(STEP_SUMMARY)
    if not page:
        return
    try:  # somebody else's file, which is shared with other steps: it is added to, not replaced
        with Path(page).open("a", encoding="utf-8") as stream:
            stream.write(summary + "\n")
    except (OSError, ValueError) as error:
        warn(f"the page of this build ({STEP_SUMMARY}) cannot be written: {error}")
