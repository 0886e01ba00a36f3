"""MILK10k: clinical close-up and dermoscopic photograph of the same skin lesion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_med.api.data import DatasetInfo, Modality
from robustbench_med.api.heads import SingleLabel
from robustbench_med.data import importing, reading, splits, store
from robustbench_med.data.manifest import Sample
from robustbench_med.data.notes import Note, few, summary
from robustbench_med.data.tables import age_band, read_table, stated
from robustbench_med.util.errors import UserError

LARGE_CLASSES = ("AKIEC", "BCC", "BKL", "MEL", "NV", "SCCKA")
PUBLISHED_COUNTS: Mapping[str, int] = {
    "AKIEC": 303,
    "BCC": 2522,
    "BEN_OTH": 44,
    "BKL": 544,
    "DF": 52,
    "INF": 50,
    "MAL_OTH": 9,
    "MEL": 450,
    "NV": 746,
    "SCCKA": 473,
    "VASC": 47,
}
CLASS_CHOICES: Mapping[str, tuple[str, ...]] = {"large": LARGE_CLASSES, "all": tuple(PUBLISHED_COUNTS)}
# The publisher's image_type, because nothing in a file's name or order says which image is which.
IMAGE_TYPES: Mapping[str, str] = {"clinical: close-up": "clinical", "dermoscopic": "dermoscopic"}
METADATA = "MILK10k_Training_Metadata.csv"
METADATA_COLUMNS = (
    *("lesion_id", "image_type", "isic_id"),
    *("age_approx", "sex", "skin_tone_class", "site"),
)


@dataclass(frozen=True)
class Lesion:
    """A lesion that has a label and exactly one image of each modality.

    Attributes:
        files: per modality the file name below ``MILK10k_Training_Input/<lesion id>``.
    """

    id: str
    label: str
    files: Mapping[str, str]
    subgroups: Mapping[str, str]


class Milk10k(store.ImportedSource):
    """Skin lesions, clinical and dermoscopic photograph of each; import options size, classes."""

    name = "milk10k"
    page = "https://doi.org/10.34970/648456"

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options ``size`` and ``classes`` with defaults filled in."""
        importing.refuse_unknown(options, ("size", "classes"))
        classes = options.get("classes", "large")
        if classes not in tuple(CLASS_CHOICES):
            raise UserError(f"option classes={classes!r}: choose one of {', '.join(CLASS_CHOICES)}")
        return {"size": importing.int_option(options, "size", 48, 28, 224), "classes": classes}

    def describe(self, options: Mapping[str, Any]) -> DatasetInfo:
        """The data set at the chosen size with the chosen classes."""
        shape = (3, options["size"], options["size"])
        return DatasetInfo(
            name=self.name,
            title="MILK10k: clinical and dermoscopic photographs of the same skin lesion",
            pairing="paired",
            modalities=(
                Modality("clinical", shape, "clinical close-up photograph"),
                Modality("dermoscopic", shape, "dermoscopic photograph"),
            ),
            heads=(
                SingleLabel(
                    "diagnosis",
                    classes=CLASS_CHOICES[options["classes"]],
                    modalities=("clinical", "dermoscopic"),
                ),
            ),
            licence="CC BY-NC 4.0",
            citation="MILK study team, MILK10k, ISIC Archive 2025, doi:10.34970/648456",
            caveats=(
                "The split is by lesion: the publisher gives no patient ids, so two lesions of one "
                "patient may be in different splits.",
                "The publisher's own test set has no public labels; this test split is carved from "
                "its training set.",
            ),
            mirror=("horizontal", "vertical"),
        )

    def collect(self, source: Path, options: Mapping[str, Any]) -> store.Content:
        """Read ``MILK10k_Training_{GroundTruth,Metadata}.csv`` and ``MILK10k_Training_Input/``.

        Raises:
            UserError: a table or image is missing or broken, or a table is not the publisher's.
        """
        labels = read_labels(source / "MILK10k_Training_GroundTruth.csv")
        lesions, unlabelled = read_lesions(source / METADATA, labels)
        classes = CLASS_CHOICES[options["classes"]]
        chosen = {lesion.id: lesion for lesion in lesions if lesion.label in classes}
        if not chosen:
            raise UserError(f"{source} has no lesion of the classes {', '.join(classes)}")
        images = _read_images(source / "MILK10k_Training_Input", list(chosen.values()), options["size"])
        kept, duplicates, dropped = _drop_shared_images(chosen, images)
        partial = importing.compare_counts("lesions", Counter(labels.values()), PUBLISHED_COUNTS)
        return store.Content(
            samples=tuple(_samples(kept)),
            images=images,
            files_found={"lesions": len(lesions), "images": 2 * len(lesions)},
            left_out=(
                *(*partial, *unlabelled, *_other_classes(lesions, classes)),
                *(line for name, each in images.items() for line in summary(f"{name} images", each.notes)),
                *duplicates,
            ),
            caveats=partial,
            notes={**{name: each.notes for name, each in images.items()}, "lesions": dropped},
        )


def read_labels(path: Path) -> dict[str, str]:
    """Class name per lesion id from the one-hot ground truth.

    Raises:
        UserError: a column that is no class, a class without a column, or a row not one-hot.
    """
    rows = read_table(path, ("lesion_id", *PUBLISHED_COUNTS), "MILK10k")
    for column in rows[0]:
        if column != "lesion_id" and column not in PUBLISHED_COUNTS:
            raise UserError(f"{path.name}: unknown class column {column!r}; this is not MILK10k's table")
    labels = {row["lesion_id"]: _hot_class(row, path.name) for row in rows}
    if len(labels) != len(rows):
        raise UserError(f"{path.name}: {len(rows) - len(labels)} lesions are listed twice; download it again")
    return labels


