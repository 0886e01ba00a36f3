"""What lies in a run's folder while it is at work, for a killed run to go on from."""

from __future__ import annotations

import shutil
from pathlib import Path

from robustbench_med.util.files import read_text, write_text

KEEPING = "parts-kept"  # parts without adversarial inputs are no parts of a run that keeps them
WORKING = ("parts", KEEPING, "audit", "eot")  # folders of what a killed run goes on from
THREADS = "parts/threads"  # the file that says with how many threads a pass they were made


def clean(folder: Path) -> None:
    """Take away what only a killed run goes on from."""
    for parts in WORKING:
        shutil.rmtree(folder / parts, ignore_errors=True)


def same_threads(folder: Path, threads: int) -> None:
    """Take away the parts of a killed run that were made with another number of threads a pass: sums are
    rounded otherwise, and a record says with how many it was made."""
    kept = folder / THREADS
    if kept.exists() and read_text(kept).strip() != str(threads):
        clean(folder)
    if not kept.exists():
        write_text(kept, f"{threads}\n")


def forget(folder: Path) -> None:
    """Take away a folder in which nothing was made: what is refused leaves nothing."""
    if [path for path in folder.rglob("*") if path.is_file()] == [folder / THREADS]:
        shutil.rmtree(folder, ignore_errors=True)
