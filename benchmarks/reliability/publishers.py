"""Downloads of public data sets by description, and what may be wrong with one and with its copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability import kinds, mutations
from benchmarks.reliability.case import Case, Expect
from benchmarks.reliability.files import save_image, save_table

NAME = "pad-ufes-20"
"""It has everything: images, a table of them with numbers and categories, gaps, patients."""
IMPORT = ("data", "import", NAME, "--from", "pad", "--option", "size=28")
TABLE = "pad/metadata.csv"
ANSWERS = (
    *("smoke", "drink", "pesticide", "background_father", "background_mother", "has_piped_water"),
    *("has_sewage_system", "skin_cancer_history", "cancer_history", "itch", "grew", "hurt", "changed"),
    *("bleed", "elevation"),
)
CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")


def download(folder: Path, per_class: int = 6) -> None:
    """A folder in PAD-UFES-20's layout."""
    rows: list[dict[str, str]] = []
    for number in range(per_class * len(CLASSES)):
        image = f"PAT_{number}_{number}_1.png"
        save_image(folder / "images" / f"imgs_part_{number % 3 + 1}" / image, 2000 + number, colour=True)
        rows.append(
            {
                "patient_id": f"PAT_{number}",
                "age": str(30 + number),
                "diameter_1": "" if number % 5 == 0 else f"{number}.0",
                "diameter_2": f"{number}.5",
                "gender": ("FEMALE", "MALE", "")[number % 3],
                "fitspatrick": f"{number % 4}.0",
                "region": ("FACE", "ARM")[number % 2],
                "diagnostic": CLASSES[number % len(CLASSES)],
                "img_id": image,
                **dict.fromkeys(ANSWERS, ("True", "False", "UNK")[number % 3]),
            }
        )
    save_table(folder / "metadata.csv", rows)


def all_cases() -> Iterator[Case]:
    """Spoilt tables, images and folders of a download, and spoilt copies."""
    yield from _tables()
    yield from _images()
    yield from _copies()


def _tables() -> Iterator[Case]:
    names = ("metadata.csv", "pad", "PAT_")
    for name, expect, spoil in mutations.file_spoils(TABLE, True):
        expect = "either" if expect == "accepted" else expect
        yield Case(f"published/table/{name}", IMPORT, ("pad",), spoil, expect, names)
    for name, _, spoil in kinds.csv_spoils(TABLE):
        yield Case(f"published/table/{name}", IMPORT, ("pad",), spoil, "either", names)
    values = {
        "nan": "nan",
        "word": "zebra",
        "none": "",
        "escape": "\x1b[31m",
        "up": "../../x",
        "infinite": "inf",
        "huge": "1e400",
        "nul": "x\0",
        "bracket": "[a]*{b}",
    }
    spoils = (*kinds.cells(TABLE, iter(range(24)), values), *kinds.columns_lost(TABLE, 24))
    for name, spoil in spoils:
        yield Case(f"published/table/{name}", IMPORT, ("pad",), spoil, "either", names)


def _images() -> Iterator[Case]:
    file = "pad/images/imgs_part_1/PAT_0_0_1.png"
    for name, expect, spoil in (*mutations.file_spoils(file, False), *kinds.image_spoils(file)):
        names = (Path(file).name, Path(file).stem, "metadata.csv", "pad")
        yield Case(f"published/image/{name}", IMPORT, ("pad",), spoil, expect, names)
    odd = {
        "hidden": "pad/images/.hidden.png",
        "archive-leftover": "pad/__MACOSX/images/imgs_part_1/PAT_0_0_1.png",
        "twice": "pad/copy/images/imgs_part_1/PAT_0_0_1.png",
        "more": "pad/images/imgs_part_1/PAT_77_7_7.png",
        "latin-name": "pad/images/gliom\udce9.png",
        "escape-name": "pad/images/\x1b[31m.png",
        "newline-name": "pad/images/x\ny.png",
        "second-table": "pad/copy/metadata.csv",
    }
    for name, extra in odd.items():

        def act(folder: Path, rng: Any, extra: str = extra) -> None:
            del rng
            (folder / extra).parent.mkdir(parents=True, exist_ok=True)
            (folder / extra).write_bytes((folder / file).read_bytes())

        yield Case(f"published/folder/{name}", IMPORT, ("pad",), act, "accepted", ("pad",))


def _copies() -> Iterator[Case]:
    folder = f"home/datasets/{NAME}"
    check = ("data", "check", NAME)
    table, record = f"{folder}/table-record.npy", f"{folder}/dataset.json"
    for file, spoils in {
        table: (
            *mutations.file_spoils(table, False),
            # Those that are no fault of floats, or are for images, do not count.
            *(each for each in kinds.npy_spoils(table) if not each[0].endswith(("turned", "floats"))),
        ),
        record: mutations.file_spoils(record, True),
    }.items():
        for name, expect, spoil in spoils:
            wanted: Expect = "either" if expect == "accepted" else expect
            yield Case(f"published/copy/{Path(file).name}/{name}", check, (folder,), spoil, wanted, (NAME,))
