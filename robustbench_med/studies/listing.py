"""What ``robmed list`` shows: shipped and installed plug-ins alike.

Torch is not imported for what ships: a list of names is to come at once.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from robustbench_med.api.registry import Registry, provider
from robustbench_med.data.added import added_names
from robustbench_med.data.catalog import SOURCES, is_imported
from robustbench_med.data.published import description, published_names
from robustbench_med.evaluation.attacks import ATTACKS
from robustbench_med.models.cards import trained
from robustbench_med.models.named import ARCHITECTURES, DEFENSES, model_config, variant_of
from robustbench_med.studies.sources import OWN, read_plugin
from robustbench_med.training.settings import read_settings
from robustbench_med.util.config import read_yaml, shipped
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_text
from robustbench_med.util.terminal import warn
from robustbench_med.util.versions import versions

UNLOADED = "cannot be loaded (see the warning)"
REGISTRIES: dict[str, Registry[Any]] = {"attacks": ATTACKS, "defenses": DEFENSES, "datasets": SOURCES}
FOLDERS = {"recipes": "train", "protocols": "protocols", "suites": "suites", "audits": "audit"}
Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]


def rows(what: str) -> Rows:
    """Column titles and rows of one of ``flags.LISTS``."""
    if what == "models":
        return _models()
    if what in FOLDERS:
        found: list[tuple[str, ...]] = [
            (name, _told(what, path), str(path)) for name, path in shipped(FOLDERS[what]).items()
        ]
        return (what[:-1], "what", "file"), found
    return _datasets() if what == "datasets" else _plugins(REGISTRIES[what])


def _datasets() -> Rows:
    """Data sets, each with where to get it while it is not imported."""
    found: list[tuple[str, ...]] = []
    for name, entry in SOURCES.entries().items():
        own = _loaded(SOURCES, name) if entry.value.startswith(OWN) else None
        get = getattr(own, "page", ""), getattr(own, "access", "")
        found.append(_dataset(name, _described(SOURCES, name, entry)[0], *get, provider(entry)))
    for name in published_names():
        said = description(name)
        found.append(_dataset(name, said.title, said.page, said.access, "robustbench-med"))
    added = [(name, "your own data, added", "robmed data add") for name in added_names()]
    return (SOURCES.kind, "what", "from"), [*sorted(found), *added]


def _dataset(name: str, what: str, page: str, access: str, whose: str) -> tuple[str, str, str]:
    """A row; ``page`` of what must be imported, ``access`` what it takes to get it."""
    if not page:
        return name, what, whose
    if is_imported(name):
        return name, what, "imported"
    get = f"get it from {page} ({access}), then robmed data import {name} --from DIR"
    return name, f"{what.rstrip('.')}; {get}", "not imported"


def _told(what: str, path: Path) -> str:
    """A line about a shipped config: its title, what a recipe trains, or the comment it starts with."""
    if what == "recipes":
        said, _ = read_settings(path)
        model = said.get("model", "any model (--model NAME)")
        attacked = ", on attacked inputs" if said.get("adversarial") else ""
        return f"{model} on {said['dataset']}, {said['epochs']} epochs{attacked}"
    said = read_yaml(path)
    if "title" in said:
        return str(said["title"])
    comment = [line.lstrip("# ") for line in read_text(path).splitlines() if line.startswith("#")]
    first, _, _ = " ".join(comment).partition(". ")
    return first.partition(": ")[0].rstrip(".") if len(first) > 90 else first.rstrip(".")


def _plugins(registry: Registry[Any]) -> Rows:
    found: list[tuple[str, ...]] = []
    for name, entry in registry.entries().items():
        what, options = _described(registry, name, entry)
        found.append((name, _absent(entry) or what, options, provider(entry)))
    return (registry.kind, "what", "options (default)", "from"), found


def _described(registry: Registry[Any], name: str, entry: EntryPoint) -> tuple[str, str]:
    """What a plug-in is, and its options with their defaults."""
    read = None if registry.is_disputed(name) else read_plugin(entry)
    if read is not None:
        return _bare(read[0]), _options(read[1])
    plugin = _loaded(registry, name)
    if plugin is None:
        return UNLOADED, "-"
    said = (inspect.getdoc(plugin) or "").split("\n", 1)[0]
    known = fields(plugin) if is_dataclass(plugin) else ()
    return _bare(said), _options({f.name: f.default for f in known if f.default is not MISSING})


def _bare(said: str) -> str:
    """A line of a docstring without its mark-up."""
    return said.replace("``", "")


def _options(defaults: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in defaults.items()).replace("_", "-") or "-"


def _models() -> Rows:
    found: list[tuple[str, ...]] = []
    nets = trained()
    variants = {name for name in nets.values() if variant_of(name)[1]}
    for name in sorted({*shipped("models"), *variants}):
        config = model_config(name)
        defenses = ", ".join(d.name for d in config.defenses) or "-"
        at_hand = ", ".join(sorted({card.parent.name for card, model in nets.items() if model == name}))
        found.append((name, config.title, defenses, at_hand or "-", "robustbench-med"))
    for name, entry in ARCHITECTURES.entries().items():
        if name not in shipped("models"):
            found.append((name, _described(ARCHITECTURES, name, entry)[0], "-", "-", provider(entry)))
    return ("model", "what", "defenses", "weights at hand", "from"), found


def _loaded(registry: Registry[Any], name: str) -> Any | None:
    """A plug-in; None, with a warning, when it cannot be loaded: it must not hide the others."""
    try:
        return registry.get(name)
    except UserError as error:
        warn(error)
        return None


def _absent(entry: EntryPoint) -> str:
    """The extra that a plug-in is named after, where what it installs is not there; "" when nothing lacks."""
    wanted = f'extra == "{entry.name}"'
    needs = [line for line in (entry.dist.requires or () if entry.dist else ()) if line.endswith(wanted)]
    names = [found.group() for line in needs if (found := re.match(r"[\w.-]+", line))]
    return f"not installed: extra {entry.name}" if any(not versions([n])[n] for n in names) else ""
