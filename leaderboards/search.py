"""Is there a recipe that trains a net as others are trained? python leaderboards/search.py SEARCH OUT.

Trains the models of ``searches/SEARCH.yaml`` under every trial in it, and writes
``trainings/search-SEARCH.csv``, a row a training, and a table beside it, a row a trial. What is compared is
validation, as recipes are chosen; the test split stays untouched. What is finished under OUT is read back, so
that a killed run goes on; rows of other trainings stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from robustbench_med.training.card import made_by
from robustbench_med.training.recipe import TrainConfig
from robustbench_med.training.settings import over
from robustbench_med.training.train import train
from robustbench_med.util.config import build, read_yaml
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, write_text
from robustbench_med.util.rows import put_rows

HERE = Path(__file__).parent
SEARCHES = HERE / "searches"


@dataclass(frozen=True)
class Row:
    """One training: the kept epoch's balanced accuracy on the validation split, mean over heads.

    ``robust`` is that of attacked images; None where the recipe attacks none.
    """

    model: str
    trial: str
    clean: float
    robust: float | None
    best_epoch: int
    epochs: int
    training_seconds: int
    weights_sha256: str


def main() -> int:
    """See the module; 2 for what a person must mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("search", choices=sorted(path.stem for path in SEARCHES.glob("*.yaml")))
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", nargs="+", help="train these alone; what else is finished is read back")
    parser.add_argument("--models", nargs="+", help="train these alone")
    options = parser.parse_args()
    try:
        found = HERE / "trainings" / f"search-{options.search}.csv"
        made = pd.DataFrame([*searched(SEARCHES / f"{options.search}.yaml", options)])
        rows = rows_of(put_rows(found, made, ("trial", "model")))
        write_text(found.with_suffix(".md"), table(rows))
    except UserError as error:
        print(f"search: {error}", file=sys.stderr)
        return 2
    return 0


def searched(search: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Train what is asked for and not finished yet; whatever is finished has a row.

    Raises:
        UserError: a trial or a model that the search does not have.
    """
    asked = read_yaml(search)
    names, models = options.trials or [*asked["trials"]], options.models or asked["models"]
    for given, known in ((names, "trials"), (models, "models")):
        wrong = next((name for name in given if name not in asked[known]), None)
        if wrong is not None:
            raise UserError(f"{search} has no {wrong!r} among its {known}: {', '.join(asked[known])}")
    for trial, config in trials(search):
        folder = options.out / trial
        card = next(made_by(config, folder), None)
        if card is None and trial in names and config.model in models:
            only = f"--trials {trial} --models {config.model}"
            command = f"python leaderboards/search.py {search.stem} OUT {only}"
            card = train(config, folder, command).card
        if card is not None:
            row = reached(trial, config.model, card)
            print(row, flush=True)
            yield row


def trials(search: Path) -> Iterator[tuple[str, TrainConfig]]:
    """Every trial by name, with the recipe of each model in it."""
    asked = read_yaml(search)
    for trial, own in asked["trials"].items():
        for model in asked["models"]:
            values = {**over(asked["shared"], own or {}), "dataset": asked["dataset"], "model": model}
            yield trial, build(TrainConfig, values, f"{search}: {trial}")


def reached(trial: str, model: str, card: Path) -> Row:
    """What a card says of the epoch whose weights were kept."""
    said = read_json(card)
    training = said["training"]
    kept = training["history"][training["best_epoch"]]
    return Row(
        model,
        trial,
        kept["val_balanced_accuracy"],
        kept.get("val_robust_balanced_accuracy"),
        training["best_epoch"],
        training["epochs_run"],
        training["seconds"],
        said["weights"]["sha256"],
    )


def rows_of(found: pd.DataFrame) -> list[Row]:
    """The rows of a CSV, in which what there is not is empty."""
    known = found.astype(object)
    return [Row(*values) for values in known.where(known.notna(), None).itertuples(index=False)]


def table(rows: Sequence[Row]) -> str:
    """A row a trial: of each model clean, and attacked where the recipe does that."""
    models = list(dict.fromkeys(row.model for row in rows))
    said = {(row.trial, row.model): _reached(row) for row in rows}
    lines = [f"| trial | {' | '.join(f'`{model}`' for model in models)} |", "|---" * (len(models) + 1) + "|"]
    for trial in dict.fromkeys(row.trial for row in rows):
        lines.append(f"| {trial} | {' | '.join(said.get((trial, model), '-') for model in models)} |")
    return "\n".join(lines) + "\n"


def _reached(row: Row) -> str:
    robust = "" if row.robust is None else f" → {100 * row.robust:.1f}"
    return f"{100 * row.clean:.1f}{robust}"


if __name__ == "__main__":
    raise SystemExit(main())
