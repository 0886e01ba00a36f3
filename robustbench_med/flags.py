"""The flags of ``robmed``: what its commands are called and take. Nothing heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustbench_med.util.terminal import Parser

LISTS = ("models", "attacks", "defenses", "datasets", "recipes", "protocols", "suites", "audits")
SHELLS = ("bash", "zsh")
ADDED = "put a defense (robmed list defenses) on top of the model's own; repeatable, in this order"


def parser() -> Parser:
    """The parser of ``robmed``; ``command`` of what it reads is a key of ``cli.COMMANDS``."""
    root = Parser(
        prog="robmed", description="Robust accuracy of multimodal medical classifiers that can be trusted."
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    root.set_defaults(command="help")
    commands = root.add_subparsers(metavar="COMMAND")
    _add_run(commands.add_parser("run", help="attack a model and record its robust accuracy"))
    _add_run(commands.add_parser("audit", help="the same, and check whether the number can be trusted"), True)
    _add_curve(commands.add_parser("curve", help="robust accuracy over epsilon, with figure"))
    _add_modalities(commands.add_parser("modalities", help="each modality attacked alone, together, missing"))
    _add_suite(commands.add_parser("suite", help="many models, data sets and protocols: table and figure"))
    _add_check(commands.add_parser("check", help="fail when a net got worse than its committed baseline"))
    _add_compare(commands.add_parser("compare", help="two runs in pairs; --gate for CI"))
    _add_board(commands.add_parser("board", help="rank the rows of a leaderboard that can be trusted"))
    _add_verify(commands.add_parser("verify", help="score the kept inputs of a record again: does it stand?"))
    _add_refute(commands.add_parser("refute", help="hand in stronger adversarial inputs: a lower row"))
    _add_submit(commands.add_parser("submit", help="make a folder of a record, ready for a pull request"))
    _add_certify(commands.add_parser("certify", help="certify a smoothed model's accuracy over L2 radii"))
    _add_train(commands.add_parser("train", help="train a model from a recipe"))
    _add_data(commands.add_parser("data", help="check, add or import data sets"))
    _add_init(
        commands.add_parser("init", help="write a model.py, dataset.yaml and robmed.yaml to start from")
    )
    _add_convert(commands.add_parser("convert", help="write weights of torch.save as safetensors"))
    lister = commands.add_parser("list", help="list what there is, plug-ins included")
    lister.add_argument(
        "what",
        metavar="KIND",
        nargs="?",
        choices=LISTS,
        help=f"one of {', '.join(LISTS)}, in detail; without it everything",
    )
    lister.set_defaults(command="list")
    completer = commands.add_parser("completion", help="print a script that completes robmed in a shell")
    completer.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash or zsh")
    completer.set_defaults(command="completion")
    return root


def _version() -> str:
    try:
        return version("robustbench-med")
    except PackageNotFoundError:  # run from a copy of the source
        return "(not installed)"


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
        "--save-adversarial",
        nargs="?",
        const=True,
        metavar="FILE.npz",
        help="keep the adversarial inputs beside the record, or in this file, for robmed verify",
    )
    add("--no-picture", action="store_false", dest="pictures", help="draw nothing")
    add(
        "--audit",
        nargs="?",
        const="default",
        default="default" if audit else None,
        metavar="AUDIT",
        help="run every check of an audit: default, quick, or a YAML file (robmed audit)",
    )
    _add_workers(add)
    parser.set_defaults(command="run")


def _add_workers(add: Callable[..., Any]) -> None:
    """Who makes batches and checks, and who is told."""
    add("--workers", type=int, metavar="N", help="share batches and checks among N processes (docs/scale.md)")
    add("--ray", metavar="ADDRESS", help="let them run on a Ray cluster: its address, or local")
    add(
        "--mlflow",
        metavar="URI",
        nargs="?",
        const="",
        help="log every record to MLflow; default its own store",
    )


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
    parser.set_defaults(command="curve")


def _add_modalities(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.set_defaults(command="modalities")


def _add_suite(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("suite", metavar="SUITE", help="name (robmed list suites) or YAML file")
    add("--device", default="cpu", help="cpu (default), cuda, …")
    add("--out", type=Path, help="folder of run folders, table and figure; default runs/SUITE")
    add("--plan", action="store_true", help="say what there is to be made and what it costs; make nothing")
    add(
        "--published",
        type=Path,
        metavar="FOLDER",
        help="of boards: what has a record there is taken over (a clone has leaderboards)",
    )
    add("--again", action="store_true", help="but for the records that other code made")
    _add_workers(add)
    parser.set_defaults(command="suite")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("baseline", type=Path, help="run folder (record.json and outcomes.npz)")
    add("new", type=Path, help="run folder of the same samples and threat model")
    add("--margin", help="how far accuracies may fall, or rise unaudited; default 0.02, two points")
    add("--gate", action="store_true", help="on these samples: exit with 1 when the margin is exceeded")
    add(
        "--non-inferior",
        action="store_true",
        help="on patients like these: exit with 1 unless a fall by the margin is excluded",
    )
    parser.set_defaults(command="compare")


def _add_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", default="robmed.yaml", metavar="FILE", help="default robmed.yaml (docs/ci.md)")
    add("--update", action="store_true", help="make a new baseline, and print what it changes")
    add("--accept", metavar="REASON", help="with --update: take a number that is in doubt, for this reason")
    add("--junit", metavar="FILE", help="write the verdicts as JUnit XML")
    add("--summary", metavar="FILE", help="write them as Markdown (also into $GITHUB_STEP_SUMMARY)")
    parser.set_defaults(command="check")


def _add_board(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "paths",
        nargs="*",
        type=Path,
        metavar="CSV",
        help="a leaderboard file; with --html records and folders",
    )
    add(
        "--html",
        type=Path,
        metavar="DIR",
        help="write pages that need no server; default: the published ones",
    )
    parser.set_defaults(command="board")


def _add_record(parser: argparse.ArgumentParser) -> None:
    """A record, and where what it speaks of lies here."""
    add = parser.add_argument
    add("record", type=Path, metavar="RECORD", help="run folder or record.json")
    add("--model", metavar="FILE.py:MAKE", help="the net, if code makes it: nobody's code runs unasked")
    add(
        "--weights",
        metavar="FILE",
        help="default: beside the record, or the shipped ones; checked by SHA-256",
    )
    add(
        "--dataset", "--data", metavar="NAME|PATH", help="the data, if it lies elsewhere; checked by its hash"
    )
    add("--device", default="cpu", help="cpu (default), cuda, …")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_record(parser)
    parser.add_argument(
        "--adversarial", metavar="FILE.npz", help="its inputs (--save-adversarial); default: beside it"
    )
    parser.set_defaults(command="verify")


def _add_refute(parser: argparse.ArgumentParser) -> None:
    _add_record(parser)
    add = parser.add_argument
    add("inputs", type=Path, metavar="INPUTS.npz", help="ids, and a float array a modality (docs/verify.md)")
    add("--finder", required=True, metavar="NAME", help="who found them; stands in the row")
    add("--adversarial", metavar="FILE.npz", help="the record's own inputs; default: beside it, if kept")
    add("--out", default="runs", help="folder of run folders; default runs")
    add("--leaderboard", help="CSV that gets the row; default OUT/leaderboard.csv")
    parser.set_defaults(command="refute")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_record(parser)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder to make; it must not be there yet")
    add("--adversarial", metavar="FILE.npz", help="its inputs; default: beside it, if kept")
    parser.set_defaults(command="submit")


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
    parser.set_defaults(command="certify")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="RECIPE", help="name (robmed list recipes) or YAML file")
    parser.add_argument(
        "--model", default="", help="train this one (name or YAML) instead of the recipe's own"
    )
    _add_dataset(parser, "train on this data set or path instead of the recipe's")
    parser.add_argument("--seed", type=int, help="of start values and batches, instead of the recipe's")
    parser.add_argument("--out", help="folder of weights and model card; default weights/DATASET")
    parser.add_argument("--replace", action="store_true", help="write over weights of another recipe")
    parser.set_defaults(command="train")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="WEIGHTS", help="file of torch.save: .pt, .pth, .ckpt")
    parser.add_argument("out", metavar="OUT", help="file to write, ending in .safetensors")
    parser.set_defaults(command="convert")


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", default=".", help="where; default here")
    parser.add_argument(
        "--data", "--dataset", dest="dataset", metavar="NAME|PATH", help="your data; default phantom"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights of your net")
    parser.set_defaults(command="init")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="help")
    actions = parser.add_subparsers(metavar="ACTION")
    checker = actions.add_parser(
        "check", help="say what in a data set would make a number on it mean nothing"
    )
    checker.add_argument(
        "name", metavar="NAME|PATH", help="data set, or path to your own data (docs/data.md)"
    )
    checker.add_argument("--picture", type=Path, help="examples as PNG; default data-check/NAME.png")
    checker.set_defaults(command="data check")
    adder = actions.add_parser("add", help="keep a copy of your own data under a name")
    adder.add_argument("name", help="what --dataset is to call it")
    adder.add_argument("path", help="folder of classes, CSV, npz, npy or dataset.yaml (docs/data.md)")
    adder.add_argument("--with", dest="joined_with", metavar="NAME|PATH", help="join a second data set to it")
    adder.set_defaults(command="data add")
    importer = actions.add_parser("import", help="read a publisher's download into a compact local copy")
    importer.add_argument("name", help="data set (robmed list datasets)")
    importer.add_argument("--from", dest="source", required=True, type=Path, help="the download's folder")
    importer.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="such as size=64 or classes=all"
    )
    importer.set_defaults(command="data import")
