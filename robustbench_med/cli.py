"""The command ``robmed``. Nothing heavy is imported before it is known what to do."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_med.cli_records import check, compare, html_board, refute, submit, verify
from robustbench_med.flags import LISTS, parser
from robustbench_med.options import OPTION, crew_of, join, net_options, run_config
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, nearest, refusal
from robustbench_med.util.terminal import complain, console, lenient_streams, say

# They leave nothing but what they print; the others write files.
PRINTED = ("list", "board", "compare", "completion", "help", "verify")
# They go on where they were stopped.
LONG = ("run", "check", "certify", "train", "curve", "modalities", "suite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it is done, 1 when a gate does not pass, 2 for what the user must mend, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with lenient_streams() as out:
        root = parser()
        root.stray = _stray
        named = not argv or argv[0].startswith("-") or argv[0] in root.commands()
        options = root.parse_args(argv) if named else argparse.Namespace(command="unknown")
        status = _answer(options, argv)
        out.flush()
    unread = out.lost is not None and out.lost.errno != errno.EPIPE
    return 2 if unread and status == 0 and options.command in PRINTED else status


def _answer(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run what was asked for; see ``main``."""
    try:
        _require_no_empty(argv)
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


def _require_no_empty(argv: Sequence[str]) -> None:
    """An option that a shell filled with an unset variable is no option that was left away.

    Raises:
        UserError: there is one.
    """
    for before, given in zip(("", *argv), argv, strict=False):
        flag = before if given == "" else given.removesuffix("=") if given.endswith("=") else ""
        if flag.startswith("--") and "=" not in flag:
            raise UserError(f"{flag} is empty; give it a value, or leave it away")


