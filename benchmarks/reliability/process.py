"""One command in a child that is forked after everything heavy was imported."""

from __future__ import annotations

import ctypes
import faulthandler
import io
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.reliability.case import USUAL, Conditions

LIMIT = 10.0  # seconds of processor time, or of waiting for what does not come
BUG = 70  # exit code of an exception that was not caught
MEMORY = 4 << 30  # bytes a command may take, beyond which a small file has exploded
NAMELESS = 54321  # the number of a user that no machine has


@dataclass(frozen=True)
class Finished:
    """What a command left.

    Attributes:
        code: exit code; minus the signal that ended it.
        seconds: from begin to end.
        worked: seconds of processor time.
    """

    code: int
    out: str
    err: str
    seconds: float
    worked: float
    hung: bool


def warm_up() -> None:
    """Import what commands import late, so that a child need not."""
    import importlib

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    names = ("run", "suite", "curve", "modalities", "compare", "certify", "listing")
    modules = [f"robustbench_med.studies.{name}" for name in names]
    modules += [
        "robustbench_med.training.train",
        "robustbench_med.data.phantom",
        "robustbench_med.data.mri_ct",
    ]
    modules += [
        "robustbench_med.data.milk10k",
        "robustbench_med.models.mail",
        "robustbench_med.models.fusion",
    ]
    modules += [f"robustbench_med.attacks.{name}" for name in ("pgd", "fgsm", "apgd", "square", "transfer")]
    modules += [
        "torch._dynamo",
        "matplotlib.pyplot",
        "pandas",
        "rich.table",
        "rich.progress",
        "sklearn.metrics",
    ]
    modules += [
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
        "robustbench_med.cli",
        "matplotlib.backends.backend_agg",
    ]
    for module in modules:
        importlib.import_module(module)


def execute(
    arguments: Sequence[str],
    folder: Path,
    conditions: Conditions = USUAL,
    limit: float = LIMIT,
    end: tuple[float, int] | None = None,
) -> Finished:
    """Run ``robmed`` with these arguments in ``folder``.

    Args:
        limit: seconds of processor time, and of standing still.
        end: after so many seconds, with this signal.
    """
    return finish(begin(arguments, folder, conditions, limit), limit, end)


@dataclass(frozen=True)
class Running:
    """A command that has begun: its process, and the ends of its pipes that can be read."""

    child: int
    out: int
    err: int
    started: float


def begin(
    arguments: Sequence[str], folder: Path, conditions: Conditions = USUAL, limit: float = LIMIT
) -> Running:
    """Fork a child that runs the command; see ``execute``."""
    out, err = os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, pipe in ((1, out), (2, err)):
            os.dup2(pipe[1], number)
        for descriptor in (*out, *err):
            os.close(descriptor)
        os._exit(_guarded(lambda: _command(arguments, folder, conditions, limit)))
    os.close(out[1])
    os.close(err[1])
    return Running(child, out[0], err[0], time.monotonic())


def finish(running: Running, limit: float = LIMIT, end: tuple[float, int] | None = None) -> Finished:
    """Read what it prints until it ends, or end it."""
    texts, hung = _gather(running, limit, end)
    _, status, usage = os.wait4(running.child, 0)
    code = os.waitstatus_to_exitcode(status)
    hung = hung or (code in (-signal.SIGXCPU, -signal.SIGKILL) and end is None)
    said = [texts[pipe].decode("utf-8", "replace") for pipe in (running.out, running.err)]
    for pipe in texts:
        os.close(pipe)
    worked = usage.ru_utime + usage.ru_stime
    return Finished(code, said[0], said[1], time.monotonic() - running.started, worked, hung)


def _guarded(act: Callable[[], int]) -> int:
    """The exit code of ``act``, as the interpreter would give it."""
    code = BUG
    try:
        code = act()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or BUG
    return code


def _command(arguments: Sequence[str], folder: Path, conditions: Conditions, limit: float) -> int:
    from robustbench_med import cli

    own = {"HOME": "{folder}", "ROBMED_HOME": "{folder}/home", "COLUMNS": "80"}
    for name, value in {**own, **conditions.env}.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value.replace("{folder}", str(folder))
    os.chdir(folder)
    if conditions.plugins is not None:
        sys.path.insert(0, str(folder / conditions.plugins))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _restrict(conditions, limit)
    faulthandler.disable()
    if conditions.own_process:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.execve(sys.executable, [sys.executable, "-m", "robustbench_med.cli", *arguments], os.environ)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.FileIO(number, "w", closefd=False), conditions.encoding, line_buffering=True
        )
        setattr(sys, name, stream)
    sys.argv = ["robmed", *arguments]
    return cli.main(list(arguments))


def _restrict(conditions: Conditions, limit: float) -> None:
    seconds = (
        int(sum(os.times()[:2]) + limit * (3 if conditions.own_process else 1)) + 1
    )  # imports count there
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if conditions.most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (conditions.most_bytes, conditions.most_bytes))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if os.geteuid() == 0 and conditions.nameless:
        _capable("keep")
        os.setuid(NAMELESS)
        _capable("regain")
    if os.geteuid() == 0 and conditions.without_rights:
        _capable("none")


def _capable(what: Literal["keep", "regain", "none"]) -> None:
    """Root's privileges beside its number: kept over a change of user, regained after it, or given up."""
    libc = ctypes.CDLL(None, use_errno=True)
    if what == "keep":
        done = libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    else:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
        # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: files are read and written whatever their modes.
        some = 0b110 if what == "regain" else 0
        done = libc.capset(header, (ctypes.c_uint32 * 6)(some, some, 0, 0, 0, 0))
    if done != 0:
        raise OSError(ctypes.get_errno(), "the rights of this process cannot be changed")


def _gather(
    running: Running, limit: float, end: tuple[float, int] | None
) -> tuple[dict[int, bytearray], bool]:
    """Read until both pipes are closed; whether the child stood still for ``limit`` seconds and was ended."""
    texts = {running.out: bytearray(), running.err: bytearray()}
    still, stood = list(texts), time.monotonic()
    worked = _worked(running.child)
    while still:
        now = time.monotonic()
        if end is not None and now - running.started >= end[0]:
            _signal(running.child, end[1])
            end = None
        if (lately := _worked(running.child)) != worked:
            worked, stood = lately, now
        if now - stood > limit:
            _signal(running.child, signal.SIGKILL)
            return texts, True
        wait = max(0.0, min(0.5, end[0] - (now - running.started) if end else 0.5))
        for pipe in select.select(still, [], [], wait)[0]:
            piece = os.read(pipe, 65536)
            texts[pipe] += piece
            if not piece:
                still.remove(pipe)
    return texts, False


def _worked(child: int) -> int:
    """Clock ticks for which a process has had a processor; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return int(fields[11]) + int(fields[12])


def _signal(child: int, number: int) -> None:
    try:
        os.killpg(child, number)
    except ProcessLookupError:
        os.kill(child, number)
