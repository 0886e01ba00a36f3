"""Workers on a Ray cluster (extra ``ray``): actors, each with a processor, and a GPU where runs use one."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustbench_med.evaluation.workers import Make, Place, few_threads
from robustbench_med.util.errors import UserError

LOCAL = "local"


class Worker:
    """What runs on the cluster.

    Args:
        folder: where the driver runs: paths that were given relative to it are read there.
        path: of modules, as the driver has it.
    """

    def __init__(self, make: Make, folder: str, path: list[str]) -> None:
        sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
        if Path(folder).is_dir():
            os.chdir(folder)
        few_threads()
        self._make = make

    def make(self, task: Any) -> Any:
        """Make a part."""
        return self._make(task)


def ray_places(count: int, address: str, device: str, make: Make) -> list[Place]:
    """A place for each worker; Ray is started, or joined, if this process is not part of it yet.

    Raises:
        UserError: no Ray here, or none at the address; fewer processors or GPUs than workers.
    """
    ray = _ray()
    gpus = 1 if device.startswith("cuda") else 0
    if not ray.is_initialized():
        _join(ray, address, count)
    there = ray.cluster_resources()
    for what, needed in (("CPU", count), ("GPU", count * gpus)):
        if there.get(what, 0) < needed:
            raise UserError(f"--workers {count}: the Ray cluster has {int(there.get(what, 0))} {what}s")
    return [RayPlace(ray, make, gpus) for _ in range(count)]


def _ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray is to do from now on anyhow
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--ray needs the extra ray: pip install 'robustbench-med[ray]'; without it --workers alone uses "
            "processes of this machine"
        ) from error
    return ray


def _join(ray: Any, address: str, count: int) -> None:
    try:
        if address == LOCAL:
            ray.init(address="local", num_cpus=count, include_dashboard=False, logging_level="error")
        else:
            ray.init(address=address, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"--ray {address}: no cluster there ({said}); ray start --head starts one") from error


class RayPlace:
    """An actor somewhere on the cluster.

    Attributes:
        worker: the actor.
    """

    def __init__(self, ray: Any, make: Make, gpus: int) -> None:
        self._ray, self._make, self._gpus = ray, make, gpus
        self._start_worker()

    def _start_worker(self) -> None:
        actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0)(Worker)
        self.worker = actor.remote(self._make, str(Path.cwd()), sys.path)

    def start(self, task: Any) -> Future[Any]:
        found: Future[Any] = self.worker.make.remote(task).future()
        return found

    def died(self, error: BaseException) -> bool:
        ended = self._ray.exceptions
        return isinstance(error, ended.RayActorError | ended.WorkerCrashedError | ended.OutOfMemoryError)

    def renew(self) -> None:
        self.close()
        self._start_worker()

    def close(self) -> None:
        with suppress(Exception):  # it may be gone, and the cluster with it
            self._ray.kill(self.worker)
