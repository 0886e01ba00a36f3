"""The matrix of known fakes and sound models against the verdicts of the audit.

The cases are those of ``tests/audit/fakes.py``. Exits with 1 when a fake gets the verdict "sound" or a sound
model another one.

    python benchmarks/audit.py --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "audit"))

from fakes import CASES, audited

from robustbench_med.measure.verdict import is_sound


def main() -> int:
    """Print the matrix; 1 when a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    wrong = 0
    for name, case in CASES.items():
        if options.only not in name:
            continue
        for seed in range(options.seeds):
            claimed, found = audited(case, seed)
            right = is_sound(found.verdict) == case.sound
            wrong += not right
            kind, mark = "sound" if case.sound else "fake", "" if right else "  <-- WRONG"
            print(f"{kind:5} {name:24} seed {seed}  claims {100 * claimed:5.1f} %  {found.verdict}{mark}")
            if not right:
                for finding in found.findings:
                    print(f"        {finding.check:12} {finding.result:14} {finding.evidence}")
    print(f"{wrong} wrong verdicts")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
