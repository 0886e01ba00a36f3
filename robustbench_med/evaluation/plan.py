"""Everything that decides the outcomes of a run, as objects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_med.api.attack import Attack, Batch, Passes, Surrogate, Target
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import ThreatModel
from robustbench_med.util.errors import UserError


def no_surrogates(wanted: Surrogate) -> FusionModel:
    """Stands for a loader where there is none.

    Raises:
        UserError: always.
    """
    raise UserError(f"the surrogate {wanted.model!r} cannot be loaded here; run the attack by robmed run")


@dataclass(frozen=True)
class Plan:
    """What is attacked, how, and how it is scored.

    Attributes:
        model: as it was loaded. It is never run itself: every role has a copy of its own (``fresh``), so
            that no answer depends on what was asked before.
        name: of the attack, for errors.
        eot: draws behind each loss and gradient of the attack; 1 for deterministic models.
        draws: scoring draws; 1 for deterministic models.
        load_surrogate: hands out the models that a transfer attack asks for.
        keep: the outcomes have the adversarial inputs, packed.
    """

    model: FusionModel
    split: Split
    attack: Attack
    name: str
    threat: ThreatModel
    goal: Goal
    eot: int
    draws: int
    batch_size: int
    seed: int
    device: str
    load_surrogate: Callable[[Surrogate], FusionModel] = no_surrogates
    keep: bool = False

    @property
    def batches(self) -> list[NDArray[np.int64]]:
        """Sample positions of each batch."""
        everyone = np.arange(len(self.split))
        parts = [everyone[i : i + self.batch_size] for i in range(0, len(everyone), self.batch_size)]
        if len(parts) > 1 and len(parts[-1]) < self.model.least:
            parts[-2:] = [np.concatenate(parts[-2:])]
        return parts

    def fresh(self) -> FusionModel:
        """A copy of the model that was never asked anything, in evaluation mode."""
        return copy.deepcopy(self.model).requires_grad_(False)

    def target(self, model: FusionModel, seed: int, passes: Passes) -> Target:
        """A model as the attacker may use it."""
        return Target(
            model,
            self.threat,
            self.goal,
            self.eot,
            seed,
            passes,
            max(self.batch_size, self.model.least),
            load_surrogate=self.load_surrogate,
        )


def load_batch(split: Split, index: NDArray[np.int64], device: str) -> Batch:
    """Values and labels of some samples on the device."""
    return Batch(
        {m.name: torch.from_numpy(split.values(m.name, index)).to(device) for m in split.info.modalities},
        {h.name: torch.from_numpy(split.labels[h.name][index]).to(device) for h in split.info.heads},
        tuple(split.ids[i] for i in index),
    )
