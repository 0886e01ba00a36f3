"""Which code made a number: the source files that took part, and the state of the checkout they lie in."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import subprocess
from collections.abc import Iterable
from pathlib import Path

HARNESS = "robustbench_med"


def source_hashes(roots: Iterable[str]) -> dict[str, str]:
    """SHA-256 by module of everything that some modules import, directly or not, from packages of their own.

    Args:
        roots: modules by name. Imports are followed into the top-level packages of the roots and into this
            package; libraries are known by their versions.

    Returns:
        By module name, sorted. What has no source file (a model typed into a session) is left out.
    """
    waiting = list(dict.fromkeys(roots))
    packages = {name.partition(".")[0] for name in waiting} | {HARNESS}
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in found or name.partition(".")[0] not in packages:
            continue
        path = _source(name)
        if path is None:
            continue
        text = path.read_bytes()
        found[name] = hashlib.sha256(text).hexdigest()
        waiting += _imports(name, path, text)
    return dict(sorted(found.items()))


@functools.cache
def _source(module: str) -> Path | None:
    """The source file of a module, if it has one."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


@functools.cache
def _imports(module: str, path: Path, text: bytes) -> tuple[str, ...]:
    """The modules that a source file names in its imports, wherever they stand; and its parent packages."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = [module.rpartition(".")[0]] if "." in module else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{parent}.{base}".rstrip(".")
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name)


@functools.cache
def checkout() -> dict[str, str | bool | None]:
    """Commit of the checkout that this package lies in, and whether files were changed since."""
    folder = Path(__file__).resolve().parents[2]
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not (folder / "pyproject.toml").exists():
        return {"commit": None, "dirty": None}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
