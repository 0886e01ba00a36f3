"""Runs shared out among workers: the same records, whoever made what in which order, and who died."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Robmed

from robustbench_med.evaluation.places import gpus_for
from robustbench_med.evaluation.prepare import RunConfig, load_subject, prepare
from robustbench_med.evaluation.workers import ALONE, LocalPlace, Workers
from robustbench_med.studies import crew
from robustbench_med.studies.crew import Order, in_order
from robustbench_med.studies.parts import Hands, Part
from robustbench_med.studies.result import Result
from robustbench_med.studies.run import checked, run
from robustbench_med.studies.several import run_all
from robustbench_med.studies.suite import Entry, Making, Suite, run_suite
from robustbench_med.util.errors import UserError

TIMES = ("seconds", "started")


def without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: without_times(each) for name, each in value.items() if name not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list | tuple) else value


def stable(result: Result) -> str:
    """The bytes of a record but for times."""
    return json.dumps(without_times(json.loads((result.folder / "record.json").read_text())))


def config(weights: dict[str, Path], out: Path, model: str = "concat", **changes: Any) -> RunConfig:
    values: dict[str, Any] = {"attack_options": {"steps": 2}, "samples": 7, "batch_size": 2, "draws": 2}
    return RunConfig(model, "pgd", weights=str(weights[model]), out=str(out), **values | {"eot": 2} | changes)


class InHere:
    """A place whose worker is this process; it dies at the parts that ``dies`` chooses."""

    def __init__(self, dies: Callable[[Part], bool] = lambda _: False) -> None:
        self.hands, self.dies, self.made, self.renewed = Hands(), dies, list[str](), 0

    def start(self, part: Part) -> Future[Any]:
        future: Future[Any] = Future()
        if self.dies(part):
            future.set_exception(BrokenProcessPool("killed"))
            return future
        self.made.append(part.task.title)
        try:
            future.set_result(self.hands.make(part))
        except Exception as error:
            future.set_exception(error)
        return future

    def died(self, error: BaseException) -> bool:
        return isinstance(error, BrokenProcessPool)

    def renew(self) -> None:
        self.renewed += 1
        self.hands = Hands()

    def close(self) -> None:
        pass


Staffed = Callable[..., list[InHere]]


@pytest.fixture
def staffed(monkeypatch: pytest.MonkeyPatch) -> Staffed:
    """Put places of this process in those of workers."""

    def put(*places: InHere) -> list[InHere]:
        monkeypatch.setattr(crew, "places_for", lambda *_: list(places))
        return list(places)

    return put


NOISE, PADDED = "gaussian-noise:sigma=0.1", "resize-pad"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("defenses", "changes", "audited"),
    [
        ((), {}, None),
        ((NOISE, PADDED), {}, None),
        pytest.param((NOISE,), {"eot": "auto", "samples": 5}, None, marks=pytest.mark.slow),
        pytest.param((), {"samples": 5}, "quick", marks=pytest.mark.slow),
        pytest.param((NOISE, PADDED), {"samples": 4, "eot": "auto"}, "quick", marks=pytest.mark.slow),
    ],
)
def test_workers_change_no_byte_of_a_record(
    defenses: tuple[str, ...],
    changes: dict[str, Any],
    audited: str | None,
    weights: dict[str, Path],
    tmp_path: Path,
    staffed: Staffed,
) -> None:
    """The noise is drawn by element, the padding once a batch."""
    given: Any = {**changes, "defenses": defenses}
    alone = run(config(weights, tmp_path / "alone", **given), audited)
    staffed(InHere(), InHere(), InHere())
    (shared,) = run_all(config(weights, tmp_path / "shared", **given), audited, workers=Workers(3))
    assert stable(shared) == stable(alone)
    names = sorted(path.name for path in alone.folder.iterdir())
    assert sorted(path.name for path in shared.folder.iterdir()) == names


@pytest.mark.usefixtures("no_pictures")
def test_a_worker_that_dies_is_replaced_and_nothing_is_counted_twice(
    weights: dict[str, Path], tmp_path: Path, staffed: Staffed
) -> None:
    alone = run(config(weights, tmp_path / "alone"))
    chance = random.Random(0)
    places = staffed(*(InHere(lambda _: chance.random() < 0.4) for _ in range(2)))
    (shared,) = run_all(config(weights, tmp_path / "shared"), workers=Workers(2))
    assert stable(shared) == stable(alone)
    assert sum(place.renewed for place in places) > 0
    assert sorted(title for place in places for title in place.made) == sorted(
        ["audit, looks", *(f"batch {n}" for n in range(1, 5))]
    )


@pytest.mark.usefixtures("no_pictures")
def test_a_part_that_ends_every_worker_ends_its_run_alone(
    weights: dict[str, Path], tmp_path: Path, staffed: Staffed
) -> None:
    """And what was made of it is not made again when it goes on."""
    orders = [Order(prepare(config(weights, tmp_path, seed=seed))) for seed in (0, 1)]
    places = staffed(InHere(lambda part: part.config.seed == 0 and part.task.title == "batch 2"))
    done, failed = list[int](), list[str]()
    crew.carry_out(
        orders,
        Workers(1),
        lambda order, _: done.append(order.prepared.config.seed),
        lambda _, error: failed.append(str(error)),
    )
    assert done == [1]
    assert len(failed) == 1
    assert "batch 2 of run" in failed[0]
    assert "ended 5 workers" in failed[0]
    assert places[0].renewed == 5
    after = staffed(InHere())
    in_order(orders, Workers(1))
    assert "batch 1" not in after[0].made


@pytest.mark.usefixtures("no_pictures")
def test_a_worker_loads_a_model_once_and_stays_with_it(
    weights: dict[str, Path], tmp_path: Path, staffed: Staffed, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def counted(chosen: RunConfig, *arguments: Any) -> Any:
        loaded.append(chosen.model)
        return load_subject(chosen, *arguments)

    monkeypatch.setattr("robustbench_med.studies.parts.load_subject", counted)
    staffed(InHere(), InHere())
    orders = [
        Order(prepare(config(weights, tmp_path, model, seed=seed)))
        for model in ("concat", "mail")
        for seed in (0, 1)
    ]
    in_order(orders, Workers(2))
    assert all(1 <= loaded.count(name) <= 2 for name in ("concat", "mail")), "once by each of two workers"


def test_a_worker_with_other_weights_is_refused(weights: dict[str, Path], tmp_path: Path) -> None:
    asked = config(weights, tmp_path)
    with pytest.raises(UserError, match="other code, data, weights or versions"):
        Hands().make(Part(asked, "0" * 12, None))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_pictures")
def test_parts_of_another_number_of_threads_are_not_mixed_in(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustbench_med.studies import run as module
    from robustbench_med.studies.working import same_threads

    monkeypatch.setattr(module.Work, "_audited", None)  # ends the run after its batches
    with pytest.raises(TypeError):
        run(config(weights, tmp_path))
    monkeypatch.undo()
    (parts,) = tmp_path.glob("*/parts")
    times = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    same_threads(parts.parent, 1)
    assert {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")} == times
    same_threads(parts.parent, 2)
    assert not list(parts.glob("*.npz"))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--workers", "0"], "--workers 0: choose 1 or more"),
        (["--workers", "5000"], "choose 1 to 1024"),
        (["--ray", "local"], "say how many with --workers"),
    ],
)
def test_what_workers_cannot_be(flags: list[str], complaint: str, robmed: Robmed, tmp_path: Path) -> None:
    common = ["run", "--model", "concat", "--attack", "fgsm", "--samples", "2", "--out", tmp_path]
    code, (line,) = robmed(*common, *flags)
    assert code == 2
    assert complaint in line


def test_each_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert gpus_for(2, "cuda") == ["4", "6"]
    assert gpus_for(3, "cpu") == [None] * 3
    with pytest.raises(UserError, match="there are 2 GPUs"):
        gpus_for(3, "cuda")
    with pytest.raises(UserError, match="is one GPU"):
        gpus_for(2, "cuda:1")


@pytest.mark.slow
def test_killed_at_random_no_byte_changes(weights: dict[str, Path], tmp_path: Path) -> None:
    """Real processes, killed by the operating system up to four times while three runs are made."""
    kinds = [(), (NOISE,), (NOISE, PADDED)]
    same: dict[str, Any] = {"samples": 16, "attack_options": {"steps": 40}}
    few = [{**same, "defenses": kind} for kind in kinds]
    alone = [run(checked(config(weights, tmp_path / "alone", **each))) for each in few]
    orders = [Order(prepare(checked(config(weights, tmp_path / "shared", **each)))) for each in few]
    killed = list[int]()
    ended = threading.Event()
    killer = threading.Thread(target=_kill_workers, args=(4, ended, killed))
    killer.start()
    try:
        shared = in_order(orders, Workers(2))
    finally:
        ended.set()
        killer.join()
    assert killed
    assert [stable(each) for each in shared] == [stable(each) for each in alone]


def _kill_workers(most: int, ended: threading.Event, killed: list[int]) -> None:
    chance = random.Random(0)
    while len(killed) < most and not ended.wait(chance.uniform(1, 5)):
        workers = multiprocessing.active_children()
        if workers:
            worker = chance.choice(workers)
            if worker.pid is not None:
                killed.append(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.slow
def test_workers_end_with_a_driver_that_is_killed(weights: dict[str, Path], tmp_path: Path) -> None:
    flags = [f"--weights={weights['concat']}", "--attack=pgd", "--steps=400", "--samples=40"]
    command = [sys.executable, "-m", "robustbench_med", "run", "--model=concat", *flags]
    command += ["--batch-size=2", f"--out={tmp_path}", "--workers=2"]
    driver = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("*/parts/0*.npz")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = _children(driver.pid)
    assert len(workers) >= 2
    driver.kill()
    driver.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)


def _children(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_processes_make_the_records_of_one(weights: dict[str, Path], tmp_path: Path, robmed: Robmed) -> None:
    common = [f"--weights={weights['concat']}", "--samples=6", "--batch-size=2", "--draws=2"]
    common += ["--attack=pgd,fgsm", "--eot=2", "--model=concat", f"--defense={NOISE}", "--no-picture"]
    assert robmed("run", *common, "--out", tmp_path / "alone")[0] == 0
    assert robmed("run", *common, "--out", tmp_path / "shared", "--workers", 2)[0] == 0
    found = [
        {
            path.parent.name: without_times(json.loads(path.read_text()))
            for path in (tmp_path / name).glob("*/record.json")
        }
        for name in ("alone", "shared")
    ]
    assert len(found[0]) == 3
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)")
def test_ray_makes_the_records_of_one(weights: dict[str, Path], tmp_path: Path) -> None:
    """An actor is killed in the middle, too."""
    import ray

    alone = run(config(weights, tmp_path / "alone", defenses=(NOISE, PADDED)))
    try:
        (shared,) = run_all(
            config(weights, tmp_path / "shared", defenses=(NOISE, PADDED)), workers=Workers(2, "local")
        )
    finally:
        ray.shutdown()
    assert stable(shared) == stable(alone)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_one_line_says_how_to_get_it(robmed: Robmed, tmp_path: Path) -> None:
    flags = ["--model", "concat", "--attack", "fgsm", "--samples", "2", "--out", tmp_path]
    code, lines = robmed("run", *flags, "--workers", "2", "--ray", "local")
    assert code == 2
    assert "pip install 'robustbench-med[ray]'" in lines[-1]


@pytest.mark.usefixtures("no_pictures")
def test_a_suite_in_its_own_order(tmp_path: Path, staffed: Staffed) -> None:
    entries = tuple(Entry("released", samples=n, batch_size=2, title=str(n)) for n in (6, 2))
    suite, seen = Suite("Small", ("phantom",), ("concat",), entries), list[str]()
    staffed(InHere(), InHere())
    shared = run_suite(
        suite,
        Making(
            tmp_path / "shared", workers=Workers(2), on_record=lambda record: seen.append(record["folder"])
        ),
    )
    alone = run_suite(suite, Making(tmp_path / "alone", workers=ALONE))
    assert (
        list(shared.records)
        == list(alone.records)
        == [("phantom", "concat", "6"), ("phantom", "concat", "2")]
    )
    assert shared.table.read_text() == alone.table.read_text()
    assert sorted(seen) == sorted(str(path.parent) for path in (tmp_path / "shared").glob("*/record.json"))


@pytest.fixture
def place() -> Iterator[LocalPlace]:
    made = LocalPlace(_slept)
    yield made
    made.close()


def _slept(seconds: float) -> int:
    time.sleep(seconds)
    import torch

    return torch.get_num_threads()


def test_a_process_is_replaced(place: LocalPlace) -> None:
    first = place.process.pid
    future = place.start(600.0)
    place.process.kill()
    error = future.exception(timeout=60)
    assert error is not None
    assert place.died(error)
    place.renew()
    assert place.process.pid != first
    assert place.start(0.0).result(timeout=120) == 1
