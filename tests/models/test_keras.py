"""Keras nets on torch: outputs and input gradients are Keras' own; files are read in safe mode."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Robmed
from torch import Tensor

from robustbench_med import evaluate, wrap
from robustbench_med.models.code import fingerprint
from robustbench_med.models.keras_nets import KerasNet, choose_torch, load_keras
from robustbench_med.models.wrap import call_of
from robustbench_med.studies.result import Result
from robustbench_med.util.errors import UserError

choose_torch()
keras = pytest.importorskip("keras")
L = keras.layers

pytestmark = pytest.mark.usefixtures("no_pictures")

N, EPSILON = 40, 0.004


def images() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    a, b = (0.2 + 0.6 * torch.rand(N, c, 8, 8, generator=stream) for c in (1, 3))
    return a, b


MR, CT = images()
Ending = Callable[[Any, int, str], Any]


def plain(z: Any, classes: int, name: str) -> Any:
    return L.Dense(classes, name=name)(z)


def softmax_in_dense(z: Any, classes: int, name: str) -> Any:
    return L.Dense(classes, activation="softmax", name=name)(z)


def softmax_layer(z: Any, classes: int, name: str) -> Any:
    return L.Softmax(name=name)(L.Dense(classes)(z))


def activation_layer(z: Any, classes: int, name: str) -> Any:
    return L.Activation("softmax", name=name)(L.Dense(classes)(z))


def nested(z: Any, classes: int, name: str) -> Any:
    inner = keras.Input((8,))
    return keras.Model(inner, L.Dense(classes, activation="softmax")(inner), name=name)(z)


def two_heads(
    ending: Ending = plain, as_mapping: bool = False, names: tuple[str, str] = ("ct", "mr"), **dense: Any
) -> Any:
    """Two images, the second first, to two heads; channels last, as Keras has it."""
    keras.utils.set_random_seed(0)
    ct, mr = keras.Input((8, 8, 3), name=names[0]), keras.Input((8, 8, 1), name=names[1])
    each = []
    for x in (mr, ct):
        x = L.Conv2D(4, 3, activation="tanh", kernel_initializer="he_normal")(8 * (x - 0.5))
        each.append(L.GlobalAveragePooling2D()(x))
    z = L.Dropout(0.5)(L.Rescaling(20.0)(L.Concatenate()(each)), **dense)
    out = [ending(z, 3, "lesion"), ending(z, 2, "side")]
    return keras.Model({"ct": ct, "mr": mr} if as_mapping else [ct, mr], out)


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def answers(net: Any, mr: Tensor, ct: Tensor) -> tuple[Tensor, Tensor]:
    """What Keras itself returns."""
    lesion, side = net([last(ct), last(mr)])
    return lesion, side


def logits_of(net: Any, mr: Tensor, ct: Tensor) -> tuple[Tensor, Tensor]:
    lesion, side = answers(net, mr, ct)
    return lesion.log(), side.log()  # the same up to a constant, which no cross-entropy sees


@pytest.mark.parametrize("as_mapping", [False, True])
def test_outputs_and_gradients_are_keras_own(as_mapping: bool) -> None:
    net = two_heads(as_mapping=as_mapping)
    ours = KerasNet(net)
    assert ours.arguments == ("ct", "mr")
    mine = MR.clone().requires_grad_(), CT.clone().requires_grad_()
    theirs = MR.clone().requires_grad_(), CT.clone().requires_grad_()
    given = {"ct": last(theirs[1]), "mr": last(theirs[0])}
    found = ours(mr=mine[0], ct=mine[1])
    expected = net(given if as_mapping else list(given.values()))
    assert list(found) == ["lesion", "side"]
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    loss = [
        F.cross_entropy(z[0], z[0].detach().argmin(1)) for z in (found.values(), expected) for z in [list(z)]
    ]
    for one, other in zip(
        torch.autograd.grad(loss[0], mine), torch.autograd.grad(loss[1], theirs), strict=True
    ):
        assert float(one.abs().max()) > 1e-4
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_volumes_signals_and_tables_are_turned_as_they_must_be() -> None:
    volume, signal, table = keras.Input((4, 5, 6, 2)), keras.Input((30, 3)), keras.Input((7,))
    z = L.Concatenate()([L.Flatten()(volume), L.Flatten()(signal), table])
    net = keras.Model([volume, signal, table], L.Dense(2)(z))
    given = torch.rand(3, 2, 4, 5, 6), torch.rand(3, 3, 30), torch.rand(3, 7)
    expected = net([given[0].permute(0, 2, 3, 4, 1), given[1].permute(0, 2, 1), given[2]])
    torch.testing.assert_close(KerasNet(net)(*given), expected)


@pytest.mark.parametrize("told", [True, False], ids=["with an input", "built by a call"])
def test_a_sequential_net(told: bool, tmp_path: Path) -> None:
    layers = [L.Conv2D(3, 3), L.BatchNormalization(), L.Flatten(), L.Dense(3, activation="softmax")]
    net = keras.Sequential([keras.Input((8, 8, 1)), *layers] if told else layers)
    expected = net(last(MR))
    ours = KerasNet(net)
    torch.testing.assert_close(ours(MR), expected)
    found, said = ours.with_logits(lambda n: n(MR))
    assert "taken off on a copy" in said[0]
    torch.testing.assert_close(found(MR).softmax(1), expected)
    net.save(tmp_path / "net.keras")
    torch.testing.assert_close(load_keras(tmp_path / "net.keras")(MR), expected)


def test_a_trained_trunk_under_a_head_of_ones_own() -> None:
    x = keras.Input((8, 8, 1))
    trunk = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(3, 3, activation="relu"), L.Flatten()])
    net = keras.Model(x, L.Dense(2, activation="softmax")(trunk(x)))
    found, said = KerasNet(net).with_logits(lambda n: n(MR))
    assert "taken off on a copy" in said[0]
    torch.testing.assert_close(found(MR).softmax(1), net(last(MR)))


def test_a_net_that_is_channels_first_is_left_so() -> None:
    x = keras.Input((3, 8, 8))
    net = keras.Model(x, L.Dense(2)(L.Flatten(data_format="channels_first")(x)))
    torch.testing.assert_close(KerasNet(net)(CT), net(CT))


def bare_fgsm(ask: Any) -> dict[str, float]:
    """Accuracy under FGSM on both images and both heads, by hand."""
    lesion, side = (z.argmax(1) for z in ask(MR, CT))
    both = MR.clone().requires_grad_(), CT.clone().requires_grad_()
    z, y = ask(*both)
    loss = F.cross_entropy(z, lesion, reduction="sum") + F.cross_entropy(y, side, reduction="sum")
    slopes = torch.autograd.grad(loss, both)
    z, y = ask(*((x + EPSILON * g.sign()).clamp(0, 1) for x, g in zip(both, slopes, strict=True)))
    right = z.argmax(1) == lesion, y.argmax(1) == side
    return {
        "lesion": float(right[0].float().mean()),
        "side": float(right[1].float().mean()),
        "every head right": float((right[0] & right[1]).float().mean()),
    }


def data_of(net: Any) -> Any:
    with torch.no_grad():
        lesion, side = (z.argmax(1) for z in answers(net, MR, CT))
    return {"mr": MR, "ct": CT}, {"lesion": lesion, "side": side}


def run(net: Any, data: Any, out: Path, attack: str = "fgsm", **options: Any) -> Result:
    return evaluate(net, data, attack, eps=EPSILON, out=str(out), **options)


def robust(result: Result) -> dict[str, float]:
    return {name: value.robust.value for name, value in result.accuracy.items()}


ENDINGS: Mapping[str, Ending] = {
    "in the layer": softmax_in_dense,
    "a softmax layer": softmax_layer,
    "an activation layer": activation_layer,
    "a nested net": nested,
}


def test_the_number_is_that_of_a_bare_loop(tmp_path: Path) -> None:
    net = two_heads(softmax_in_dense)
    result = run(net, data_of(net), tmp_path)
    bare = bare_fgsm(lambda mr, ct: logits_of(net, mr, ct))
    assert robust(result) == pytest.approx(bare)
    assert 0 < bare["every head right"] < 0.9
    assert "forward(mr, ct): modalities mr, ct by name; outputs by name" in str(result.record["model"])
    assert result.record["code"]["versions"]["keras"] == keras.__version__
    assert "memory" not in result.record["audit"]["verdict"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_softmax_at_the_end_is_taken_off_a_copy(ending: str) -> None:
    net = two_heads(ENDINGS[ending])
    found, said = KerasNet(net).with_logits(lambda n: n(mr=MR, ct=CT))
    assert "taken off on a copy, so that attacks climb logits" in said[0]
    for of in (found, copy.deepcopy(found)):
        for z, p in zip(of(mr=MR, ct=CT).values(), answers(net, MR, CT), strict=True):
            torch.testing.assert_close(z.softmax(1), p)
            assert float(z.sum(1).sub(1).abs().min()) > 1e-3
    assert float(answers(net, MR, CT)[0].sum(1).sub(1).abs().max()) < 1e-5, "the caller's net has it still"


def test_a_sigmoid_too() -> None:
    x = keras.Input((8, 8, 1))
    net = keras.Model(x, L.Dense(1, activation="sigmoid", name="mass")(L.Flatten()(x)))
    found, said = KerasNet(net).with_logits(lambda n: n(MR))
    assert "the sigmoid of output mass" in said[0]
    torch.testing.assert_close(found(MR).sigmoid(), net(last(MR)))


def test_a_softmax_that_the_net_goes_on_from_stays() -> None:
    x = keras.Input((8, 8, 1))
    first = L.Dense(3, activation="softmax", name="first")(L.Flatten()(x))
    net = keras.Model(x, [first, L.Dense(2, name="second")(first)])
    ours = KerasNet(net)
    found, said = ours.with_logits(lambda n: n(MR))
    assert found is ours
    assert "cannot be taken off" in said[0]


# Random nets


def test_a_pass_is_one_draw_whatever_generators_it_has(tmp_path: Path) -> None:
    """Dropout left on, seeded or not, and noise of one's own: the same seed, the same pass."""

    def net_with(layer: Any) -> Any:
        x = keras.Input((8, 8, 1))
        return keras.Model(x, L.Dense(3)(L.Flatten()(layer(x))))

    layers = {
        "dropout": lambda x: L.Dropout(0.5)(x, training=True),
        "seeded": lambda x: L.Dropout(0.5, seed=3)(x, training=True),
        "noise": lambda x: L.GaussianNoise(0.1, seed=3)(x, training=True),
    }
    for name, layer in layers.items():
        net = KerasNet(net_with(layer))

        def ask(seed: int, net: KerasNet = net) -> Tensor:
            torch.manual_seed(seed)
            out: Tensor = net(MR)
            return out

        first = ask(0)
        assert torch.equal(first, ask(0)), name
        assert not torch.equal(first, ask(1)), name
        torch.manual_seed(0)
        assert torch.equal(first, copy.deepcopy(net)(MR)), name
    net = net_with(layers["seeded"])
    result = run(net, (MR, torch.arange(N) % 3), tmp_path, "pgd", steps=2, draws=3, eot=2)
    assert result.record["model"]["draws_shared_by"] == "batch"
    assert "repeatable" not in result.record["audit"]["verdict"]


