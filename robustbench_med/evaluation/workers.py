"""Workers: processes that make parts of runs, each a place of its own, so that the end of one is no other's.

A place has one worker at a time, with one thread a pass. One that dies is replaced; what it was at is made
again by whoever is free, and only the driver writes, so that nothing is counted twice.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Protocol

from robustbench_med.util.errors import UserError

THREADS = 1  # a pass: more would round its sums otherwise, and workers are what fills the cores
MOST = 1024
Make = Callable[[Any], Any]
"""Makes a part; a function of a module, which a worker imports."""


@dataclass(frozen=True)
class Workers:
    """Who makes the parts of runs.

    Attributes:
        count: of workers; 0 for this process itself.
        ray: address of a Ray cluster, or "local" for one on this machine; None for processes of this machine.

    Raises:
        UserError: a number that makes no sense; Ray with no workers.
    """

    count: int = 0
    ray: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.count <= MOST:
            raise UserError(f"--workers {self.count}: choose 1 to {MOST}, about as many as there are cores")
        if self.ray is not None and not self.count:
            raise UserError("--ray says where workers run; say how many with --workers")


ALONE = Workers()  # this process


class Place(Protocol):
    """Where one worker works."""

    def start(self, task: Any) -> Future[Any]:
        """Have the worker make a part."""

    def died(self, error: BaseException) -> bool:
        """Whether what came of a part says that the worker is no more."""

    def renew(self) -> None:
        """Put another worker in its place."""

    def close(self) -> None:
        """End the worker, whatever it is at."""


class _Starting(SpawnContext):
    """Starts processes, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.started = list[SpawnProcess]()

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """As the context does, but kept."""
        self.started.append(SpawnProcess(*args, **kwargs))
        return self.started[-1]


class LocalPlace:
    """A process of this machine, started afresh and not forked: threads and GPUs survive no fork.

    Attributes:
        process: the worker.
    """

    def __init__(self, make: Make, gpu: str | None = None) -> None:
        self._make, self._gpu = make, gpu
        self._start_worker()

    def _start_worker(self) -> None:
        context = _Starting()
        self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._gpu,))
        self._pool.submit(os.getpid)  # which starts the process
        self.process = context.started[0]

    def start(self, task: Any) -> Future[Any]:
        try:
            return self._pool.submit(self._make, task)
        except BrokenProcessPool as error:  # it died before it was given anything
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def died(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool)

    def renew(self) -> None:
        self.close()
        self._start_worker()

    def close(self) -> None:
        with suppress(OSError, ValueError):  # it may be gone
            self.process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)


def _begin(gpu: str | None) -> None:
    """What a worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, which ends its workers
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    few_threads()


def few_threads() -> None:
    """Let a pass of this process have ``THREADS`` threads."""
    import torch

    torch.set_num_threads(THREADS)


def _end_with_the_driver() -> None:
    """A worker whose driver was killed would wait for it for ever."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        connection.wait([driver.sentinel])
        os._exit(1)
