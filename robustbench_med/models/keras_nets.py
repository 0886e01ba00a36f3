"""Keras 3 nets on the torch backend: a ``.keras`` file or a live net, with true gradients in our axes.

A net is called as its owner calls it, ``net(x)``: layers that were told to stay random do. Images, volumes
and signals come channels first and are turned inside the pass. The seed generators of random layers start
every pass from the pass's own seed, and are put back after it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_med.models.foreign import Foreign, channels_go_last, named_or_in_order
from robustbench_med.util.errors import UserError

SUFFIX = ".keras"
SAME = 1e-4  # of probabilities: what taking an activation off and putting it on again may change
APART = (
    1_000_003  # between the seeds of two generators of a pass: Keras adds the number of the draw to a seed
)
OF_KERAS = ("keras", "builtins")
CONFIGS = ("class_name", "module", "config")
# What cloning a net by its configuration raises where its layers cannot be made again from that.
_NOT_CLONED = (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError, KeyError, IndexError)


def choose_torch() -> None:
    """Make Keras run on torch, if it is not imported yet; before anybody's code imports it."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"


def _keras() -> Any:
    """Keras on torch.

    Raises:
        UserError: it is not installed, or runs on another backend already.
    """
    choose_torch()
    try:
        keras = importlib.import_module("keras")
    except ModuleNotFoundError as error:
        if error.name != "keras":
            raise
        raise UserError("Keras nets need a package: pip install 'robustbench-med[keras]'") from error
    if keras.config.backend() != "torch":
        raise UserError(
            f"Keras was imported with the backend {keras.config.backend()}, through which no gradient "
            "reaches torch; set KERAS_BACKEND=torch before keras is imported"
        )
    return keras


def is_keras(module: object) -> bool:
    """Whether something is a net or layer of Keras, of any backend; imports nothing."""
    return any(
        base.__module__.partition(".")[0] in ("keras", "tf_keras") and base.__name__ == "Layer"
        for base in type(module).__mro__
    )


def load_keras(path: Path) -> KerasNet:
    """The net in a ``.keras`` file, in Keras' safe mode: no code of the file is run.

    Raises:
        UserError: no such file, none of Keras 3, or one that needs code: a custom or Lambda layer.
    """
    _require_standard_layers(path)
    keras = _keras()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (*_NOT_CLONED, OSError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be loaded in Keras' safe mode ({said}); give code that makes the net: --model "
            "file.py:make"
        ) from error
    return KerasNet(model, path.stem)


