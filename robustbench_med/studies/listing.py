"""What ``robmed list`` shows: shipped and installed plug-ins alike."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from robustbench_med.api.registry import Registry, provider
from robustbench_med.data.catalog import SOURCES
from robustbench_med.evaluation.adversary import ATTACKS
from robustbench_med.models.named import ARCHITECTURES, DEFENSES, model_config
from robustbench_med.models.weights import models_in, weight_folders
from robustbench_med.util.config import shipped

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]


def rows(what: str) -> Rows:
    """Column titles and rows of one of ``cli.LISTS``."""
    if what == "models":
        return _models()
    folders = {"recipes": "train", "protocols": "protocols", "suites": "suites"}
    if what in folders:
        return (what[:-1], "file"), [(name, str(path)) for name, path in shipped(folders[what]).items()]
    registries: dict[str, Registry[Any]] = {"attacks": ATTACKS, "defenses": DEFENSES, "datasets": SOURCES}
    return _plugins(registries[what])


def _plugins(registry: Registry[Any]) -> Rows:
    found: list[tuple[str, ...]] = []
    for name, entry in registry.entries().items():
        try:
            plugin = registry.get(name)
        except Exception as error:  # whatever a plug-in does when it is imported, it must not hide the others
            said = f"cannot be loaded: {type(error).__name__}: {error}"
            found.append((name, said.removeprefix("cannot be loaded: UserError: "), "-", provider(entry)))
            continue
        found.append((name, _summary(plugin), _options(plugin), provider(entry)))
    return (registry.kind, "what", "options (default)", "from"), found


def _models() -> Rows:
    found: list[tuple[str, ...]] = []
    trained = _trained()
    for name in shipped("models"):
        config = model_config(name)
        defenses = ", ".join(d.name for d in config.defenses) or "-"
        at_hand = ", ".join(sorted({card.parent.name for card, model in trained.items() if model == name}))
        found.append((name, config.title, defenses, at_hand or "-", "robustbench-med"))
    for name, entry in ARCHITECTURES.entries().items():
        if name not in shipped("models"):
            found.append((name, _architecture(name), "-", "-", provider(entry)))
    return ("model", "what", "defenses", "weights at hand", "from"), found


def _trained() -> dict[Path, str]:
    """By card, in a folder for each data set, the models with weights at hand."""
    folders = [place for folder in weight_folders() if folder.is_dir() for place in folder.iterdir()]
    places = sorted({place.resolve() for place in folders if place.is_dir()})
    return {card: name for place in places for card, name in models_in(place).items()}


def _summary(plugin: Any) -> str:
    return (inspect.getdoc(plugin) or "").split("\n", 1)[0]


def _options(plugin: Any) -> str:
    if not is_dataclass(plugin):
        return "-"
    shown = [f"{f.name}={f.default}" for f in fields(plugin) if f.default is not MISSING]
    return ", ".join(shown).replace("_", "-") or "-"


def _architecture(name: str) -> str:
    try:
        return _summary(ARCHITECTURES.get(name))
    except Exception as error:  # see ``_plugins``
        return f"cannot be loaded: {type(error).__name__}: {error}"
