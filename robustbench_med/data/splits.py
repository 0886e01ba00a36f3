"""Splits and orders that depend on ids alone, so that anyone can recompute them.

Nothing here uses a random number generator: items are ordered by a hash of the seed and their
own id, which does not change with the order of the input, the platform or the numpy version.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robustbench_med.data.notes import Note

SEED = 0


@dataclass(frozen=True)
class Fractions:
    """Shares of the groups that go to "val" and "test", each in [0, 1]; "train" gets the rest."""

    val: float = 0.1
    test: float = 0.2


def hash_order(items: Iterable[str], *, seed: int, purpose: str) -> list[str]:
    """The distinct ``items`` ordered by SHA-256 of ``"seed/purpose/item"``.

    ``purpose`` keeps two orders over the same ids independent of each other.
    """

    def key(item: str) -> str:
        return hashlib.sha256(f"{seed}/{purpose}/{item}".encode()).hexdigest()

    return sorted(set(items), key=key)


def assign_splits(
    strata: Mapping[str, str], fractions: Fractions, *, seed: int, purpose: str
) -> dict[str, str]:
    """Assign whole groups to splits, each stratum in the same proportions.

    Of each stratum in hash order the first ``round(n * test)`` groups become "test", the next
    ``round(n * val)`` "val" (halves round to even), the rest "train".

    Args:
        strata: per group id the stratum (label) it counts for.

    Returns:
        Per group id "train", "val" or "test".
    """
    assigned: dict[str, str] = {}
    for groups in _by_stratum(strata).values():
        ordered = hash_order(groups, seed=seed, purpose=purpose)
        tests = round(len(ordered) * fractions.test)
        vals = round(len(ordered) * fractions.val)
        for position, group in enumerate(ordered):
            in_val = position < tests + vals
            assigned[group] = "test" if position < tests else "val" if in_val else "train"
    return assigned


def draw_stratified(strata: Mapping[str, str], count: int, *, seed: int, purpose: str) -> list[str]:
    """Draw ``count`` (at most ``len(strata)``) ids, every stratum in proportion to its size.

    Remainders go to the strata with the largest fractional part (ties by name).
    """
    groups = _by_stratum(strata)
    shares = {name: count * len(ids) / len(strata) for name, ids in groups.items()}
    quota = {name: int(share) for name, share in shares.items()}
    missing = count - sum(quota.values())
    for name in sorted(shares, key=lambda name: (quota[name] - shares[name], name))[:missing]:
        quota[name] += 1
    drawn: list[str] = []
    for name, ids in groups.items():
        drawn += hash_order(ids, seed=seed, purpose=purpose)[: quota[name]]
    return drawn


def recycle(items: Sequence[str], count: int, *, seed: int, purpose: str) -> list[str]:
    """``count`` items: all of ``items`` once, then all again in a new order, and so on."""
    recycled: list[str] = []
    for lap in range(-(-count // len(items))):
        recycled += hash_order(items, seed=seed, purpose=f"{purpose}-lap{lap}")
    return recycled[:count]


@dataclass(frozen=True)
class Distinct:
    """What is left of some images once exact copies are gone.

    Attributes:
        kept: the first of every set of copies, and everything that has no copy.
        copies: dropped because an earlier image has the same pixels and the same label.
        conflicting: dropped, all of them, because the same pixels carry different labels.
    """

    kept: tuple[str, ...]
    copies: tuple[str, ...]
    conflicting: tuple[str, ...]


def drop_duplicates(names: Sequence[str], digests: Mapping[str, str], labels: Mapping[str, str]) -> Distinct:
    """Keep one image of every pixel content; of copies the one that comes first in ``names``.

    Args:
        digests: per name the hash of the decoded pixels.
        labels: per name its class.
    """
    copies_of: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        copies_of[digests[name]].append(name)
    kept, copies, conflicting = [], [], []
    for same in copies_of.values():
        if len({labels[name] for name in same}) > 1:
            conflicting += same
        else:
            kept.append(same[0])
            copies += same[1:]
    return Distinct(tuple(kept), tuple(copies), tuple(conflicting))


def drop_notes(distinct: Distinct) -> tuple[Note, ...]:
    """A note on everything that was dropped."""
    copies = [Note(name, "a copy of another one, pixel for pixel") for name in distinct.copies]
    odd = [Note(name, "has a copy under another label") for name in distinct.conflicting]
    return (*copies, *odd)


def manifest_hash(text: str) -> str:
    """SHA-256 of a manifest's UTF-8 text, as hex (what ``sha256sum`` says of the file)."""
    return hashlib.sha256(text.encode()).hexdigest()


def _by_stratum(strata: Mapping[str, str]) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for item in sorted(strata):
        groups[strata[item]].append(item)
    return dict(sorted(groups.items()))
