"""Anybody's net and data from Python and from the command line: the number is that of a bare loop."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Robmed
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustbench_med import arrays, evaluate, wrap
from robustbench_med.defenses.gaussian_noise import GaussianNoise
from robustbench_med.models.code import fingerprint
from robustbench_med.studies.result import Result
from robustbench_med.util.errors import UserError

N, EPSILON = 40, 0.03


class Net(nn.Module):
    """Two images to two heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 3)
        self.lesion, self.side = nn.Linear(8, 3), nn.Linear(8, 2)

    def features(self, a: Tensor, b: Tensor) -> Tensor:
        each = [
            torch.tanh(6 * (conv(x) - conv(0 * x + 0.5))).mean((2, 3))
            for conv, x in ((self.a, a), (self.b, b))
        ]
        return torch.cat(each, 1)

    def forward(self, img_a: Tensor, img_b: Tensor) -> tuple[Tensor, Tensor]:
        z = 20 * self.features(img_a, img_b)
        return self.lesion(z), self.side(z)


NET = Net().eval().requires_grad_(False)


def images() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    a, b = (0.2 + 0.6 * torch.rand(N, c, 8, 8, generator=stream) for c in (1, 3))
    return a, b


A, B = images()
LESION, SIDE = (z.argmax(1) for z in NET(A, B))


def bare_fgsm() -> dict[str, float]:
    """Accuracy under FGSM on both images and both heads, by hand."""
    both = A.clone().requires_grad_(), B.clone().requires_grad_()
    lesion, side = NET(*both)
    loss = F.cross_entropy(lesion, LESION, reduction="sum") + F.cross_entropy(side, SIDE, reduction="sum")
    slopes = torch.autograd.grad(loss, both)
    lesion, side = NET(*((x + EPSILON * g.sign()).clamp(0, 1) for x, g in zip(both, slopes, strict=True)))
    right = (lesion.argmax(1) == LESION), (side.argmax(1) == SIDE)
    return {
        "lesion": float(right[0].float().mean()),
        "side": float(right[1].float().mean()),
        "every head right": float((right[0] & right[1]).float().mean()),
    }


