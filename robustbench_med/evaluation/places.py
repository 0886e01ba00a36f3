"""A place for each worker, here or on a cluster."""

from __future__ import annotations

import os

from robustbench_med.evaluation.on_ray import ray_places
from robustbench_med.evaluation.workers import LocalPlace, Make, Place, Workers
from robustbench_med.util.errors import UserError


def places_for(workers: Workers, device: str, make: Make) -> list[Place]:
    """A place for each worker.

    Args:
        device: torch's name of it; where that is a GPU each worker has one of its own.

    Raises:
        UserError: fewer GPUs than workers; no Ray, or none at the address.
    """
    if workers.ray is not None:
        return ray_places(workers.count, workers.ray, device, make)
    return [LocalPlace(make, gpu) for gpu in gpus_for(workers.count, device)]


def gpus_for(count: int, device: str) -> list[str | None]:
    """The GPU of each worker, by its number; None where they use none.

    Raises:
        UserError: there are fewer; a device that is one GPU by its number.
    """
    if not device.startswith("cuda"):
        return [None] * count
    if ":" in device and count > 1:
        raise UserError(f"--device {device} is one GPU, and each worker has its own; say --device cuda")
    import torch

    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = said.split(",") if said else [str(number) for number in range(torch.cuda.device_count())]
    if len(there) < count:
        raise UserError(f"--workers {count}: there are {len(there)} GPUs, and each worker has its own")
    return list(there[:count])
