"""The manifest of a data set: a row per sample, as a local copy keeps it and as a split is published."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from robustbench_med.api.data import SPLITS, DatasetInfo
from robustbench_med.data.splits import manifest_hash


@dataclass(frozen=True)
class Sample:
    """One sample as the publisher knows it.

    Attributes:
        files: per modality the publisher's file name.
        labels: per head a class name.
        subgroups: per column a value, "" when unknown.
    """

    split: str
    id: str
    group: str
    files: Mapping[str, str]
    labels: Mapping[str, str]
    subgroups: Mapping[str, str] = field(default_factory=dict)


def published_manifest(name: str) -> str | None:
    """The text of the split this release publishes for a data set, if it publishes one."""
    file = _configs().joinpath("manifests").joinpath(f"{name}.csv")
    return file.read_text(encoding="utf-8") if file.is_file() else None


def split_manifest(info: DatasetInfo, samples: Sequence[Sample]) -> str:
    """The split as it is published: ids, file names and labels as CSV, no pixels, no attributes."""
    modalities = [modality.name for modality in info.modalities]
    return csv_text(
        [
            {
                "split": sample.split,
                "id": sample.id,
                **{f"file_{name}": sample.files[name] for name in modalities},
                **{f"label_{head.name}": sample.labels[head.name] for head in info.heads},
            }
            for sample in samples
        ]
    )


def compare_with_published(name: str, text: str) -> tuple[bool, str]:
    """Whether a split is the published one of this data set, and that in words."""
    published = published_manifest(name)
    if published is None:
        return False, (
            f"no manifest is published for {name}: numbers are comparable with those on a split of the same "
            f"sha256 only ({manifest_hash(text)[:16]})"
        )
    if published == text:
        return True, f"split equals the published manifest (sha256 {manifest_hash(text)[:16]})"
    return False, (
        f"split differs from the published manifest of {name} "
        f"(sha256 {manifest_hash(text)[:16]}, published {manifest_hash(published)[:16]}): "
        "numbers are not comparable with published ones"
    )


def manifest_row(info: DatasetInfo, sample: Sample, rows: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """A sample as a row of ``manifest.csv``, given per modality the image row of each file."""
    modalities = [modality.name for modality in info.modalities]
    return {
        "split": sample.split,
        "id": sample.id,
        "group": sample.group,
        **{f"row_{name}": str(rows[name][sample.files[name]]) for name in modalities},
        **{f"file_{name}": sample.files[name] for name in modalities},
        **{f"label_{head.name}": sample.labels[head.name] for head in info.heads},
        **{f"subgroup_{name}": value for name, value in sample.subgroups.items()},
    }


def parse_row(row: Mapping[str, str], info: DatasetInfo) -> tuple[Sample, dict[str, int]]:
    """The sample of a row of ``manifest.csv``, and its image row per modality (KeyError, ValueError)."""
    if None in row or None in row.values():
        raise ValueError("it has more or fewer cells than the header")
    if row["split"] not in SPLITS:
        raise ValueError(f"unknown split {row['split']!r}")
    labels = {head.name: row[f"label_{head.name}"] for head in info.heads}
    for head in info.heads:
        if labels[head.name] not in head.answers:
            raise ValueError(f"unknown {head.name} class {labels[head.name]!r}")
    sample = Sample(
        split=row["split"],
        id=row["id"],
        group=row["group"],
        files={m.name: row[f"file_{m.name}"] for m in info.modalities},
        labels=labels,
        subgroups={k.removeprefix("subgroup_"): v for k, v in row.items() if k.startswith("subgroup_")},
    )
    rows = {m.name: int(row[f"row_{m.name}"]) for m in info.modalities}
    if max(rows.values()) >= 2**31:
        raise ValueError("it points to a row that no file has")
    return sample, rows


def csv_text(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows with equal keys as CSV with a header; lines end in a bare newline on every platform."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _configs() -> Traversable:
    try:
        return resources.files("robustbench_med.configs")
    except ModuleNotFoundError:
        # In a source tree that is not installed the folder lies beside the package.
        return Path(__file__).resolve().parents[2] / "configs"