class Keyword(Net):
    def forward(self, *, ct: Tensor, mr: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        lesion, side = super().forward(mr, ct)
        return {"side": side, "lesion": lesion}


class Named(Net):
    """The names of the arguments say which is which, whatever their order."""

    def forward(self, ct: Tensor, mr: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(mr, ct)


class OfMapping(Net):
    def forward(self, batch: Mapping[str, Tensor]) -> list[Tensor]:  # type: ignore[override]
        return list(super().forward(batch["mr"], batch["ct"]))


class Starred(Net):
    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(*images)


class Attributes(Net):
    def forward(self, img_a: Tensor, img_b: Tensor) -> Any:
        lesion, side = super().forward(img_a, img_b)
        return SimpleNamespace(one=lesion, other=side)


class Reversed(Net):
    def forward(self, img_b: Tensor, img_a: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(img_a, img_b)[::-1]


class Normalised(Net):
    """Wants its images normalised."""

    def forward(self, img_a: Tensor, img_b: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(img_a * 0.25 + 0.5, img_b * torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1) + 0.4)


MEANS: dict[str, Any] = {"mean": {"mr": 0.5, "ct": 0.4}, "std": {"mr": 0.25, "ct": [0.2, 0.3, 0.4]}}
FORMS: Mapping[str, Any] = {
    "positional": NET,
    "a function": lambda a, b: NET(a, b),
    "keywords": Keyword().eval(),
    "names of arguments": Named().eval(),
    "a mapping": OfMapping().eval(),
    "any number": Starred().eval(),
    "attributes, said": wrap(Attributes().eval(), outputs={"lesion": "one", "side": "other"}),
    "order, said": wrap(Reversed().eval(), inputs=["ct", "mr"], outputs=["side", "lesion"]),
    "keywords, said": wrap(NET, inputs={"img_b": "ct", "img_a": "mr"}),
    "normalised inside": wrap(Normalised().eval(), **MEANS),
    "scripted": torch.jit.trace(NET, (A[:2], B[:2])),  # type: ignore[no-untyped-call]
    "eval, said": wrap(Net().train(), mode="eval"),
}


def run(net: Any, data: Any, out: Path, attack: str = "fgsm", **options: Any) -> Result:
    return evaluate(net, data, attack, eps=EPSILON, out=str(out), **options)


def robust(result: Result) -> dict[str, float]:
    return {name: value.robust.value for name, value in result.accuracy.items()}


DATA = {"mr": A, "ct": B}, {"lesion": LESION, "side": SIDE}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_net_gets_the_number_of_a_bare_loop(form: str, tmp_path: Path) -> None:
    result = run(FORMS[form], DATA, tmp_path)
    assert robust(result) == pytest.approx(bare_fgsm())
    assert all(value.clean.value == 1 for value in result.accuracy.values())
    assert 0 < robust(result)["every head right"] < 0.9
    json.loads((result.folder / "record.json").read_text())


def batches() -> Iterator[Any]:
    for i in range(0, N, 7):
        yield {"mr": A[i : i + 7], "ct": B[i : i + 7]}, {"lesion": LESION[i : i + 7], "side": SIDE[i : i + 7]}


class Rows:
    """A data set of mappings."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"mr": A[i], "ct": B[i], "label": {"lesion": int(LESION[i]), "side": int(SIDE[i])}}


class Again:
    """Something that can be read as often as one likes."""

    def __iter__(self) -> Iterator[Any]:
        return batches()


@pytest.mark.parametrize("data", [Rows(), Again(), arrays(*DATA, ids=[f"s{i}" for i in range(N)])])
def test_every_form_of_data_gets_the_same_number(data: Any, tmp_path: Path) -> None:
    assert robust(run(NET, data, tmp_path)) == pytest.approx(bare_fgsm())


class One(nn.Module):
    """One image to one head of three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)
        self.head.bias.data -= One.forward(self, A).detach().mean(0) / 20  # so that no class is preferred

    def forward(self, pixel_values: Tensor, _labels: Tensor | None = None) -> Tensor:
        x = self.conv(pixel_values) - self.conv(0 * pixel_values + 0.5)
        out: Tensor = 20 * self.head(torch.tanh(8 * x).mean((2, 3)))
        return out


ONE = One().eval().requires_grad_(False)
CLASS = ONE(A).argmax(1)


def bare_one(net: Callable[[Tensor], Tensor] = ONE) -> float:
    a = A.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(net(a), CLASS, reduction="sum"), a)
    return float((net((a + EPSILON * slope.sign()).clamp(0, 1)).argmax(1) == CLASS).float().mean())


class Output(One):
    """As transformers' models answer: an object with ``.logits`` and other tensors."""

    def forward(self, pixel_values: Tensor, _labels: Tensor | None = None) -> Any:
        z = super().forward(pixel_values)
        return SimpleNamespace(logits=z, hidden_states=torch.zeros(len(z), 9))


class Auxiliary(One):
    """As inception nets answer: logits beside features."""

    def forward(self, pixel_values: Tensor, _labels: Tensor | None = None) -> Any:
        z = super().forward(pixel_values)
        return torch.zeros(len(z), 9), z


@pytest.mark.parametrize("net", [ONE, Output().eval(), Auxiliary().eval()], ids=lambda n: type(n).__name__)
def test_one_image_is_the_ordinary_case(net: nn.Module, tmp_path: Path) -> None:
    found = robust(run(net, (A, CLASS), tmp_path))
    assert found["label"] == pytest.approx(bare_one())
    loader = DataLoader(TensorDataset(A, CLASS), batch_size=16)
    assert robust(run(net, loader, tmp_path))["label"] == pytest.approx(bare_one())


def test_numpy_images_of_eight_bits_and_strings_for_labels(tmp_path: Path) -> None:
    grey = (A * 255).round().to(torch.uint8)[:, 0].numpy()
    names = np.array(["ash", "oak", "yew"])[CLASS]
    result = run(ONE, (grey, names), tmp_path)
    assert result.accuracy["label"].clean.value > 0.9
    assert result.record["dataset"]["heads"]["label"]["answers"] == ["ash", "oak", "yew"]


def test_classes_that_no_sample_has_are_the_nets(tmp_path: Path) -> None:
    some = CLASS < 2
    result = run(ONE, (A[some], CLASS[some]), tmp_path)
    assert len(result.record["dataset"]["heads"]["label"]["answers"]) == 3


def test_one_logit_and_findings(tmp_path: Path) -> None:
    class Logit(One):
        def forward(self, pixel_values: Tensor, _labels: Tensor | None = None) -> Tensor:
            return super().forward(pixel_values)[:, 0]

    net = Logit().eval()
    result = run(net, (A, (net(A) > 0).long()), tmp_path)
    assert result.accuracy["label"].clean.value == 1
    findings = (ONE(A) > 0).long()
    result = run(ONE, arrays(A, findings, classes=["mass", "node", "fluid"]), tmp_path)
    assert result.accuracy["label.mass"].clean.value == 1
    assert result.accuracy["label.mass"].robust.value < 1


def test_the_callers_net_is_left_as_it_was(tmp_path: Path) -> None:
    net = One().eval()
    net.head.weight.requires_grad_(True)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    run(Noisy(net).eval(), (A, CLASS), tmp_path, attack="pgd", steps=2, draws=2, eot=1)
    assert torch.equal(torch.rand(1), expected), "the caller's generator went on"
    assert net.head.weight.requires_grad
    assert not net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class Normed(One):
    """Batch norm counts its batches in a tensor without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, pixel_values: Tensor, _labels: Tensor | None = None) -> Tensor:
        return super().forward(self.norm(pixel_values))


def test_batch_norm_and_half_precision_have_a_fingerprint() -> None:
    assert fingerprint(Normed().eval()) == fingerprint(Normed().eval())
    assert fingerprint(One().half()) != fingerprint(One().bfloat16())


class Scaled(One):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


def test_nets_with_the_same_weights_that_compute_differently_are_told_apart() -> None:
    made = {
        "relu": nn.Sequential(ONE, nn.ReLU()),
        "tanh": nn.Sequential(ONE, nn.Tanh()),
        "dropout": nn.Sequential(ONE, nn.Dropout(0.1)),
        "more dropout": nn.Sequential(ONE, nn.Dropout(0.2)),
        "in training": nn.Sequential(ONE, nn.Dropout(0.2)).eval(),
        "once": Scaled(1.0),
        "twice": Scaled(2.0),
    }
    assert len({fingerprint(net) for net in made.values()}) == len(made)
    assert fingerprint(Scaled(2.0)) == fingerprint(Scaled(2.0))


# Random nets


class Noisy(nn.Module):
    """Noise from torch's own generator."""

    def __init__(self, net: nn.Module, std: float = 0.1) -> None:
        super().__init__()
        self.net, self.std = net, std

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x + self.std * torch.randn_like(x))
        return out


