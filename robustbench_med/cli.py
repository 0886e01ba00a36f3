"""The command ``robmed``. Nothing heavy is imported before it is known what to do."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, refusal
from robustbench_med.util.terminal import Parser, complain, lenient_streams, say

LISTS = ("models", "attacks", "defenses", "datasets", "recipes", "protocols", "suites")
ATTACK_OPTIONS = ("steps", "step_size", "restarts", "loss", "keep", "random_start")

OPTION = "NAME=VALUE, such as size=64"
ADDED = "put a defense (robmed list defenses) on top of the model's own; repeatable, in this order"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it is done, 1 when a gate does not pass, 2 for what the user must mend, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with lenient_streams() as out:
        options = _parser().parse_args(argv)
        status = _answer(options, argv)
        out.flush()
    unread = out.lost is not None and out.lost.errno != errno.EPIPE
    # Of these commands nothing is left but what they print; the others have written their files.
    return 2 if unread and status == 0 and options.command in (_list, _board, _compare) else status


def _answer(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run what was asked for; see ``main``."""
    try:
        return int(options.command(options, argv) or 0)
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
        goes_on = options.command in (_run, _certify, _train, _curve, _modalities, _suite)
        complain(f"interrupted; {'the same command goes on from here' if goes_on else 'nothing was written'}")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="robmed", description="Robust accuracy of multimodal medical classifiers that can be trusted."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="attack a model and record its robust accuracy"))
    _add_run(commands.add_parser("audit", help="the same, and check whether the number can be trusted"), True)
    _add_curve(commands.add_parser("curve", help="robust accuracy over epsilon, with figure"))
    _add_modalities(commands.add_parser("modalities", help="each modality attacked alone, together, missing"))
    _add_suite(commands.add_parser("suite", help="many models, data sets and protocols: table and figure"))
    _add_compare(commands.add_parser("compare", help="two runs in pairs; --gate for CI"))
    _add_board(commands.add_parser("board", help="rank the rows of a leaderboard that can be trusted"))
    _add_certify(commands.add_parser("certify", help="certify a smoothed model's accuracy over L2 radii"))
    _add_train(commands.add_parser("train", help="train a model from a recipe"))
    _add_data(commands.add_parser("data", help="import data sets from their publishers' downloads"))
    _add_convert(commands.add_parser("convert", help="write weights of torch.save as safetensors"))
    lister = commands.add_parser("list", help="list what there is, plug-ins included")
    lister.add_argument("what", choices=LISTS)
    lister.set_defaults(command=_list)
    return parser


def _add_run(parser: argparse.ArgumentParser, audit: bool = False) -> None:
    add = parser.add_argument
    add(
        "config",
        nargs="?",
        metavar="PROTOCOL",
        help="name (robmed list protocols) or YAML; flags win over it",
    )
    add("--model", help="name (robmed list models), YAML file, or your own: file.py:make, net.ts")
    add("--attack", help="name (robmed list attacks), library:Class for an adapter, or several with commas")
    add("--defense", action="append", dest="defenses", metavar="NAME:OPTION=VALUE,…", help=ADDED)
    _add_dataset(parser, "data set (robmed list datasets) or path; default phantom, synthetic and built in")
    add("--weights", help="safetensors or .pt file; default: the shipped ones of this model and data set")
    _add_net(add)
    add("--eps", help="radius of every attacked modality, or name=radius,…; default 4/255 (tables 0.1)")
    add("--norm", help="linf (default), l2, or l2-joint: one ball for all attacked modalities together")
    add("--modality", help="attack only these modalities, comma-separated; default all")
    add(
        "--head",
        help="what must be wrong: any head (default), all, one head, or one question (findings.mass)",
    )
    add("--towards", metavar="FROM=TO", help="a wrong answer to reach, for the one question of --head")
    add("--steps", type=int, help="gradient steps of the attack")
    add("--step-size", help="in units of the modality, such as 1/255; default epsilon / 4")
    add("--restarts", type=int, help="random starts of the attack")
    add("--loss", help="cross-entropy (default) or margin")
    add("--keep", help="best (default) or last iterate")
    add("--random-start", action=argparse.BooleanOptionalAction, help="start at a random point of the ball")
    add("--option", action="append", metavar="NAME=VALUE", help="any other option of the attack")
    add(
        "--eot",
        type=_count_or_auto,
        help="draws behind each gradient of a random model (default 10), or auto",
    )
    add("--draws", type=int, help="scoring draws of a random model; default 10")
    add("--samples", type=int, help="how many test samples, 0 for all; default 200")
    add("--batch-size", type=int, help="default 100; changes no outcome but of draws that a batch shares")
    add("--seed", type=int, help="default 0")
    add("--device", help="cpu (default), cuda, …")
    add("--out", help="folder of run folders; default runs")
    add("--leaderboard", help="CSV that gets the row; default OUT/leaderboard.csv")
    add(
        "--audit",
        nargs="?",
        const="default",
        default="default" if audit else None,
        metavar="AUDIT",
        help="run every check of an audit: default, quick, or a YAML file (robmed audit)",
    )
    parser.set_defaults(command=_run)


