"""``robmed check --update``: a new baseline, and what its reviewer should know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_med.measure.gate import judge
from robustbench_med.measure.same import attack_of, diff, require_same
from robustbench_med.measure.verdict import is_failed, is_sound
from robustbench_med.studies.baseline import read_baseline, require_place, write_baseline
from robustbench_med.studies.gate import Announce, Record, Work
from robustbench_med.studies.gate_config import CheckConfig, Entry
from robustbench_med.util.errors import UserError

Records = Sequence[Record]


@dataclass(frozen=True)
class Update:
    """What a new baseline changes.

    Attributes:
        changes: by attack, what differs: what, before, now.
        doubts: why its numbers may not be what they seem; it is then written only if that is accepted.
        warnings: what a reviewer should see, but does not stop it.
        written: whether it was.
    """

    changes: Mapping[str, Sequence[tuple[str, str, str]]]
    doubts: tuple[str, ...]
    warnings: tuple[str, ...]
    written: bool


def update(config: CheckConfig, accepted: str | None = None, announce: Announce = lambda _: None) -> Update:
    """Run everything under every attack seed, and put the records in the place of the baseline.

    Args:
        accepted: why a number in doubt is to be the baseline all the same; records and verdicts repeat it.

    Raises:
        UserError: anything that cannot be used; the place of the baseline holds something else.
    """
    path = config.folder
    require_place(path, config.is_single)
    old, warnings = _old(path)
    work = Work(config, announce)
    changes: dict[str, Sequence[tuple[str, str, str]]] = {}
    doubts: list[str] = []
    named: dict[str, Records] = {}
    for entry in config.attacks:
        records = list(work.runs(entry))
        before = _before(old, entry, config.seed)
        changes[entry.called] = diff(before, records[0])
        own = [f"{entry.called}: {said}" for said in _doubts(work, entry, records, before)]
        doubts += own
        verdict = str(records[0]["audit"]["verdict"])
        if not is_sound(verdict) and not is_failed(verdict):
            warnings.append(f"{entry.called}: {verdict}; nobody has shown that this attack is strong enough")
        named[entry.called] = [{**r, "accepted": accepted} for r in records] if own and accepted else records
    written = not doubts or accepted is not None
    if written:
        write_baseline(path, named, config.is_single)
    return Update(changes, tuple(doubts), tuple(warnings), written)


def _old(path: Path) -> tuple[Records, list[str]]:
    """The records so far; those that cannot be read are no reason to keep them."""
    if not path.exists() or (path.is_dir() and not any(path.glob("*.json"))):
        return [], []
    try:
        return read_baseline(path), []
    except UserError as error:
        return [], [f"the old baseline cannot be read: {error}"]


def _before(old: Records, entry: Entry, seed: int) -> Record | None:
    """The record that an attack had so far, if it had one."""
    found = [each for each in old if each["attack"]["name"] == entry.attack]
    radius = [each for each in found if entry.eps is not None and each["config"].get("eps") == entry.eps]
    return next(iter(sorted(radius or found, key=lambda each: each.get("seed") != seed)), None)


def _doubts(work: Work, entry: Entry, records: Records, before: Record | None) -> list[str]:
    """Why an attack is too weak for a baseline."""
    said, first, margins = [], records[0], work.config.margins
    verdict = str(first["audit"]["verdict"])
    if is_failed(verdict):
        said.append(f"the audit says {verdict}")
    names = "the new run", "the new run"
    own = judge([first], [first], names, margins, work.watch(entry))
    said += [line.reason for line in own.lines if line.name == "attack" and line.result == "failed"]
    if before is not None and (weaker := _weaker(before, first, margins.robust)) is not None:
        said.append(weaker)
    return said


def _weaker(before: Record, after: Record, margin: float) -> str | None:
    """On the same net, samples and radius another attack must not leave more than the baseline's did."""
    same_net = before["model"].get("weights_sha256") == after["model"].get("weights_sha256")
    try:
        require_same(before, after, ("before", "now"))
    except UserError:
        return None
    if not same_net or attack_of(before) == attack_of(after):
        return None
    old, new = (float(r["accuracy"][r["headline"]]["robust"]["value"]) for r in (before, after))
    if new - old <= margin:
        return None
    left = f"{100 * new:.1f} % of the same net, the baseline's attack {100 * old:.1f} %"
    return f"it leaves {left}: it is weaker"
