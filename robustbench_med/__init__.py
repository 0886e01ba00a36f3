"""robustbench-med: robust accuracy of multimodal medical classifiers that can be trusted.

The names below are imported when they are first used, so that the command line starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_med.data.catalog import load_dataset
    from robustbench_med.evaluation.prepare import RunConfig
    from robustbench_med.models.load import load_model
    from robustbench_med.models.wrap import wrap
    from robustbench_med.studies.evaluate import evaluate
    from robustbench_med.studies.live import arrays
    from robustbench_med.studies.result import Result
    from robustbench_med.studies.run import run
    from robustbench_med.studies.several import run_all

_HOMES = {
    "load_dataset": "robustbench_med.data.catalog",
    "load_model": "robustbench_med.models.load",
    "run": "robustbench_med.studies.run",
    "run_all": "robustbench_med.studies.several",
    "Result": "robustbench_med.studies.result",
    "RunConfig": "robustbench_med.evaluation.prepare",
    "evaluate": "robustbench_med.studies.evaluate",
    "arrays": "robustbench_med.studies.live",
    "wrap": "robustbench_med.models.wrap",
}

__all__ = [
    "Result",
    "RunConfig",
    "arrays",
    "evaluate",
    "load_dataset",
    "load_model",
    "run",
    "run_all",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
