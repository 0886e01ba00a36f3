"""Cases of what lies around a command: broken plug-ins, environment, rights, a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.reliability.case import Case, Conditions, Expect, Spoil, nothing
from benchmarks.reliability.sound import CARD, CERTIFY, FLAGS, NETS, RUN, WEIGHTS, plug_in, run_on

MODULE = "benchmarks.reliability.plugins"

# Classes of ``plugins``, by what must come of them.
MODELS: dict[str, Expect] = {
    **dict.fromkeys(("ThreeLogits", "NanScores", "NoHead", "MoreHeads", "Nothing", "ATensor"), "refused"),
    **dict.fromkeys(("FewerRows", "Integers", "OddSignature", "NotAClass", "Pair"), "refused"),
    **dict.fromkeys(("OneLogit", "HalfPrecision", "NoGradient", "NoWeights", "SomeNan"), "either"),
    "Raises": "bug",
}
SOURCES: dict[str, Expect] = {
    **dict.fromkeys(
        ("NoneAtAll", "Empty", "NanImages", "BeyondRange", "Objects", "OtherShape", "FewImages"), "refused"
    ),
    **dict.fromkeys(
        ("HighLabels", "FloatLabels", "ShortLabels", "TwiceIds", "FewGroups", "NoHeads"), "refused"
    ),
    **dict.fromkeys(("NotAClass", "Linear", "UnknownLabels"), "refused"),
    **dict.fromkeys(("TypeHead", "TypeModality", "DotModality", "Doubles", "Signed", "NumberIds"), "either"),
    **dict.fromkeys(("SlashName", "EscapeTitle"), "either"),
    "SourceRaises": "bug",
}
ATTACKS: dict[str, Expect] = {
    **dict.fromkeys(
        ("AttackNothing", "AttackEmpty", "AttackNan", "AttackFar", "AttackShape", "AttackRows"), "refused"
    ),
    **dict.fromkeys(("NoDataclass", "NotAClass", "Pair"), "refused"),
    **dict.fromkeys(("AttackArrays", "AttackDoubles"), "either"),
    "AttackRaises": "bug",
}
DEFENSES: dict[str, Expect] = {
    **dict.fromkeys(("DefenseNoDataclass", "NotAClass", "Pair", "DefenseNan"), "refused"),
    **dict.fromkeys(("DefenseRaises", "DefenseShape", "DefenseNothing"), "bug"),
}
# Modules that cannot be imported, and entry points that name nothing.
TEXTS: dict[str, str | bytes] = {
    "needs-package": "import no_such_package_at_all\n",
    "syntax": "def (:\n",
    "no-attribute": "x = 1\n",
    "import-error": "from math import no_such_thing\n",
    "exits": "import sys\nsys.exit(3)\n",
    "raises": "raise RuntimeError('at import')\n",
    "latin": b"# caf\xe9\nthing = 1\n",
    "nul": "x = '\0'\n",
}


def all_cases() -> Iterator[Case]:
    """Every case of the surroundings."""
    yield from _classes()
    yield from _modules()
    yield from _environment()
    yield from _rights()
    yield from _disk()


def installed(entries: dict[str, dict[str, str]], module: str | bytes | None = None) -> Spoil:
    """A package with these entry points, and with a module ``odd_plugin`` of its own."""

    def act(folder: Path, rng: Random) -> None:
        del rng
        plug_in(folder / "plugged", entries, "odd-plugin")
        if module is not None:
            content = module.encode() if isinstance(module, str) else module
            (folder / "plugged/odd_plugin.py").write_bytes(content)

    return act


PLUGGED = Conditions(plugins="plugged")


def _classes() -> Iterator[Case]:
    """Plug-ins that break their promise."""
    weights = ("--weights", WEIGHTS)
    for group, classes, flag in (
        ("datasets", SOURCES, "--dataset"),
        ("attacks", ATTACKS, "--attack"),
        ("defenses", DEFENSES, "--defense"),
        ("models", MODELS, "--model"),
    ):
        for name, expect in classes.items():
            spoil = installed({group: {"odd": f"{MODULE}:{name}"}})
            commands: list[tuple[str, ...]] = [(*RUN, f"{flag}=odd", *(weights if group != "models" else ()))]
            if group == "models":
                spoil, commands = (
                    _with_linear(spoil),
                    [(*RUN, f"{flag}=odd", "--weights", "linear.safetensors")],
                )
            if group != "attacks":
                given = ("--weights", "linear.safetensors") if group == "models" else weights
                commands.append(("certify", *CERTIFY, "--out", "out", f"{flag}=odd", *given))
            if group == "datasets":
                commands.append(("train", "odd.yaml", "--out", "out"))
            for arguments in commands:
                names = ("odd", group.rstrip("s"), name)
                case = f"plugin/{group}/{arguments[0]}/{name}"
                yield (
                    Case(case, arguments, (*NETS, "odd.yaml"), spoil, expect, (), conditions=PLUGGED)
                    if expect == "bug"
                    else Case(
                        case,
                        arguments,
                        (*NETS, "odd.yaml"),
                        spoil,
                        expect,
                        (*names, "pair", "scores"),
                        conditions=PLUGGED,
                    )
                )


def _with_linear(spoil: Spoil) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        spoil(folder, rng)
        import torch
        from safetensors.torch import save_file

        state: dict[str, Any] = {}
        for i in range(2):
            torch.manual_seed(i)
            state |= {f"layers.h{i}.weight": torch.randn(2, 128), f"layers.h{i}.bias": torch.zeros(2)}
        save_file(state, folder / "linear.safetensors")

    return act


def _modules() -> Iterator[Case]:
    """Plug-ins that cannot be imported; what does not ask for them is not to notice."""
    flags = {"datasets": "--dataset", "attacks": "--attack", "defenses": "--defense", "models": "--model"}
    for name, text in TEXTS.items():
        for group, flag in flags.items():
            spoil = installed({group: {"odd": "odd_plugin:Thing"}}, text)
            yield Case(
                f"plugin/{group}/run/{name}",
                (*RUN, f"{flag}=odd"),
                NETS,
                spoil,
                "bug" if name == "raises" else "refused",
                ("odd",),
                conditions=PLUGGED,
            )
            yield Case(
                f"plugin/{group}/list/{name}", ("list", group), (), spoil, "accepted", conditions=PLUGGED
            )
        yield Case(f"plugin/other/run/{name}", RUN, NETS, spoil, "accepted", conditions=PLUGGED)
    entries = {
        "no-module": "no_such_module:Thing",
        "no-object": f"{MODULE}:NoSuchThing",
        "no-colon": MODULE,
        "odd-path": "a b:c",
        "nothing": "",
        "taken": f"{MODULE}:Pair",
    }
    for name, value in entries.items():
        key = "pgd" if name == "taken" else "odd"
        spoil = installed({"attacks": {key: value}})
        yield Case(
            f"plugin/entry/run/{name}",
            (*RUN, f"--attack={key}"),
            NETS,
            spoil,
            "refused",
            (key,),
            conditions=PLUGGED,
        )
        expect: Expect = "either" if name == "taken" else "accepted"
        yield Case(f"plugin/entry/list/{name}", ("list", "attacks"), (), spoil, expect, conditions=PLUGGED)


def _environment() -> Iterator[Case]:
    narrow = "own.yaml"
    wide = ("run", "--model", narrow, "--weights", WEIGHTS, *FLAGS[2:])

    def unicode_model(folder: Path, rng: Random) -> None:
        del rng
        text = "name: own-net\ntitle: Köŋig → [bold]\narchitecture: concat\noptions: {width: 0.03125}\n"
        (folder / narrow).write_text(text, "utf-8")

    posix = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    commands: tuple[tuple[str, ...], ...] = (
        wide,
        ("audit", *wide[1:], "--audit", "audit.yaml"),
        ("list", "models"),
        ("board", "board.csv"),
        ("suite", "suite.yaml", "--out", "out"),
        ("train", "recipe.yaml", "--out", "out"),
        ("certify", *wide[1:5], *CERTIFY[2:], "--out", "out"),
        ("data", "import", "milk10k", "--from", "milk", "--option", "size=28"),
    )
    for name, conditions in {
        "ascii": Conditions(encoding="ascii"),
        "cp1252": Conditions(encoding="cp1252"),
        "latin-1": Conditions(encoding="latin-1"),
        "posix": Conditions(env=posix, own_process=True),
        "plain": Conditions(own_process=True),
        "optimized": Conditions(env={"PYTHONOPTIMIZE": "2"}, own_process=True),
        "warnings": Conditions(env={"PYTHONWARNINGS": "default"}, own_process=True),
    }.items():
        for arguments in commands:
            more = ("milk",) if arguments[0] == "data" else ()
            needs = (*NETS, "audit.yaml", "board.csv", "suite.yaml", "protocol.yaml", "recipe.yaml", *more)
            yield Case(
                f"environment/{name}/{arguments[0]}",
                arguments,
                needs,
                unicode_model,
                "accepted",
                conditions=conditions,
            )
    yield from _homes()


def _homes() -> Iterator[Case]:
    gone: dict[str, str | None] = {"HOME": None, "ROBMED_HOME": None}
    stored = run_on("milk10k")
    settings: dict[str, dict[str, str | None]] = {
        "no-home": gone,
        "empty-home": {"HOME": "", "ROBMED_HOME": ""},
        "odd-home": {"ROBMED_HOME": "{folder}/protocol.yaml"},
        "unknown-user": {"ROBMED_HOME": "~nobody-at-all/x"},
        "nul-less": {"ROBMED_HOME": "\x1b[31m"},
        "proc": {"ROBMED_HOME": "/proc/nowhere"},
    }
    for name, env in settings.items():
        conditions = Conditions(env=env, nameless=name in ("no-home", "empty-home"))
        yield Case(
            f"environment/{name}/run", RUN, (*NETS, "protocol.yaml"), expect="accepted", conditions=conditions
        )
        yield Case(
            f"environment/{name}/list",
            ("list", "datasets"),
            ("protocol.yaml",),
            expect="accepted",
            conditions=conditions,
        )
        yield Case(
            f"environment/{name}/stored",
            stored,
            ("weights/milk10k", "protocol.yaml"),
            expect="refused",
            names=("milk10k", "ROBMED_HOME"),
            conditions=conditions,
        )
        slices = ("data", "import", "mri-ct", "--from", "slices", "--option", "size=28")
        yield Case(f"environment/{name}/import", slices, ("slices", "protocol.yaml"), conditions=conditions)


def _mode(paths: tuple[str, ...], mode: int) -> Spoil:
    def act(folder: Path, rng: Random) -> None:
        del rng
        for path in paths:
            (folder / path).chmod(mode)

    return act


# By path: the command that needs it, the sound files for that, and the rights that are left on the path.
LOCKED: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "protocol.yaml": (("run", "protocol.yaml"), ("protocol.yaml",), 0),
    "audit.yaml": (("audit", *RUN[1:], "--audit", "audit.yaml"), ("audit.yaml",), 0),
    "recipe.yaml": (("train", "recipe.yaml", "--out", "out"), ("recipe.yaml",), 0),
    "suite.yaml": (("suite", "suite.yaml", "--out", "out"), ("suite.yaml", "protocol.yaml"), 0),
    "board.csv": (("board", "board.csv"), ("board.csv",), 0),
    "old": (("compare", "old", "new"), ("old", "new"), 0),
    "old/record.json": (("compare", "old", "new"), ("old", "new"), 0),
    WEIGHTS: ((*RUN, "--weights", WEIGHTS), NETS, 0),
    CARD: ((*RUN, "--weights", WEIGHTS), NETS, 0),
    "home/datasets/milk10k": (
        run_on("milk10k"),
        ("home/datasets/milk10k", "weights/milk10k"),
        0,
    ),
    "home/datasets/milk10k/manifest.csv": (
        run_on("milk10k"),
        ("home/datasets/milk10k", "weights/milk10k"),
        0,
    ),
    "milk": (("data", "import", "milk10k", "--from", "milk"), ("milk",), 0),
    "milk/MILK10k_Training_Input": (("data", "import", "milk10k", "--from", "milk"), ("milk",), 0),
    "milk/MILK10k_Training_Metadata.csv": (("data", "import", "milk10k", "--from", "milk"), ("milk",), 0),
    "slices/brain_tumor_mri/Training": (("data", "import", "mri-ct", "--from", "slices"), ("slices",), 0),
    "runs": ((*RUN[:-2], "--out", "runs"), (*NETS, "runs"), 0o555),
    "runs/leaderboard.csv": (("board", "runs/leaderboard.csv"), ("runs",), 0),
    "home": (
        ("data", "import", "milk10k", "--from", "milk", "--option", "size=28"),
        ("milk", "home/datasets/milk10k"),
        0o555,
    ),
    "home/datasets": (
        ("data", "import", "milk10k", "--from", "milk", "--option", "size=28"),
        ("milk", "home/datasets/milk10k"),
        0o555,
    ),
    "weights/pair": (
        ("train", "recipe.yaml", "--out", "weights/pair", "--replace"),
        ("recipe.yaml", *NETS),
        0o555,
    ),
}


def _rights() -> Iterator[Case]:
    """Files that cannot be read, folders that cannot be written, for somebody who is not root."""
    modest = Conditions(without_rights=True)
    for name, (arguments, needs, mode) in LOCKED.items():
        more = tuple(need for need in NETS if need not in needs)
        expect: Expect = "accepted" if name == "home" else "refused"  # the folder below takes files still
        yield Case(
            f"rights/{arguments[0]}/{name.replace('/', '|')}",
            arguments,
            (*needs, *more),
            _mode((name,), mode),
            expect,
            (Path(name).name, name),
            ("home/*",),
            conditions=modest,
        )
    yield Case("rights/run/here", RUN, NETS, _mode((".",), 0o555), "refused", ("out",), conditions=modest)
    yield Case(
        "rights/run/new-folder",
        (*RUN[:-2], "--out", "/proc/nowhere/out"),
        NETS,
        nothing,
        "refused",
        ("/proc/nowhere",),
        conditions=modest,
    )


def _disk() -> Iterator[Case]:
    """No file can grow beyond so many bytes."""
    needs = (*NETS, "protocol.yaml", "audit.yaml", "suite.yaml", "recipe.yaml", "board.csv")
    commands: dict[str, tuple[str, ...]] = {
        "run": RUN,
        "worst": (*RUN, "--attack=fgsm,pgd", "--option", "loss=margin"),
        "audit": ("audit", *RUN[1:], "--audit", "audit.yaml"),
        "curve": ("curve", *RUN[1:], "--radii", "1/255,2/255"),
        "modalities": ("modalities", *RUN[1:]),
        "certify": ("certify", *CERTIFY, "--out", "out"),
        "train": ("train", "recipe.yaml", "--out", "out"),
        "suite": ("suite", "suite.yaml", "--out", "out"),
        "import": ("data", "import", "milk10k", "--from", "milk", "--option", "size=28"),
    }
    for name, arguments in commands.items():
        for most in (0, 100, 1000, 3000, 10_000, 40_000, 100_000):
            more = ("milk",) if name == "import" else ()
            # Parts of a run, and a checkpoint: from them the same command goes on when there is room again.
            yield Case(
                f"disk/{name}/{most}",
                arguments,
                (*needs, *more),
                conditions=Conditions(most_bytes=most),
                names=("write", "disk", "large", "out"),
                keeps=True,
            )
