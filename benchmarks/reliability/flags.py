"""Cases of flags: every flag of every command with values that people, scripts and shells hand over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.reliability.case import Case, Expect
from benchmarks.reliability.sound import CERTIFY, RUN, WEIGHTS

NETS = ("weights/pair", "protocol.yaml", "audit.yaml")
# By kind of value: text to what must come of it ("" where either will do).
COUNTS: Mapping[str, str] = {
    **dict.fromkeys(
        ("", " ", "nan", "inf", "zebra", "1.5", "1e400", "0x10", "1,2", "=1+1", "1_0_", "--"), "refused"
    ),
    **dict.fromkeys(("\x1b[31m", "[bold]", "x\ny", "\udce9", "%s", "-99999999999999999999", "½"), "refused"),
    **dict.fromkeys(("-1", "0", "\u0663"), ""),
}
SHARES: Mapping[str, str] = {
    **dict.fromkeys(
        ("", " ", "zebra", "4/0", "4/", "/4", "1/2/3", "nan", "inf", "-1", "=1", "0,5", "a="), "refused"
    ),
    **dict.fromkeys(
        ("=4", "a=b=1", "zebra=1", "a=1,a=2", "a=1,,b=2", "\x1b[31m", "[/eps]", "x\ny", "\udce9", "1e400"),
        "refused",
    ),
    **dict.fromkeys(("0", "1e-320", "1", "255/255", "-0", "1e10"), ""),
}
NAMES: Mapping[str, str] = {
    **dict.fromkeys(
        ("", " ", "zebra", "Zebra.yaml", "../x", "a/b", "x" * 3000, "null", "3", "=1+1", "pgd,", ",", "{}"),
        "refused",
    ),
    **dict.fromkeys(
        ("\x1b[31mred", "[bold]x", "[/]", "x\ny", "caf\udce9", "naïve", "%s{0}", "\u202eabc", "-", "*"),
        "refused",
    ),
}
PATHS: Mapping[str, str] = {
    **dict.fromkeys(("/dev/null", "/proc/x", "protocol.yaml/x", "x" * 300, "\x1b[31m/x"), "refused"),
    **dict.fromkeys(
        (
            "",
            "~nobody-at-all/x",
            "[bold]x",
            "[old] runs",
            "x[/eps]",
            "a b",
            "ünï",
            "=1",
            "..//out",
            "\udce9x",
        ),
        "",
    ),
    **dict.fromkeys(("/", "x" * 150, "con.txt", "%s", "x\ny", "~/x", "protocol.yaml", "-"), ""),
}
PAIRS: Mapping[str, str] = {
    **dict.fromkeys(
        ("", "zebra", "=", "=1", "zebra=1", "steps=zebra", "steps=", "steps=[", "steps=nan", "steps={}"),
        "refused",
    ),
    **dict.fromkeys(
        ("steps=!!python/object:x", "steps=\x1b[31m", "step-size=-1", "keep=[bold]", "caf\udce9=1"), "refused"
    ),
}
IMPORTS = (
    "",
    "zebra",
    "=",
    "zebra=1",
    "size=",
    "size=1",
    "size=nan",
    "size=99999999999",
    "size=-28",
    "size=½",
    "classes=all",
)
# By flag: the kind of its values.
RUN_FLAGS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("steps", "restarts", "eot", "draws", "samples", "batch-size", "seed"), COUNTS),
    **dict.fromkeys(("eps", "step-size"), SHARES),
    **dict.fromkeys(("model", "attack", "defense", "dataset", "norm", "modality", "head", "towards"), NAMES),
    **dict.fromkeys(("loss", "keep", "device", "audit", "weights"), NAMES),
    **dict.fromkeys(("out", "leaderboard"), PATHS),
    "option": PAIRS,
}
CERTIFY_FLAGS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("n", "n0", "samples", "batch-size", "seed"), COUNTS),
    **dict.fromkeys(("sigma", "radii", "alpha"), SHARES),
    **dict.fromkeys(("model", "dataset", "defense", "device", "weights"), NAMES),
    **dict.fromkeys(("out", "leaderboard"), PATHS),
}
# What looks wrong and is not: a value that means something there.
RIGHT = {("dataset", "null"), ("device", "-"), ("radii", "0"), ("radii", "a="), ("audit", "quick")}
MEANT = {
    ("batch-size", "\u0663"),
    ("seed", "-99999999999999999999"),
    ("modality", ","),
    ("step-size", "zebra"),
}


def all_cases() -> Iterator[Case]:
    """Every case of a flag."""
    others = ("audit", "curve", "modalities")
    number = 0
    for flag, values in RUN_FLAGS.items():
        for text, expect in values.items():
            number += 1
            command = "run" if number % 4 else others[number // 4 % 3]
            more = ("--audit", "audit.yaml") if command == "audit" and flag != "audit" else ()
            more = (*more, "--radii", "1/255") if command == "curve" else more
            yield _case((command, *RUN[1:], *more), flag, text, expect)
    for flag, values in CERTIFY_FLAGS.items():
        for text, expect in values.items():
            yield _case(("certify", *CERTIFY, "--out", "out"), flag, text, expect)
    for text, expect in SHARES.items():
        yield _case(("curve", *RUN[1:]), "radii", text, expect)
        yield _case(("compare", "old", "new"), "margin", text, expect)
    yield from _others()
    yield from _shapes()


def _case(arguments: tuple[str, ...], flag: str, text: str, expect: str) -> Case:
    wanted: Expect = "refused" if expect == "refused" and (flag, text) not in MEANT else "either"
    name = f"flag/{arguments[0]}/--{flag}/{_printable(text)}"
    needs = ("old", "new") if arguments[0] == "compare" else NETS
    more = ("epsilon", "modality") if values_of_radii(flag) else ("data set",) if flag == "dataset" else ()
    names = (flag, flag.replace("-", "_"), *more, *_parts(text))
    return Case(name, (*arguments, f"--{flag}={text}"), needs, expect=wanted, names=names)


def values_of_radii(flag: str) -> bool:
    """Whether a flag says how far inputs may be changed."""
    return flag in ("eps", "radii", "sigma")


def _parts(text: str) -> tuple[str, ...]:
    parts = text.replace("=", ",").replace("/", ",").split(",")
    return (text, *[part for part in parts if part]) if text.strip() else ()


def _printable(text: str) -> str:
    """A value as part of a name that one can type."""
    short = text if len(text) < 40 else f"{text[:5]}-by-{len(text)}"
    return ascii(short)[1:-1].replace("/", "|").replace(" ", "_") or "nothing"


def _others() -> Iterator[Case]:
    for text, expect in NAMES.items():
        for arguments, needs in (
            (("suite", text, "--out", "out"), NETS),
            (("train", text, "--out", "out"), NETS),
            (("list", text), ()),
            (("board", text), ("board.csv",)),
            (("compare", text, "new"), ("new",)),
            (("compare", "new", text), ("new",)),
            (("data", "import", text, "--from", "milk"), ("milk",)),
            (("data", "import", "milk10k", "--from", text), ("milk",)),
            (("run", text), NETS),
            ((text, "x"), ()),
        ):
            if text.startswith("-"):  # a flag to argparse
                continue
            where = "-".join(word for word in arguments[:3] if word != text)
            yield Case(
                f"argument/{where}{arguments.index(text)}/{_printable(text)}",
                arguments,
                needs,
                expect="refused" if expect and text != "null" else "either",
                names=() if not text.strip() else (text, "--", "command", "model", "protocol", arguments[0]),
            )
    for text in IMPORTS:
        yield Case(
            f"flag/data-import/--option/{_printable(text)}",
            ("data", "import", "milk10k", "--from", "milk", f"--option={text}"),
            ("milk",),
            expect="either" if text == "classes=all" else "refused",
            names=("option",),
        )
    for text, expect in PATHS.items():
        for command in (("suite", "suite.yaml"), ("train", "recipe.yaml")):
            wanted: Expect = "refused" if expect else "either"
            yield Case(
                f"flag/{command[0]}/--out/{_printable(text)}",
                (*command, f"--out={text}"),
                (*NETS, "suite.yaml", "recipe.yaml"),
                expect=wanted,
                names=("out", *_parts(text)),
            )


def _shapes() -> Iterator[Case]:
    """Command lines that are no command, and flags that do not go together."""
    lines: dict[str, tuple[str, ...]] = {
        "no-command": ("--nothing",),
        "unknown-flag": (*RUN, "--zebra"),
        "no-value": (*RUN, "--eps"),
        "nothing-given": ("run",),
        "model-only": ("run", "--model", "concat"),
        "attack-only": ("run", "--attack", "pgd"),
        "two-protocols": ("run", "protocol.yaml", "protocol.yaml"),
        "no-action": ("data",),
        "no-source": ("data", "import", "milk10k"),
        "generated": ("data", "import", "pair", "--from", "."),
        "no-list": ("list",),
        "compare-one": ("compare", "old"),
        "compare-file": ("compare", "protocol.yaml", "protocol.yaml"),
        "board-none": ("board",),
        "attack-twice": (*RUN, "--attack=pgd,pgd"),
        "attack-list-audit": ("curve", *RUN[1:], "--attack=pgd,fgsm"),
        "option-of-none": (*RUN, "--attack=fgsm,uniform-noise", "--option", "zebra=1"),
        "norm-without-radius": (*RUN, "--norm", "l2"),
        "radius-missing": (*RUN, "--eps", "a=1/255", "--modality", "a,b"),
        "modality-twice": (*RUN, "--modality", "a,a"),
        "modality-spaces": (*RUN, "--modality", "a, b"),
        "towards-any": (*RUN, "--towards", "kind0"),
        "towards-itself": (*RUN, "--head", "kind", "--towards", "kind0=kind0"),
        "weights-of-others": (*RUN, "--model", "mail", "--weights", WEIGHTS),
        "config-as-weights": (*RUN, "--weights", "protocol.yaml"),
        "weights-as-config": (*RUN, "--model", f"{WEIGHTS}.yaml"),
        "n-too-few": ("certify", *CERTIFY, "--n", "9"),
        "many-samples": (*RUN, "--samples", "13"),
        "defense-twice": (*RUN, "--defense", "gaussian-noise", "--defense", "jpeg:quality=0"),
        "defense-option": (*RUN, "--defense", "gaussian-noise:sigma=zebra"),
        "defense-nothing": (*RUN, "--defense", "gaussian-noise:"),
        "defense-huge": (*RUN, "--defense", "gaussian-noise:sigma=1e400"),
        "head-dotted": (*RUN, "--head", "kind.x"),
        "keep-restarts": (*RUN, "--keep", "last", "--restarts", "2"),
    }
    may = ("modality-twice", "modality-spaces", "defense-nothing", "defense-twice", "no-list")
    for name, arguments in lines.items():
        needs = (*NETS, "old", "milk", "board.csv")
        yield Case(f"line/{name}", arguments, needs, expect="either" if name in may else "refused")
