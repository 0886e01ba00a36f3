"""Types for the fields of plug-ins and configs."""

from __future__ import annotations

import operator
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict


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
