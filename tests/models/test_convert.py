"""Weights of ``torch.save`` as safetensors: the same numbers, or one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Robmed
from safetensors.torch import load_file
from torch import nn

from robustbench_med import cli
from robustbench_med.models.state import load_state


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_kind_of_file_gets_the_same_tensors(robmed: Robmed, capfd: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = net.state_dict()
    torch.save(state, "a.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, "a.ckpt")
    assert cli.main(["convert", "a.pt", "one.safetensors"]) == 0
    assert capfd.readouterr().out == "one.safetensors: 7 tensors, 17 numbers, from a.pt\n"
    assert robmed("convert", "a.ckpt", "two.safetensors") == (0, [])
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()
    fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    load_state(fresh, Path("one.safetensors"))
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in state.items())


def test_shared_and_turned_tensors_are_written_out(robmed: Robmed) -> None:
    weight = torch.arange(12.0).view(3, 4)
    shared = {"b": weight, "a": weight, "turned": weight.T, "part": weight[1:, ::2], "half": weight.half()}
    torch.save(shared, "shared.pth")
    assert robmed("convert", "shared.pth", "out.safetensors") == (0, [])
    found = load_file("out.safetensors")
    assert set(found) == set(shared)
    assert all(torch.equal(found[name], value) for name, value in shared.items())
    assert found["half"].dtype == torch.float16


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


WRONG: Mapping[str, tuple[tuple[str, str], str]] = {
    "more than tensors": (("evil.ckpt", "o.safetensors"), "holds more than tensors"),
    "no state dict": (("list.pt", "o.safetensors"), "there is no state dict"),
    "damaged": (("broken.pt", "o.safetensors"), "is not a whole file of torch.save"),
    "no file": (("none.pt", "o.safetensors"), "there is no weights file none.pt"),
    "another format": (("w.h5", "o.safetensors"), "neither safetensors nor"),
    "safetensors": (("w.safetensors", "o.safetensors"), "is safetensors already"),
    "another ending": (("good.pt", "o.pt"), "o.pt must end in .safetensors"),
    "taken": (("good.pt", "w.safetensors"), "w.safetensors exists"),
    "complex": (("complex.pt", "o.safetensors"), "w is strided, complex64, which safetensors does not have"),
    "sparse": (("sparse.pt", "o.safetensors"), "w is sparse_coo, float32, which safetensors does not have"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_converted_costs_one_line(case: str, robmed: Robmed) -> None:
    torch.save({"state_dict": {"w": torch.zeros(2)}, "hyper_parameters": Evil()}, "evil.ckpt")
    torch.save([torch.zeros(2)], "list.pt")
    torch.save({"w": torch.zeros(2)}, "good.pt")
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, "complex.pt")
    torch.save({"w": torch.eye(2).to_sparse()}, "sparse.pt")
    Path("broken.pt").write_bytes(Path("good.pt").read_bytes()[:100])
    for name in ("w.h5", "w.safetensors"):
        Path(name).write_bytes(b"x")
    given, complaint = WRONG[case]
    status, lines = robmed("convert", *given)
    assert (status, len(lines)) == (2, 1), lines
    assert complaint in lines[0]
    assert not Path("o.safetensors").exists()
    assert not Path("executed").exists()
    assert Path("w.safetensors").read_bytes() == b"x"
