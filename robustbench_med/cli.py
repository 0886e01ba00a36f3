"""The command ``robmed``. Nothing heavy is imported before it is known what to do."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_med.flags import parser
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, refusal
from robustbench_med.util.terminal import complain, lenient_streams, say

ATTACK_OPTIONS = ("steps", "step_size", "restarts", "loss", "keep", "random_start")

OPTION = "NAME=VALUE, such as size=64"
PRINTED = ("list", "board", "compare")  # they leave nothing but what they print; others write files
LONG = ("run", "certify", "train", "curve", "modalities", "suite")  # they go on where they were stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it is done, 1 when a gate does not pass, 2 for what the user must mend, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with lenient_streams() as out:
        options = parser().parse_args(argv)
        status = _answer(options, argv)
        out.flush()
    unread = out.lost is not None and out.lost.errno != errno.EPIPE
    return 2 if unread and status == 0 and options.command in PRINTED else status


def _answer(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run what was asked for; see ``main``."""
    try:
        return int(COMMANDS[options.command](options, argv) or 0)
    except UserError as error:
        complain(error)
        return 2
    except OSError as error:
        said = refusal(error)
        if said is None:
            raise
        complain(said)
        return 2
    except KeyboardInterrupt:
        goes_on = options.command in LONG
        complain(f"interrupted; {'the same command goes on from here' if goes_on else 'nothing was written'}")
        return 130


def _console() -> Any:
    from rich.console import Console

    # A pipe has no width: it gets what fits a terminal of 80 columns. Colours and links are for terminals.
    return Console(width=None if sys.stdout.isatty() else 80, highlight=False, emoji=False)


