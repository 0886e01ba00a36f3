"""MAIL's unpaired protocol: brain MRI and chest CT slices of different people under one index.

Two labelled sets are split on their own, then joined: sample i is the i-th MRI and the i-th CT
slice in orders that depend on file names alone, so the two labels are independent of each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_med.api.data import SPLITS, DatasetInfo, Modality
from robustbench_med.api.heads import SingleLabel
from robustbench_med.data import importing, reading, splits, store
from robustbench_med.data.folders import Collection, find_images, is_junk
from robustbench_med.data.manifest import Sample
from robustbench_med.data.notes import Note, few, summary
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path

MRI_CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
MRI_PARTS = ("Testing", "Training")
MRI_COUNTS: Mapping[str, int] = {
    "Testing/glioma": 300,
    "Testing/meningioma": 306,
    "Testing/notumor": 405,
    "Testing/pituitary": 300,
    "Training/glioma": 1321,
    "Training/meningioma": 1339,
    "Training/notumor": 1591,
    "Training/pituitary": 1457,
}
CT_FOLDER = "The IQ-OTHNCCD lung cancer dataset"
# "Bengin" is how the publisher spells it.
CT_CLASSES: Mapping[str, str] = {
    "Bengin cases": "benign",
    "Malignant cases": "malignant",
    "Normal cases": "normal",
}
CT_COUNTS: Mapping[str, int] = {"Bengin cases": 120, "Malignant cases": 561, "Normal cases": 416}
CT_PATIENTS = 110


@dataclass(frozen=True)
class SplitCollection:
    """A collection without copies, each image assigned to a split.

    Attributes:
        split_of: per kept name "train", "val" or "test".
        notes: what was dropped and why, a line each.
        dropped: the same, file by file.
        duplicates: how many copies were dropped.
    """

    labels: Mapping[str, str]
    split_of: Mapping[str, str]
    notes: tuple[str, ...]
    dropped: tuple[Note, ...]
    duplicates: int

    def of(self, split: str) -> dict[str, str]:
        """Class per name of one split."""
        return {name: self.labels[name] for name, where in self.split_of.items() if where == split}


class MriCt(store.ImportedSource):
    """Brain MRI and chest CT slices joined by index (MAIL protocol); import options size, mri, ct."""

    name = "mri-ct"
    page = "Nickparvar's Brain Tumor MRI Dataset on Kaggle, IQ-OTH/NCCD on Mendeley Data"
    access = "a Kaggle account"

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with defaults filled in; folders are kept only when they were given."""
        importing.refuse_unknown(options, ("size", "mri", "ct"))
        folders = {name: str(options[name]) for name in ("mri", "ct") if name in options}
        return {"size": importing.int_option(options, "size", 48, 28, 224), **folders}

    def describe(self, options: Mapping[str, Any]) -> DatasetInfo:
        """The data set at the chosen size."""
        shape = (1, options["size"], options["size"])
        return DatasetInfo(
            name=self.name,
            title="Brain MRI and chest CT slices of different people, joined by index",
            pairing="unpaired",
            modalities=(
                Modality("mri", shape, "brain MRI slice"),
                Modality("ct", shape, "chest CT slice"),
            ),
            heads=(
                SingleLabel("tumor", classes=MRI_CLASSES, modalities=("mri",)),
                SingleLabel("lung", classes=tuple(CT_CLASSES.values()), modalities=("ct",)),
            ),
            licence="MRI: CC0 on its page, parts from older sets; CT: CC BY 4.0",
            citation=(
                "MRI: M. Nickparvar, Brain Tumor MRI Dataset, Kaggle; "
                "CT: IQ-OTH/NCCD lung cancer dataset, Mendeley Data; "
                "pairing by index as in MAIL, arXiv:2602.15346"
            ),
            caveats=(
                "The two images of a sample show different people; their labels are independent.",
                f"CT: the publisher's {sum(CT_COUNTS.values())} slices come from {CT_PATIENTS} patients "
                "without patient ids, so slices of one patient are in several splits and accuracy is "
                "optimistic.",
                "MRI: no patient ids either. Only exact copies are dropped; near copies remain: in the "
                "published split at 48 px, 42 of 211 MRI and 32 of 211 CT test slices correlate above "
                "0.99 with a training slice.",
            ),
            mirror=("horizontal",),
        )

    def collect(self, source: Path, options: Mapping[str, Any]) -> store.Content:
        """Read ``brain_tumor_mri`` and ``iqothnccd_lung_ct`` below ``source``.

        Raises:
            UserError: a folder is missing or unknown, or an image is broken.
        """
        mri = find_mri(given_path(options.get("mri", source / "brain_tumor_mri")))
        ct = find_ct(given_path(options.get("ct", source / "iqothnccd_lung_ct")))
        images = {
            "mri": reading.read_images(mri.files, 1, options["size"], "MRI slices"),
            "ct": reading.read_images(ct.files, 1, options["size"], "CT slices"),
        }
        mri_split = split_mri(mri, images["mri"].digests)
        ct_split = split_ct(ct, images["ct"].digests)
        samples = tuple(_samples(mri_split, ct_split))
        notes = {
            "MRI": (*mri.notes, *images["mri"].notes, *mri_split.dropped),
            "CT": (*ct.notes, *images["ct"].notes, *ct_split.dropped),
        }
        partial = (
            *importing.compare_counts("MRI slices", Counter(mri.folders.values()), MRI_COUNTS),
            *importing.compare_counts("CT slices", Counter(ct.folders.values()), CT_COUNTS),
        )
        return store.Content(
            samples=samples,
            images=images,
            files_found={"mri": len(mri.files), "ct": len(ct.files)},
            left_out=(
                *partial,
                *summary("MRI files", (*mri.notes, *images["mri"].notes)),
                *summary("CT files", (*ct.notes, *images["ct"].notes)),
                *(*mri_split.notes, *ct_split.notes),
                *_unpaired(samples, {"mri": mri_split, "ct": ct_split}),
            ),
            caveats=(
                *partial,
                f"Exact duplicates dropped before splitting: {mri_split.duplicates} MRI and "
                f"{ct_split.duplicates} CT slices.",
            ),
            notes=notes,
        )