def _require_standard_layers(path: Path) -> None:
    """Refuse what is no ``.keras`` file, or needs code that is not Keras' own, before Keras reads it."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no file of Keras 3; save it again: net.save('net.keras')") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is no file of Keras 3; save it again: net.save('net.keras')")
    config.pop("compile_config", None)  # losses and metrics, which are not loaded
    for part in _parts(config):
        name, module = str(part["class_name"]), str(part["module"])
        own = module.partition(".")[0] in OF_KERAS and part.get("registered_name") in (None, name, "function")
        if name in ("Lambda", "__lambda__"):
            raise UserError(
                f"{path} has a Lambda layer, which is code in a file and is not run; give the net's code: "
                "--model file.py:make"
            )
        if not own:
            raise UserError(
                f"{path} has {name}, which is not Keras' own; give the code that makes the net: --model "
                "file.py:make"
            )


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in a configuration that names a class or function."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if all(key in part for key in CONFIGS) and part["module"] is not None:
                yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


class KerasNet(nn.Module, Foreign):
    """A Keras net as a module of our inputs (B, C, …), by the names of its inputs or in their order.

    Attributes:
        model: a copy, where the net can be made again from its configuration; else the net itself.

    Raises:
        UserError: Keras runs on another backend; the net is not built; an input that takes whole numbers.
    """

    libraries = ("keras",)

    def __init__(self, model: Any, name: str = "") -> None:
        super().__init__()
        keras = _keras()
        if not model.built:
            raise UserError(
                f"the Keras net {model.name} has no weights yet; give it a keras.Input, or call it once"
            )
        copied = _cloned(keras, model)
        self.copies = copied is not None
        self.model: Any = model if copied is None else copied
        self.__name__ = name or re.sub(r"_\d+$", "", model.name)
        self.inputs = _symbols(model, "inputs")
        self.arguments = tuple(x.name for x in self.inputs) or _arguments(model)
        self.outputs = _output_names(model)
        self.structure = _structure(model)
        odd = next((x for x in self.inputs if "float" not in str(x.dtype)), None)
        if odd is not None:
            raise UserError(
                f"the Keras net {self.__name__} takes {odd.dtype} for {odd.name}, which has no gradient; "
                "make its keras.Input of float32"
            )
        formats = {getattr(layer, "data_format", None) for layer in model._flatten_layers()}
        self.channels_last = "channels_first" not in formats
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasNet:
        del memo
        return KerasNet(self.model, self.__name__)

    def forward(self, *given: Any, **named: Tensor) -> Any:
        """Outputs by Keras' names, or as the net returns them.

        Args:
            given: the inputs in order, or one mapping, where the net takes that.
            named: the inputs by name.
        """
        values = [named[name] for name in self.arguments] if named else list(given)
        if len(values) == 1 and isinstance(values[0], Mapping):
            inputs: Any = {name: self._laid_out(name, x) for name, x in values[0].items()}
            like = next(iter(inputs.values()))
        else:
            names = [*self.arguments, *[""] * len(values)]
            inputs = [self._laid_out(name, x) for name, x in zip(names, values, strict=False)]
            like = values[0]
        keras = _keras()
        with keras.device(_device(like)), _seeded(self.model):
            return self._by_name(self._called(inputs))

    def _called(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return self.model(inputs)
        if self.inputs:
            structure = getattr(self.model, "input", 0)  # a Sequential net has one input, and no structure
            return self.model(_keras().tree.pack_sequence_as(structure, inputs))
        return self.model(*inputs) if len(inputs) <= len(self.arguments) else self.model(inputs)

    def _laid_out(self, name: str, x: Tensor) -> Tensor:
        declared = next((s.shape for s in self.inputs if s.name == name), None)
        return x.movedim(1, -1) if channels_go_last(x.shape, declared, self.channels_last) else x

    def _by_name(self, returned: Any) -> Any:
        if isinstance(returned, list | tuple) and len(returned) == len(self.outputs):
            return named_or_in_order(self.outputs, returned)
        return returned

    def with_logits(self, ask: Callable[[KerasNet], Any]) -> tuple[KerasNet, tuple[str, ...]]:
        """The net without the softmax or sigmoid that its outputs end in, where that is safe.

        It is where the layer is the last one, its output goes nowhere else, and putting the activation on
        again gives the same probabilities for a sample.

        Args:
            ask: what a net returns for the sample, on one draw.

        Returns:
            This net or another, and what was done in words.
        """
        ends = _ends(self.model)
        if not ends:
            return self, ()
        stays = f"{self.__name__}: {_listed(ends)} are probabilities, and the activation cannot be taken off"
        clone = _cloned(_keras(), self.model, {id(op) for op, _ in ends.values()})
        if clone is None or not all(_is_last(op) for op, _ in ends.values()):
            return self, (f"{stays}: see the check 'logits'",)
        net = KerasNet(clone, self.__name__)
        if not _same(ends, self._flat(ask(self)), self._flat(ask(net))):
            return self, (f"{stays}: see the check 'logits'",)
        said = f"{self.__name__}: {_listed(ends)}; taken off on a copy, so that attacks climb logits"
        return net, (said,)

    def _flat(self, returned: Any) -> list[Tensor]:
        return list(_keras().tree.flatten(returned))


def _listed(ends: Mapping[int, tuple[Any, str]]) -> str:
    return ", ".join(f"the {kind} of output {op.name}" for op, kind in ends.values())


def _symbols(model: Any, which: str) -> tuple[Any, ...]:
    """The symbolic inputs or outputs of a net that is a graph; () of one that is code."""
    try:
        return tuple(getattr(model, which))
    except (AttributeError, TypeError, ValueError):
        return ()


def _arguments(model: Any) -> tuple[str, ...]:
    """The names of what a net that is code takes, less what Keras hands in itself."""
    found = inspect.signature(model.call).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = (p.name for p in found if p.kind in kinds and p.default is p.empty)
    return tuple(name for name in names if name not in ("training", "mask"))


def _output_names(model: Any) -> tuple[str, ...]:
    return tuple(x._keras_history.operation.name for x in _symbols(model, "outputs"))


def _structure(model: Any) -> str:
    """What a net is made of, as JSON; of a net that is code, its layers' names."""
    try:
        return str(model.to_json())
    except _NOT_CLONED:
        return " ".join(layer.name for layer in model._flatten_layers())


