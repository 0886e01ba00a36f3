"""ONNX files: the scores of the same net in torch, under attacks that need no gradient."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_med import evaluate
from robustbench_med.models.code import fingerprint
from robustbench_med.models.onnx_nets import OnnxNet, load_onnx
from robustbench_med.studies.result import Result
from robustbench_med.util.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("no_pictures")

N, EPSILON = 24, 0.03
SIZES: Mapping[str, tuple[int, ...]] = {"mr": (1, 6, 6), "ct": (3, 6, 6)}
CLASSES: Mapping[str, int] = {"lesion": 3, "side": 2}


def kernels(
    sizes: Mapping[str, tuple[int, ...]] = SIZES, classes: Mapping[str, int] = CLASSES
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Random ones, to which a grey image says nothing: no class is preferred."""
    stream = np.random.default_rng(0)
    drawn = {
        (name, head): stream.normal(size=(int(np.prod(shape)), k)).astype(np.float32)
        for name, shape in sizes.items()
        for head, k in classes.items()
    }
    return {key: kernel - kernel.mean(0) for key, kernel in drawn.items()}


def content(
    rows: int | None = None,
    kind: str = "FLOAT",
    last: bool = False,
    softmax: bool = False,
    out: str | None = None,
    names: Sequence[str] = ("mr", "ct"),
    sizes: Mapping[str, tuple[int, ...]] = SIZES,
    classes: Mapping[str, int] = CLASSES,
) -> bytes:
    """A linear net of two images and two heads.

    Args:
        rows: the one batch size it takes; any when not given.
        kind: of inputs and outputs, as ONNX calls it.
        last: its images are channels last.
        out: another kind, to which its scores are cast.
    """
    helper, of = onnx.helper, getattr(onnx.TensorProto, kind)
    nodes, constants = [], []
    for name in sizes:
        source = name if not last else f"{name}_first"
        if last:
            nodes.append(helper.make_node("Transpose", [name], [source], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Flatten", [source], [f"{name}_flat"]))
    for head in classes:
        for name in sizes:
            kernel = kernels(sizes, classes)[name, head].astype(helper.tensor_dtype_to_np_dtype(of))
            constants.append(onnx.numpy_helper.from_array(kernel, f"{name}_{head}_w"))
            nodes.append(helper.make_node("MatMul", [f"{name}_flat", f"{name}_{head}_w"], [f"{name}_{head}"]))
        end = head if not (softmax or out) else f"{head}_z"
        nodes.append(helper.make_node("Add", [f"mr_{head}", f"ct_{head}"], [end]))
        if softmax:
            nodes.append(helper.make_node("Softmax", [end], [head]))
        if out:
            nodes.append(helper.make_node("Cast", [end], [head], to=getattr(onnx.TensorProto, out)))
    inputs = [
        helper.make_tensor_value_info(n, of, [rows or "rows", *((*s[1:], s[0]) if last else s)])
        for n, s in ((n, sizes[n]) for n in names)
    ]
    outputs = [
        helper.make_tensor_value_info(
            head, getattr(onnx.TensorProto, out) if out else of, [rows or "rows", k]
        )
        for head, k in classes.items()
    ]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found: bytes = model.SerializeToString()
    return found


class Same(nn.Module):
    """The same net in torch."""

    def forward(self, mr: Tensor, ct: Tensor) -> dict[str, Tensor]:
        of = {key: torch.from_numpy(w) for key, w in kernels().items()}
        flat = {"mr": mr.flatten(1), "ct": ct.flatten(1)}
        return {head: flat["mr"] @ of["mr", head] + flat["ct"] @ of["ct", head] for head in CLASSES}


STREAM = np.random.default_rng(1)
IMAGES = {
    name: STREAM.uniform(0.2, 0.8, size=(N, *shape)).astype(np.float32) for name, shape in SIZES.items()
}
EXPECTED: Mapping[str, NDArray[Any]] = {
    head: z.numpy() for head, z in Same()(**{n: torch.from_numpy(x) for n, x in IMAGES.items()}).items()
}
DATA = IMAGES, {head: z.argmax(1) for head, z in EXPECTED.items()}

FORMS: Mapping[str, dict[str, Any]] = {
    "any batch": {},
    "seven at a time": {"rows": 7},
    "one at a time": {"rows": 1},
    "more at a time than there are": {"rows": 50},
    "half precision": {"kind": "FLOAT16"},
    "double precision": {"kind": "DOUBLE"},
    "channels last": {"last": True},
    "inputs in another order": {"names": ("ct", "mr")},
}


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_the_same_net_in_torch(form: str) -> None:
    net = OnnxNet(content(**FORMS[form]), "net")
    for found in (net(**IMAGES), net(*(IMAGES[name] for name in net.arguments))):
        for head, z in EXPECTED.items():
            assert found[head].dtype == np.float32
            assert found[head] == pytest.approx(z, abs=0.05 if form == "half precision" else 1e-4)


def test_copies_and_pickles_are_made_from_the_bytes_again() -> None:
    net = OnnxNet(content(), "net")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.session is not net.session
        assert np.array_equal(other(**IMAGES)["side"], net(**IMAGES)["side"])
        assert fingerprint(other) == fingerprint(net)
    assert fingerprint(OnnxNet(content(softmax=True), "net")) != fingerprint(net)


def run(model: Any, out: Path, attack: str, **options: Any) -> Result:
    return evaluate(model, DATA, attack, eps=EPSILON, out=str(out), **options)


def test_a_search_on_scores_gets_the_number_of_the_net_in_torch(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content(rows=7))
    file = run(str(tmp_path / "net.onnx"), tmp_path / "a", "square", queries=15)
    plain = run(Same().eval(), tmp_path / "b", "square", queries=15)
    robust = {name: value.robust.value for name, value in file.accuracy.items()}
    assert robust == {name: value.robust.value for name, value in plain.accuracy.items()}
    assert robust["every head right"] < 1
    assert file.record["model"]["label"] == "net"
    assert file.record["code"]["versions"]["onnxruntime"]
    assert "memory" not in file.record["audit"]["verdict"]
    with pytest.raises(UserError, match="net tells scores, no gradients, which pgd climbs; choose square"):
        run(str(tmp_path / "net.onnx"), tmp_path / "c", "pgd")


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("spsa", {"samples": 4, "steps": 1, "directions": 4}),
        ("hop-skip-jump", {"samples": 4, "steps": 1, "tries": 5}),
        ("transfer", {"samples": 4, "surrogate": "concat", "steps": 1}),
    ],
)
def test_other_attacks_without_gradients_run(attack: str, options: dict[str, Any], tmp_path: Path) -> None:
    sizes, classes = {"mr": (1, 32, 32), "ct": (1, 32, 32)}, {"lesion": 4, "side": 2}
    (tmp_path / "net.onnx").write_bytes(content(sizes=sizes, classes=classes, rows=3))
    result = evaluate(str(tmp_path / "net.onnx"), "phantom", attack, out=str(tmp_path / "a"), **options)
    assert result.record["model"]["label"] == "net"
    assert result.accuracy["every head right"].robust.value <= result.accuracy["every head right"].clean.value


def test_inputs_that_are_put_otherwise_cost_one_line(tmp_path: Path) -> None:
    for given, complaint in {
        b"no net": "cannot be run by onnxruntime",
        content(kind="INT32"): "takes tensor\\(int32\\) for mr; export it with inputs of floats",
        content(out="INT64"): "returns no array of scores, only lesion: tensor\\(int64\\)",
    }.items():
        with pytest.raises(UserError, match=complaint) as error:
            OnnxNet(given, "net")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no file"):
        load_onnx(tmp_path / "none.onnx")
    (tmp_path / "net.onnx").write_bytes(content())
    wrong = {"mr": IMAGES["mr"][:, :, :5], "ct": IMAGES["ct"]}, DATA[1]
    with pytest.raises(UserError, match="net cannot be called with mr"):
        evaluate(str(tmp_path / "net.onnx"), wrong, "square", eps=EPSILON, out=str(tmp_path / "d"))