def find_mri(folder: Path) -> Collection:
    """The images under ``Training/<class>`` and ``Testing/<class>``; test copies come first."""
    classes = {f"{part}/{label}": label for part in MRI_PARTS for label in MRI_CLASSES}
    for part in MRI_PARTS:
        _refuse_unknown_folders(folder / part, MRI_CLASSES)
    return find_images(folder, classes)


def find_ct(folder: Path) -> Collection:
    """The images under ``Bengin cases`` and so on, in ``folder`` or in the publisher's inner folder."""
    inner = folder / CT_FOLDER
    root = inner if inner.is_dir() else folder
    _refuse_unknown_folders(root, tuple(CT_CLASSES))
    return find_images(root, CT_CLASSES)


def split_mri(mri: Collection, digests: Mapping[str, str]) -> SplitCollection:
    """The publisher's test images stay the test split; "val" is an eighth of the training images.

    Of several copies a test image is kept, so that no test image was seen in training.
    """
    distinct = splits.drop_duplicates(list(mri.files), digests, mri.labels)
    tests = {name for name in distinct.kept if not _in_training(mri, name)}
    carved = splits.assign_splits(
        {name: mri.labels[name] for name in distinct.kept if name not in tests},
        splits.Fractions(val=0.125, test=0.0),
        seed=splits.SEED,
        purpose="mri",
    )
    tested = {digests[name] for name in tests}
    across = sum(_in_training(mri, name) and digests[name] in tested for name in distinct.copies)
    notes = _duplicate_notes("MRI", distinct)
    if across:
        notes = (*notes, f"of these, {across} training slices that are also in the publisher's test folder")
    split_of = {name: carved.get(name, "test") for name in distinct.kept}
    return SplitCollection(mri.labels, split_of, notes, splits.drop_notes(distinct), len(distinct.copies))


