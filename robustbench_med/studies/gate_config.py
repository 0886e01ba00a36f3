"""``robmed.yaml``: what ``robmed check`` reads. No torch is imported, so that errors come at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict

from robustbench_med.measure.margins import SEEDS, Margins
from robustbench_med.models.named import DefenseSpec
from robustbench_med.names import require
from robustbench_med.util.config import build, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT, Fraction
from robustbench_med.util.files import given_path, nearest

FILE = "robmed.yaml"
NONE = "none"
MOST_SEEDS = 20


@dataclass(frozen=True)
class Entry:
    """One attack of a check; what is not given is as ``robmed run`` has it (``RunConfig``).

    Attributes:
        options: of the attack (steps, restarts, …).
        name: by which verdicts and files call it; the attack's when not given.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    eps: Fraction | Mapping[str, Fraction] | None = None
    norm: str = "linf"
    modality: tuple[str, ...] = ()
    head: str = "any"
    towards: str | None = None
    eot: int | Literal["auto"] | None = None
    name: str = ""

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.attack


def _entry(value: object) -> object:
    return {"attack": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class CheckConfig:
    """What ``robmed check`` does. Paths are seen from the folder that the command is run in.

    Attributes:
        model, weights, model_options, data, defenses: as ``robmed run`` takes them.
        attacks: each is judged by itself; one that is only named has its defaults.
        samples: how many test samples, the same for everyone; 0 for all.
        draws: scoring draws of a random model.
        seed: of the attack and of draws.
        seeds: so many attack seeds, from ``seed`` on, are in a baseline, to decide close falls.
        audit: name or path of an audit; "none" makes none, and then no rise passes.
        watch: a cheap attack that the run's must not fall short of; "none" watches by the audit alone.
        baseline: a folder of records, or the record of one attack.
        out: folder of run folders, of which finished ones are read back.
    """

    model: str
    attacks: tuple[Annotated[Entry, BeforeValidator(_entry)], ...]
    data: str = "phantom"
    weights: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    defenses: tuple[DefenseSpec, ...] = ()
    samples: int = 200
    draws: int = 10
    batch_size: int = 100
    seed: int = 0
    seeds: int = SEEDS
    device: str = "cpu"
    audit: str = "quick"
    watch: str = "fgsm"
    baseline: str = "baseline"
    margins: Margins = field(default_factory=Margins)
    out: str = "runs"

    @property
    def folder(self) -> Path:
        """Where the baseline is."""
        return given_path(self.baseline, "the baseline")

    @property
    def is_single(self) -> bool:
        """Whether the baseline is one record, not a folder of them."""
        return self.baseline.endswith(".json")


def read_config(path: str) -> CheckConfig:
    """Read a ``robmed.yaml``; every name in it exists.

    Raises:
        UserError: there is none, or something in it is missing, unknown or of another type.
    """
    file = given_path(path, "the file --config")
    if not file.exists():
        begin = "; robmed init writes one to start from" if path == FILE else nearest(file)
        raise UserError(f"{file} does not exist{begin}")
    config = build(CheckConfig, read_yaml(file), path)
    _require_sensible(config, path)
    named = (
        ("model", "model", config.model),
        ("data", "data set", config.data),
        ("weights", "weights", config.weights),
        *(("attacks", "attack", entry.attack) for entry in config.attacks),
        ("audit", "audit", None if config.audit == NONE else config.audit),
        ("watch", "attack", None if config.watch == NONE else config.watch),
    )
    for key, kind, name in named:
        with said_of(f"{path}: {key}"):
            require(kind, name)
    with said_of(f"{path}: margins"):
        config.margins.require()
    return config


@contextmanager
def said_of(where: str) -> Iterator[None]:
    """Begin what is said against something in the file with the place where it stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _require_sensible(config: CheckConfig, where: str) -> None:
    if not config.attacks:
        raise UserError(f"{where}: attacks is empty; name one, such as pgd")
    if not 1 <= config.seeds <= MOST_SEEDS:
        raise UserError(f"{where}: seeds is {config.seeds}; a baseline has 1 to {MOST_SEEDS} of them")
    names = [entry.called for entry in config.attacks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: two attacks are called {twice!r}; give each a name")
    several = next((entry.attack for entry in config.attacks if "," in entry.attack), None)
    if several is not None:
        raise UserError(f"{where}: {several!r} is several attacks; write each on a line of its own")
    if config.is_single and len(config.attacks) > 1:
        raise UserError(f"{where}: {config.baseline} holds one record, not {len(names)}; name a folder")
