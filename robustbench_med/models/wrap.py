"""Anybody's net as a model of this harness: any callable from tensors to scores.

What is not said is guessed from the net's own signature and from what it returns on a few samples. Every
guess is put into words, printed and recorded; what leaves a doubt is refused in one line that says what to
write.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from robustbench_med.models.foreign import Foreign
from robustbench_med.util.errors import UserError

MAPPING = "mapping"

Inputs = str | Sequence[str] | Mapping[str, str] | None
Outputs = Sequence[str] | Mapping[str, str | int] | None
Statistics = float | Sequence[float] | Mapping[str, float | Sequence[float]] | None


@dataclass(frozen=True)
class Wrap:
    """Somebody's net, and how it is to be called where that cannot be guessed; see ``wrap``."""

    module: Callable[..., Any]
    inputs: Inputs = None
    outputs: Outputs = None
    mean: Statistics = None
    std: Statistics = None
    random: bool | None = None
    mode: Literal["eval", "as-given"] | None = None
    arrays: bool | None = None

    @property
    def label(self) -> str:
        """The name of its class, or of the function."""
        name = getattr(self.module, "__name__", type(self.module).__name__)
        return "".join(c if c.isalnum() or c in "._+-" else "-" for c in name).strip("-._") or "net"


def wrap(
    module: Callable[..., Any],
    inputs: Inputs = None,
    outputs: Outputs = None,
    mean: Statistics = None,
    std: Statistics = None,
    random: bool | None = None,
    mode: Literal["eval", "as-given"] | None = None,
    arrays: bool | None = None,
) -> Wrap:
    """Say how a net is called, what it returns, and what it wants its inputs to be.

    Args:
        module: any callable from tensors (or NumPy arrays) to scores, (B, columns) a head.
        inputs: the modalities in the order of its positional arguments; or a mapping from its arguments
            to modalities, for a call by name; or "mapping", where it takes one mapping by modality.
        outputs: the heads in the order of what it returns; or a mapping from head to where its scores
            are: a position, a key, or the name of an attribute.
        mean, std: with which the net wants its inputs normalised, in units of the values: a number, one a
            channel, or either by modality. Attacks then work on the values before that.
        random: whether it draws random numbers; found out by two passes when not given.
        mode: "eval" puts all of its layers into evaluation mode; "as-given" takes it as it is, though it
            looks as if it were in training.
        arrays: whether it takes and returns NumPy arrays; found out when not given.

    Returns:
        What ``evaluate`` takes in the place of a net.
    """
    return Wrap(module, inputs, outputs, mean, std, random, mode, arrays)


