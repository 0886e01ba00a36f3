"""``robmed init``: a net, a description of the data and what ``robmed check`` asks, to start from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustbench_med.api.data import DatasetInfo, Modality
from robustbench_med.data.added import splits_of
from robustbench_med.data.catalog import is_own, require_at_hand, short_name, source
from robustbench_med.data.described import FILE
from robustbench_med.models.cards import require_weights
from robustbench_med.models.state import read_state
from robustbench_med.studies.gate_config import FILE as CHECKED
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, write_text

SHOWN = 12  # tensors of a weights file
CONVOLUTIONS = {"image": "Conv2d", "volume": "Conv3d", "signal": "Conv1d"}
NET = '''\
"""The net that robmed asks: put your own in the place of Net. robmed calls make()."""

import torch
from torch import nn

# By modality (channels or features, kind of layer), by head the number of its scores.
INPUTS = {inputs}
SCORES = {scores}
{weights}

class Net(nn.Module):
    """One layer on each input, their features side by side, one layer a head."""

    def __init__(self):
        super().__init__()
        self.trunks = nn.ModuleList(
            nn.Linear(size, 16) if layer == "Linear" else getattr(nn, layer)(size, 16, 3, padding=1)
            for size, layer in INPUTS.values()
        )
        self.heads = nn.ModuleList(nn.Linear(16 * len(INPUTS), size) for size in SCORES.values())

    def forward(self, *inputs):
        """Inputs in the order of INPUTS, (batch, *shape), images from 0 to 1; returns scores by head."""
        features = [trunk(x).relu() for trunk, x in zip(self.trunks, inputs)]
        features = torch.cat([x.flatten(2).mean(2) if x.dim() > 2 else x for x in features], 1)
        return {{name: head(features) for name, head in zip(SCORES, self.heads)}}


def make():
    torch.manual_seed(0)
    return Net().eval()
'''
TOLD = """\
# What was found; write out what is wrong or missing (docs/data.md).
file: {file}
name: {name}
licence: not stated
citation: not stated
# modalities: {modalities}
# heads: {heads}
"""
CHECK = """\
# What robmed check holds the net to: docs/ci.md. robmed check --update makes the baseline; commit it.
model: model.py:make
{weights}data: {data}
attacks:
  - attack: pgd  # several, with eps and options: - {{attack: square, eps: 4/255, options: {{queries: 500}}}}
samples: 0  # all; or so many, always the same ones
audit: quick  # a rise passes only with a sound one
baseline: baseline
margins: {{clean: 0.02, robust: 0.02}}  # two points; also heads: 0.03, worst_subgroup: 0.05
"""
CI = """\
# Fails when the net got worse than the baseline that is committed beside it (docs/ci.md).
name: robustness
on: [push, pull_request]
jobs:
  robustness:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {python-version: "3.12"}
      - run: pip install robustbench-med
      - run: robmed check --junit robmed.xml
"""


@dataclass(frozen=True)
class Started:
    """What ``init`` wrote, and the commands that use it, to be typed in ``folder``."""

    folder: Path
    files: tuple[Path, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def init(folder: Path, data: str | None, weights: str | None) -> Started:
    """Write ``model.py``, ``robmed.yaml``, ``ci.yml`` and, for data of one's own, ``dataset.yaml``.

    Args:
        data: a path as ``--data`` takes it, or a name; phantom when not given.
        weights: a file that a net is to be loaded from.

    Raises:
        UserError: the data or weights cannot be read; a file is there already: then nothing is written.
    """
    name = data or "phantom"
    require_at_hand(name)
    found = source(name)
    info = found.load(splits_of(found)[0]).info
    contents = {"model.py": _net(info, weights)}
    path, asked = given_path(name), name
    if is_own(name) and path.exists():
        if path.name == FILE or (path.is_dir() and (path / FILE).exists()):
            asked = os.path.relpath(path, folder)  # it has a description
        else:
            contents[FILE], asked = _description(info, name, folder), FILE
    common = f"--model model.py:make --data {shlex.quote(asked)} --attack pgd"
    beside = None if weights is None else os.path.relpath(given_path(weights), folder)
    if beside is not None:
        common += f" --weights {shlex.quote(beside)}"
    given = "" if beside is None else f"weights: {json.dumps(beside)}\n"
    contents[CHECKED] = CHECK.format(weights=given, data=json.dumps(asked))
    contents["ci.yml"] = CI
    there = next((folder / each for each in contents if (folder / each).exists()), None)
    if there is not None:
        raise UserError(f"{there} is there already, and is not written over; move it, or name another folder")
    for each, text in contents.items():
        write_text(folder / each, text)
    commands = (
        f"robmed data check {shlex.quote(asked)}",
        f"robmed run {common} --samples 0",
        f"robmed audit {common} --samples 0",
        "robmed check --update",
    )
    note = "model.py has a net of ours: put the one that the weights are of in its place first"
    untrained = "the net of model.py knows nothing yet: train it (docs/train.md), or put your own there"
    return Started(
        folder,
        tuple(folder / each for each in contents),
        commands,
        (note if weights is not None else untrained,),
    )


def _net(info: DatasetInfo, weights: str | None) -> str:
    inputs = {m.name: (m.shape[0], CONVOLUTIONS.get(m.kind, "Linear")) for m in info.modalities}
    scores = {head.name: max(head.columns) for head in info.heads}
    return NET.format(inputs=repr(inputs), scores=repr(scores), weights=_held(weights))


def _held(weights: str | None) -> str:
    """What a weights file holds, as comments: the names that the net must have."""
    if weights is None:
        return ""
    require_weights(weights)
    state: Mapping[str, object] = read_state(given_path(weights))
    lines = [f"# {json.dumps(name)[1:-1]} {tuple(getattr(t, 'shape', ()))}" for name, t in state.items()]
    more = [f"# and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(["# The weights file holds:", *lines[:SHOWN], *more, ""])


def _description(info: DatasetInfo, name: str, folder: Path) -> str:
    return TOLD.format(
        file=json.dumps(os.path.relpath(given_path(name), folder)),
        name=json.dumps(short_name(name)),
        modalities=", ".join(map(_shown, info.modalities)),
        heads="; ".join(f"{json.dumps(h.name)}: {json.dumps(list(h.answers))[1:-1]}" for h in info.heads),
    )


def _shown(modality: Modality) -> str:
    sides = " x ".join(map(str, modality.shape))
    return f"{json.dumps(modality.name)} ({modality.kind}, {sides})"
