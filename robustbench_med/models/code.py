"""Models named by code or by a file of another framework: "net.py:make", "package.module:Net", "net.ts".

A user's code runs because the user named it; nothing else is ever executed or unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from robustbench_med.api.model import FusionModel
from robustbench_med.models.named import EXPORTED, SCRIPTED
from robustbench_med.models.wrap import Wrap
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.files import given_path, sha256_file

WRAP_OPTIONS = ("inputs", "outputs", "mean", "std", "random", "mode", "arrays")


def made_by(name: str) -> Any:
    """What a user's code makes: a net, a ``Wrap``, a function, or a class of ``FusionModel``.

    Raises:
        UserError: no such file, module or name in it; a factory that wants arguments.
    """
    if name.endswith(EXPORTED):
        raise UserError(
            f"{name}: files of torch.export are not read (their loader may unpickle); give its code, "
            "or torch.jit.script(net).save('net.ts')"
        )
    if name.endswith(SCRIPTED):
        return _scripted(given_path(name))
    where, _, attribute = name.rpartition(":")
    if not where:
        raise UserError(f"{name} is a file of code; say which function or class makes the net: {name}:make")
    module = _from_file(given_path(where)) if where.endswith(".py") else _from_package(where)
    public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    if not hasattr(module, attribute):
        raise unknown(f"name in {where}", attribute, public)
    return _called(getattr(module, attribute), name)


def _called(found: Any, name: str) -> Any:
    if isinstance(found, nn.Module | Wrap) or (isinstance(found, type) and issubclass(found, FusionModel)):
        return found
    if not callable(found):
        raise UserError(f"{name} is {type(found).__name__}; it must be a net, or a function that makes one")
    required = [
        p.name
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if not required:
        return found()
    if isinstance(found, type):
        raise UserError(
            f"{name} wants {', '.join(required)}; name a function without arguments that makes the net"
        )
    return found  # a function of the inputs: the model itself


def _from_file(path: Path) -> ModuleType:
    """A user's file as a module; what it raises keeps its traceback.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    name = f"robmed_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be read as Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))  # for its neighbours
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _from_package(name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # something that the user's module imports
        raise UserError(f"there is no module {name!r}; install it, or write path/to/file.py:NAME") from error
    finally:
        sys.path.remove("")


def _scripted(path: Path) -> nn.Module:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        loaded: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} is no TorchScript file; if it holds weights, give the code of the net: --model "
            f"file.py:make --weights {path.name}"
        ) from error
    return loaded


def with_options(spec: Wrap, options: Mapping[str, Any], name: str) -> Wrap:
    """How a net is called, as flags and YAML say it.

    Raises:
        UserError: an option that is none.
    """
    for option in options:
        if option not in WRAP_OPTIONS:
            raise UserError(f"{name}: {unknown('option', option, WRAP_OPTIONS)}")
    return replace(spec, **options)


def fingerprint(module: Callable[..., Any], weights: Path | None = None) -> str:
    """SHA-256 of what a net computes: its code and its weights.

    What has no source file (typed into a session), and a function that may hold anything, is unlike
    anything else: its runs are never reused.

    Args:
        weights: the file that they come from, if they do.
    """
    digest, sources = hashlib.sha256(), _sources(module)
    known = bool(sources) and (isinstance(module, nn.Module) or weights is not None)
    for source in sources:
        digest.update(source.encode())
    if weights is not None:
        digest.update(sha256_file(weights).encode())
    elif isinstance(module, nn.Module):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
                if tensor.numel()
                else b""
            )
    return digest.hexdigest() if known else hashlib.sha256(uuid.uuid4().bytes).hexdigest()


def _sources(module: Callable[..., Any]) -> list[str]:
    """The source files of a net's classes that are no library's, by content; [] if one has none."""
    if isinstance(module, torch.jit.ScriptModule):
        return [module.code]
    parts = {type(m) for m in module.modules()} if isinstance(module, nn.Module) else {module}
    own = [part for part in parts if not getattr(part, "__module__", "").startswith("torch.")]
    texts = []
    for part in sorted(own, key=lambda part: getattr(part, "__qualname__", "")):
        try:
            path = inspect.getsourcefile(part)
        except TypeError:
            path = None
        if path is None or not Path(path).is_file():
            return []
        texts.append(Path(path).read_text(encoding="utf-8"))
    return texts or ["torch"]