@dataclass(frozen=True)
class Call:
    """How a net is called: guessed, or as it was said.

    Attributes:
        names: the modalities in the order of the arguments.
        keywords: the arguments' names, where the call is by name; () by position.
        as_mapping: one argument, a mapping by modality.
    """

    names: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    as_mapping: bool = False

    def __call__(self, module: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
        """What the net returns for modalities by name."""
        values = [inputs[name] for name in self.names]
        if self.as_mapping:
            return module(dict(zip(self.names, values, strict=True)))
        if self.keywords:
            return module(**dict(zip(self.keywords, values, strict=True)))
        return module(*values)


def call_of(spec: Wrap, modalities: Sequence[str]) -> tuple[Call, str]:
    """How to call a net with these modalities, and that in words.

    Raises:
        UserError: its signature leaves it open.
    """
    known = tuple(modalities)
    if spec.inputs == MAPPING:
        return Call(known, as_mapping=True), f"forward(mapping) of {', '.join(known)}"
    if isinstance(spec.inputs, Mapping):
        _require_names(tuple(spec.inputs.values()), known, "inputs")
        call = Call(tuple(spec.inputs.values()), tuple(spec.inputs))
        return call, _in_words(call.keywords, call.names, "by name, as given")
    if spec.inputs is not None:
        given = (spec.inputs,) if isinstance(spec.inputs, str) else tuple(spec.inputs)
        _require_names(given, known, "inputs")
        return Call(given), f"forward takes {', '.join(given)} in this order, as given"
    return _guessed_call(spec, known)


def _guessed_call(spec: Wrap, known: tuple[str, ...]) -> tuple[Call, str]:
    own = _Parameters.of(spec.module)
    if set(known) <= set(own.names) and set(own.required) <= set(known):
        return Call(known, known), _in_words(known, known, "by name")
    alone = len(own.positional) == 1 and own.required == own.positional and not own.starred
    if len(known) > 1 and alone and not own.all_told:
        return Call(known, as_mapping=True), f"forward({own.required[0]}): one mapping of {', '.join(known)}"
    if own.starred or (
        set(own.required) <= set(own.positional[: len(known)]) and len(known) <= len(own.positional)
    ):
        return Call(known), _in_words(own.positional[: len(known)] or ("*",), known, "in this order")
    raise UserError(
        f"{spec.label}: forward({', '.join(own.names)}) does not fit the modalities "
        f"{', '.join(known)}; say which goes where: wrap(net, inputs=[{', '.join(map(repr, known))}])"
    )


@dataclass(frozen=True)
class _Parameters:
    """What a net's signature says.

    Attributes:
        names, required: all that can be given by name, and those without a default.
        positional: those that can be given by position, in order.
        starred: it takes any number by position.
        all_told: each argument is one input, none is a mapping of them.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    positional: tuple[str, ...]
    starred: bool
    all_told: bool = False

    @classmethod
    def of(cls, module: Callable[..., Any]) -> _Parameters:
        if isinstance(module, Foreign):
            told = module.arguments
            return cls(told, told, told, starred=False, all_told=True)
        called = module.forward if isinstance(module, nn.Module) else module
        try:
            found = inspect.signature(called).parameters.values()
        except (TypeError, ValueError):  # of compiled code, which tells nothing
            return cls((), (), (), True)
        by_name = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        by_place = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in (*by_place, *by_name) if p.default is p.empty]
        return cls(
            tuple(p.name for p in by_name),
            tuple(dict.fromkeys(p.name for p in required)),
            tuple(p.name for p in by_place),
            any(p.kind is p.VAR_POSITIONAL for p in found),
        )


def _in_words(arguments: Sequence[str], names: Sequence[str], how: str) -> str:
    said = f"forward({', '.join(arguments)}): "
    return said + (f"modalities {', '.join(names)} {how}" if len(names) > 1 else f"the modality {names[0]}")


def _require_names(given: Sequence[str], known: Sequence[str], what: str) -> None:
    if sorted(given) != sorted(known):
        raise UserError(
            f"{what} are {', '.join(map(str, given))}, the data has {', '.join(known)}; name each once"
        )


@dataclass(frozen=True)
class Pick:
    """Where in what a net returns the scores of each head are.

    Attributes:
        places: by head a position, key or attribute; None for what is returned as a whole.
    """

    places: Mapping[str, str | int | None]

    def __call__(self, returned: Any) -> dict[str, Any]:
        """Scores by head, of whatever type the net returns them in."""
        return {head: _at(returned, place) for head, place in self.places.items()}


def _at(returned: Any, place: str | int | None) -> Any:
    if place is None:
        return returned
    if isinstance(place, str) and not isinstance(returned, Mapping):
        return getattr(returned, place)
    if isinstance(place, int) and isinstance(returned, Mapping) and place not in returned:
        return list(returned.values())[place]
    return returned[place]


def parts_of(returned: Any) -> dict[str | int | None, Any]:
    """What a net returns, by where in it that is: all that may be scores."""
    if _is_array(returned):
        return {None: returned}
    if hasattr(returned, "logits"):  # what transformers' models return is a mapping, too
        return {"logits": returned.logits}
    items: Any = returned.items() if isinstance(returned, Mapping) else ()
    if isinstance(returned, tuple | list):
        items = enumerate(returned)
    return {place: part for place, part in items if _is_array(part)}


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def pick_of(spec: Wrap, returned: Any, heads: Mapping[str, tuple[int, ...]]) -> tuple[Pick, str]:
    """Where the scores of each head are, and that in words.

    Args:
        returned: by the net on a few samples.
        heads: by name the numbers of columns that a head's scores should have.

    Raises:
        UserError: what is returned leaves it open.
    """
    names, parts = list(heads), parts_of(returned)
    if spec.outputs is not None:
        return _said_pick(spec, returned, names)
    if not parts:
        raise UserError(
            f"{spec.label} returns {type(returned).__name__}, in which there are no scores; return a tensor, "
            "a tuple or a mapping of them, or say wrap(net, outputs={'head': 'attribute'})"
        )
    if set(names) <= set(parts):
        return Pick({name: name for name in names}), f"outputs by name: {', '.join(names)}"
    fits = [place for place, part in parts.items() if any(_fits(part, heads[name]) for name in names)]
    if len(names) == 1 and len(fits or parts) == 1:
        fits = fits or list(parts)
        return Pick({names[0]: fits[0]}), f"{_place(fits[0])} → {names[0]}"
    if len(names) == len(parts):
        pick = Pick(dict(zip(names, parts, strict=True)))
        return pick, ", ".join(f"{_place(place)} → {name}" for name, place in pick.places.items())
    raise UserError(
        f"{spec.label} returns {len(parts)} outputs ({', '.join(map(_place, parts))}) for the "
        f"head(s) {', '.join(names)}; say which is which: wrap(net, outputs={{{names[0]!r}: 0}})"
    )


def _said_pick(spec: Wrap, returned: Any, names: list[str]) -> tuple[Pick, str]:
    outputs = spec.outputs or ()
    given = outputs.items() if isinstance(outputs, Mapping) else ((name, i) for i, name in enumerate(outputs))
    places: dict[str, str | int | None] = dict(given)
    _require_names(list(places), names, "outputs")
    if len(places) == 1 and list(places.values()) == [0] and _is_array(returned):
        places = dict.fromkeys(places)
    for name, place in places.items():
        try:
            _at(returned, place)
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise UserError(
                f"{spec.label} returns {type(returned).__name__}, in which there is no {place!r} for {name}; "
                "mend outputs"
            ) from error
    return Pick(places), ", ".join(f"{_place(place)} → {name}, as given" for name, place in places.items())


def _place(place: str | int | None) -> str:
    return "the output" if place is None else f"output {place}" if isinstance(place, int) else f".{place}"


def _fits(part: Any, columns: tuple[int, ...]) -> bool:
    shape = tuple(part.shape)
    return (len(shape) == 2 and shape[1] in columns) or (len(shape) == 1 and 1 in columns)