def _add_net(add: Callable[..., Any]) -> None:
    """How a net of one's own is called, where that cannot be guessed."""
    add("--inputs", metavar="A,B", help="your net's inputs in order, argument=modality,…, or mapping")
    add("--outputs", metavar="HEAD=PLACE,…", help="where in what your net returns a head's scores are")
    add("--normalize", metavar="mean=…,std=…", help="what your net wants its inputs normalised with")
    add(
        "--mode", choices=("eval", "as-given"), help="put your net into evaluation mode, or leave it as it is"
    )


def _add_dataset(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--dataset", "--data", metavar="NAME|PATH", help=f"{what}; see docs/data.md")
    parser.add_argument(
        "--with",
        dest="joined_with",
        metavar="NAME|PATH",
        help="join a second data set to it by index (unpaired)",
    )


def _add_curve(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--radii", help="radii of every attacked modality; default 0.5/255,1/255,2/255,4/255,8/255"
    )
    parser.set_defaults(command=_curve)


def _add_modalities(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.set_defaults(command=_modalities)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("suite", metavar="SUITE", help="name (robmed list suites) or YAML file")
    add("--device", default="cpu", help="cpu (default), cuda, …")
    add("--out", type=Path, help="folder of run folders, table and figure; default runs/SUITE")
    parser.set_defaults(command=_suite)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("baseline", type=Path, help="run folder (record.json and outcomes.npz)")
    add("new", type=Path, help="run folder of the same samples and threat model")
    add("--margin", help="how far robust accuracy may fall or rise; default 0.02, two points")
    add("--gate", action="store_true", help="exit with 1 when a fall is not excluded, or a rise is certain")
    parser.set_defaults(command=_compare)


def _add_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, metavar="CSV", help="a leaderboard file")
    parser.set_defaults(command=_board)


def _console() -> Any:
    from rich.console import Console

    # A pipe has no width: it gets what fits a terminal of 80 columns. Colours and links are for terminals.
    return Console(width=None if sys.stdout.isatty() else 80, highlight=False, emoji=False)


def _count_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is neither a whole number nor auto") from error


def _add_certify(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="name (robmed list models), YAML file, or your own: file.py:make")
    add("--sigma", required=True, help="noise in units of the modality, or name=sigma,… by modality")
    add("--defense", action="append", dest="defenses", metavar="NAME:OPTION=VALUE,…", help=ADDED)
    _add_dataset(parser, "data set (robmed list datasets) or path; default phantom, synthetic and built in")
    add("--weights", help="safetensors or .pt file; default: the shipped ones of this model and data set")
    _add_net(add)
    add("--n0", type=int, help="noisy copies to guess the answer from; default 100")
    add("--n", type=int, help="fresh copies to test the guess on; default 1000")
    add("--alpha", type=float, help="chance that the certificate of a sample is wrong; default 0.001")
    add("--radii", help="L2 radii to report, comma-separated; default quarters of sigma")
    add("--samples", type=int, help="how many test samples, 0 for all; default 200")
    add("--batch-size", type=int, help="noisy copies in a forward pass; default 200")
    add("--seed", type=int, help="default 0")
    add("--device", help="cpu (default), cuda, …")
    add("--out", help="folder of run folders; default runs")
    add("--leaderboard", help="CSV that gets the row; default OUT/certified.csv")
    parser.set_defaults(command=_certify)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="RECIPE", help="name (robmed list recipes) or YAML file")
    parser.add_argument(
        "--model", default="", help="train this one (name or YAML) instead of the recipe's own"
    )
    _add_dataset(parser, "train on this data set or path instead of the recipe's")
    parser.add_argument("--out", help="folder of weights and model card; default weights/DATASET")
    parser.add_argument("--replace", action="store_true", help="write over weights of another recipe")
    parser.set_defaults(command=_train)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="WEIGHTS", help="file of torch.save: .pt, .pth, .ckpt")
    parser.add_argument("out", metavar="OUT", help="file to write, ending in .safetensors")
    parser.set_defaults(command=_convert)


def _add_data(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    checker = actions.add_parser(
        "check", help="say what in a data set would make a number on it mean nothing"
    )
    checker.add_argument(
        "name", metavar="NAME|PATH", help="data set, or path to your own data (docs/data.md)"
    )
    checker.add_argument("--picture", type=Path, help="examples as PNG; default data-check/NAME.png")
    checker.set_defaults(command=_check_data)
    adder = actions.add_parser("add", help="keep a copy of your own data under a name")
    adder.add_argument("name", help="what --dataset is to call it")
    adder.add_argument("path", help="folder of classes, CSV, npz, npy or dataset.yaml (docs/data.md)")
    adder.add_argument("--with", dest="joined_with", metavar="NAME|PATH", help="join a second data set to it")
    adder.set_defaults(command=_add_own)
    importer = actions.add_parser("import", help="read a publisher's download into a compact local copy")
    importer.add_argument("name", help="data set (robmed list datasets)")
    importer.add_argument("--from", dest="source", required=True, type=Path, help="the download's folder")
    importer.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="such as size=64 or classes=all"
    )
    importer.set_defaults(command=_import)


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


def _convert(options: argparse.Namespace, argv: Sequence[str]) -> None:
    del argv
    from robustbench_med.models.state import convert

    say(convert(given_path(options.source), given_path(options.out)))


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


if __name__ == "__main__":
    sys.exit(main())
