"""Bad input, kills, full disks: every command must refuse in one line or end as if nothing had been.

    python -m benchmarks.reliability                             a fixed sample of the cases, and every kill
    python -m benchmarks.reliability --cases 0                   everything
    python -m benchmarks.reliability --cases 100 --kills 10   a fixed sample, for CI
    python -m benchmarks.reliability --case NAME                 one of them, with what it printed

Every command runs in a child that is forked after the heavy imports, in a fresh folder with small sound
files of which one is spoilt. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.case import GOOD, Case, Result, sample
from benchmarks.reliability.process import warm_up

USUAL_CASES = 2500


def main() -> int:
    """Run the campaign; 1 if anything failed."""
    options = _options()
    started = time.monotonic()
    warm_up()
    from benchmarks.reliability import campaign, kills, sound

    bad, disturbed = campaign.all_cases(), list(kills.all_kills())
    known: Mapping[str, Case | kills.Kill] = {each.name: each for each in bad} | {
        each.name: each for each in disturbed
    }
    if len(known) < len(bad) + len(disturbed):
        raise RuntimeError(f"two cases share a name: {Counter(c.name for c in bad).most_common(3)}")
    chosen = [each.name for each in sample(disturbed, options.kills)]
    chosen += [each.name for each in sample(bad, options.cases or None)]
    chosen = [name for name in ([options.case] if options.case else chosen) if options.only in name]
    if options.list:
        print("\n".join(sorted(chosen)))
        return 0
    if options.case and options.case not in known:
        print(f"there is no case {options.case!r}; see --list", file=sys.stderr)
        return 2
    with _folder(kept=bool(options.case)) as folder:
        root = Path(folder).resolve() / "sound"
        root.mkdir()
        sound.make(root)
        if options.case:
            case = known[options.case]
            if isinstance(case, Case):
                print(f"robmed {shlex.join(case.arguments)}\nexpected: {case.expect}")
            results = [campaign.run_any(options.case, options.seed, root, known, keep=True)]
        else:
            results = _all(campaign.in_parallel(chosen, options.seed, root, known, options.jobs), len(chosen))
    _report(results, options, time.monotonic() - started)
    return int(any(result.failed for result in results))


@contextmanager
def _folder(kept: bool) -> Iterator[str]:
    """A temporary folder, taken away at the end unless somebody is going to look at it."""
    folder = tempfile.mkdtemp(prefix="reliability-")
    try:
        yield folder
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases",
        type=int,
        default=USUAL_CASES,
        help="so many cases of bad input, always the same; 0 for all",
    )
    parser.add_argument(
        "--kills", type=int, help="so many kills and commands at once, always the same; default all"
    )
    parser.add_argument("--only", default="", help="those of them whose name contains this")
    parser.add_argument("--case", default="", help="one, by its name")
    parser.add_argument("--seed", type=int, default=0, help="of what is random in them; default 0")
    parser.add_argument("--jobs", type=int, default=2, help="workers; default 2")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--accepted", action="store_true", help="name what was accepted, too")
    return parser.parse_args()


def _all(results: Iterable[Result], count: int) -> list[Result]:
    done: list[Result] = []
    failed = 0
    for result in results:
        done.append(result)
        failed += result.failed
        if len(done) % 50 == 0 or len(done) == count:
            print(f"{len(done)} of {count}, {failed} failed", file=sys.stderr, flush=True)
    return done


def _report(results: Sequence[Result], options: argparse.Namespace, seconds: float) -> None:
    """Failures, each with the command that repeats it; then a table by command and verdict."""
    for result in sorted(results, key=lambda r: (r.verdict, r.name)):
        if result.failed:
            again = shlex.join(
                ["python", "-m", "benchmarks.reliability", "--seed", str(options.seed), "--case", result.name]
            )
            print(f"{result.verdict}: {again}\n    {ascii(result.told)[1:-1][:500]}")
        elif options.accepted and result.verdict == "accepted":
            print(f"accepted: {result.name}\n    {ascii(result.told)[1:-1][:200]}")
    verdicts = sorted({result.verdict for result in results}, key=lambda v: (v in GOOD, v))
    counts = Counter((result.command, result.verdict) for result in results)
    commands = sorted({result.command for result in results})
    widths = [max(len(verdict), 5) for verdict in verdicts]
    print(
        "\n" + "  ".join([f"{'command':18}", *(f"{v:>{w}}" for v, w in zip(verdicts, widths, strict=True))])
    )
    for command in (*commands, "all"):
        numbers = [
            sum(n for (c, v), n in counts.items() if v == verdict and command in (c, "all"))
            for verdict in verdicts
        ]
        print(
            "  ".join(
                [f"{command[:18]:18}", *(f"{n or '':>{w}}" for n, w in zip(numbers, widths, strict=True))]
            )
        )
    failed = sum(result.failed for result in results)
    print(f"\n{len(results)} cases, {failed} failed, seed {options.seed}, {seconds:.0f} s")


if __name__ == "__main__":
    raise SystemExit(main())
