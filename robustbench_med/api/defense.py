"""What a defense is: a named, parametrised change to a model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from robustbench_med.api.model import FusionModel


class Defense(ABC):
    """A change to a model that is meant to make it robust.

    Write a frozen dataclass whose fields are the defense's parameters, and register it under
    ``robustbench_med.defenses``. Model configs and ``--defense`` name it and set its fields; records
    repeat them. Several are applied in the order in which they are named.

    A defense changes the inputs (``FusionModel.preprocess``), encloses the model
    (``FusionModel.wrap``), both of which every model offers, or replaces layers at the hooks that a
    model offers (``FusionModel.sites`` and ``install``). A random one draws only from the
    ``NoiseSource`` of its ``RandomLayer``; it can then be frozen to a recorded draw
    (``model.noise.frozen(seed)``) and switched off (``model.noise.scale = 0``).
    """

    @abstractmethod
    def apply(self, model: FusionModel) -> None:
        """Change ``model`` in place, before its weights are loaded.

        Raises:
            UserError: a parameter is out of range, or the model lacks the hook the defense needs.
        """