def _help(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del options
    parser().chosen(argv).print_help()


def _stray(word: str) -> str:
    from robustbench_med.names import stray

    return stray(word)


def _unknown(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """What is no command: perhaps a thing that one is about."""
    del options
    from robustbench_med.names import home_of

    home = home_of(argv[0])
    if home is None:
        parser().parse_args(argv)  # which refuses it
        return
    kind, say_instead = home
    start = "" if say_instead.startswith("robmed") else "robmed run "
    raise UserError(f"unknown command {argv[0]!r}: that is a {kind}; say {start}{say_instead}")


def _completion(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.completion import script

    for line in script(options.shell).splitlines():
        say(line)


def _run(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    started = time.perf_counter()
    config = run_config(options)
    from robustbench_med.reporting.leaderboard import holds
    from robustbench_med.reporting.table import show
    from robustbench_med.studies.several import run_all
    from robustbench_med.util.spent import in_words

    screen, results = console(), run_all(config, options.audit, options.pictures, **crew_of(options))
    for result in results:
        show(result.record, screen)
        say()
        say(f"record  {result.folder / 'record.json'}")
        if result.inputs is not None:
            say(f"inputs  {result.inputs}")
        picture = result.folder / "picture.png"
        if options.pictures and picture.exists():
            say(f"picture {picture}")
        if holds(result.leaderboard, result.record["run"]):
            say(f"row     {result.leaderboard}")
    say(f"time    {in_words((result.spent for result in results), started)}")


def _curve(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.util.fields import number

    radii = [number(text, "--radii") for text in options.radii.split(",")] if options.radii else []
    if options.eps and "=" not in options.eps:
        raise UserError("--eps: a curve has several radii; say --radii 1/255,2/255")
    config = run_config(options)
    from robustbench_med.reporting.curve import show
    from robustbench_med.studies.curve import epsilon_curve

    curve, folder = epsilon_curve(config, radii, options.audit, options.pictures, **crew_of(options))
    show(curve, console())
    say()
    say(f"curve   {folder / 'curve.json'}")
    if options.pictures:
        say(f"picture {folder / 'curve.png'}")


def _modalities(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    if options.modality:
        raise UserError("--modality: the table attacks each of them; drop the flag")
    config = run_config(options)
    from robustbench_med.reporting.modalities import show
    from robustbench_med.studies.modalities import modality_table

    table, folder = modality_table(config, options.audit, options.pictures, **crew_of(options))
    show(table, console())
    say()
    say(f"table   {folder / 'modalities.json'}")
    if options.pictures:
        say(f"picture {folder / 'modalities.png'}")


def _suite(options: argparse.Namespace, argv: Sequence[str]) -> int:
    del argv
    from robustbench_med.names import require

    require("suite", options.suite)
    from robustbench_med.studies.suite import Making, Suite, run_suite

    suite = Suite.from_yaml(options.suite)
    out = given_path(options.out or Path("runs") / Path(options.suite).stem)
    making = Making(out, options.device, say, **_published(options), **crew_of(options))
    _forecast(suite, making)
    if options.plan:
        return 0
    say()
    result = run_suite(suite, making)
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


def _published(options: argparse.Namespace) -> dict[str, Any]:
    """What is taken over of a suite, as ``Making`` has it."""
    if options.published is None:
        if options.again:
            raise UserError("--again goes with --published FOLDER")
        return {}
    from robustbench_med.studies.published import published_records, published_situations

    return {
        "published": published_records(options.published),
        "again": options.again,
        "situations": published_situations(options.published, Path(options.suite).stem),
    }


def _forecast(suite: Any, making: Any) -> None:
    from robustbench_med.reporting.forecast import show
    from robustbench_med.studies.forecast import forecast_suite

    found = forecast_suite(suite, making)
    show(found.runs, found.seconds, found.memory, found.left_out, making.workers.count, console())


def _board(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    if options.html is not None:
        html_board(options)
        return
    if len(options.paths) != 1:
        raise UserError("robmed board ranks one CSV; for pages of many records say robmed board --html DIR")
    path = given_path(options.paths[0])
    if not path.exists():
        raise UserError(f"{path} does not exist{nearest(path) or '; robmed run writes runs/leaderboard.csv'}")
    from robustbench_med.measure.ranking import boards
    from robustbench_med.reporting.board import show
    from robustbench_med.reporting.leaderboard import read

    if not (rows := read(path)):
        raise UserError(f"{path} has no rows; robmed run appends them")
    show(boards(rows))


def _certify(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.names import require_all
    from robustbench_med.util.config import build
    from robustbench_med.util.fields import named_numbers, number

    flags = {k: v for k, v in vars(options).items() if v is not None and k != "command"}
    join(flags)
    flags |= net_options(flags)
    flags["sigma"] = named_numbers(flags["sigma"], "--sigma")
    if "radii" in flags:
        flags["radii"] = tuple(number(text, "--radii") for text in flags["radii"].split(","))
    require_all(flags)
    from robustbench_med.reporting.certificate import show
    from robustbench_med.studies.certify import CertifyConfig, certify

    result = certify(build(CertifyConfig, flags, "robmed certify"))
    screen = console()
    show(result.record, screen)
    say()
    say(f"record  {result.folder / 'record.json'}")
    say(f"row     {result.leaderboard}")


def _train(options: argparse.Namespace, argv: Sequence[str]) -> None:
    from robustbench_med.names import require, require_all

    require("recipe", options.config)
    require_all({"model": options.model or None, "dataset": options.dataset})
    from robustbench_med.data.catalog import short_name
    from robustbench_med.models.named import is_code
    from robustbench_med.training.recipe import train_config
    from robustbench_med.training.train import train

    recipe = train_config(options.config, options.model)
    given = ("dataset", "joined_with", "seed")
    chosen = {k: v for k, v in vars(options).items() if k in given and v is not None}
    join(chosen, recipe.dataset)
    recipe = replace(recipe, **chosen)
    out = given_path(options.out or f"weights/{short_name(recipe.dataset)}")
    trained = train(recipe, out, shlex.join(["robmed", *argv]), options.replace)
    say(f"weights {trained.weights}")
    say(f"card    {trained.card}")
    if not is_code(recipe.model):
        run = ["--model", recipe.model, "--data", recipe.dataset, "--weights", str(trained.weights)]
        say(f"attack  {shlex.join(['robmed', 'run', *run, '--attack', 'pgd'])}")


def _convert(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.models.state import convert

    say(convert(given_path(options.source), given_path(options.out)))


def _init(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.names import require_all

    require_all({"dataset": options.dataset, "weights": options.weights})
    from robustbench_med.studies.init import init

    started = init(given_path(options.folder), options.dataset, options.weights)
    for path in started.files:
        say(f"wrote   {path}")
    for note in started.notes:
        say(f"note    {note}")
    say()
    if started.folder != Path():
        say(f"cd {shlex.quote(str(started.folder))}")
    for command in started.commands:
        say(command)


def _import(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.data.catalog import import_dataset
    from robustbench_med.names import require
    from robustbench_med.util.config import pairs

    require("data set", options.name)

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
    from robustbench_med.names import require

    require("data set", options.name)
    from robustbench_med.reporting.datacheck import show
    from robustbench_med.studies.check import check_data

    found, picture = check_data(options.name, options.picture)
    show(found, console())
    if picture is not None:
        say()
        say(f"picture {picture}")
    return 1 if found.meaningless else 0


def _add_own(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.data.catalog import add_dataset

    flags = {"dataset": options.path, "joined_with": options.joined_with}
    join(flags)
    _show_import(options.name, add_dataset(options.name, flags["dataset"]), "added to", "test fingerprint")


def _list(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from rich.table import Column, Table

    from robustbench_med.reporting.text import headed, plain
    from robustbench_med.studies.listing import rows

    screen = console()
    if options.what is not None:
        columns, found = rows(options.what)
        table = Table(Column(columns[0], no_wrap=True), box=None, pad_edge=False)
        for title in columns[1:]:
            table.add_column(title, overflow="fold")
        for row in found:
            table.add_row(*map(plain, row))
        screen.print(table)
        return
    for what in LISTS:
        headed(screen, what)
        table = Table(
            Column(no_wrap=True), Column(overflow="fold"), box=None, pad_edge=False, show_header=False
        )
        for name, told, *_ in rows(what)[1]:
            table.add_row(plain(name), plain(told))
        screen.print(table)
    screen.print("\nrobmed list KIND says more of each: options, weights at hand, files.")


Command = Callable[[argparse.Namespace, Sequence[str]], int | None]
COMMANDS: Mapping[str, Command] = {
    "run": _run,
    "curve": _curve,
    "modalities": _modalities,
    "suite": _suite,
    "check": check,
    "compare": compare,
    "board": _board,
    "verify": verify,
    "refute": refute,
    "submit": submit,
    "certify": _certify,
    "train": _train,
    "data check": _check_data,
    "data add": _add_own,
    "data import": _import,
    "init": _init,
    "convert": _convert,
    "list": _list,
    "completion": _completion,
    "help": _help,
    "unknown": _unknown,
}


if __name__ == "__main__":
    sys.exit(main())
