"""The adversarial inputs of a run, kept beside its record (docs/verify.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_med.evaluation import kept
from robustbench_med.evaluation.kept import Blobs, Ends, Kept, Origin
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, require_writable

SUFFIX = ".npz"


def place_of(config: RunConfig, folder: Path) -> Path | None:
    """Where a run keeps its adversarial inputs; None where it does not.

    Raises:
        UserError: a file of another kind, or one that cannot be written.
    """
    wanted = config.save_adversarial
    if wanted is False:
        return None
    if wanted is True:
        return folder / kept.FILE
    if not wanted.endswith(SUFFIX):
        raise UserError(f"--save-adversarial {wanted}: write a file that ends in {SUFFIX}, or the flag alone")
    place = given_path(wanted, "the file --save-adversarial")
    if place.exists() and not place.is_file():
        raise UserError(f"--save-adversarial {place}: that is no plain file; choose another name")
    require_writable(place.parent)
    return place


def require_one(config: RunConfig, what: str) -> None:
    """Refuse one file for the inputs of several runs.

    Raises:
        UserError: it was asked for.
    """
    if isinstance(config.save_adversarial, str):
        raise UserError(
            f"--save-adversarial {config.save_adversarial}: {what} makes several runs; write the flag alone, "
            "and each keeps its own beside its record"
        )


def keep(place: Path, blobs: Blobs, plan: Plan, run: str) -> dict[str, Any]:
    """Write the inputs of a run; returns what its record says of them."""
    ends = {name: Ends.of(budget) for name, budget in plan.threat.budgets.items()}
    return store(place, Kept(plan.split.ids, ends, blobs), plan, run)


def store(place: Path, inputs: Kept, plan: Plan, run: str) -> dict[str, Any]:
    """See ``keep``."""
    digest = inputs.digest(plan.split)
    kept.write(place, inputs, Origin(run, plan.split.fingerprint, digest))
    return {"file": place.name, "inputs_sha256": digest, "samples": len(inputs.ids)}


def still_there(before: Mapping[str, Any], place: Path) -> bool:
    """Whether a finished run has kept its inputs where they are wanted now."""
    said = before.get("adversarial")
    if not isinstance(said, dict) or not place.is_file():
        return False
    try:
        _, origin = kept.read(place)
    except UserError:  # made again
        return False
    return origin == Origin(before["run"], before["dataset"]["fingerprint"], said.get("inputs_sha256", ""))


def of_members(folders: Sequence[Path], choice: Sequence[int]) -> Kept | None:
    """Sample by sample the inputs of the member that was chosen; None where one of them has kept none."""
    files = [folder / kept.FILE for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    members = [kept.read(file)[0] for file in files]
    blobs = {
        name: tuple(members[which].blobs[name][i] for i, which in enumerate(choice))
        for name in members[0].ends
    }
    return Kept(members[0].ids, members[0].ends, blobs)
