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
from robustbench_med.util.errors import UserError
from robustbench_med.util.terminal import warn

UNLOADED = "cannot be loaded (see the warning)"
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
        plugin = _loaded(registry, name)
        shown = (UNLOADED, "-") if plugin is None else (_summary(plugin), _options(plugin))
        found.append((name, *shown, provider(entry)))
    return (registry.kind, "what", "options (default)", "from"), found


def _models() -> Rows:
    found: list[tuple[str, ...]] = []
    for name in shipped("models"):
        config = model_config(name)
        defenses = ", ".join(d.name for d in config.defenses) or "-"
        found.append((name, config.title, defenses, ", ".join(_trained_on(name)) or "-", "robustbench-med"))
    for name, entry in ARCHITECTURES.entries().items():
        if name not in shipped("models"):
            plugin = _loaded(ARCHITECTURES, name)
            said = UNLOADED if plugin is None else _summary(plugin)
            found.append((name, said, "-", "-", provider(entry)))
    return ("model", "what", "defenses", "weights at hand", "from"), found


def _trained_on(model: str) -> list[str]:
    """Data sets with weights of a model: the card beside them names it."""
    folders = [place for folder in weight_folders() if folder.is_dir() for place in folder.iterdir()]
    cards = {card.resolve() for place in folders if place.is_dir() for card in cards_in(place)}
    named = {card.parent.name for card in cards if trained_model(card) == model}
    return sorted(named)


def _loaded(registry: Registry[Any], name: str) -> Any | None:
    """A plug-in; None, with a warning, when it cannot be loaded: it must not hide the others."""
    try:
        return registry.get(name)
    except UserError as error:
        warn(error)
        return None


def _summary(plugin: Any) -> str:
    return (inspect.getdoc(plugin) or "").split("\n", 1)[0]


def _options(plugin: Any) -> str:
    if not is_dataclass(plugin):
        return "-"
    shown = [f"{f.name}={f.default}" for f in fields(plugin) if f.default is not MISSING]
    return ", ".join(shown).replace("_", "-") or "-"
