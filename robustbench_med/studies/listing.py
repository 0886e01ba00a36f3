"""What ``robmed list`` shows: shipped and installed plug-ins alike."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from robustbench_med.api.registry import Registry, provider
from robustbench_med.data.catalog import SOURCES
from robustbench_med.evaluation.adversary import ATTACKS
from robustbench_med.models.named import ARCHITECTURES, DEFENSES, model_config
from robustbench_med.models.weights import cards_in, trained_model, weight_folders
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
    for name in shipped("models"):
        config = model_config(name)
        defenses = ", ".join(d.name for d in config.defenses) or "-"
        found.append((name, config.title, defenses, ", ".join(_trained_on(name)) or "-", "robustbench-med"))
    for name, entry in ARCHITECTURES.entries().items():
        if name not in shipped("models"):
            found.append((name, _architecture(name), "-", "-", provider(entry)))
    return ("model", "what", "defenses", "weights at hand", "from"), found


def _trained_on(model: str) -> list[str]:
    """Data sets with weights of a model: the card beside them names it."""
    folders = [place for folder in weight_folders() if folder.is_dir() for place in folder.iterdir()]
    cards = {card.resolve() for place in folders if place.is_dir() for card in cards_in(place)}
    named = {card.parent.name for card in cards if trained_model(card) == model}
    return sorted(named)


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
