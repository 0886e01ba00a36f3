"""The public API: what plug-ins import, and what the harness promises them. Everything they need is here.

    from robustbench_med.api import Attack, Batch, Target

The names are imported when they are first used, so that data sets can be described without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_med.api.attack import (
        Attack,
        Batch,
        Evaluation,
        Knowledge,
        Passes,
        Surrogate,
        Target,
        in_float,
        take,
    )
    from robustbench_med.api.best import Best, remaining
    from robustbench_med.api.data import (
        KINDS,
        SPLITS,
        DatasetInfo,
        DataSource,
        ImportReport,
        Kind,
        Modality,
        Split,
    )
    from robustbench_med.api.defense import Defense
    from robustbench_med.api.heads import UNKNOWN, Binary, Head, MultiLabel, SingleLabel
    from robustbench_med.api.losses import (
        Loss,
        cross_entropy,
        difference,
        dlr,
        loss_by_name,
        margin,
        targeted_dlr,
    )
    from robustbench_med.api.model import Forward, FusionModel, Wrapper, straight_through
    from robustbench_med.api.objective import Aim, Goal
    from robustbench_med.api.randomness import Dropout, NoiseSource, RandomLayer, isolated
    from robustbench_med.api.space import Box, joint_lengths, lengths, per_sample, unit_vectors
    from robustbench_med.api.threat import Budget, Norm, ThreatModel
    from robustbench_med.util.errors import UserError, unknown
    from robustbench_med.util.fields import Fraction
    from robustbench_med.util.seeding import derive, generator

_HOMES = {
    "api.attack": "Attack Batch Evaluation Knowledge Passes Surrogate Target in_float take",
    "api.best": "Best remaining",
    "api.data": "KINDS SPLITS DatasetInfo DataSource ImportReport Kind Modality Split",
    "api.defense": "Defense",
    "api.heads": "UNKNOWN Binary Head MultiLabel SingleLabel",
    "api.model": "Forward FusionModel Wrapper straight_through",
    "api.losses": "Loss cross_entropy difference dlr loss_by_name margin targeted_dlr",
    "api.objective": "Aim Goal",
    "api.randomness": "Dropout NoiseSource RandomLayer isolated",
    "api.space": "Box joint_lengths lengths per_sample unit_vectors",
    "api.threat": "Budget Norm ThreatModel",
    "util.errors": "UserError unknown",
    "util.fields": "Fraction",
    "util.seeding": "derive generator",
}
_HOME_OF = {name: f"robustbench_med.{home}" for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "KINDS",
    "SPLITS",
    "UNKNOWN",
    "Aim",
    "Attack",
    "Batch",
    "Best",
    "Binary",
    "Box",
    "Budget",
    "DataSource",
    "DatasetInfo",
    "Defense",
    "Dropout",
    "Evaluation",
    "Forward",
    "Fraction",
    "FusionModel",
    "Goal",
    "Head",
    "ImportReport",
    "Kind",
    "Knowledge",
    "Loss",
    "Modality",
    "MultiLabel",
    "NoiseSource",
    "Norm",
    "Passes",
    "RandomLayer",
    "SingleLabel",
    "Split",
    "Surrogate",
    "Target",
    "ThreatModel",
    "UserError",
    "Wrapper",
    "cross_entropy",
    "derive",
    "difference",
    "dlr",
    "generator",
    "in_float",
    "isolated",
    "joint_lengths",
    "lengths",
    "loss_by_name",
    "margin",
    "per_sample",
    "remaining",
    "straight_through",
    "take",
    "targeted_dlr",
    "unit_vectors",
    "unknown",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
