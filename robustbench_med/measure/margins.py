"""How far numbers may fall: what a gate is asked. Light, so that errors in a config come at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT, Fraction

SEEDS = 3  # attack seeds that decide a close fall


@dataclass(frozen=True)
class Margins:
    """How far numbers may fall, and robust ones rise without a sound audit, as shares in [0, 1).

    Attributes:
        clean, robust: of what the attack aims at.
        heads: of each head, or of heads and questions by name; not judged when not given.
        worst_subgroup: robust accuracy of the worst subgroup of at least 20 samples; likewise.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    clean: Fraction = 0.02
    robust: Fraction = 0.02
    heads: Fraction | Mapping[str, Fraction] | None = None
    worst_subgroup: Fraction | None = None

    def require(self) -> Margins:
        """These margins.

        Raises:
            UserError: one is no share.
        """
        named = dict(self.heads) if isinstance(self.heads, Mapping) else {"heads": self.heads}
        named |= {"clean": self.clean, "robust": self.robust, "worst_subgroup": self.worst_subgroup}
        for name, value in named.items():
            if value is not None and not 0 <= value < 1:
                said = "it must lie between 0 and 1, such as 0.02 for two points"
                raise UserError(f"the margin of {name} is {value:g}; {said}")
        return self
