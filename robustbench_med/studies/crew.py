"""Many runs by this process, or by workers that share out their parts; only this process writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from robustbench_med.evaluation.places import places_for
from robustbench_med.evaluation.prepare import Prepared
from robustbench_med.evaluation.workers import THREADS, Place, Workers
from robustbench_med.studies.parts import Part, Parts, make_part
from robustbench_med.studies.result import OnRecord, Result
from robustbench_med.studies.run import Work, opened, run_prepared
from robustbench_med.util.errors import UserError
from robustbench_med.util.progress import progress_bar

DEATHS = 5  # of workers at one part: then it is the part's doing


@dataclass(frozen=True)
class Order:
    """A run that is wanted.

    Attributes:
        key: tells whoever ordered it which one it is.
        audited, reuse, pictures, on_record, row: see ``studies.run.run_prepared``.
    """

    prepared: Prepared
    key: Any = None
    audited: str | None = None
    reuse: bool = True
    pictures: bool = True
    on_record: OnRecord | None = None
    row: bool = True


Done = Callable[[Order, Result], None]
Failed = Callable[[Order, Exception], None]


def raised(order: Order, error: Exception) -> None:
    """End everything with the error of one run."""
    del order
    raise error


def carry_out(
    orders: Iterable[Order], workers: Workers, done: Done, failed: Failed = raised, count: int = 0
) -> None:
    """Make runs; ``done`` is told each as its record is written, with workers in the order in which they end.

    Args:
        orders: taken one after another, as there is room for their parts.
        failed: told what ended a run in an error.
        count: how many there will be, for the progress bar.

    Raises:
        UserError: the workers cannot be had.
    """
    if workers.count:
        with single_threaded(), _crew(workers, done, failed, count) as crew:
            crew.work(iter(orders))
        return
    for order in orders:
        try:
            how = (order.audited, order.reuse, order.pictures, order.on_record, order.row)
            result = run_prepared(order.prepared, *how)
        except Exception as error:
            failed(order, error)
        else:
            done(order, result)


def in_order(orders: Sequence[Order], workers: Workers) -> list[Result]:
    """The results of runs, in the order in which they are given.

    Raises:
        UserError: of the first that fails, or see ``carry_out``.
    """
    found: dict[int, Result] = {}
    places = {id(order): place for place, order in enumerate(orders)}

    def done(order: Order, result: Result) -> None:
        found[places[id(order)]] = result

    carry_out(orders, workers, done, count=len(orders))
    return [found[place] for place in range(len(orders))]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Give a pass of this process as many threads as one of a worker: some of the work is its own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Job:
    """A run at work.

    Attributes:
        lock: of its folder.
        waiting: its parts that nobody makes yet.
        busy: how many are being made.
        ended: parts that are made, for the progress bar.
        over: it was finished or failed.
    """

    order: Order
    lock: ExitStack
    parts: Parts
    waiting: list[Part] = field(default_factory=list)
    busy: int = 0
    ended: int = 0
    over: bool = False


@dataclass(frozen=True)
class _Running:
    place: int
    job: _Job
    part: Part


@contextmanager
def _crew(workers: Workers, done: Done, failed: Failed, count: int) -> Iterator[_Crew]:
    with ExitStack() as stack, progress_bar() as bar:
        crew = _Crew(workers, done, failed, bar, count, stack)
        try:
            yield crew
        finally:
            for place in crew.places:
                place.close()


class _Crew:
    """Shares out parts.

    Attributes:
        places: of the workers; made when the first run says which device it is for.
    """

    def __init__(
        self, workers: Workers, done: Done, failed: Failed, bar: Any, count: int, stack: ExitStack
    ) -> None:
        self.workers, self.done, self.failed, self.stack = workers, done, failed, stack
        self.places: list[Place] = []
        self.jobs: list[_Job] = []
        self.running: dict[Future[Any], _Running] = {}
        self.about: dict[int, str] = {}  # which model and data a worker has loaded
        self.deaths: dict[tuple[str, str], int] = {}
        self.bar, self.line = bar, bar.add_task(f"{workers.count} workers", total=count or None)

    def work(self, orders: Iterator[Order]) -> None:
        """Make all of them."""
        while self._take_in(orders) or self.jobs:
            self._share_out()
            for job in [each for each in self.jobs if not each.waiting and not each.busy]:
                self._go_on(job)
            self.jobs = [job for job in self.jobs if not job.over]
            self._share_out()
            self._wait()

    def _take_in(self, orders: Iterator[Order]) -> bool:
        """Begin runs until there are as many parts waiting as workers, so that none is ever idle."""
        any_new = False
        while sum(len(job.waiting) for job in self.jobs) < self.workers.count:
            order = next(orders, None)
            if order is None:
                return any_new
            any_new = True
            self._begin(order)
        return any_new

    def _begin(self, order: Order) -> None:
        lock = ExitStack()
        self.stack.push(lock)
        try:
            if not self.places:
                self.places = places_for(self.workers, order.prepared.config.device, make_part)
            work: Work = lock.enter_context(opened(order.prepared, order.audited, order.reuse, quiet=True))
            parts = Parts(work)
            self.jobs.append(job := _Job(order, lock, parts, parts.pending()))
        except Exception as error:
            lock.close()
            if not self.places:
                raise
            self.failed(order, error)
            return
        if not job.waiting:  # finished before, or all but: it need not wait for others
            self._go_on(job)

    def _share_out(self) -> None:
        """Give each idle worker a part, of what it has loaded if there is one."""
        busy = {running.place for running in self.running.values()}
        for number, place in enumerate(self.places):
            if number in busy:
                continue
            waiting = [job for job in self.jobs if job.waiting]
            if not waiting:
                return
            known = (job for job in waiting if job.waiting[0].subject == self.about.get(number))
            job = next(known, None) or self._least_known(waiting)
            part = job.waiting.pop(0)
            self.about[number] = part.subject
            job.busy += 1
            self.running[place.start(part)] = _Running(number, job, part)

    def _least_known(self, waiting: Sequence[_Job]) -> _Job:
        """The first run whose model no other worker has loaded, or else the first."""
        loaded = set(self.about.values())
        return next((job for job in waiting if job.waiting[0].subject not in loaded), waiting[0])

    def _wait(self) -> None:
        if not self.running:
            return
        ended, _ = wait(self.running, return_when=FIRST_COMPLETED)
        for future in ended:
            running = self.running.pop(future)
            running.job.busy -= 1
            self._take(running, future)

    def _take(self, running: _Running, future: Future[Any]) -> None:
        """Keep what a worker made; of one that died, have it made again."""
        job, part = running.job, running.part
        error = future.exception()
        if error is not None and self.places[running.place].died(error):
            self.about.pop(running.place, None)
            self.places[running.place].renew()
            key = part.run, part.task.title
            self.deaths[key] = self.deaths.get(key, 0) + 1
            if self.deaths[key] < DEATHS:
                job.waiting.insert(0, part)
                return
            error = UserError(
                f"{part.task.title} of run {part.run} ended {DEATHS} workers; if memory was short, take "
                "fewer workers or a smaller --batch-size"
            )
        if job.over:
            return
        if error is not None:
            self._fail(job, error)
            return
        self._guarded(job, lambda: job.parts.keep(part.task, future.result()))
        job.ended += 1
        self._show(job, 1)

    def _go_on(self, job: _Job) -> None:
        """What a run needs next, now that all its parts so far are made: more of them, or its record."""
        if job.over:
            return
        pending = self._guarded(job, job.parts.pending)
        if job.over:
            return
        if pending:
            job.waiting = pending
            return
        order = job.order
        how = (order.pictures, order.on_record, order.row)
        result = self._guarded(job, lambda: job.parts.work.finish(*how))
        if result is not None:
            self._close(job)
            self.done(order, result)

    def _guarded(self, job: _Job, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._fail(job, error)
            return None

    def _fail(self, job: _Job, error: BaseException) -> None:
        self._close(job)
        if not isinstance(error, Exception):
            raise error
        self.failed(job.order, _cause(error))

    def _close(self, job: _Job) -> None:
        job.over, job.waiting = True, []
        job.lock.close()
        self._show(job, 0)

    def _show(self, job: _Job, made: int) -> None:
        """Runs that are over, and the parts that are made of others as shares of a run."""
        whole = max(job.parts.count, 1)
        if job.over:
            self.bar.advance(self.line, max(0.0, 1 - job.ended / whole))
        else:
            self.bar.advance(self.line, made / whole)
        names = dict.fromkeys(r.job.order.prepared.loaded.config.label for r in self.running.values())
        said = ", ".join(list(names)[:3])
        self.bar.update(self.line, description=f"{self.workers.count} workers: {said or 'finishing'}")


def _cause(error: Exception) -> Exception:
    """What went wrong in a worker; Ray wraps it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, UserError) else error
