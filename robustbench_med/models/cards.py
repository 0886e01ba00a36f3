"""Which weights are at hand, by the cards beside them; no torch, so that they are listed at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, nearest, read_json
from robustbench_med.util.terminal import warn


def weight_folders() -> list[Path]:
    """Where weights are looked for: inside the package, then ``weights`` of the clone or folder."""
    package = Path(str(resources.files("robustbench_med")))
    return [package / "weights", package.parent / "weights", Path("weights")]


def cards_in(folder: Path) -> list[Path]:
    """The files beside weights that may be cards, sorted; temporary ones that a kill left are not."""
    return [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")]


def trained_model(card: Path) -> str | None:
    """The name of the model a card beside some weights speaks of; None when it is no card."""
    try:
        content = read_json(card)
    except UserError:  # whatever lies beside weights must not stand in the way of the others
        return None
    model = content.get("model") if isinstance(content, dict) else None
    name = model.get("name") if isinstance(model, dict) else None
    return name if isinstance(name, str) else None


def models_in(folder: Path) -> dict[Path, str]:
    """By card, sorted, the models whose weights lie in a folder.

    A file that should be the card of weights and is none costs only those weights, and a warning.
    """
    found: dict[Path, str] = {}
    for card in cards_in(folder):
        name = trained_model(card)
        if name is not None:
            found[card] = name
        elif card.with_suffix(".safetensors").is_file():
            warn(f"{card} is not a model card, so the weights beside it are passed over")
    return found


def trained() -> dict[Path, str]:
    """By card, in a folder for each data set, the models with weights at hand."""
    folders = [place for folder in weight_folders() if folder.is_dir() for place in folder.iterdir()]
    places = sorted({place.resolve() for place in folders if place.is_dir()})
    return {card: name for place in places for card, name in models_in(place).items()}


def labelled(label: str) -> Path | None:
    """The card of a net at hand by its label, "concat-x0.125": the name of the file without its ending."""
    places = [place for folder in weight_folders() for place in sorted(folder.glob("*/"))]
    cards = [place / f"{label}.json" for place in places]
    return next((card for card in cards if trained_model(card) is not None), None)


def seed_of(card: Path) -> int:
    """Of the training of the net that a card speaks of."""
    seed = read_json(card)["model"].get("seed", 0)
    return seed if isinstance(seed, int) else 0


def nets_at_hand(model: str, dataset: str) -> list[Path]:
    """The cards of a model's nets on a data set, those of the package first, then of the clone or folder.

    Args:
        model: its name, or the label of one net of it ("concat-x0.125"), as boards have it.
    """
    folders = {(folder / dataset).resolve(): folder / dataset for folder in reversed(weight_folders())}
    found = [models_in(folder) for folder in reversed(folders.values())]
    return [card for each in found for card, name in each.items() if model in (name, card.stem)]


def net_at(model: str, dataset: str, width: float) -> str:
    """The label of the net at hand of a model, on a data set, of a width; of several seeds the lowest.

    Raises:
        UserError: there is none.
    """
    found = [card for card in nets_at_hand(model, dataset) if _width_of(card) == width]
    if found:
        return min(found, key=seed_of).stem
    raise UserError(
        f"no weights of {model!r} of width {width:g} on {dataset!r} are at hand; train them: robmed train "
        f"{dataset} --model {model}"
    )


def _width_of(card: Path) -> object:
    options = read_json(card)["model"].get("options")
    return options.get("width", 1) if isinstance(options, dict) else None


def require_weights(weights: str | Path) -> None:
    """Make sure that there is such a file.

    Raises:
        UserError: there is none.
    """
    path = given_path(weights)
    if not path.is_file():
        raise UserError(f"there is no weights file {path}{nearest(path)}")
