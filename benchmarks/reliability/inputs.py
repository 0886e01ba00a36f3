"""Cases of spoilt files that are no configs, in the commands that read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability import kinds, mutations
from benchmarks.reliability.case import Case, Expect, Spoil
from benchmarks.reliability.sound import CARD, CERTIFY, NETS, RUN, WEIGHTS, run_on


def all_cases() -> Iterator[Case]:
    """Every case of a spoilt file."""
    yield from _leaderboards()
    yield from _records()
    yield from _outcomes()
    yield from _weights()
    yield from _stored()
    yield from _downloads()
    yield from _left_by_a_kill()


def _leaderboards() -> Iterator[Case]:
    commands = (("board", "board.csv"), (*RUN, "--leaderboard", "board.csv"))
    for command in commands:
        needs = ("board.csv", WEIGHTS, CARD)
        spoils = [*mutations.file_spoils("board.csv", True), *kinds.csv_spoils("board.csv")]
        for name, expect, spoil in spoils:
            if name.endswith(("missing", "link-nowhere", "bytes/empty", "blank-end")) and command[0] == "run":
                expect = "either"  # a new leaderboard is begun
            if command[0] == "run" and name.startswith(("bytes/utf", "bytes/latin", "bytes/open")):
                expect = "either"  # what is wrong may be behind the header, where nothing is read
            yield Case(
                f"board.csv/{command[0]}/{name}",
                command,
                needs,
                spoil,
                expect,
                ("board.csv",),
                ("board.csv", "out/*"),
            )
    lost = kinds.columns_lost("board.csv", 46)
    odd = {
        "nan": "nan",
        "minus": "-1",
        "two": "2",
        "word": "zebra",
        "none": "",
        "comma": "0,5",
        "escape": "\x1b[31m",
    }
    odd_cells = kinds.cells("board.csv", iter(range(0, 46, 3)), odd)
    for name, spoil in (*lost, *odd_cells):
        yield Case(
            f"board.csv/board/{name}", commands[0], ("board.csv",), _within(spoil), "either", ("board.csv",)
        )


def _within(spoil: Spoil) -> Spoil:
    """The table may have fewer columns than are gone through."""

    def act(folder: Path, rng: Any) -> None:
        try:
            spoil(folder, rng)
        except IndexError:
            return

    return act


def _records() -> Iterator[Case]:
    file = "old/record.json"
    commands = (("compare", "old", "new"), ("compare", "new", "old/record.json", "--gate"))
    needs = ("old", "new")
    spoils = [*mutations.file_spoils(file, True), *kinds.json_spoils(file)]
    swaps = ("board.csv", CARD, WEIGHTS)
    spoils += [(f"swapped/{other}", "refused", mutations.swapped(file, other)) for other in swaps]
    for number, (name, expect, spoil) in enumerate(spoils):
        arguments = commands[number % 2]
        more = ("board.csv", *NETS) if name.startswith("swapped") else ()
        named = () if expect == "accepted" else ("record.json", "old")
        yield Case(f"record.json/compare/{name}", arguments, (*needs, *more), spoil, expect, named)
        pages = ("board", "--html", "out", "old")
        yield Case(f"record.json/pages/{name}", pages, (*needs, *more), spoil, "either", named)
    yield from _record_values(file, commands, needs)


def _record_values(
    file: str, commands: tuple[tuple[str, ...], ...], needs: tuple[str, ...]
) -> Iterator[Case]:
    values = ("gone", "null", "word", "list", "mapping", "huge", "nan", "escape", "minus")
    for number, (path, name) in enumerate((p, v) for p in RECORD_FIELDS for v in values):

        def act(folder: Path, rng: Any, path: str = path, name: str = name) -> None:
            del rng
            document = json.loads((folder / file).read_text())
            steps = tuple(int(step) if step.isdecimal() else step for step in path.split("/"))
            changed = mutations.with_value(document, steps, mutations.VALUES[name])
            (folder / file).write_text(mutations.as_json(changed))

        arguments = commands[number % 2]
        yield Case(
            f"record.json/compare/{path}/{name}",
            arguments,
            needs,
            act,
            "either",
            ("record.json", "old", *path.split("/")),
        )
        pages = ("board", "--html", "out", "old")
        yield Case(f"record.json/pages/{path}/{name}", pages, needs, act, "either", ("record.json", "old"))


# What commands read of a record.
RECORD_FIELDS = (
    *("run", "schema", "config", "config/eps", "model", "model/label", "model/draws_shared_by", "dataset"),
    *(
        "dataset/name",
        "dataset/fingerprint",
        "threat_model",
        "threat_model/budgets",
        "threat_model/budgets/a",
    ),
    *(
        "threat_model/budgets/a/epsilon",
        "threat_model/budgets/a/norm",
        "threat_model/joint",
        "threat_model/goal",
    ),
    *("attack", "attack/name", "headline", "accuracy", "accuracy/kind", "accuracy/kind/robust", "audit"),
    *(
        "accuracy/every head right",
        "accuracy/every head right/robust",
        "audit/verdict",
        "audit/findings",
        "outcomes",
    ),
    *(
        "outcomes/ids",
        "outcomes/ids/0",
        "outcomes/groups",
        "outcomes/clean",
        "outcomes/robust",
        "seed",
        "code",
    ),
)


def _outcomes() -> Iterator[Case]:
    """A finished run whose files were damaged, and that another command takes up."""
    commands = (
        ("audit", "protocol.yaml", "--audit", "audit.yaml", "--out", "runs"),
        ("run", "protocol.yaml", "--attack", "fgsm,pgd", "--out", "runs"),
    )
    needs = (*NETS, "protocol.yaml", "audit.yaml", "runs")
    for number, (name, expect, spoil) in enumerate(
        (*mutations.file_spoils(_DONE, False), *kinds.npz_spoils(_DONE))
    ):
        expect = "either" if expect == "accepted" or name.endswith(("missing", "link-nowhere")) else expect
        arguments = commands[number % 2]
        yield Case(
            f"outcomes.npz/{arguments[0]}/{name}",
            arguments,
            needs,
            _of_the_run(spoil),
            expect,
            ("outcomes.npz",),
            keeps=True,  # the attack before the one whose outcomes are damaged has ended well
        )
    record = (*mutations.file_spoils(_RECORD, True), *kinds.json_spoils(_RECORD))
    for number, (name, expect, spoil) in enumerate(record):
        expect = "either" if expect != "accepted" else expect
        arguments = commands[number % 2]
        yield Case(
            f"record.json/{arguments[0]}/{name}",
            arguments,
            needs,
            _of_the_run(spoil),
            expect,
            ("record.json",),
            keeps=True,  # the attack before the one whose record is damaged has ended well
        )


_DONE, _RECORD = "done/outcomes.npz", "done/record.json"


def _of_the_run(spoil: Spoil) -> Spoil:
    """Spoil the folder of the run with seed 0, by a link that is taken away again."""

    def act(folder: Path, rng: Any) -> None:
        runs = [path.parent for path in (folder / "runs").glob("*/outcomes.npz")]
        run = next(path for path in runs if json.loads((path / "record.json").read_text())["seed"] == 0)
        (folder / "done").symlink_to(run)
        spoil(folder, rng)
        (folder / "done").unlink()

    return act


def _weights() -> Iterator[Case]:
    commands = (RUN, ("certify", *CERTIFY, "--weights", WEIGHTS, "--out", "out"))
    for number, (name, expect, spoil) in enumerate(
        (*mutations.file_spoils(WEIGHTS, False), *kinds.tensors_spoils(WEIGHTS))
    ):
        arguments = commands[number % 2]
        for card in (True, False):  # without a card nothing tells by the hash
            needs = (WEIGHTS, CARD) if card else (WEIGHTS,)
            given = arguments if card else (*arguments[:1], *_by_config(arguments), "--weights", WEIGHTS)
            label = "with card" if card else "alone"
            yield Case(
                f"weights/{arguments[0]}/{label}/{name}",
                given,
                (*needs, "narrow.yaml"),
                spoil,
                expect,
                ("weights", "concat"),
            )
    for number, (name, expect, spoil) in enumerate(
        (*mutations.file_spoils(CARD, True), *kinds.json_spoils(CARD))
    ):
        expect = "either" if name.endswith(("missing", "link-nowhere", "link-loop")) else expect
        arguments = (*RUN, "--weights", WEIGHTS) if number % 2 else RUN
        yield Case(
            f"card.json/run/{name}", arguments, (WEIGHTS, CARD), spoil, expect, ("card", "weights", ".json")
        )
    yield from _card_values()


def _by_config(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("narrow.yaml" if word == "concat" else word for word in arguments[1:])


CARD_FIELDS = (
    *("model", "model/name", "model/architecture", "model/options", "model/options/width", "model/defenses"),
    *("dataset", "dataset/name", "dataset/members", "dataset/members/test", "weights", "weights/sha256"),
)


def _card_values() -> Iterator[Case]:
    for path in CARD_FIELDS:
        for name, value in mutations.VALUES.items():

            def act(folder: Path, rng: Any, path: str = path, value: Any = value) -> None:
                del rng
                document = json.loads((folder / CARD).read_text())
                changed = mutations.with_value(document, tuple(path.split("/")), value)
                (folder / CARD).write_text(mutations.as_json(changed))

            yield Case(
                f"card.json/run/{path}/{name}",
                (*RUN, "--weights", WEIGHTS),
                (WEIGHTS, CARD),
                act,
                "either",
                (*path.split("/"), ".json", "weights"),
            )


def _stored() -> Iterator[Case]:
    for dataset, modality in (("milk10k", "clinical"), ("mri-ct", "ct")):
        folder = f"home/datasets/{dataset}"
        run = run_on(dataset)
        needs = (f"weights/{dataset}", folder)
        spoils = [
            *(("dataset.json", *each) for each in mutations.file_spoils(f"{folder}/dataset.json", True)),
            *(("manifest.csv", *each) for each in mutations.file_spoils(f"{folder}/manifest.csv", True)),
            *(("manifest.csv", *each) for each in kinds.csv_spoils(f"{folder}/manifest.csv")),
            *(
                ("images.npy", *each)
                for each in mutations.file_spoils(f"{folder}/images-{modality}.npy", False)
            ),
            *(("images.npy", *each) for each in kinds.npy_spoils(f"{folder}/images-{modality}.npy")),
        ]
        for file, name, expect, spoil in spoils:
            # A manifest is held against its hash: whatever a program made of its bytes may be refused.
            expect = "either" if expect == "accepted" and file != "dataset.json" else expect
            yield Case(f"stored/{dataset}/{file}/{name}", run, needs, spoil, expect, (dataset,))


def _downloads() -> Iterator[Case]:
    milk = ("data", "import", "milk10k", "--from", "milk", "--option", "size=28")
    for table in ("GroundTruth", "Metadata"):
        file = f"milk/MILK10k_Training_{table}.csv"
        for name, expect, spoil in (*mutations.file_spoils(file, True), *kinds.csv_spoils(file)):
            yield Case(
                f"download/milk10k/{table}/{name}",
                milk,
                ("milk",),
                spoil,
                expect,
                ("MILK10k", "lesion", "milk"),
            )
        values = {
            "nan": "nan",
            "word": "zebra",
            "none": "",
            "escape": "\x1b[31m",
            "up": "../../x",
            "half": "0.5",
            "nul": "x\0",
        }
        for name, spoil in (
            *kinds.cells(file, iter(range(12 if table == "GroundTruth" else 7)), values),
            *kinds.columns_lost(file, 7),
        ):
            yield Case(
                f"download/milk10k/{table}/{name}",
                milk,
                ("milk",),
                _within(spoil),
                "either",
                ("MILK10k", "lesion", "milk"),
            )
    slices = ("data", "import", "mri-ct", "--from", "slices", "--option", "size=28")
    images = {
        "milk10k": (milk, "milk", "milk/MILK10k_Training_Input/IL_0000/ISIC_0000.jpg"),
        "mri-ct": (slices, "slices", "slices/brain_tumor_mri/Training/glioma/Tr-gl_1.png"),
    }
    for dataset, (arguments, need, file) in images.items():
        for name, expect, spoil in (*mutations.file_spoils(file, False), *kinds.image_spoils(file)):
            if dataset == "mri-ct" and name.endswith(("missing", "folder", "link-nowhere")):
                expect = "either"  # nothing says that there was one
            yield Case(
                f"download/{dataset}/image/{name}",
                arguments,
                (need,),
                spoil,
                expect,
                (Path(file).name, Path(file).parent.name),
            )
    yield from _folders(slices)


def _folders(slices: tuple[str, ...]) -> Iterator[Case]:
    training = "slices/brain_tumor_mri/Training"
    odd: dict[str, tuple[Expect, str]] = {
        "hidden": ("accepted", f"{training}/glioma/.hidden"),
        "thumbs": ("either", f"{training}/glioma/Thumbs.db"),
        "archive-leftover": ("accepted", f"{training}/__MACOSX/._x.png"),
        "nas-leftover": ("accepted", f"{training}/@eaDir/x.png"),
        "apple-file": ("accepted", f"{training}/glioma/._Tr-gl_1.png"),
        "store": ("accepted", f"{training}/.DS_Store"),
        "unknown-class": ("refused", f"{training}/zebra/x.png"),
        "latin-name": ("either", f"{training}/glioma/gliom\udce9.png"),
        "newline-name": ("either", f"{training}/glioma/x\ny.png"),
        "escape-name": ("either", f"{training}/glioma/\x1b[31m.png"),
        "escape-class": ("refused", f"{training}/\x1b[31mred/x.png"),
        "deeper": ("either", f"{training}/glioma/patient1/x.png"),
        "other-format": ("either", f"{training}/glioma/x.webp"),
        "upper-case": ("either", f"{training}/glioma/X.PNG"),
        "long-name": ("either", f"{training}/glioma/{'x' * 240}.png"),
    }
    for name, (expect, file) in odd.items():

        def act(folder: Path, rng: Any, file: str = file) -> None:
            del rng
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            sound = (folder / training / "glioma/Tr-gl_1.png").read_bytes()
            (folder / file).write_bytes(
                sound if file.lower().endswith(".png") and "/._" not in file else b"x"
            )

        yield Case(
            f"download/mri-ct/folder/{name}", slices, ("slices",), act, expect, (training, "zebra", "glioma")
        )


def _left_by_a_kill() -> Iterator[Case]:
    """What a killed training goes on from, damaged meanwhile."""
    train = ("train", "long.yaml", "--out", "out")
    place = "out/.concat-x0.03125.checkpoint"
    for name, expect, spoil in (*mutations.file_spoils(place, False), *kinds.tensors_spoils(place)):

        def act(folder: Path, rng: Any, spoil: Spoil = spoil) -> None:
            (folder / "out").mkdir()
            (folder / "checkpoint").rename(folder / place)
            spoil(folder, rng)

        wanted: Expect = "either" if name.endswith(("missing", "link-nowhere")) else expect
        wanted = "refused" if name.startswith("tensors") else wanted  # they lack what it says of the recipe
        yield Case(
            f"checkpoint/train/{name}", train, ("checkpoint", "long.yaml"), act, wanted, ("checkpoint",)
        )
