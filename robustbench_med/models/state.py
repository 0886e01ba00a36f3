"""State dicts in files: safetensors, and what people's ``torch.save`` wrote, by the restricted unpickler."""

from __future__ import annotations

import difflib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustbench_med.models.cards import require_weights
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import replacing

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".tar")
INSIDE = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params")
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
SAVE_AGAIN = (
    "it holds more than tensors, which only unpickling could read; save it again: "
    "ckpt = torch.load(PATH, weights_only=False); torch.save(ckpt['state_dict'], 'weights.pt')"
)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by name.

    Nested ``state_dict`` entries are found, and prefixes that every name has ("module.") are taken off.

    Raises:
        UserError: no such file, another format, a damaged file, or one that holds more than tensors.
    """
    require_weights(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a whole safetensors file ({error})") from error
    if path.suffix not in PICKLED:
        raise UserError(
            f"{path} is neither safetensors nor {', '.join(PICKLED)}; other formats are never read"
        )
    return _without_prefix(_tensors_in(_unpickled(path), path))


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {SAVE_AGAIN}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a whole file of torch.save ({said}); save it again") from error


def _tensors_in(stored: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what was stored: itself, or under one of the usual names."""
    for name in (None, *INSIDE):
        found = stored if name is None else stored.get(name) if isinstance(stored, Mapping) else None
        if isinstance(found, Mapping) and found and all(isinstance(v, Tensor) for v in found.values()):
            return {str(key): value for key, value in found.items()}
    kind = (
        f"a mapping of {', '.join(list(map(str, stored))[:5])}"
        if isinstance(stored, Mapping)
        else type(stored)
    )
    raise UserError(
        f"{path} holds {kind}, in which there is no state dict; save it again: "
        "torch.save(net.state_dict(), PATH)"
    )


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _without_prefix({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def convert(source: Path, out: Path) -> str:
    """Write the tensors of a file of ``torch.save`` as safetensors, by sorted names.

    Returns:
        What was written, in words.

    Raises:
        UserError: see ``read_state``; a name that is not safetensors', or is taken; tensors of a kind that
            safetensors does not have.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out} must end in .safetensors")
    if source.suffix == ".safetensors":
        raise UserError(f"{source} is safetensors already; give it as --weights")
    if out.exists():
        raise UserError(f"{out} exists; choose another name, or remove it")
    state = read_state(source)
    whole = {name: _plain(name, tensor, source) for name, tensor in sorted(state.items())}
    with replacing(out) as temporary:
        temporary.write_bytes(save(whole))
    numbers = sum(tensor.numel() for tensor in whole.values())
    return f"{out}: {len(whole)} tensors, {numbers} numbers, from {source}"


def _plain(name: str, tensor: Tensor, source: Path) -> Tensor:
    """A tensor with memory of its own, in the order of its axes."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        kind = f"{tensor.layout}, {tensor.dtype}".replace("torch.", "")
        raise UserError(
            f"{source}: {name} is {kind}, which safetensors does not have; save it as plain floats"
        )
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def load_state(net: nn.Module, path: Path) -> None:
    """Load a weights file into somebody's net.

    Raises:
        UserError: see ``read_state``; names or shapes that do not fit, with the nearest of the other side.
    """
    state, own = read_state(path), net.state_dict()
    if not set(state) & set(own):  # a prefix of one's own
        state = _with_prefix_of(own, state)
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        raise UserError(f"{path} does not fit the net: {_unlike(missing, extra)}; see to the net's options")
    odd = next((name for name in sorted(own) if own[name].shape != state[name].shape), None)
    if odd is not None:
        raise UserError(
            f"{path} does not fit the net: {odd} has shape {tuple(state[odd].shape)}, the net's has "
            f"{tuple(own[odd].shape)}; see to the net's options"
        )
    wrong = next((name for name, tensor in sorted(state.items()) if not torch.isfinite(tensor).all()), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong} has NaN or infinite values; train again")
    net.load_state_dict(state)


def _with_prefix_of(own: Iterable[str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the one prefix that the net has in front of every name, if it has."""
    first = next(iter(own), "")
    prefix = first.partition(".")[0] + "."
    wanted = {f"{prefix}{name}": value for name, value in state.items()}
    return wanted if set(wanted) & set(own) else state


def _unlike(missing: list[str], extra: list[str]) -> str:
    """The names that only one side has, three each, those first that look most alike."""

    def nearest(names: list[str], others: list[str]) -> list[str]:
        alike = {
            n: max((difflib.SequenceMatcher(None, n, o).ratio() for o in others[:50]), default=0)
            for n in names[:50]
        }
        return sorted(alike, key=lambda n: -alike[n])[:3]

    parts = []
    if missing:
        parts.append(f"it lacks {len(missing)} tensors ({', '.join(nearest(missing, extra))})")
    if extra:
        parts.append(f"it has {len(extra)} that the net does not know ({', '.join(nearest(extra, missing))})")
    return " and ".join(parts)
