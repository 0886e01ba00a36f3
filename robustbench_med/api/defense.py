"""What a defense is: a named, parametrised change to a model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from robustbench_med.api.model import FusionModel


class Defense(ABC):
    """A change to a model that is meant to make it robust.

    Write a frozen dataclass whose fields are the defense's parameters, and register it under
    ``robustbench_med.defenses``. Model configs name it and set its fields; records repeat them.
    """

    @abstractmethod
    def apply(self, model: FusionModel) -> None:
        """Change ``model`` in place, before its weights are loaded.

        Raises:
            UserError: the model does not offer the hook the defense needs.
        """
