"""What a plug-in of this package says of itself, read from its source: torch takes seconds to import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

OWN = "robustbench_med."


def read_plugin(entry: EntryPoint) -> tuple[str, dict[str, object]] | None:
    """The first line of a plug-in's docstring, and its options with their defaults.

    Returns:
        None where that cannot be read: it is no class of this package, or a default is computed.
    """
    found = _class(entry.module, entry.attr) if entry.value.startswith(OWN) else None
    if found is None:
        return None
    said = (ast.get_docstring(found[1]) or "").split("\n", 1)[0]
    try:
        return said, dict(_defaults(*found))
    except ValueError:  # of literal_eval
        return None


def _class(module: str, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """A class of one of our modules, and the module's own source."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tree, node
    return None


def _defaults(tree: ast.Module, node: ast.ClassDef) -> Iterator[tuple[str, object]]:
    """Fields of a dataclass that have a default, those of its bases first.

    Raises:
        ValueError: a default is computed.
    """
    if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        return
    for base in node.bases:
        if (above := _base(tree, ast.unparse(base))) is not None:
            yield from _defaults(*above)
    for each in node.body:
        if not isinstance(each, ast.AnnAssign) or each.value is None or not isinstance(each.target, ast.Name):
            continue
        computed = isinstance(each.value, ast.Call) and ast.unparse(each.value.func) == "field"
        if not ast.unparse(each.annotation).startswith("ClassVar") and not computed:
            yield each.target.id, _value(tree, each.value)


def _value(tree: ast.Module, node: ast.expr) -> object:
    """A default: a literal, a constant of its module, or a quotient as it is written.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(node, ast.Name):
        for each in tree.body:
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == node.id:
                return ast.literal_eval(each.value)
    if isinstance(node, ast.BinOp):
        return ast.unparse(node).replace(" ", "")
    return ast.literal_eval(node)


def _base(tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tree, node
        if not isinstance(node, ast.ImportFrom) or not any(each.name == name for each in node.names):
            continue
        if node.module and node.module.startswith(OWN) and node.module != f"{OWN}api":
            return _class(node.module, name)
    return None