def read_lesions(path: Path, labels: Mapping[str, str]) -> tuple[list[Lesion], tuple[str, ...]]:
    """Lesions in order of their ids, and a line about metadata that has no label.

    Raises:
        UserError: an unknown image type, or a lesion without exactly one image of each type.
    """
    rows: dict[str, dict[str, dict[str, str]]] = {}
    unlabelled: set[str] = set()
    images: set[str] = set()
    for row in read_table(path, METADATA_COLUMNS, "MILK10k"):
        lesion, image_type, image = row["lesion_id"], row["image_type"], row["isic_id"]
        if image in images:
            raise UserError(f"{path.name}: the image {image} is listed twice; download the table again")
        images.add(image)
        if image_type not in IMAGE_TYPES:
            raise UserError(f"{path.name}: unknown image_type {image_type!r} of {image}")
        if lesion not in labels:
            unlabelled.add(lesion)
        elif IMAGE_TYPES[image_type] in rows.setdefault(lesion, {}):
            raise UserError(f"{path.name}: lesion {lesion} has two images of type {image_type!r}")
        else:
            rows[lesion][IMAGE_TYPES[image_type]] = row
    note = (f"{len(unlabelled)} lesions without a label in the ground truth",) if unlabelled else ()
    lesions = [_lesion(name, labels[name], rows.get(name, {}), path.name) for name in sorted(labels)]
    return lesions, note


def _lesion(lesion: str, label: str, images: Mapping[str, Mapping[str, str]], table: str) -> Lesion:
    for modality in IMAGE_TYPES.values():
        if modality not in images:
            raise UserError(f"{table}: lesion {lesion} has no {modality} image; download the table again")
    row = images["clinical"]
    try:
        band = age_band(row["age_approx"])
    except ValueError as error:
        raise UserError(f"{table}: age {row['age_approx']!r} of lesion {lesion} is not a number") from error
    return Lesion(
        id=lesion,
        label=label,
        files={modality: f"{images[modality]['isic_id']}.jpg" for modality in IMAGE_TYPES.values()},
        subgroups={
            "sex": stated(row["sex"]),
            "age_band": band,
            "skin_tone": stated(row["skin_tone_class"]),
            "site": stated(row["site"]),
        },
    )


def _hot_class(row: Mapping[str, str], table: str) -> str:
    try:
        values = {name: float(row[name]) for name in PUBLISHED_COUNTS}
    except (TypeError, ValueError) as error:
        raise UserError(f"{table}: the label of lesion {row['lesion_id']} is not made of numbers") from error
    hot = [name for name, value in values.items() if value == 1.0]
    total = sum(values.values())
    if len(hot) != 1 or total != 1.0:
        raise UserError(f"{table}: the label of lesion {row['lesion_id']} is not one-hot (sums to {total:g})")
    return hot[0]


def _read_images(folder: Path, lesions: Sequence[Lesion], size: int) -> dict[str, reading.ImageSet]:
    paths = {
        modality: {lesion.files[modality]: folder / lesion.id / lesion.files[modality] for lesion in lesions}
        for modality in IMAGE_TYPES.values()
    }
    importing.require_files([path for files in paths.values() for path in files.values()], "images")
    return {
        modality: reading.read_images(files, 3, size, f"{modality} images")
        for modality, files in paths.items()
    }


def _drop_shared_images(
    lesions: Mapping[str, Lesion], images: Mapping[str, reading.ImageSet]
) -> tuple[list[Lesion], list[str], tuple[Note, ...]]:
    """One lesion for every image (the lowest id where several share one); the rest in lines and by id."""
    kept, notes = list(lesions), []
    dropped: list[Note] = []
    for modality, image_set in images.items():
        distinct = splits.drop_duplicates(
            kept,
            {lesion: image_set.digests[lesions[lesion].files[modality]] for lesion in kept},
            {lesion: lesions[lesion].label for lesion in kept},
        )
        kept = sorted(distinct.kept)
        dropped += splits.drop_notes(distinct)
        if distinct.copies:
            notes.append(
                f"{len(distinct.copies)} lesions whose {modality} image another lesion has too, exactly: "
                + few(distinct.copies)
            )
        if distinct.conflicting:
            notes.append(
                f"{len(distinct.conflicting)} lesions that share a {modality} image under different labels: "
                + few(distinct.conflicting)
            )
    return [lesions[lesion] for lesion in kept], notes, tuple(dropped)


def _samples(lesions: Sequence[Lesion]) -> Iterator[Sample]:
    split_of = splits.assign_splits(
        {lesion.id: lesion.label for lesion in lesions},
        splits.Fractions(val=0.1, test=0.2),
        seed=splits.SEED,
        purpose="milk10k",
    )
    for lesion in lesions:
        yield Sample(
            split=split_of[lesion.id],
            id=lesion.id,
            group=lesion.id,
            files=lesion.files,
            labels={"diagnosis": lesion.label},
            subgroups=lesion.subgroups,
        )


def _other_classes(lesions: Sequence[Lesion], classes: Sequence[str]) -> tuple[str, ...]:
    others = Counter(lesion.label for lesion in lesions if lesion.label not in classes)
    if not others:
        return ()
    listed = ", ".join(f"{name} {count}" for name, count in sorted(others.items()))
    return (f"{sum(others.values())} lesions of classes not chosen ({listed})",)
