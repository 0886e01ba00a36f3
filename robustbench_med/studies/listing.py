"""What ``robmed list`` shows: shipped and installed plug-ins alike."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from robustbench_med.api.registry import Registry, provider
from robustbench_med.data.added import added_names
from robustbench_med.data.catalog import SOURCES
from robustbench_med.evaluation.adversary import ATTACKS
from robustbench_med.models.named import ARCHITECTURES, DEFENSES, model_config
from robustbench_med.models.weights import models_in, weight_folders
from robustbench_med.util.config import shipped
from robustbench_med.util.errors import UserError
from robustbench_med.util.terminal import warn
from robustbench_med.util.versions import versions

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
    titles, found = _plugins(registries[what])
    added = [(name, "your own data, added", "-", "robmed data add") for name in added_names()]
    return titles, found + (added if what == "datasets" else [])


def _plugins(registry: Registry[Any]) -> Rows:
    found: list[tuple[str, ...]] = []
    for name, entry in registry.entries().items():
        plugin = _loaded(registry, name)
        shown = (UNLOADED, "-") if plugin is None else (_summary(plugin), _options(plugin))
        if absent := _absent(plugin, entry):
            shown = (absent, shown[1])
        found.append((name, *shown, provider(entry)))
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
            plugin = _loaded(ARCHITECTURES, name)
            said = UNLOADED if plugin is None else _summary(plugin)
            found.append((name, said, "-", "-", provider(entry)))
    return ("model", "what", "defenses", "weights at hand", "from"), found


def _trained() -> dict[Path, str]:
    """By card, in a folder for each data set, the models with weights at hand."""
    folders = [place for folder in weight_folders() if folder.is_dir() for place in folder.iterdir()]
    places = sorted({place.resolve() for place in folders if place.is_dir()})
    return {card: name for place in places for card, name in models_in(place).items()}


def _loaded(registry: Registry[Any], name: str) -> Any | None:
    """A plug-in; None, with a warning, when it cannot be loaded: it must not hide the others."""
    try:
        return registry.get(name)
    except UserError as error:
        warn(error)
        return None


def _absent(plugin: Any, entry: EntryPoint) -> str:
    """The extra, or the packages, that a plug-in needs and that are not installed; "" when nothing lacks."""
    absent = [name for name in getattr(plugin, "libraries", ()) if not versions([name])[name]]
    if not absent:
        return ""
    extras = (entry.dist.metadata.get_all("Provides-Extra") or ()) if entry.dist else ()
    return f"not installed: {f'extra {entry.name}' if entry.name in extras else ', '.join(absent)}"


def _summary(plugin: Any) -> str:
    return (inspect.getdoc(plugin) or "").split("\n", 1)[0]


def _options(plugin: Any) -> str:
    if not is_dataclass(plugin):
        return "-"
    shown = [f"{f.name}={f.default}" for f in fields(plugin) if f.default is not MISSING]
    return ", ".join(shown).replace("_", "-") or "-"
