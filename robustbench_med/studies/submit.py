"""``robmed submit``: a record as a folder that is ready for a pull request (docs/verify.md)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_med.data.catalog import is_own
from robustbench_med.evaluation.kept import FILE
from robustbench_med.evaluation.recorded import Places, config_of, recorded
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.verdict import Finding
from robustbench_med.models.cards import weight_folders
from robustbench_med.models.named import is_code
from robustbench_med.models.weights import card_beside
from robustbench_med.reporting.submission import CONFIG, card, form
from robustbench_med.studies.verify import (
    inputs_of,
    named_rightly,
    numbers_follow,
    terms_kept,
    verify,
    whole_record,
)
from robustbench_med.util.config import dump
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing_folder, write_json, write_text

MOST_BYTES = 100_000_000  # of a file that code hosts take


@dataclass(frozen=True)
class Submitted:
    """What was written.

    Attributes:
        notes: what a maintainer will ask about.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def submit(given: Path, out: Path, adversarial: str | None, places: Places) -> Submitted:
    """Check a record as a maintainer would, and lay out what a pull request needs.

    Raises:
        UserError: what would be refused there: a record that does not stand, of somebody's own data or code,
            or without outcomes; or the folder is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    file, record = whole_record(given)
    _require_public(file, record, places)
    findings, notes = _checked(file, record, adversarial, places)
    weights = recorded(record, file, places).loaded.weights
    sources = _sources(record, file, adversarial, weights)
    too_large = next((path for path in sources.values() if path.stat().st_size > MOST_BYTES), None)
    if too_large is not None:
        raise UserError(f"{too_large} has more than {MOST_BYTES:,} bytes, which no pull request takes")
    names = ("record.json", CONFIG, *sources, "card.md", "SUBMISSION.md")
    notes = (*notes, *_notes(record, sources))
    with replacing_folder(out) as building:
        for name, source in sources.items():
            shutil.copyfile(source, building / name)
        write_json(building / "record.json", _pointing(record, sources))
        write_text(building / CONFIG, dump(record["config"]))
        write_text(building / "card.md", card(record, findings, names))
        write_text(building / "SUBMISSION.md", form(record, notes))
    return Submitted(tuple(out / name for name in names), notes)


def _require_public(file: Path, record: Mapping[str, Any], places: Places) -> None:
    """Raises UserError: nobody else has what the record speaks of."""
    if is_code(str(record["model"]["architecture"])):
        raise UserError(
            f"{file} is of a net that code makes, and nobody's code runs where submissions are scored; "
            "register its architecture as a plug-in (docs/models.md) and run it by name"
        )
    config = config_of(record, file, Places())
    if is_own(config.dataset):
        raise UserError(
            f"{file} is on data of your own ({config.dataset}), which nobody else can score it on"
        )
    if places.model is not None:
        raise UserError("--model is for nets that code makes; drop it")


def _checked(
    file: Path, record: Mapping[str, Any], adversarial: str | None, places: Places
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """The checks of ``robmed verify``; without inputs those that need none.

    Raises:
        UserError: one of them fails.
    """
    notes: tuple[str, ...] = ()
    if adversarial is None and not isinstance(record.get("adversarial"), dict):
        samples = Samples.from_record(record, str(file))
        cheap = (named_rightly(record), numbers_follow(record, samples))
        findings: tuple[Finding, ...] = (*cheap, terms_kept(recorded(record, file, places)))
        notes = ("no adversarial inputs were kept, so that a maintainer must run the attack again",)
    else:
        found = verify(file, adversarial, places)
        findings = found.findings
        missing = [finding.evidence for finding in findings if finding.result == "not made"]
        notes = tuple(missing)
    failed = next((finding for finding in findings if finding.result == "failed"), None)
    if failed is not None:
        raise UserError(f"{file} does not stand and would be refused: {failed.check}: {failed.evidence}")
    return findings, notes


def _sources(
    record: Mapping[str, Any], file: Path, adversarial: str | None, weights: Path | None
) -> dict[str, Path]:
    """What is copied, by its name there: kept inputs, and weights that are not shipped, with their card."""
    found = {}
    if adversarial is not None or isinstance(record.get("adversarial"), dict):
        found[FILE] = inputs_of(record, file, adversarial)
    if weights is None or any(
        weights.resolve().is_relative_to(folder.resolve()) for folder in weight_folders()[:2]
    ):
        return found
    found[Path(record["model"]["weights"]).name] = weights
    if card_beside(weights).is_file():
        found[Path(record["model"]["weights"]).with_suffix(".json").name] = card_beside(weights)
    return found


def _pointing(record: Mapping[str, Any], sources: Mapping[str, Path]) -> dict[str, Any]:
    """The record, with its inputs by the name that they have in the folder."""
    said = record.get("adversarial")
    if not isinstance(said, dict) or FILE not in sources:
        return dict(record)
    return {**record, "adversarial": {**said, "file": FILE}}


def _notes(record: Mapping[str, Any], sources: Mapping[str, Path]) -> list[str]:
    out = []
    if record["code"].get("dirty"):
        out.append("the checkout that made it had changes that were not committed")
    if not str(record["audit"]["verdict"]).startswith(("sound", "refutes")):
        out.append(f"its verdict is {record['audit']['verdict']!r}, so that its row is not ranked")
    if any(name.endswith(".safetensors") for name in sources):
        out.append("the weights are in the folder: their licence is asked for")
    return out