def _run(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.reporting.table import show
    from robustbench_med.studies.run import run_all

    console = _console()
    for result in run_all(_run_config(options), options.audit):
        show(result.record, console)
        say()
        say(f"record  {result.folder / 'record.json'}")
        if (picture := result.folder / "picture.png").exists():
            say(f"picture {picture}")
        say(f"row     {result.leaderboard}")


def _curve(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.reporting.curve import show
    from robustbench_med.studies.curve import epsilon_curve
    from robustbench_med.util.fields import number

    radii = [number(text, "--radii") for text in options.radii.split(",")] if options.radii else []
    if options.eps and "=" not in options.eps:
        raise UserError("--eps: a curve has several radii; say --radii 1/255,2/255")
    curve, folder = epsilon_curve(_run_config(options), radii, options.audit)
    show(curve, _console())
    say()
    say(f"curve   {folder / 'curve.json'}")
    say(f"picture {folder / 'curve.png'}")


def _modalities(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.reporting.modalities import show
    from robustbench_med.studies.modalities import modality_table

    if options.modality:
        raise UserError("--modality: the table attacks each of them; drop the flag")
    table, folder = modality_table(_run_config(options), options.audit)
    show(table, _console())
    say()
    say(f"table   {folder / 'modalities.json'}")
    say(f"picture {folder / 'modalities.png'}")


def _suite(options: argparse.Namespace, argv: Sequence[str]) -> int:
    del argv
    from robustbench_med.studies.suite import Suite, run_suite

    suite = Suite.from_yaml(options.suite)
    out = options.out or Path("runs") / Path(options.suite).stem
    result = run_suite(suite, given_path(out), options.device, say)
    say()
    for line in result.table.read_text(encoding="utf-8").splitlines():
        say(line)
    say()
    say(f"table   {result.table}")
    say(f"picture {result.figure}")
    say(f"rows    {out / 'leaderboard.csv'}")
    for line in result.failed:
        complain(f"failed: {line}")
    return 1 if result.failed else 0


def _compare(options: argparse.Namespace, argv: Sequence[str]) -> int:
    del argv
    from robustbench_med.measure.compare import MARGIN
    from robustbench_med.reporting.comparison import show
    from robustbench_med.studies.compare import compare_runs
    from robustbench_med.util.fields import number

    margin = number(options.margin, "--margin") if options.margin else MARGIN
    found = compare_runs(options.baseline, options.new, margin)
    show(found, _console(), options.gate)
    return 1 if options.gate and found.complaints else 0


def _board(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.measure.ranking import boards
    from robustbench_med.reporting.board import show
    from robustbench_med.reporting.leaderboard import read

    path = given_path(options.csv)
    if not path.exists():
        raise UserError(f"{path} does not exist; robmed run writes runs/leaderboard.csv")
    if not (rows := read(path)):
        raise UserError(f"{path} has no rows; robmed run appends them")
    show(boards(rows))


def _net_options(flags: dict[str, Any]) -> dict[str, Any]:
    """Take what says how a net is called out of the flags."""
    from robustbench_med.models.flags import net_options

    found = net_options(*(flags.pop(name, None) for name in ("inputs", "outputs", "normalize", "mode")))
    return {"model_options": found} if found else {}


def _run_config(options: argparse.Namespace) -> Any:
    from robustbench_med.evaluation.prepare import RunConfig
    from robustbench_med.util.config import build, find, pairs, read_yaml, scalar
    from robustbench_med.util.fields import named_numbers

    values = read_yaml(find("protocol", "protocols", options.config)) if options.config else {}
    other = ("command", "config", "audit", "radii")
    flags = {k: v for k, v in vars(options).items() if v is not None and k not in other}
    _join(flags, values.get("dataset"))
    given = values.get("attack_options") or {}
    if not isinstance(given, dict):
        raise UserError(f"{options.config}: attack_options must be a mapping, not {type(given).__name__}")
    own = {name: flags.pop(name) for name in ATTACK_OPTIONS if name in flags}
    further = pairs(flags.pop("option", []), "--option", OPTION)
    twice = next((name for name in further if name in own), None)
    if twice is not None:
        flag = twice.replace("_", "-")
        raise UserError(f"--{flag} and --option {flag} are both given; drop one")
    attack_options = {**given, **own, **{name: scalar(value) for name, value in further.items()}}
    flags |= _net_options(flags)
    if "eps" in flags:
        flags["eps"] = named_numbers(flags["eps"], "--eps")
    if "modality" in flags:
        flags["modality"] = tuple(flags["modality"].split(","))
    merged = {**values, **flags, "attack_options": attack_options}
    for name in ("model", "attack"):
        if name not in merged:
            raise UserError(f"--{name} is missing; see what there is with: robmed list {name}s")
    return build(RunConfig, merged, options.config or "robmed run")


def _join(flags: dict[str, Any], otherwise: str | None = None) -> None:
    """Put the second data set of --with behind the first."""
    second = flags.pop("joined_with", None)
    if second is None:
        return
    first = flags.get("dataset") or otherwise
    if first is None:
        raise UserError("--with joins a second data set to the one of --data; give that, too")
    from robustbench_med.data.joined import JOINED_BY

    flags["dataset"] = f"{first}{JOINED_BY}{second}"


def _certify(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.reporting.certificate import show
    from robustbench_med.studies.certify import CertifyConfig, certify
    from robustbench_med.util.config import build
    from robustbench_med.util.fields import named_numbers, number

    flags = {k: v for k, v in vars(options).items() if v is not None and k != "command"}
    _join(flags)
    flags |= _net_options(flags)
    flags["sigma"] = named_numbers(flags["sigma"], "--sigma")
    if "radii" in flags:
        flags["radii"] = tuple(number(text, "--radii") for text in flags["radii"].split(","))
    result = certify(build(CertifyConfig, flags, "robmed certify"))
    console = _console()
    show(result.record, console)
    say()
    say(f"record  {result.folder / 'record.json'}")
    say(f"row     {result.leaderboard}")


def _train(options: argparse.Namespace, argv: Sequence[str]) -> None:
    from robustbench_med.data.catalog import short_name
    from robustbench_med.training.recipe import train_config
    from robustbench_med.training.train import train

    recipe = train_config(options.config, options.model)
    chosen = {k: v for k, v in vars(options).items() if k in ("dataset", "joined_with") and v is not None}
    _join(chosen, recipe.dataset)
    recipe = replace(recipe, **chosen)
    out = given_path(options.out or f"weights/{short_name(recipe.dataset)}")
    trained = train(recipe, out, shlex.join(["robmed", *argv]), options.replace)
    say(f"weights {trained.weights}")
    say(f"card    {trained.card}")


def _import(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.data.catalog import import_dataset
    from robustbench_med.util.config import pairs

    report = import_dataset(
        options.name, given_path(options.source), **pairs(options.option, "--option", OPTION)
    )
    _show_import(options.name, report, "imported into", "split sha256")


def _show_import(name: str, report: Any, done: str, hashed: str) -> None:
    say(f"{name}: {done} {report.folder}")
    for each, count in report.counts.items():
        say(f"  {each}: {count}")
    for line in report.left_out:
        say(f"  {line}")
    say(f"  {hashed} {report.manifest_sha256}")


def _check_data(options: argparse.Namespace, argv: Sequence[str]) -> int:
    del argv
    from robustbench_med.reporting.datacheck import show
    from robustbench_med.studies.check import check_data

    found, picture = check_data(options.name, options.picture)
    show(found, _console())
    if picture is not None:
        say()
        say(f"picture {picture}")
    return 1 if found.meaningless else 0


def _add_own(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.data.catalog import add_dataset

    flags = {"dataset": options.path, "joined_with": options.joined_with}
    _join(flags)
    _show_import(options.name, add_dataset(options.name, flags["dataset"]), "added to", "test fingerprint")


def _list(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from rich.table import Table

    from robustbench_med.reporting.text import plain
    from robustbench_med.studies.listing import rows

    columns, found = rows(options.what)
    table = Table(*columns, box=None, pad_edge=False)
    for row in found:
        table.add_row(*map(plain, row))
    _console().print(table)


Command = Callable[[argparse.Namespace, Sequence[str]], int | None]
COMMANDS: Mapping[str, Command] = {
    "run": _run,
    "curve": _curve,
    "modalities": _modalities,
    "suite": _suite,
    "compare": _compare,
    "board": _board,
    "certify": _certify,
    "train": _train,
    "data check": _check_data,
    "data add": _add_own,
    "data import": _import,
    "list": _list,
}


if __name__ == "__main__":
    sys.exit(main())
