"""The command on a record's page asks for the very run that the record is of."""

from __future__ import annotations

import shlex
from itertools import pairwise
from typing import Any

import pytest
from boarded import BASE, published, record

from robustbench_med.evaluation.prepare import RunConfig, prepare
from robustbench_med.flags import parser
from robustbench_med.options import run_config
from robustbench_med.reporting.command import command


def asked(line: str) -> tuple[RunConfig, str | None]:
    """What a command line asks for, and the audit."""
    words = shlex.split(line)
    assert words[0] == "robmed"
    options = parser().parse_args(words[1:])
    found: RunConfig = run_config(options)
    return found, options.audit


SYNTHETIC = {kept["run"]: kept for kept in published() if kept["dataset"]["synthetic"]}
RANDOM = next(run for run, kept in SYNTHETIC.items() if kept["scoring"]["draws"] > 1)
FEW = (BASE.stem, RANDOM)


def asks_for(kept: dict[str, Any]) -> None:
    config, audit = asked(command(kept))
    assert prepare(config).stored == kept["config"]
    assert audit == (kept["audit"]["config"] if kept["audit"].get("complete") else None)


@pytest.mark.parametrize("run", FEW)
def test_published_records(run: str) -> None:
    asks_for(SYNTHETIC[run])


@pytest.mark.slow
@pytest.mark.parametrize("run", sorted({*SYNTHETIC} - {*FEW}))
def test_all_published_records_that_need_no_import(run: str) -> None:
    asks_for(SYNTHETIC[run])


def test_everything_that_a_flag_can_say() -> None:
    made = record("r")
    made["config"] |= {
        "model": "net; rm -rf $HOME",
        "attack": "square",
        "eps": {"mr": 4 / 255, "record": 0.1},
        "norm": "l2",
        "modality": ["mr", "record"],
        "head": "findings.it's",
        "towards": "a b=c",
        "defenses": [{"name": "jpeg", "options": {"quality": 75, "straight_through": True, "other": None}}],
        "attack_options": {"queries": 10, "random_start": False, "note": None, "loss": "margin"},
        "device": "cuda",
    }
    made["dataset"]["modalities"] = {
        "mr": {"kind": "image"},
        "ct": {"kind": "image"},
        "record": {"kind": "table"},
    }
    words = shlex.split(command(made))
    given = dict(pairwise(words))
    assert given["--model"] == "net; rm -rf $HOME"
    assert given["--eps"] == "mr=4/255,record=0.1"
    assert given["--modality"] == "mr,record"
    assert (given["--head"], given["--towards"]) == ("findings.it's", "a b=c")
    assert given["--defense"] == "jpeg:quality=75,straight_through=true"
    assert (given["--option"], given["--loss"]) == ("queries=10", "margin")
    assert "--no-random-start" in words
    assert (given["--norm"], given["--device"]) == ("l2", "cuda")
    assert "None" not in command(made)


def test_somebodys_inputs_are_handed_in() -> None:
    made = record("r2") | {"refutes": {"run": "r1", "finder": "Jo O'Neil"}}
    assert shlex.split(command(made)) == [
        "robmed",
        "refute",
        "r1.json",
        "INPUTS.npz",
        "--finder",
        "Jo O'Neil",
    ]
