"""How much of a number of the zoo is the luck of one training? python leaderboards/seeds.py OUT.

Trains members on phantom under the shared recipe with several seeds, attacks each net as the zoo does (no
audit), and writes ``trainings/phantom.csv``, a row a net, and ``phantom.md`` beside it, a row a member. The
zoo's own net stands for its seed where its card says that this recipe made it. What is finished under OUT is
read back, so that a killed run goes on; rows of other trainings stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.measure.accuracy import EVERY
from robustbench_med.models.cards import weight_folders
from robustbench_med.studies.run import checked, run
from robustbench_med.studies.suite import Suite
from robustbench_med.training.card import made_by
from robustbench_med.training.recipe import train_config
from robustbench_med.training.train import train
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, write_text
from robustbench_med.util.rows import put_rows

RECIPE = "phantom"
FOUND = Path(__file__).parent / "trainings" / RECIPE
MEMBERS = (
    *("early", "concat", "late", "gated", "low-rank", "mmtm", "single-1", "single-2"),
    *("concat-at", "late-at", "gated-at"),
)


@dataclass(frozen=True)
class Row:
    """One training and what an attack left of it: shares of samples that are right in every head."""

    model: str
    seed: int
    clean: float
    robust: float
    epochs: int
    training_seconds: int
    weights_sha256: str
    run: str


def main() -> int:
    """See the module; 2 for what a person must mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=MEMBERS)
    options = parser.parse_args()
    try:
        for model, seed in ((model, seed) for model in options.models for seed in options.seeds):
            row = scored(model, trained(model, seed, options.out), seed, options.out)
            print(row, flush=True)
            found = put_rows(FOUND.with_suffix(".csv"), pd.DataFrame([row]), ("model", "seed"))
            write_text(FOUND.with_suffix(".md"), table(found))
    except UserError as error:
        print(f"seeds: {error}", file=sys.stderr)
        return 2
    return 0


def trained(model: str, seed: int, out: Path) -> Path:
    """The card of a member trained with a seed; it is trained where none is at hand."""
    recipe = dataclasses.replace(train_config(RECIPE, model), seed=seed)
    mine = out / f"seed-{seed}"
    ours = [folder / RECIPE for folder in weight_folders()]
    found = next((card for folder in (mine, *ours) for card in made_by(recipe, folder)), None)
    if found is None:
        command = f"robmed train {RECIPE} --model {model} --seed {seed}"
        found = train(recipe, mine, command).card
    return found


def scored(model: str, card: Path, seed: int, out: Path) -> Row:
    """Attack a net as the suite ``zoo`` does."""
    (entry,) = Suite.from_yaml("zoo").runs
    config = RunConfig.from_yaml(
        entry.protocol,
        model=model,
        dataset=RECIPE,
        weights=str(card.with_suffix(".safetensors")),
        samples=entry.samples,
        batch_size=entry.batch_size,
        out=str(out / "runs"),
    )
    record = run(checked(config), reuse=True).record
    reached: dict[str, Any] = record["accuracy"][EVERY]
    training = read_json(card)["training"]
    return Row(
        model,
        seed,
        reached["clean"]["value"],
        reached["robust"]["value"],
        training["epochs_run"],
        training["seconds"],
        record["model"]["weights_sha256"],
        record["run"],
    )


def table(rows: pd.DataFrame) -> str:
    """Of every member how many trainings there are, and the mean, least and most of what they reach."""
    lines = ["| net | trainings | clean | robust |", "|---|---|---|---|"]
    for model, of in rows.groupby("model", sort=False):
        reached = " | ".join(_spread(of[what]) for what in ("clean", "robust"))
        lines.append(f"| `{model}` | {len(of)} | {reached} |")
    return "\n".join(lines) + "\n"


def _spread(shares: pd.Series[float]) -> str:
    mean, least, most = (100 * value for value in (shares.mean(), shares.min(), shares.max()))
    return f"{mean:.1f} ({least:.1f} to {most:.1f})"


if __name__ == "__main__":
    raise SystemExit(main())