def _device(x: Tensor) -> str:
    return f"gpu:{x.device.index or 0}" if x.device.type == "cuda" else x.device.type


def _seed_states(model: Any) -> list[Any]:
    return [v for v in model.variables if v.path.endswith("seed_generator_state")]


@contextmanager
def _seeded(model: Any) -> Iterator[None]:
    """Start every seed generator, Keras' global one too, from torch's seed; put them back afterwards."""
    shared = importlib.import_module("keras.src.random.seed_generator").global_seed_generator()
    states = [shared.state, *_seed_states(model)]
    before = [state.value.clone() for state in states]
    seed = torch.initial_seed() % 2**31
    try:
        for number, state in enumerate(states):
            state.assign(torch.tensor([(seed + APART * number) % 2**31, 0], dtype=state.value.dtype))
        yield
    finally:
        for state, value in zip(states, before, strict=True):
            state.assign(value)


def _cloned(keras: Any, model: Any, bare: set[int] | None = None) -> Any | None:
    """A net made again from its configuration, with the same weights; None where that fails.

    Args:
        bare: by ``id`` the layers that lose their activation.
    """

    def made(layer: Any) -> Any:
        config = layer.get_config()
        if id(layer) not in (bare or ()):
            return type(layer).from_config(config)
        if type(layer) is keras.layers.Softmax:
            return _no_softmax(keras).from_config(config)
        return type(layer).from_config({**config, "activation": "linear"})

    try:
        with keras.device(_device(next(iter(v.value for v in model.variables), torch.empty(0)))):
            if _symbols(model, "inputs"):
                clone = keras.models.clone_model(model, clone_function=made, recursive=True)
            else:
                clone = type(model).from_config(model.get_config())
                clone.build_from_config(model.get_build_config())
            clone.set_weights(model.get_weights())
    except _NOT_CLONED:
        return None
    for state in _seed_states(clone):
        state.assign([0, 0])
    return clone


def _no_softmax(keras: Any) -> Any:
    """Keras' layer ``Softmax`` (its calls hand in a mask, too), without what it does."""

    class NoSoftmax(keras.layers.Softmax):  # type: ignore[misc]
        def call(self, inputs: Any, mask: Any = None) -> Any:
            del mask
            return inputs

    return NoSoftmax


def _ends(model: Any) -> dict[int, tuple[Any, str]]:
    """By its number, the operation that makes an output, where that ends in a softmax or sigmoid."""
    found = {}
    for number, output in enumerate(_symbols(model, "outputs")):
        op = output._keras_history.operation
        while inner := _symbols(op, "outputs"):  # a net as the last layer
            if len(inner) != 1:
                break
            op = inner[0]._keras_history.operation
        kind = getattr(getattr(op, "activation", None), "__name__", type(op).__name__.lower())
        if kind in ("softmax", "sigmoid"):
            found[number] = (op, kind)
    return found


def _is_last(op: Any) -> bool:
    """Whether an operation is a layer that is called once, on whose output nothing else depends."""
    return hasattr(op, "get_config") and len(op._inbound_nodes) == 1 and not op._outbound_nodes


def _same(ends: Mapping[int, tuple[Any, str]], before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether the activations, put on again, give the probabilities that there were."""
    for number, z in enumerate(after):
        kind = ends[number][1] if number in ends else ""
        again = z.softmax(-1) if kind == "softmax" else z.sigmoid() if kind == "sigmoid" else z
        if again.shape != before[number].shape or float((again - before[number]).abs().max()) > SAME:
            return False
    return True