def test_a_random_net_of_somebodys_gets_the_number_of_our_defense(tmp_path: Path) -> None:
    """The same noise: from torch's generator in the net, and as the defense ``gaussian-noise`` on the net."""
    assert GaussianNoise(sigma=0.1).sigma == 0.1
    options: dict[str, Any] = {"attack": "pgd", "steps": 10, "eot": 4}
    theirs = run(Noisy(ONE).eval(), (A, CLASS), tmp_path, **options)
    ours = run(ONE, (A, CLASS), tmp_path, defenses=("gaussian-noise:sigma=0.1",), **options)
    assert theirs.record["model"]["draws_shared_by"] == "batch"
    assert ours.record["model"]["draws_shared_by"] == "element"
    one, other = theirs.accuracy["label"].robust, ours.accuracy["label"].robust
    assert one.low <= other.value <= one.high
    assert other.low <= one.value <= other.high
    assert "not sound: repeatable" not in theirs.record["audit"]["verdict"]
    again = run(Noisy(ONE).eval(), (A, CLASS), tmp_path / "again", **options)
    assert robust(again) == robust(theirs)


def test_a_random_net_that_is_said_not_to_be_is_found_out(tmp_path: Path) -> None:
    result = run(wrap(Noisy(ONE).eval(), random=False), (A, CLASS), tmp_path, attack="pgd", steps=2)
    assert "repeatable" in result.record["audit"]["verdict"]


def test_dropout_that_was_left_on_stays_on(tmp_path: Path) -> None:
    net = nn.Sequential(ONE, nn.Dropout(0.5)).eval()
    net[1].train()
    assert run(net, (A, CLASS), tmp_path, draws=3).record["model"]["draws_shared_by"] == "batch"
    assert net[1].training


# Without gradients


def test_a_function_of_arrays_tells_scores_alone(tmp_path: Path) -> None:
    def numpy_net(x: Any) -> Any:
        assert isinstance(x, np.ndarray)
        return ONE(torch.from_numpy(x)).numpy()

    net = wrap(numpy_net, arrays=True)
    result = run(net, (A, CLASS), tmp_path, attack="square", queries=60)
    plain = run(ONE, (A, CLASS), tmp_path, attack="square", queries=60)
    assert robust(result) == robust(plain)
    with pytest.raises(UserError, match="tells scores, no gradients, which pgd climbs; choose square"):
        run(net, (A, CLASS), tmp_path, attack="pgd")


# Wrong guesses cost one line


def net_of(forward: Callable[..., Any]) -> nn.Module:
    net: nn.Module = type("Odd", (nn.Module,), {"forward": lambda _, *x: forward(*x)})()
    return net.eval()


