"""Small downloads in the layouts of publishers, and how many samples of each class they hold."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Counts = Counter[str]
SEEDS = itertools.count()


def picture(path: Path, grey: bool = False) -> Path:
    """Noise that no other picture has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (30, 34) if grey else (30, 34, 3)
    Image.fromarray(np.random.default_rng(next(SEEDS)).integers(0, 256, shape, np.uint8)).save(path)
    return path


def table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def ham10000(root: Path) -> Counts:
    """Ten lesions a class, the first of each with three photographs; both parts; an unknown age and sex."""
    rows: list[dict[str, str]] = []
    for kind, lesion in itertools.product(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), range(10)):
        for _ in range(3 if lesion == 0 else 1):
            image = f"ISIC_{24306 + len(rows):07d}"
            picture(root / f"HAM10000_images_part_{len(rows) % 2 + 1}" / f"{image}.jpg")
            rows.append(
                {
                    "lesion_id": f"HAM_{kind}{lesion:04d}",
                    "image_id": image,
                    "dx": kind,
                    "dx_type": "histo",
                    "age": "" if len(rows) == 5 else "80.0",
                    "sex": "unknown" if len(rows) == 5 else "male",
                    "localization": "scalp",
                }
            )
    table(root / "HAM10000_metadata.csv", rows)
    return Counter(row["dx"].upper() for row in rows)


def sipakmed(root: Path) -> Counts:
    """Ten clusters a class with two cells each, in folders of one name, beside the whole clusters."""
    counts: Counts = Counter()
    for kind in ("Dyskeratotic", "Koilocytotic", "Metaplastic", "Parabasal", "Superficial-Intermediate"):
        folder = root / f"im_{kind}" / f"im_{kind}"
        for cluster in range(1, 11):
            picture(folder / f"{cluster:03d}.bmp")
            (folder / f"{cluster:03d}_cyt01.dat").write_text("1,2\n")
            for cell in (1, 2):
                picture(folder / "CROPPED" / f"{cluster:03d}_{cell:02d}.bmp")
                (folder / "CROPPED" / f"{cluster:03d}_{cell:02d}_cyt.dat").write_text("1,2\n")
                counts[kind.lower()] += 1
    return counts


def sars_cov_2_ct(root: Path) -> Counts:
    """Twenty slices a class; two of COVID are one picture."""
    for number in range(1, 21):
        picture(root / "COVID" / f"Covid ({number}).png")
        picture(root / "non-COVID" / f"Non-Covid ({number}).png")
    (root / "COVID" / "Covid (20).png").write_bytes((root / "COVID" / "Covid (3).png").read_bytes())
    return Counter({"covid": 19, "other": 20})


def kaggle_xrays(root: Path) -> Counts:
    """Persons with two X-rays each, a validation split of four, and the copies that Kaggle's archive has."""
    base = root / "chest_xray"
    for number in range(1, 21):
        for which in (1, 2):
            name = f"person{number}_bacteria_{2 * number + which}.jpeg"
            picture(base / "train" / "PNEUMONIA" / name, grey=True)
            picture(base / "train" / "NORMAL" / f"NORMAL2-IM-{number:04d}-000{which}.jpeg", grey=True)
        picture(base / "test" / "PNEUMONIA" / f"person{number}_virus_{number}.jpeg", grey=True)
        picture(base / "test" / "NORMAL" / f"IM-{number:04d}-0001.jpeg", grey=True)
    for number in (21, 22):
        picture(base / "val" / "PNEUMONIA" / f"person{number}_bacteria_1.jpeg", grey=True)
        picture(base / "val" / "NORMAL" / f"NORMAL2-IM-{number:04d}-0001.jpeg", grey=True)
    for copy in (base / "chest_xray", base / "__MACOSX"):
        for path in list((base / "test").rglob("*.jpeg")):
            there = copy / path.relative_to(base)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
    return Counter({"normal": 62, "pneumonia": 62})


def mendeley_xrays(root: Path) -> Counts:
    """Files called after class and patient, with no validation split."""
    base = root / "ChestXRay2017" / "chest_xray"
    for number in range(20):
        for which in (1, 2):
            picture(base / "train" / "PNEUMONIA" / f"BACTERIA-{number:06d}-000{which}.jpeg", grey=True)
            picture(base / "train" / "NORMAL" / f"NORMAL-{number + 50:06d}-000{which}.jpeg", grey=True)
        picture(base / "test" / "PNEUMONIA" / f"VIRUS-{number + 90:06d}-0001.jpeg", grey=True)
        picture(base / "test" / "NORMAL" / f"NORMAL-{number + 190:06d}-0001.jpeg", grey=True)
    return Counter({"normal": 60, "pneumonia": 60})


def busi(root: Path) -> Counts:
    """Ten images a class, each with its mask, one with two."""
    for kind, number in itertools.product(("benign", "malignant", "normal"), range(1, 11)):
        folder = root / "Dataset_BUSI_with_GT" / kind
        picture(folder / f"{kind} ({number}).png")
        Image.new("1", (34, 30)).save(folder / f"{kind} ({number})_mask.png")
    Image.new("1", (34, 30)).save(root / "Dataset_BUSI_with_GT" / "benign" / "benign (4)_mask_1.png")
    return Counter({"benign": 10, "malignant": 10, "normal": 10})


def nct_crc(root: Path) -> Counts:
    """Ten training and two test patches a class, and the other release of the former."""
    kinds = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
    for kind in kinds:
        for number in range(10):
            picture(root / "NCT-CRC-HE-100K" / kind / f"{kind}-AAAF{number:04d}.tif")
        for number in range(2):
            picture(root / "CRC-VAL-HE-7K" / kind / f"{kind}-TCGA-AA{number:04d}.tif")
    picture(root / "NCT-CRC-HE-100K-NONORM" / "ADI" / "ADI-AAAF0000.tif")
    return Counter(dict.fromkeys(kinds, 12))