def split_ct(ct: Collection, digests: Mapping[str, str]) -> SplitCollection:
    """70/10/20 by class over single slices, because the publisher gives neither split nor patients."""
    distinct = splits.drop_duplicates(list(ct.files), digests, ct.labels)
    split_of = splits.assign_splits(
        {name: ct.labels[name] for name in distinct.kept},
        splits.Fractions(val=0.1, test=0.2),
        seed=splits.SEED,
        purpose="ct",
    )
    notes, dropped = _duplicate_notes("CT", distinct), splits.drop_notes(distinct)
    return SplitCollection(ct.labels, split_of, notes, dropped, len(distinct.copies))


def pair(mri: Mapping[str, str], ct: Mapping[str, str], split: str) -> list[tuple[str, str]]:
    """Join two sets of one split by index, independently of their classes.

    In "train" the smaller set is recycled until every image of the larger one is used once;
    elsewhere no image is used twice, and the larger set is thinned out, each class in proportion.

    Args:
        mri, ct: class per image name.

    Returns:
        (MRI name, CT name) per sample; empty when one of the sets is empty.
    """
    if not mri or not ct:
        return []
    count = max(len(mri), len(ct)) if split == "train" else min(len(mri), len(ct))
    return list(zip(_order(mri, count, f"mri-{split}"), _order(ct, count, f"ct-{split}"), strict=True))


def _order(labels: Mapping[str, str], count: int, purpose: str) -> list[str]:
    """``count`` names in an order that does not depend on the class."""
    available = min(count, len(labels))
    drawn = splits.draw_stratified(labels, available, seed=splits.SEED, purpose=f"draw-{purpose}")
    return splits.recycle(drawn, count, seed=splits.SEED, purpose=f"pair-{purpose}")


def _samples(mri: SplitCollection, ct: SplitCollection) -> Iterator[Sample]:
    for split in SPLITS:
        tumor, lung = mri.of(split), ct.of(split)
        for number, (mri_name, ct_name) in enumerate(pair(tumor, lung, split), start=1):
            sample_id = f"mri-ct-{split}-{number:04d}"
            yield Sample(
                split=split,
                id=sample_id,
                group=sample_id,
                files={"mri": mri_name, "ct": ct_name},
                labels={"tumor": tumor[mri_name], "lung": lung[ct_name]},
            )


def _unpaired(samples: Sequence[Sample], sets: Mapping[str, SplitCollection]) -> list[str]:
    """A line per split and set about images beyond the number of pairs."""
    used = {modality: {sample.files[modality] for sample in samples} for modality in sets}
    notes = []
    for modality, images in sets.items():
        left = Counter(split for name, split in images.split_of.items() if name not in used[modality])
        notes += [
            f"{left[split]} {modality} images of {split}: the other set has fewer, and none is used twice"
            for split in SPLITS
            if left[split]
        ]
    return notes


def _in_training(mri: Collection, name: str) -> bool:
    return mri.folders[name].startswith("Training/")


def _duplicate_notes(what: str, distinct: splits.Distinct) -> tuple[str, ...]:
    notes = []
    if distinct.copies:
        notes.append(f"{len(distinct.copies)} {what} slices that copy another one pixel for pixel")
    if distinct.conflicting:
        notes.append(
            f"{len(distinct.conflicting)} {what} slices whose copies carry different labels: "
            + few(distinct.conflicting)
        )
    return tuple(notes)


def _refuse_unknown_folders(root: Path, known: Sequence[str]) -> None:
    if not root.is_dir():
        raise UserError(f"the folder {root} is missing; --from must name the folder that holds it")
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not is_junk(entry.name) and entry.name not in known:
            raise UserError(f"{entry} is an unknown class; there are {', '.join(known)}")