WRONG: Mapping[str, tuple[Any, Any, dict[str, Any], str]] = {
    "training mode": (One(), (A, CLASS), {}, "training mode; say mode='eval'"),
    "wrong order": (wrap(NET, inputs=["ct", "mr"]), DATA, {}, "see to the order"),
    "an input too many": (NET, (A, CLASS), {}, "does not fit the modalities input; say which goes where"),
    "an unknown modality": (
        wrap(NET, inputs=["mr", "pet"]),
        DATA,
        {},
        "inputs are mr, pet, the data has mr, ct",
    ),
    "a missing head": (
        ONE,
        (A, {"x": CLASS, "y": CLASS}),
        {},
        "returns 1 outputs (the output) for the head(s) x, y",
    ),
    "an unknown output": (wrap(ONE, outputs={"label": "scores"}), (A, CLASS), {}, "there is no 'scores'"),
    "no scores": (net_of(lambda _: "cat"), (A, CLASS), {}, "returns str, in which there are no scores"),
    "other classes": (ONE, (A, CLASS * 2), {}, "labels of label go up to 4, the net tells of 3 classes"),
    "one score for three": (net_of(lambda x: x.mean((1, 2, 3))), (A, CLASS), {}, "gives one score for label"),
    "a wrong range": (ONE, (A * 255, CLASS), {}, "not 0 to 1; write ranges="),
    "channels last": (ONE, (B.permute(0, 2, 3, 1), CLASS), {}, "channels last"),
    "float labels": (ONE, (A, CLASS + 0.5), {}, "label"),
    "labels of another length": (ONE, (A, CLASS[:-1]), {}, "one entry for each sample"),
    "std of zero": (wrap(ONE, std=0.0), (A, CLASS), {}, "std of input is 0.0; it must be positive"),
    "three means": (wrap(ONE, mean=[0.1, 0.2, 0.3]), (A, CLASS), {}, "has 3 values for 1 channels"),
    "an unknown attack": (ONE, (A, CLASS), {"attack": "pgdd"}, "did you mean 'pgd'?"),
    "an unknown option": (ONE, (A, CLASS), {"stepz": 3}, "stepz"),
    "an unknown modality attacked": (ONE, (A, CLASS), {"modality": ("mr",)}, "mr"),
    "a shuffled loader": (
        ONE,
        DataLoader(TensorDataset(A, CLASS), 8, shuffle=True),
        {},
        "it shuffles or augments",
    ),
    "no data": (ONE, 5, {}, "int is no data"),
    "NaN": (net_of(lambda x: ONE(x) * torch.nan), (A, CLASS), {}, "NaN or infinity"),
    "a batch averaged away": (
        net_of(lambda x: ONE(x).mean(0, keepdim=True)),
        (A, CLASS),
        {},
        "(1, 3) for 3 samples",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_guesses_cost_one_line(case: str, tmp_path: Path) -> None:
    net, data, options, complaint = WRONG[case]
    with pytest.raises(UserError) as error:
        evaluate(net, data, **{"attack": "fgsm", "eps": EPSILON, "out": str(tmp_path), **options})
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_bug_in_a_net_keeps_its_traceback(tmp_path: Path) -> None:
    def broken(_: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(net_of(broken), (A, CLASS), tmp_path)


# By the command line

CODE = """
import torch
from torch import nn

class Grey(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.head = nn.Linear(32 * 32, classes)
        self.side = nn.Linear(32 * 32, 2)
    def forward(self, t1, t2):
        return {"lesion": self.head(t1.flatten(1)), "side": self.side(t2.flatten(1))}

def make():
    torch.manual_seed(0)
    return Grey().eval()

def in_training():
    return Grey()

def broken():
    raise ZeroDivisionError("mine")

def of_arrays(mr, ct):
    import numpy as np
    mr, ct = (np.asarray(x).reshape(len(x), -1) for x in (mr, ct))
    return {"lesion": mr[:, :4], "side": ct[:, :2]}

word = "net"
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with nets, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net_{abs(hash(str(tmp_path)))}.py"
    path.write_text(CODE)
    return path.name


def made() -> nn.Module:
    """The net of ``CODE``."""
    space: dict[str, Any] = {"__name__": "space"}
    exec(CODE, space)
    net: nn.Module = space["make"]()
    return net


SMALL = ("--samples", 20, "--steps", 2, "--out", "runs")


def rows() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/record.json"))]


def test_a_file_of_code(code: str, robmed: Robmed) -> None:
    assert robmed("run", "--model", f"{code}:make", "--attack", "pgd", *SMALL) == (0, [])
    (record,) = rows()
    said = "Grey: forward(t1, t2): modalities mr, ct in this order; outputs by name: lesion, side"
    assert said in record["model"]["caveats"]
    assert record["model"]["label"] == "Grey"
    plain = evaluate(made(), "phantom", "pgd", samples=20, steps=2, out="others")
    assert record["accuracy"] == plain.record["accuracy"]


def test_a_module_and_torchscript(code: str, robmed: Robmed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    module = code.removesuffix(".py")
    torch.jit.script(importlib.import_module(module).make()).save("net.ts")
    for model in (f"{module}:make", "net.ts"):
        assert robmed("run", "--model", model, "--attack", "pgd", *SMALL) == (0, [])
    one, two = rows()
    assert one["accuracy"] == two["accuracy"]


def test_weights_of_every_kind(code: str, robmed: Robmed) -> None:
    state = {name: 2 * value for name, value in made().state_dict().items()}
    save_file(state, "w.safetensors")
    torch.save(state, "w.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, "w.ckpt")
    for number, name in enumerate(("w.safetensors", "w.pt", "w.ckpt"), 1):
        arguments = ("--model", f"{code}:make", "--weights", name, "--attack", "pgd", *SMALL)
        assert robmed("run", *arguments) == (0, [])
        assert len(rows()) == number
    first, *others = [record["accuracy"] for record in rows()]
    assert all(other == first for other in others)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_nothing_is_unpickled(code: str, robmed: Robmed) -> None:
    torch.save({"state_dict": made().state_dict(), "hyper_parameters": Evil()}, Path("evil.ckpt"))
    status, lines = robmed("run", "--model", f"{code}:make", "--weights", "evil.ckpt", "--attack", "pgd")
    assert status == 2
    assert "holds more than tensors, which only unpickling could read; save it again" in lines[0]
    assert not Path("executed").exists()


FLAGS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "no such file": (("--model", "nowhere.py:make"), "there is no file nowhere.py"),
    "no such name": (("--model", "CODE:mkae"), "did you mean 'make'?"),
    "no name": (("--model", "CODE"), "say which function or class makes the net"),
    "no net": (("--model", "CODE:word"), "is str; it must be a net, or a function that makes one"),
    "no such module": (("--model", "no_such_module_here:make"), "there is no module"),
    "in training": (("--model", "CODE:in_training"), "it is in training mode; say mode='eval'"),
    "gradients of arrays": (("--model", "CODE:of_arrays"), "tells scores, no gradients"),
    "weights of another net": (
        ("--model", "CODE:make", "--weights", "other.pt"),
        "it lacks 4 tensors (head.weight",
    ),
    "weights of another size": (("--model", "CODE:make", "--weights", "size.pt"), "has shape (3, 1024)"),
    "no weights": (("--model", "CODE:make", "--weights", "none.pt"), "there is no weights file"),
    "weights of another kind": (("--model", "CODE:make", "--weights", "w.h5"), "neither safetensors nor"),
    "an exported program": (("--model", "net.pt2"), "files of torch.export are not read"),
    "no script": (("--model", "other.pt"), "is no TorchScript file; if it holds weights"),
    "a bad normalisation": (
        ("--model", "CODE:make", "--normalize", "0.5"),
        "write --normalize mean=0.5,std=0.25",
    ),
    "a bad output": (("--model", "CODE:make", "--outputs", "lesion=logit,side=1"), "there is no 'logit'"),
    "options of a zoo net": (("--model", "concat", "--mode", "eval"), "are for nets of your own"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_wrong_flags_cost_one_line(case: str, code: str, robmed: Robmed) -> None:
    flags, complaint = FLAGS[case]
    torch.save({"a.weight": torch.zeros(2)}, "other.pt")
    state = made().state_dict()
    torch.save({**state, "head.weight": state["head.weight"][:3]}, "size.pt")
    Path("w.h5").write_bytes(b"x")
    given = [str(flag).replace("CODE", code) for flag in flags]
    status, lines = robmed("run", *given, "--attack", "pgd", *SMALL)
    assert (status, len(lines)) == (2, 1), lines
    assert complaint in lines[0]
    assert not Path("runs").exists()


def test_a_bug_in_somebodys_file_keeps_its_traceback(code: str, robmed: Robmed) -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        robmed("run", "--model", f"{code}:broken", "--attack", "pgd", *SMALL)


def test_certify_takes_them_too(code: str, robmed: Robmed) -> None:
    flags = ("--sigma", 0.1, "--n", 30, "--alpha", 0.05, "--samples", 3, "--out", "runs")
    assert robmed("certify", "--model", f"{code}:make", *flags) == (0, [])
