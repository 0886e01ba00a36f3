"""Does some recipe train a net to resist that others do not? python leaderboards/search.py OUT.

Trains the models of ``search.yaml`` under every trial in it, and writes ``trainings/search.csv``, a row a
training, and ``search.md`` beside it, a row a trial. What is compared is validation, as recipes are chosen;
the test split stays untouched. What is finished under OUT is read back, so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_med.training.card import made_by
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.training.settings import over
from robustbench_med.training.train import train
from robustbench_med.util.config import build, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, write_text

SEARCH = Path(__file__).with_suffix(".yaml")
FOUND = Path(__file__).parent / "trainings" / "search"


@dataclass(frozen=True)
class Row:
    """One training: the kept epoch's balanced accuracy on the validation split, mean over heads."""

    model: str
    trial: str
    clean: float
    robust: float
    best_epoch: int
    epochs: int
    training_seconds: int
    weights_sha256: str


def main() -> int:
    """See the module; 2 for what a person must mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", nargs="+", help="train these alone; what else is finished is read back")
    parser.add_argument("--models", nargs="+", help="train these alone")
    options = parser.parse_args()
    try:
        rows = list(searched(options.out, options.trials, options.models))
        write_text(FOUND.with_suffix(".csv"), pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
        write_text(FOUND.with_suffix(".md"), table(rows))
    except UserError as error:
        print(f"search: {error}", file=sys.stderr)
        return 2
    return 0


def searched(out: Path, names: Sequence[str] | None, models: Sequence[str] | None) -> Iterator[Row]:
    """Train what is asked for and not finished yet; whatever is finished has a row.

    Raises:
        UserError: a trial or a model that the search does not have.
    """
    asked = read_yaml(SEARCH)
    for given, known in ((names, "trials"), (models, "models")):
        wrong = next((name for name in given or () if name not in asked[known]), None)
        if wrong is not None:
            raise UserError(f"{SEARCH} has no {wrong!r} among its {known}: {', '.join(asked[known])}")
    for trial, config in trials(asked):
        card = next(made_by(config, out / trial), None)
        if card is None and trial in (names or [trial]) and config.model in (models or [config.model]):
            command = f"python leaderboards/search.py OUT --trials {trial} --models {config.model}"
            card = train(config, out / trial, command).card
        if card is not None:
            row = reached(trial, config.model, card)
            print(row, flush=True)
            yield row


def trials(asked: Mapping[str, Any]) -> Iterator[tuple[str, TrainConfig]]:
    """Every trial by name, with the recipe of each model in it."""
    for trial, own in asked["trials"].items():
        for model in asked["models"]:
            values = {**over(asked["shared"], own or {}), "dataset": asked["dataset"], "model": model}
            yield trial, build(TrainConfig, values, f"{SEARCH}: {trial}")


def reached(trial: str, model: str, card: Path) -> Row:
    """What a card says of the epoch whose weights were kept."""
    said = read_json(card)
    training = said["training"]
    kept = training["history"][training["best_epoch"]]
    return Row(
        model,
        trial,
        kept["val_balanced_accuracy"],
        kept["val_robust_balanced_accuracy"],
        training["best_epoch"],
        training["epochs_run"],
        training["seconds"],
        said["weights"]["sha256"],
    )


def table(rows: Sequence[Row]) -> str:
    """A row a trial: of each model, clean and attacked."""
    models = list(dict.fromkeys(row.model for row in rows))
    said = {(row.trial, row.model): f"{100 * row.clean:.1f} → {100 * row.robust:.1f}" for row in rows}
    lines = [f"| trial | {' | '.join(f'`{model}`' for model in models)} |", "|---" * (len(models) + 1) + "|"]
    for trial in dict.fromkeys(row.trial for row in rows):
        lines.append(f"| {trial} | {' | '.join(said.get((trial, model), '-') for model in models)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