def c_nmc(root: Path) -> Counts:
    """Two subjects of each class a fold, and the two test sets, of which the final one has no labels."""
    counts: Counts = Counter()
    for fold, (kind, name) in itertools.product(range(3), (("all", "leukaemic"), ("hem", "normal"))):
        for subject, cell in itertools.product((1, 2), (1, 2, 3)):
            who = f"{'H' if kind == 'hem' else ''}{10 * fold + subject}"
            folder = root / "C-NMC_training_data" / f"fold_{fold}" / kind
            picture(folder / f"UID_{who}_{cell}_1_{kind}.bmp")
            counts[name] += 1
    rows = []
    for number in range(1, 9):
        kind = "all" if number % 2 else "hem"
        who = f"UID_{'H' if kind == 'hem' else ''}{50 + number // 4}_{number}_1_{kind}.bmp"
        rows.append({"Patient_ID": who, "new_names": f"{number}.bmp", "labels": str(int(kind == "all"))})
        picture(root / "C-NMC_test_prelim_phase_data" / "C-NMC_test_prelim_phase_data" / f"{number}.bmp")
        picture(root / "C-NMC_test_final_phase_data" / f"{number}.bmp")
        counts["leukaemic" if kind == "all" else "normal"] += 1
    table(root / "C-NMC_test_prelim_phase_data" / "C-NMC_test_prelim_phase_data_labels.csv", rows)
    return counts


PAD_ANSWERS = (
    *("smoke", "drink", "pesticide", "skin_cancer_history", "cancer_history", "has_piped_water"),
    *("has_sewage_system", "itch", "grew", "hurt", "changed", "bleed", "elevation", "biopsed"),
)


def pad_ufes_20(root: Path) -> Counts:
    """Ten patients a class, the first of each with two photographs; a quarter of the answers are missing."""
    rows: list[dict[str, str]] = []
    for kind, patient in itertools.product(("ACK", "BCC", "MEL", "NEV", "SCC", "SEK"), range(10)):
        for _ in range(2 if patient == 0 else 1):
            name, empty = f"PAT_{kind}{patient}_{len(rows)}_1.png", len(rows) % 4 == 0
            picture(root / "images" / f"imgs_part_{len(rows) % 3 + 1}" / name)
            rows.append(
                {
                    "patient_id": f"PAT_{kind}{patient}",
                    "lesion_id": str(len(rows)),
                    "background_father": "" if empty else "GERMANY",
                    "background_mother": "" if empty else "BRAZIL",
                    "age": str(30 + len(rows)),
                    "gender": "" if empty else ("FEMALE", "MALE")[len(rows) % 2],
                    "fitspatrick": "" if empty else "3.0",
                    "region": ("FACE", "NOSE", "ARM")[len(rows) % 3],
                    "diameter_1": "" if empty else str(5.0 + len(rows)),
                    "diameter_2": "" if empty else str(4.0 + len(rows)),
                    "diagnostic": kind,
                    "img_id": name,
                    **{
                        each: "" if empty else ("True", "False", "UNK")[len(rows) % 3] for each in PAD_ANSWERS
                    },
                }
            )
    table(root / "metadata.csv", rows)
    return Counter(row["diagnostic"] for row in rows)


DERM7PT = {
    "diagnosis": (
        *("basal cell carcinoma", "clark nevus", "melanoma (in situ)", "dermatofibroma"),
        *("seborrheic keratosis", "reed or spitz nevus"),
    ),
    "pigment_network": ("absent", "typical", "atypical"),
    "streaks": ("absent", "regular", "irregular"),
    "pigmentation": ("absent", "diffuse regular", "localized irregular"),
    "regression_structures": ("absent", "blue areas", "white areas", "combinations"),
    "dots_and_globules": ("absent", "regular", "irregular"),
    "blue_whitish_veil": ("absent", "present"),
    "vascular_structures": ("absent", "arborizing", "linear irregular", "dotted", "wreath"),
    "level_of_diagnostic_difficulty": ("low", "medium", "high"),
    "elevation": ("flat", "palpable"),
    "location": ("back", "lower limbs"),
    "sex": ("female", "male"),
    "management": ("excision", "no further examination"),
}
"""What the columns of its table say, in turn."""


def derm7pt(root: Path) -> Counts:
    """Twenty cases with two photographs each, in a folder of images, and the lists of three splits."""
    base = root / "release_v0"
    rows: list[dict[str, str]] = []
    for number in range(20):
        names = {each: f"NEL/{each[0]}{number:03d}.jpg" for each in ("clinic", "derm")}
        for name in names.values():
            picture(base / "images" / name)
        said = {column: texts[number % len(texts)] for column, texts in DERM7PT.items()}
        rows.append({"case_num": str(number + 1), **said, **names})
    table(base / "meta" / "meta.csv", rows)
    for name, picked in (("train", range(10)), ("valid", range(10, 14)), ("test", range(14, 20))):
        table(base / "meta" / f"{name}_indexes.csv", [{"indexes": str(row)} for row in picked])
    return Counter({"BCC": 4, "NEV": 7, "MEL": 3, "MISC": 3, "SK": 3})


BUILDERS: Mapping[str, Callable[[Path], Counts]] = {
    "busi": busi,
    "c-nmc": c_nmc,
    "chest-xray-pneumonia": kaggle_xrays,
    "derm7pt": derm7pt,
    "ham10000": ham10000,
    "nct-crc": nct_crc,
    "pad-ufes-20": pad_ufes_20,
    "sars-cov-2-ct": sars_cov_2_ct,
    "sipakmed": sipakmed,
}
