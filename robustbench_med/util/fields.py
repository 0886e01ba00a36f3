"""Types for the fields of plug-ins and configs."""

from __future__ import annotations

import operator
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict

from robustbench_med.util.errors import UserError

FLAGS = {"--eps": "radius", "--radii": "radius", "--sigma": "standard deviation", "--margin": "share"}


def fraction(value: object) -> object:
    """Turn "4/255" into a float; leave everything else for the type check."""
    if isinstance(value, str) and value.count("/") == 1:
        try:
            return operator.truediv(*map(float, value.split("/")))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{value!r} is not a fraction") from error
    return value


STRICT = ConfigDict(extra="forbid")
"""For a config inside a config, as ``__pydantic_config__``: a field it does not have is an error."""

Fraction = Annotated[float, BeforeValidator(fraction)]
"""A float that may be written as "4/255"."""


def number(text: str, flag: str) -> float:
    """The number that a flag of ``FLAGS`` gives, "4/255" say.

    Raises:
        UserError: it is none.
    """
    try:
        return float(fraction(text.strip()))  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        example = "write 4/255 or name=4/255,name=2/255"
        raise UserError(f"{flag}: {text!r} is not a {FLAGS[flag]}; {example}") from error


def named_numbers(text: str, flag: str) -> float | dict[str, float]:
    """ "4/255", or "mr=4/255,ct=2/255" by name.

    Raises:
        UserError: not so, or a name twice.
    """
    if "=" not in text:
        return number(text, flag)
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() in found:
            raise UserError(f"{flag}: {name.strip()!r} is given twice; drop one")
        found[name.strip()] = number(value, flag)
    return found
