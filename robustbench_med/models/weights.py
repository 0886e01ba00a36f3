"""Weights and their cards: found, checked before they are used, and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.models.cards import nets_at_hand, require_weights, seed_of, trained_model
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, replacing


def default_weights(model: str, dataset: str, whole: Split) -> Path:
    """The weights at hand of a model on a data set.

    Of several, those trained on exactly these data come first: a partial download, or images imported at
    another size, are others. Then those of the package, so that a name means the same net to everybody; then
    the largest net's; then the lowest seed's.

    Args:
        model: its name, or the label of one net of it ("concat-x0.125"), as boards have it.
        dataset: the folder's name.
        whole: the data set's test split.

    Raises:
        UserError: there are none.
    """
    cards = nets_at_hand(model, dataset)
    if not cards:
        raise UserError(
            f"no weights of {model!r} on {dataset!r} are at hand; train them (robmed train) or give --weights"
        )
    folders = list(dict.fromkeys(card.parent for card in cards))

    def preferred(card: Path) -> tuple[int, int, int, int]:
        return _fits(card, whole), -folders.index(card.parent), _parameters(card), -seed_of(card)

    return max(cards, key=preferred).with_suffix(".safetensors")


def _fits(card: Path, whole: Split) -> int:
    """2 where a net was trained on exactly these data, 1 where on the same samples, 0 otherwise."""
    fingerprint, members = trained_on(read_json(card))
    return 2 if fingerprint == whole.fingerprint else int(members == whole.members)


def trained_on(card: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The fingerprint and the members of the test split that a card names; None where it names none."""
    said = card.get("dataset")
    both = [said.get(key) if isinstance(said, dict) else None for key in ("fingerprints", "members")]
    fingerprint, members = (each.get("test") if isinstance(each, dict) else None for each in both)
    return fingerprint, members


def require_same_split(card: Mapping[str, Any], weights: Path, whole: Split) -> None:
    """Make sure that no test sample is among those that a net learned, as far as its card says.

    Raises:
        UserError: it was trained on this data set, split otherwise.
    """
    _, members = trained_on(card)
    if members in (None, whole.members) or card["dataset"].get("name") != whole.info.name:
        return
    raise UserError(
        f"{weights} was trained on another split of {whole.info.name!r}, so test samples may be among those "
        "it learned; import the complete download, or train on your own (robmed train)"
    )


def _parameters(card: Path) -> int:
    said = read_json(card).get("weights")
    count = said.get("parameters") if isinstance(said, dict) else None
    return count if isinstance(count, int) else 0


def read_card(weights: Path) -> dict[str, Any]:
    """The model card beside a weights file, {} when there is none.

    Raises:
        UserError: the file beside the weights is not a model card.
    """
    if not weights.is_file():  # which is said when they are read
        return {}
    path = card_beside(weights)
    if path == weights or not path.exists():
        return {}
    if trained_model(path) is None:
        raise UserError(f"{path} is not a model card; move it away or restore it")
    card: dict[str, Any] = read_json(path)
    return card


def require_own_card(card: Mapping[str, Any], weights: Path, sha256: str) -> None:
    """Make sure that a card speaks of these weights and no others; none at all is no lie.

    Raises:
        UserError: the card does not give the SHA-256 of its weights, or it is that of others.
    """
    if not card:
        return
    said = card.get("weights")
    theirs = said.get("sha256") if isinstance(said, dict) else None
    if theirs != sha256:
        differs = "is the card of other weights than" if theirs else "does not say that it is the card of"
        raise UserError(
            f"{card_beside(weights)} {differs} {weights.name} (by their SHA-256); move one of them away, or "
            "train again"
        )


def card_beside(weights: Path) -> Path:
    """Where the card of a weights file lies, if there is one."""
    return weights.with_suffix(".json") if weights.name else weights


def load_weights(model: FusionModel, path: Path) -> None:
    """Load safetensors weights into ``model``; half precision is taken as it is, in the model's precision.

    Raises:
        UserError: missing, truncated or foreign file, weights of another architecture or another kind of
            number, or values that no training leaves.
    """
    require_weights(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); other formats are never read"
        ) from error
    own = model.state_dict()
    odd = _misfits(own, state)
    if odd:
        name, how = next(iter(odd.items()))
        raise UserError(
            f"{path} holds weights of another architecture: {name[:120]!r} {how} "
            f"({len(odd)} tensors in all); choose the --model they were trained for, and no --defense that "
            "changes weights"
        )
    taken = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    nonfinite = sorted(k for k, v in taken.items() if not torch.isfinite(v).all())
    if nonfinite:
        raise UserError(f"{path}: {nonfinite[0]!r} has NaN or infinite values; train again")
    negative = sorted(k for k, v in taken.items() if k.endswith("running_var") and (v < 0).any())
    if negative:
        raise UserError(f"{path}: {negative[0]!r} has negative variances; train again")
    model.load_state_dict(taken)


def _misfits(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, str]:
    """By name, how tensors of a file differ from a model's; those that only one of them has come first.

    Floating point of any precision goes with floating point; integers and truth values are not cast.
    """
    odd = dict.fromkeys(sorted(set(own) - set(stored)), "is missing")
    odd |= dict.fromkeys(sorted(set(stored) - set(own)), "is not of this model")
    for name in sorted(set(own) & set(stored)):
        ours, theirs = own[name], stored[name]
        same_kind = ours.dtype == theirs.dtype or (ours.is_floating_point() and theirs.is_floating_point())
        if ours.shape != theirs.shape:
            odd[name] = f"does not fit: it has shape {tuple(theirs.shape)}, not {tuple(ours.shape)}"
        elif not same_kind:
            odd[name] = f"does not fit: it is {theirs.dtype}, not {ours.dtype}".replace("torch.", "")
    return odd


def save_weights(model: FusionModel, path: Path) -> None:
    """Write the model's weights as safetensors, atomically.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    save_tensors(model.state_dict(), path)


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically; see ``save_weights``."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Not by the library's save_file: what a full disk makes of that is an error of its own kind.
    content = save(plain, None if metadata is None else dict(metadata))
    with replacing(path) as temporary:
        temporary.write_bytes(content)
