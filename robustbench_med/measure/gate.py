"""Did the numbers on these samples get worse? Behind ``robmed check`` and ``robmed compare --gate`` alike.

The samples are fixed, so that nothing is inferred about other patients: a difference is what it is, and only
the draws of a random model and the seeds of the attack blur it (docs/method.md, "Statistics").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robustbench_med.measure.decision import ROUNDING, Change, Line, Result, Units, change, line_of, points
from robustbench_med.measure.margins import Margins
from robustbench_med.measure.same import changes, require_one_claim, require_same, require_same_attack
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.statistics import Z95
from robustbench_med.measure.verdict import UNAUDITED, is_sound
from robustbench_med.util.errors import UserError, unknown

WEAKER = 0.02  # by how much another, cheap attack may be stronger before the run's counts as crippled


@dataclass(frozen=True)
class Gate:
    """Everything that was judged of one attack on one model.

    Attributes:
        title: what it is about.
        notes: what else differs between the two, or must be known.
    """

    title: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def wants_seeds(self) -> bool:
        """Whether more attack seeds may decide something."""
        return any(line.close for line in self.lines)

    @property
    def result(self) -> Result:
        """Of all lines: a failure outweighs what cannot be decided."""
        found = {line.result for line in self.lines}
        return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"


def judge(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    names: tuple[str, str],
    margins: Margins,
    watch: Mapping[str, Any] | None = None,
    advice: str = "",
) -> Gate:
    """Judge runs against a baseline.

    Args:
        before, after: records of one claim, one an attack seed; the audit that counts is that of the first.
        names: how errors call the two.
        watch: the record of a cheap attack on the new model, which the run's must not fall short of.
        advice: what to do when the two cannot be compared.

    Raises:
        UserError: other samples, threat model, attack, options or attack package; damaged records.
    """
    margins.require()
    require_same(before[0], after[0], names, advice)
    require_same_attack(before[0], after[0], names, advice)
    for each, name in zip((before, after), names, strict=True):
        require_one_claim(each, name)
    pair = _Pair.of(before, after, names, advice)
    key = str(after[0]["headline"])
    lines = [pair.line("clean", key, margins.clean), pair.line("robust", key, margins.robust)]
    for head, margin in _heads(margins.heads, after[0], pair).items():
        lines += [pair.line("clean", head, margin), pair.line("robust", head, margin)]
    if margins.worst_subgroup is not None:
        lines.append(pair.worst_subgroup(margins.worst_subgroup))
    lines += [
        line for line in (_audit(before[0], after[0]), _watched(watch, after[0], pair)) if line is not None
    ]
    model, data, attack = after[0]["model"]["label"], after[0]["dataset"]["name"], after[0]["attack"]["name"]
    title = f"{model} on {data} ({pair.samples} samples) under {attack}"
    return Gate(title, tuple(lines), changes(before[0], after[0]))


@dataclass(frozen=True)
class _Pair:
    """Outcomes of both, one an attack seed."""

    before: tuple[Samples, ...]
    after: tuple[Samples, ...]
    records: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
    paired: bool

    @classmethod
    def of(
        cls,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]],
        names: tuple[str, str],
        advice: str,
    ) -> _Pair:
        """Those of seeds that both have; all where they have none in common.

        Raises:
            UserError: other samples, or draws shared in other batches.
        """
        seeds = [[record.get("seed") for record in each] for each in (before, after)]
        common = [seed for seed in seeds[1] if seed in seeds[0]]
        if common:
            before, after = (
                [each[s.index(seed)] for seed in common]
                for each, s in zip((before, after), seeds, strict=True)
            )
        old, new = (
            tuple(Samples.from_record(record, name) for record in each)
            for each, name in zip((before, after), names, strict=True)
        )
        if any(each.ids != new[0].ids for each in (*old, *new)):
            raise UserError(
                f"{names[0]} and {names[1]} cannot be compared: other samples or another order{advice}"
            )
        shared = "batch" in (old[0].draws_shared_by, new[0].draws_shared_by)
        if shared and (old[0].batches != new[0].batches).any():
            raise UserError(
                f"{names[0]} and {names[1]} share draws in other batches; give both one batch size{advice}"
            )
        return cls(old, new, (before, after), bool(common))

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.after[0].ids)

    def change(self, kind: str, name: str) -> Change:
        """That of an accuracy, over the samples that have a label for it."""
        index = np.flatnonzero(self.after[0].known[name])
        bits = [[getattr(s, kind)[name][:, index] for s in each] for each in (self.before, self.after)]
        one, two = (_units(each[0], index) for each in (self.before, self.after))
        return change(bits[0], bits[1], (one, two), self.paired, kind == "robust")

    def line(self, kind: str, name: str, margin: float) -> Line:
        """The verdict on an accuracy, "clean" or "robust"."""
        if not self.after[0].known[name].any():
            return Line(f"{kind}, {name}", "undecided", "no sample has a label for it", margin)
        found = self.change(kind, name)
        line = line_of(f"{kind}, {name}", found, margin)
        rise = -found.fall - found.blur
        if kind == "clean" or rise <= margin + ROUNDING:
            return line
        return _risen(line, str(self.records[1][0]["audit"]["verdict"]))

    def worst_subgroup(self, margin: float) -> Line:
        """The verdict on the lowest robust accuracy of a subgroup, whichever it is."""
        found = [[_worst(record) for record in each] for each in self.records]
        name = "robust, worst subgroup"
        if not all(worst for each in found for worst in each):
            said = "the data has no subgroup of at least 20 samples; leave margins.worst_subgroup away"
            return Line(name, "undecided", said, margin)
        shares = [[float(worst["robust"]["value"]) for worst in each] for each in found]
        variance = sum(
            _most_variance(share, worst["samples"], samples) / len(values) ** 2
            for values, worsts, each in zip(shares, found, (self.before, self.after), strict=True)
            for share, worst, samples in zip(values, worsts, each, strict=True)
        )
        blur = 0.0 if shares[0] == shares[1] else Z95 * math.sqrt(variance)
        before, after = (float(np.mean(values)) for values in shares)
        count, draws = int(found[1][0]["samples"]), len(next(iter(self.after[0].robust.values())))
        line = line_of(name, Change(before, after, blur, count, draws, len(shares[1])), margin)
        called = [f"{each[0]['column']} {each[0]['value']}" for each in found]
        said = called[1] if called[0] == called[1] else f"{called[0]} before, {called[1]} now"
        return replace(line, reason=f"{line.reason} ({said})")


def _worst(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The worst subgroup of a record; nothing where it has none.

    Raises:
        UserError: what it says of it is damaged.
    """
    worst = record.get("worst_subgroup") or {}
    try:
        if worst and not (0 <= worst["robust"]["value"] <= 1 and worst["samples"] >= 1):
            raise ValueError
        return {k: worst[k] for k in ("column", "value", "samples", "robust")} if worst else {}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the record of run {record.get('run')} has a damaged worst_subgroup") from error


