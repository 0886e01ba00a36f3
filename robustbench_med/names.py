"""Names and files that a command was given, looked up before torch is imported: errors come at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_med.data.catalog import registered, require_at_hand
from robustbench_med.data.given import is_given
from robustbench_med.evaluation.attacks import ATTACKS, require_attack
from robustbench_med.models.cards import require_weights
from robustbench_med.models.named import (
    DEFENSES,
    SCRIPTED,
    is_code,
    is_path,
    model_names,
    require_defense,
    require_model,
)
from robustbench_med.util.config import find, shipped
from robustbench_med.util.errors import UserError

# By what a word may name: where all such names are, and what to say for one. The first that fits counts.
HOMES: Mapping[str, tuple[Callable[[], Collection[str]], str]] = {
    "model": (model_names, "--model {}"),
    "data set": (registered, "--dataset {}"),
    "attack": (lambda: ATTACKS.names(), "--attack {}"),
    "defense": (lambda: DEFENSES.names(), "--defense {}"),
    "protocol": (lambda: shipped("protocols"), "robmed run {} --model NAME"),
    "suite": (lambda: shipped("suites"), "robmed suite {}"),
    "recipe": (lambda: shipped("train"), "robmed train {}"),
    "audit": (lambda: shipped("audit"), "--audit {}"),
}
REQUIRED: Mapping[str, Callable[[str], None]] = {
    "model": require_model,
    "attack": require_attack,
    "data set": require_at_hand,
    "defense": require_defense,
    "weights": require_weights,
    "protocol": lambda word: _found("protocol", "protocols", word),
    "suite": lambda word: _found("suite", "suites", word),
    "recipe": lambda word: _found("recipe", "train", word),
    "audit": lambda word: _found("audit", "audit", word),
}
OTHER = (".yaml", ".yml")  # may hold anything


def require(kind: str, word: object) -> None:
    """Make sure that a word names what it should.

    Args:
        kind: a key of ``HOMES``, or "weights".
        word: as it was given; what is no text is left to the check of types.

    Raises:
        UserError: there is no such thing, with the nearest one; or it is something else, with the flag that
            it goes with.
    """
    if not isinstance(word, str):
        return
    if kind not in HOMES or word not in HOMES[kind][0]():
        other = home_of(word)
        if other is not None and not _may_be(kind, word, other[0]):
            raise UserError(f"{word!r} is not {_a(kind)} but {_a(other[0])}; say {other[1]}")
    if kind in REQUIRED:
        REQUIRED[kind](word)


def home_of(word: str) -> tuple[str, str] | None:
    """What a word names, and what to say then; None when it names nothing."""
    for kind, (names, say) in HOMES.items():
        if word in names():
            return kind, say.format(word)
    lower = word.lower()
    if word.rpartition(":")[0].endswith(".py") or lower.endswith((".py", *SCRIPTED)):
        return "net", f"--model {word}"
    if lower.endswith(".safetensors"):
        return "file of weights", f"--weights {word}"
    if is_given(word) and not lower.endswith(OTHER) and Path(word).expanduser().exists():
        return "path", f"--data {word}, if it is your data"
    return None


def require_all(options: Mapping[str, Any]) -> None:
    """``require`` for every option of a run that names something."""
    kinds = {"model": "model", "attack": "attack", "dataset": "data set", "weights": "weights"}
    for option, kind in kinds.items():
        require(kind, options.get(option))
    defenses = options.get("defenses")
    for each in defenses if isinstance(defenses, Sequence) and not isinstance(defenses, str) else ():
        require("defense", each.partition(":")[0] if isinstance(each, str) else None)


def _found(kind: str, folder: str, word: str) -> None:
    find(kind, folder, word)


def _may_be(kind: str, word: str, other: str) -> bool:
    """Whether a word of another kind may be meant here all the same."""
    if kind == "model":
        return is_code(word) or is_path(word)
    if kind == "weights":  # a file of any name, and torch's own are named as nets are
        return Path(word).expanduser().exists() or other in ("net", "file of weights")
    return kind == "data set" and other == "path"


def stray(word: str) -> str:
    """What to say of a word that is one too many."""
    home = home_of(word)
    return f"{word!r} is one word too many" + (
        f", and {_a(home[0])}; did you mean {home[1]}?" if home else ""
    )


def _a(kind: str) -> str:
    kind = {"weights": "file of weights"}.get(kind, kind)
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
