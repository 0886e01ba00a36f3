"""ONNX files through onnxruntime: scores, no gradients; NumPy in and out."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.models.foreign import Foreign, channels_go_last, named_or_in_order
from robustbench_med.util.errors import UserError

SUFFIX = ".onnx"
FLOATS: Mapping[str, np.dtype[Any]] = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}


class OnnxNet(Foreign):
    """The net in the bytes of an ONNX file; a copy is made from them again.

    Args:
        content: of the file; weights beside the file are not read.
        name: of the net.

    Raises:
        UserError: onnxruntime is not installed, or cannot run the net; an input that takes no floats; no
            output that is an array of floats.
    """

    libraries = ("onnxruntime",)

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.__name__ = content, name
        self.structure = hashlib.sha256(content).hexdigest()
        self.session = _session(content, name)
        self.inputs = tuple(self.session.get_inputs())
        self.arguments = tuple(x.name for x in self.inputs)
        self.outputs = tuple(x.name for x in self.session.get_outputs() if x.type in FLOATS)
        odd = next((x for x in self.inputs if x.type not in FLOATS), None)
        if odd is not None:
            raise UserError(
                f"{name}{SUFFIX} takes {odd.type} for {odd.name}; export it with inputs of floats"
            )
        if not self.outputs:
            found = ", ".join(f"{x.name}: {x.type}" for x in self.session.get_outputs())
            raise UserError(
                f"{name}{SUFFIX} returns no array of scores, only {found}; export it with scores (of "
                "scikit-learn: zipmap=False)"
            )
        sizes = {x.shape[0] for x in self.inputs if x.shape and isinstance(x.shape[0], int)}
        self.rows = next(iter(sizes), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNet:
        del memo
        return OnnxNet(self.content, self.__name__)

    def __reduce__(self) -> tuple[type[OnnxNet], tuple[bytes, str]]:
        return OnnxNet, (self.content, self.__name__)

    def __call__(self, *given: NDArray[Any], **named: NDArray[Any]) -> Any:
        """Scores float32 (B, columns), by the names of the outputs where there are several.

        Args:
            given, named: inputs (B, *shape), in order or by name.
        """
        values = [named[name] for name in self.arguments] if named else list(given)
        feed = {x.name: _ready(x, value) for x, value in zip(self.inputs, values, strict=True)}
        parts = list(zip(*(self._run(part) for part in self._parts(feed)), strict=True))
        rows = len(values[0])
        whole = [np.concatenate(each)[:rows].astype(np.float32) for each in parts]
        return named_or_in_order(self.outputs, whole)

    def _run(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return list(self.session.run(list(self.outputs), feed))
        except _runtime_errors() as error:
            raise ValueError(" ".join(str(error).split())) from error

    def _parts(self, feed: dict[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
        """The samples in parts of the one size that the file takes; the last is filled up with its last."""
        rows = len(next(iter(feed.values())))
        if self.rows is None:
            return [feed]
        index = np.minimum(np.arange(-(-rows // self.rows) * self.rows), rows - 1).reshape(-1, self.rows)
        return [{name: x[part] for name, x in feed.items()} for part in index]


def _ready(declared: Any, x: NDArray[Any]) -> NDArray[Any]:
    """An input in the type and with the axes that the file declares; channels first where both fit."""
    if channels_go_last(x.shape, declared.shape or None, usual=False):
        x = np.moveaxis(x, 1, -1)
    return np.asarray(x).astype(FLOATS[declared.type])


def load_onnx(path: Path) -> OnnxNet:
    """The net in an ONNX file.

    Raises:
        UserError: no such file; see ``OnnxNet``.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    return OnnxNet(path.read_bytes(), path.stem)


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise UserError("ONNX files need a package: pip install 'robustbench-med[onnx]'") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises of its own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = (v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))
    return (*own, RuntimeError)


def _session(content: bytes, name: str) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what matters is raised
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}{SUFFIX} cannot be run by onnxruntime ({said}); export it again, weights inside the file"
        ) from error