def _units(samples: Samples, index: Units) -> Units:
    """What shares its draws with what; empty where there are none."""
    if samples.draws_shared_by == "none":
        return np.zeros(0, np.int64)
    return samples.batches[index] if samples.draws_shared_by == "batch" else np.arange(len(index))


def _most_variance(share: float, count: int, samples: Samples) -> float:
    """The most that draws can add to a share of ``count`` samples: records do not say which these are."""
    if samples.draws_shared_by == "none":
        return 0.0
    draws = len(next(iter(samples.robust.values())))
    return share * (1 - share) / (draws * (1 if samples.draws_shared_by == "batch" else count))


def _heads(
    asked: float | Mapping[str, float] | None, record: Mapping[str, Any], pair: _Pair
) -> Mapping[str, float]:
    """The heads and questions that are judged by themselves, and their margins.

    Raises:
        UserError: there is none of such a name.
    """
    known = pair.after[0].robust
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in known:
                raise unknown("head or question", name, known)
        return asked
    heads = record["dataset"].get("heads", ())
    return {} if asked is None else {name: asked for name in heads if name in known}


def _risen(line: Line, verdict: str) -> Line:
    """A rise beyond the margin is a question, which a sound audit answers."""
    if is_sound(verdict):
        return replace(line, reason=f"{line.reason}; the audit is {verdict}")
    made = "no audit was made" if verdict == UNAUDITED else f"the audit says {verdict}"
    doubt = "a weaker attack looks just like this"
    return replace(line, result="failed", reason=f"{line.reason}; {made}, and {doubt}", close=False)


def _audit(before: Mapping[str, Any], after: Mapping[str, Any]) -> Line | None:
    """The verdict of the new run's audit, if one was made or a cheap check failed."""
    old, new = (str(record["audit"]["verdict"]) for record in (before, after))
    if new == UNAUDITED:
        return None
    if is_sound(new):
        return Line("audit", "passed", new)
    if old == new:
        return Line("audit", "passed", f"{new}, as that of the baseline")
    return Line("audit", "failed", f"{new}; that of the baseline: {old}")


def _watched(watch: Mapping[str, Any] | None, after: Mapping[str, Any], pair: _Pair) -> Line | None:
    """Whether the attack still does what a cheap one does."""
    if watch is None:
        return None
    found, key = Samples.from_record(watch, "the attack that watches"), str(after["headline"])
    units = _units(found, np.arange(pair.samples))
    other = change([pair.after[0].robust[key]], [found.robust[key]], (units, units), True)
    name, left = (
        watch["attack"]["name"],
        f"{points(other.after)} %, the run's attack {points(other.before)} %",
    )
    if other.fall - other.blur > WEAKER:
        return Line("attack", "failed", f"it is weaker than {name}, which leaves {left}: it is crippled")
    return Line("attack", "passed", f"{name} leaves {left}")