def test_dropout_that_is_off_is_no_randomness_and_the_callers_generators_go_on() -> None:
    net = KerasNet(two_heads())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = net(mr=MR, ct=CT)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first["lesion"], net(mr=MR, ct=CT)["lesion"])


# Identity


def test_nets_that_compute_differently_are_told_apart() -> None:
    def net(activation: str) -> KerasNet:
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        x = keras.Input((8, 8, 1), name="x")
        return KerasNet(keras.Model(x, L.Dense(2, activation=activation)(L.Flatten()(x)), name="net"))

    assert fingerprint(net("tanh")) == fingerprint(net("tanh"))
    assert fingerprint(net("tanh")) != fingerprint(net("relu"))


# Files


def test_a_file_gets_the_number_of_the_live_net(
    robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = two_heads(softmax_in_dense)
    net.save("chest.keras")
    file = evaluate("chest.keras", data_of(net), "fgsm", eps=EPSILON, out="b")
    assert robust(file) == pytest.approx(bare_fgsm(lambda mr, ct: logits_of(net, mr, ct)))
    assert file.record["model"]["label"] == "chest"
    status, lines = robmed("run", "--model", "chest.keras", "--attack", "fgsm", "--samples", 5)
    assert (status, len(lines)) == (2, 1)
    assert "chest cannot be called with" in lines[0]


@keras.saving.register_keras_serializable(package="tests")
class Doubled(keras.layers.Layer):  # type: ignore[name-defined, misc]
    def call(self, x: Any) -> Any:
        return 2 * x


def of_layer(layer: Any) -> Any:
    x = keras.Input((8, 8, 1))
    return keras.Model(x, L.Dense(2)(L.Flatten()(layer(x))))


def test_files_that_need_code_are_refused(tmp_path: Path) -> None:
    of_layer(L.Lambda(lambda x: x + 1)).save(tmp_path / "code.keras")
    of_layer(Doubled()).save(tmp_path / "own.keras")
    (tmp_path / "broken.keras").write_bytes(b"PK")
    with zipfile.ZipFile(tmp_path / "list.keras", "w") as archive:
        archive.writestr("config.json", "[]")
    for name, complaint in {
        "code": "has a Lambda layer, which is code in a file and is not run; give the net's code",
        "own": "has Doubled, which is not Keras' own; give the code that makes the net: --model file.py:make",
        "broken": "is no file of Keras 3; save it again",
        "list": "is no file of Keras 3; save it again",
        "none": "there is no file",
    }.items():
        with pytest.raises(UserError, match=complaint):
            load_keras(tmp_path / f"{name}.keras")


class OwnMetric(keras.metrics.Metric):  # type: ignore[name-defined, misc]
    def update_state(self, *_: Any, **__: Any) -> None: ...

    def result(self) -> float:
        return 0.0


def test_losses_and_metrics_of_ones_own_are_no_part_of_the_net(tmp_path: Path) -> None:
    net = of_layer(L.Rescaling(2.0))
    net.compile(optimizer="adam", loss=lambda y, z: z - y, metrics=[OwnMetric()])
    net.fit(last(MR[:4]), torch.zeros(4, 2), verbose=0)
    net.save(tmp_path / "trained.keras")
    torch.testing.assert_close(load_keras(tmp_path / "trained.keras")(MR), net(last(MR)))


def test_layers_of_ones_own_come_live() -> None:
    net = of_layer(Doubled())
    ours = KerasNet(net)
    assert ours.copies
    torch.testing.assert_close(ours(MR), net(last(MR)))


class Code(keras.Model):  # type: ignore[name-defined, misc]
    """A net that is code: it has no graph, and cannot be made again from a configuration."""

    def __init__(self, secret: object) -> None:
        super().__init__()
        self.secret, self.flat, self.dense = secret, L.Flatten(), L.Dense(2)

    def call(self, pair: Any) -> Any:
        a, b = pair
        return self.dense(self.flat(a)) - self.dense(self.flat(b))


def test_a_net_that_is_code(tmp_path: Path) -> None:
    net = Code(object())
    with pytest.raises(UserError, match="has no weights yet"):
        KerasNet(net)
    net([last(MR), last(1 - MR)])
    data = {"one": MR, "other": 1 - MR}, torch.arange(N) % 2
    with pytest.raises(UserError, match=r"forward\(pair\) does not fit the modalities one, other"):
        run(net, data, tmp_path)
    ours = KerasNet(net)
    assert not ours.copies
    torch.testing.assert_close(ours(MR, 1 - MR), net([last(MR), last(1 - MR)]))
    call, how = call_of(wrap(ours, inputs=["one", "other"]), ["one", "other"])
    assert "in this order, as given" in how
    torch.testing.assert_close(call(ours, data[0]), ours(MR, 1 - MR))


def test_wrong_uses_cost_one_line(tmp_path: Path, robmed: Robmed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = keras.Input((8, 8, 1), dtype="uint8")
    with pytest.raises(UserError, match="which has no gradient; make its"):
        KerasNet(keras.Model(x, L.Dense(2)(L.Flatten()(x))))
    two_heads().save("net.keras")
    Path("w.pt").touch()
    for model, weights, complaint in (
        ("net.h5", (), "only files of Keras 3 are read"),
        ("net.keras", ("--weights", "w.pt"), "brings its weights with it; drop --weights"),
    ):
        status, lines = robmed("run", "--model", model, *weights, "--attack", "pgd", "--samples", 5)
        assert (status, len(lines)) == (2, 1), lines
        assert complaint in lines[0]


def test_another_backend_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(
        UserError, match=r"the backend jax.* set KERAS_BACKEND=torch before keras is imported"
    ):
        KerasNet(two_heads())
