"""Cases of spoilt configs: protocols, models, suites, audits and recipes, in the commands that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from benchmarks.reliability import kinds, mutations
from benchmarks.reliability.case import Case, Expect
from benchmarks.reliability.sound import BASELINE, CERTIFY, FLAGS, NETS, TEXTS, WEIGHTS

COMMANDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "protocol": (
        ("run", "protocol.yaml"),
        ("audit", "protocol.yaml", "--audit", "audit.yaml"),
        ("curve", "protocol.yaml", "--radii", "1/255"),
        ("modalities", "protocol.yaml"),
    ),
    "model": (
        ("run", "--model", "model.yaml", "--weights", WEIGHTS, *FLAGS[2:]),
        ("certify", "--model", "model.yaml", "--weights", WEIGHTS, *CERTIFY[2:], "--out", "out"),
    ),
    "suite": (("suite", "suite.yaml", "--out", "out"),),
    "audit": (("audit", "protocol.yaml", "--audit", "audit.yaml"),),
    "recipe": (("train", "recipe.yaml", "--out", "out"),),
    "gate": (
        ("check", "--config", "gate.yaml"),
        ("check", "--config", "gate.yaml", "--junit", "out/junit.xml", "--summary", "out/summary.md"),
    ),
}
BESIDE: Mapping[str, tuple[str, ...]] = {
    "suite": ("protocol.yaml",),
    "audit": ("protocol.yaml",),
    "protocol": ("audit.yaml",),
    "gate": ("baseline",),
}
# More of them is more work, which is no fault of the command.
EFFORT = ("steps", "restarts", "draws", "eot", "epochs", "longer", "more_draws")
# Fields that hold any word, and those that may stand at null or any truth.
FREE = ("title", "out", "options", "attack_options", "model_options", "role", "added", "defenses", "name")


def all_cases() -> Iterator[Case]:
    """Every case of a spoilt config."""
    for kind in COMMANDS:
        yield from _yaml_cases(kind)
    yield from _baseline_cases()


def _yaml_cases(kind: str) -> Iterator[Case]:
    file, commands = f"{kind}.yaml", COMMANDS[kind]
    needs = (*NETS, file, *BESIDE.get(kind, ()))
    spoils = [*mutations.file_spoils(file, True), *kinds.yaml_spoils(file)]
    swaps = {name: other for name, other in _OTHERS.items() if name != kind}
    spoils += [
        (f"swapped/{name}", "refused", mutations.swapped(file, other)) for name, other in swaps.items()
    ]
    for number, (name, expect, spoil) in enumerate(spoils):
        arguments = commands[number % len(commands)]
        more = tuple(_OTHERS.values()) if name.startswith("swapped") else ()
        named = () if expect == "accepted" else (file, *_words_of(name))
        keeps = arguments[0] == "check"  # a build shows its errors in the files that it asked for
        case = f"{file}/{arguments[0]}/{name}"
        yield Case(case, arguments, (*needs, *more), spoil, expect, named, keeps=keeps)
    yield from _values(kind, file, needs)


def _baseline_cases() -> Iterator[Case]:
    """One of the two records of a committed baseline is wrong. Without it, or with another run's, the other
    seed's is judged against, and that is said."""
    file, needs = BASELINE, (*NETS, "gate.yaml", "baseline")
    spoils = [*mutations.file_spoils(file, True), *kinds.json_spoils(file)]
    spoils += [
        (f"swapped/{name}", "refused", mutations.swapped(file, other)) for name, other in _OTHERS.items()
    ]
    for name, expect, spoil in spoils:
        more = tuple(_OTHERS.values()) if name.startswith("swapped") else ()
        named = () if expect == "accepted" else ("one-seed0", "baseline")
        expect = "either" if name in ("place/missing", "swapped/record") else expect
        yield Case(f"{file}/check/{name}", COMMANDS["gate"][0], (*needs, *more), spoil, expect, named)


_OTHERS = {
    "record": "old/record.json",
    "weights": WEIGHTS,
    "board": "board.csv",
    "suite": "suite.yaml",
    "recipe": "recipe.yaml",
    "model": "model.yaml",
}


def _words_of(name: str) -> tuple[str, ...]:
    """What else a line may name where a text is sound YAML and says something odd."""
    return ("model", "attack", "option", "config") if name.startswith(("yaml/", "swapped/", "bytes/")) else ()


def _values(kind: str, file: str, needs: tuple[str, ...]) -> Iterator[Case]:
    document, commands = yaml.safe_load(TEXTS[kind]), COMMANDS[kind]
    for number, (path, held) in enumerate(mutations.paths_of(document)):
        for name, value in list(mutations.VALUES.items())[number % 2 :: 2]:
            if name == "huge" and path[-1] in EFFORT:
                continue
            arguments = commands[number // 2 % len(commands)]
            text = mutations.as_yaml(mutations.with_value(document, path, value))
            where = ".".join(map(str, path))
            yield Case(
                f"{file}/{arguments[0]}/{where}/{name}",
                arguments,
                needs,
                mutations.replaced(file, text),
                _expected(path, held, name),
                () if name == "gone" else _names(path, value),  # what is lacked then may be something else
                keeps=arguments[0] == "check",
            )


def _expected(path: tuple[str | int, ...], held: Any, name: str) -> Expect:
    """Whether a value can only be wrong there."""
    if any(step in FREE for step in path[:1]) or path[-1] in FREE:
        return "either"
    if isinstance(held, bool) or held is None:
        return "refused" if name in ("word", "list", "mapping", "nan") else "either"
    if isinstance(held, int | float) and name in mutations.NEVER_A_NUMBER:
        return "refused"
    if isinstance(held, str) and name in ("word", "list", "mapping", "nan", "escape", "formula"):
        return "refused"
    return "either"


def _names(path: tuple[str | int, ...], value: Any) -> tuple[str, ...]:
    """What a refusal may call the value by."""
    steps = [str(step) for step in path if not isinstance(step, int)]
    names = [*steps, *(step.replace("_", "-") for step in steps), *(step.rstrip("s") for step in steps)]
    meant = {"dataset": "data set", "eps": "modality", "width": "architecture"}
    names += [meant[step] for step in steps if step in meant]
    if isinstance(value, str) and value.isprintable() and value:
        names.append(value)
    return tuple(names)
