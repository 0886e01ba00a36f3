"""Weights and their cards: found, checked before they are used, and written."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from robustbench_med.api.model import FusionModel
from robustbench_med.models.named import ModelConfig
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, replacing, sha256_file


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


def default_weights(model: str, dataset: str) -> Path:
    """The shipped weights of a model on a data set.

    Raises:
        UserError: there are none.
    """
    for folder in weight_folders():
        for card in cards_in(folder / dataset):
            if trained_model(card) == model:
                return card.with_suffix(".safetensors")
    raise UserError(
        f"no weights of {model!r} on {dataset!r} are at hand; train them (robmed train) or give --weights"
    )


def read_card(weights: Path) -> dict[str, Any]:
    """The model card beside a weights file, {} when there is none.

    Raises:
        UserError: the file beside the weights is not a model card, or one of other weights.
    """
    if not weights.is_file():  # which is said when they are read
        return {}
    path = weights.with_suffix(".json")
    if path == weights or not path.exists():
        return {}
    if trained_model(path) is None:
        raise UserError(f"{path} is not a model card; move it away or restore it")
    card: dict[str, Any] = read_json(path)
    said = card.get("weights")
    sha256 = said.get("sha256") if isinstance(said, dict) else None
    if sha256 is not None and weights.is_file() and sha256 != sha256_file(weights):
        raise UserError(
            f"{path} is the card of other weights than {weights.name} (their SHA-256 differ); move one "
            "away, or train again"
        )
    return card


def config_from_card(card: Mapping[str, Any], where: str) -> ModelConfig:
    """The config a card says its weights were trained with.

    Raises:
        UserError: an option that is none.
    """
    return build(ModelConfig, {k: v for k, v in card["model"].items() if k != "label"}, where)


def load_weights(model: FusionModel, path: Path) -> None:
    """Load safetensors weights into ``model``; half precision is taken as it is, in the model's precision.

    Raises:
        UserError: missing, truncated or foreign file, or weights of another architecture.
    """
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); other formats are never read"
        ) from error
    own = model.state_dict()
    odd = sorted(set(own) ^ set(state)) or sorted(k for k in own if not _fits(own[k], state[k]))
    if odd:
        raise UserError(
            f"{path} holds weights of another architecture: {odd[0]!r} does not fit "
            f"({len(odd)} tensors in all); choose the --model they were trained for, and no --defense that "
            "changes weights"
        )
    nonfinite = sorted(k for k, v in state.items() if not torch.isfinite(v).all())
    if nonfinite:
        raise UserError(f"{path}: {nonfinite[0]!r} has NaN or infinite values; train again")
    model.load_state_dict(state)


def _fits(own: Tensor, stored: Tensor) -> bool:
    """One shape, and floating point for floating point: integers and truth values are not cast silently."""
    same_kind = own.dtype == stored.dtype or (own.is_floating_point() and stored.is_floating_point())
    return own.shape == stored.shape and same_kind


def save_weights(model: FusionModel, path: Path) -> None:
    """Write the model's weights as safetensors, atomically."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = save(state)  # written by Python, whose errors say what a full disk is
    with replacing(path) as temporary:
        temporary.write_bytes(content)
