"""Models whose robustness is known to be fake, and sound ones: does the audit tell them apart?

Every fake comes from the literature on evaluations that failed. All wrap the same small nets, trained
here on scikit-learn's digits, so that nothing but the trick differs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from robustbench_med.api.data import DatasetInfo, Modality, Split
from robustbench_med.api.heads import SingleLabel
from robustbench_med.api.model import FusionModel, straight_through
from robustbench_med.api.objective import Goal
from robustbench_med.api.randomness import RandomLayer
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.audit import Audit, Bench, Thresholds, audit
from robustbench_med.defenses.randomized_smoothing import RandomizedSmoothing
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.plan import Plan
from robustbench_med.measure.accuracy import correct
from robustbench_med.studies.run import audit_config

SAMPLES = 100
EPSILON = 0.06
IMAGE = Modality("image", (1, 16, 16))
DIGIT = SingleLabel("digit", classes=tuple("0123456789"), modalities=("image",))


class Wrapped(FusionModel):
    """A trained net between a step in front of it and one behind it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__((IMAGE,), (DIGIT,))
        self.net, self.before, self.after = net, before, after
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"digit": self.after(self.net(self.before(inputs["image"])))}


class Noise(RandomLayer):
    """Gaussian noise on every pixel."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.noise.normal(self.site, x.shape, self.std, x)


class RandomGradient(RandomLayer):
    """The image itself, with a gradient that is right only in the mean over many draws."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.noise.normal(self.site, x.shape, self.std, x) * (x - x.detach())


class Mask(RandomLayer):
    """Drops a share of the pixels."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x * self.noise.keep(x.shape, 1 - self.share, x)


class Flips(RandomLayer):
    """Answers at random in some passes: an attack that stops at the first wrong answer stops too soon."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, z: Tensor) -> Tensor:
        same = self.noise.keep(torch.Size((len(z), 1)), 1 - self.share, z)
        return z + (1 - same) * self.noise.normal(self.site, z.shape, 20.0, z)


class Frozen(nn.Module):
    """The mean of a net's outputs over noise drawn once and for all."""

    def __init__(self, net: nn.Module, std: float, draws: int = 8) -> None:
        super().__init__()
        self.net = net
        noise = torch.randn(draws, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * std
        self.register_buffer("noise", noise)

    def forward(self, x: Tensor) -> Tensor:
        noise = self.get_buffer("noise")
        return torch.stack([self.net(x + one) for one in noise]).mean(0)


class Idle(nn.Module):
    """Does nothing, and declares a straight-through gradient."""

    straight_through = True

    def forward(self, x: Tensor) -> Tensor:
        return x


class SomeReversed(nn.Module):
    """The image itself; the gradient of a share of the pixels has the other sign."""

    def __init__(self, share: float, declared: bool = False) -> None:
        super().__init__()
        self.share, self.straight_through = share, declared

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.rand(x[0].shape, generator=torch.Generator().manual_seed(0))
        sign = torch.where(drawn < self.share, -1.0, 1.0)
        out: Tensor = _Weighed.apply(x, sign.to(x))  # type: ignore[no-untyped-call]
        return out


class Remembering(nn.Module):
    """Keeps the answer to what it was asked first, and gives it to everything near, by a narrow margin."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.known = torch.zeros(0, 256)
        self.answers = torch.zeros(0, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        flat = x.detach().flatten(1)
        if len(self.known) == 0:
            self.known, self.answers = flat, z.detach().argmax(1)
        apart = (flat[:, None] - self.known[None]).abs().amax(2)
        nearest = self.answers[apart.argmin(1)]
        near = (apart.amin(1) < 2 * EPSILON)[:, None]
        mine = F.one_hot(nearest, z.shape[1]).bool()
        floor = z.masked_fill(mine, -torch.inf).amax(1, keepdim=True) + 0.01
        return torch.where(near & mine, torch.maximum(z, floor), z)


class FewPixels(nn.Module):
    """A linear net that looks at 4 of 256 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, [100, 101, 118, 135]] @ self.weight


class Threshold(nn.Module):
    """Black or white, with a declared straight-through gradient."""

    straight_through = True

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, (x > 0.5).to(x))


class Halved(nn.Module):
    """A net that computes in half precision, as most do in practice."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            out: Tensor = self.net(x)
        return out.float()


def with_idle_half(model: FusionModel) -> FusionModel:
    """A parameter in half precision that nothing uses."""
    model.register_parameter("idle", nn.Parameter(torch.zeros(1, dtype=torch.float16)))
    return model


def one_hot(z: Tensor) -> Tensor:
    """Always the same answer, as a one-hot row."""
    return F.one_hot(torch.zeros(len(z), dtype=torch.long), z.shape[1]).to(z) + 0 * z


def quantised(x: Tensor) -> Tensor:
    """Eight grey levels (Guo et al. 2018)."""
    return (x * 7).round() / 7


def saturated(x: Tensor) -> Tensor:
    """A sigmoid so steep that most pixels have no slope left."""
    return torch.sigmoid(4000 * (x - 0.5))


def thermometer(x: Tensor) -> Tensor:
    """As many levels as thresholds passed (Buckman et al. 2018)."""
    levels = torch.arange(1, 8, device=x.device).view(-1, 1, 1, 1, 1) / 8
    return (x[None] > levels).float().mean(0)


def blocks(x: Tensor) -> Tensor:
    """Coefficients of 8×8 blocks rounded, as JPEG does (Dziugaite et al. 2016)."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    dct = torch.cos(torch.pi * k * (2 * n + 1) / 16) * 0.5
    dct[0] /= 2**0.5
    tiles = x.unfold(2, 8, 8).unfold(3, 8, 8)
    rounded = ((dct @ tiles @ dct.T) * 4).round() / 4
    back = dct.T @ rounded @ dct
    return back.permute(0, 1, 2, 4, 3, 5).reshape_as(x)


def shattered(x: Tensor) -> Tensor:
    """A ripple far finer than epsilon on every pixel: gradients follow it and lead nowhere."""
    return x + 0.05 * torch.sin(400 * x)


def hashed(x: Tensor) -> Tensor:
    """Noise that the image itself decides on: no draw to average over, and no gradient."""
    pixels = torch.arange(x[0].numel(), device=x.device).view_as(x[0])
    return x + 0.2 * torch.sin(1e5 * x.detach() + 7.0 * pixels)


def undeclared(x: Tensor) -> Tensor:
    """Noise from torch's own generator, so that the model counts as deterministic."""
    return x + 0.15 * torch.randn_like(x)


def of_the_batch(z: Tensor) -> Tensor:
    """Logits less their mean over the batch: an answer depends on who else is there."""
    return z - z.mean(0)


class _Weighed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.saved_tensors[0], None


def reversed_gradient(x: Tensor) -> Tensor:
    """The image itself, whose gradient points downhill."""
    out: Tensor = _Weighed.apply(x, torch.tensor(-1.0))  # type: ignore[no-untyped-call]
    return out


def partial_gradient(x: Tensor) -> Tensor:
    """The image itself; an eighth of the pixels has no gradient, and what is left still points uphill."""
    chosen = torch.rand(x[0].shape, generator=torch.Generator().manual_seed(0)) > 1 / 8
    out: Tensor = _Weighed.apply(x, chosen.to(x))  # type: ignore[no-untyped-call]
    return out


def broken_gradient(x: Tensor) -> Tensor:
    """The image itself, by a way whose derivative is NaN."""
    return x + 0 * (x - x).sqrt()


class Winners(nn.Module):
    """k-winners-take-all in place of ReLU (Xiao et al. 2020): activations, and gradients, jump."""

    def __init__(self, net: nn.Sequential, share: float) -> None:
        super().__init__()
        self.layers, self.share = net, share

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                flat = x.flatten(1)
                least = flat.topk(max(int(self.share * flat.shape[1]), 1), 1).values[:, -1:]
                x = torch.where(flat >= least, flat, 0).view_as(x)
            else:
                x = layer(x)
        return x


def smoothed(net: nn.Module) -> FusionModel:
    """Randomized smoothing (Cohen et al. 2019) around a net."""
    model = Wrapped(net)
    RandomizedSmoothing(sigma=0.15, n=4).apply(model)
    return model


@dataclass(frozen=True)
class Nets:
    """The nets that the cases wrap, trained when they are first asked for."""

    seed: int

    @property
    def plain(self) -> nn.Sequential:
        """Trained on clean images."""
        return _trained(self.seed)

    @property
    def adversarial(self) -> nn.Sequential:
        """Trained by PGD-AT (Madry et al. 2018)."""
        return _trained(self.seed, steps=5)

    @property
    def noisy(self) -> nn.Sequential:
        """Trained with Gaussian noise."""
        return _trained(self.seed, std=0.15)


@dataclass(frozen=True)
class Case:
    """A model as it is claimed to be robust.

    Attributes:
        make: from the nets of a seed.
        eot: draws behind a gradient in the claim.
        sound: whether the claim is.
        attack: behind the claim; one without gradients where the harness finds none to follow and stops.
        epsilon: of the claim.
        images: what the held-out ones are made into.
        right: whether the labels are the model's own answers.
    """

    make: Callable[[Nets], FusionModel]
    sound: bool = False
    eot: int = 1
    attack: tuple[str, Mapping[str, Any]] = ("pgd", {"steps": 20})
    epsilon: float = EPSILON
    images: Callable[[Tensor], Tensor] = lambda x: x
    right: bool = False


BLIND = ("square", {"queries": 50})
CASES: Mapping[str, Case] = {
    "detached preprocessing": Case(lambda n: Wrapped(n.plain, lambda x: x.detach()), attack=BLIND),
    "quantised pixels": Case(lambda n: Wrapped(n.plain, quantised)),
    "thermometer code": Case(lambda n: Wrapped(n.plain, thermometer), attack=BLIND),
    "rounded blocks (JPEG)": Case(lambda n: Wrapped(n.plain, blocks)),
    "saturated pixels": Case(lambda n: Wrapped(n.plain, saturated)),
    "saturated logits": Case(lambda n: Wrapped(n.plain, after=lambda z: torch.tanh(50 * z))),
    "quantised logits": Case(lambda n: Wrapped(n.plain, after=torch.round)),
    "logits times 1000": Case(lambda n: Wrapped(n.plain, after=lambda z: 1000 * z)),
    "probabilities": Case(lambda n: Wrapped(n.plain, after=lambda z: z.softmax(1))),
    "NaN gradient": Case(lambda n: Wrapped(n.plain, broken_gradient)),
    "reversed gradient": Case(lambda n: Wrapped(n.plain, reversed_gradient)),
    "partial gradient": Case(lambda n: Wrapped(n.plain, partial_gradient)),
    "some signs reversed": Case(lambda n: Wrapped(n.plain, SomeReversed(0.18))),
    "reversed beside an idle layer": Case(
        lambda n: Wrapped(nn.Sequential(Idle(), n.plain), SomeReversed(0.18))
    ),
    "reversed beside an idle half": Case(lambda n: with_idle_half(Wrapped(n.plain, SomeReversed(0.18)))),
    "reversed and declared": Case(lambda n: Wrapped(n.plain, SomeReversed(0.18, declared=True))),
    "reversed in bfloat16": Case(lambda n: Wrapped(Halved(n.plain, torch.bfloat16), SomeReversed(0.18))),
    "partial in bfloat16": Case(lambda n: Wrapped(Halved(n.plain, torch.bfloat16), partial_gradient)),
    "memory": Case(lambda n: Wrapped(Remembering(n.plain))),
    "shattered gradient": Case(lambda n: Wrapped(n.plain, shattered)),
    "hashed noise": Case(lambda n: Wrapped(n.noisy, hashed)),
    "undeclared noise": Case(lambda n: Wrapped(n.noisy, undeclared)),
    "batch statistics": Case(lambda n: Wrapped(n.plain, after=of_the_batch)),
    "flips against early stops": Case(lambda n: Wrapped(n.plain, after=Flips(0.2))),
    "k winners take all": Case(lambda n: Wrapped(Winners(n.plain, 0.2))),
    "random gradient, no EOT": Case(lambda n: Wrapped(n.plain, RandomGradient(20.0))),
    "mask without EOT": Case(lambda n: Wrapped(n.noisy, Mask(0.4))),
    "undefended": Case(lambda n: Wrapped(n.plain), sound=True),
    "log-probabilities": Case(lambda n: Wrapped(n.plain, after=lambda z: z.log_softmax(1)), sound=True),
    "adversarially trained": Case(lambda n: Wrapped(n.adversarial), sound=True),
    "noise with EOT": Case(lambda n: Wrapped(n.noisy, Noise(0.1)), sound=True, eot=20),
    "bfloat16": Case(lambda n: Wrapped(Halved(n.plain, torch.bfloat16)), sound=True),
    "bfloat16, adversarially trained": Case(
        lambda n: Wrapped(Halved(n.adversarial, torch.bfloat16)), sound=True
    ),
    "float16": Case(lambda n: Wrapped(Halved(n.plain, torch.float16)), sound=True),
    "smoothing": Case(lambda n: smoothed(n.noisy), sound=True, eot=4),
    "logit averaging": Case(lambda n: Wrapped(Frozen(n.noisy, 0.1)), sound=True),
    "four pixels": Case(lambda _: Wrapped(FewPixels()), sound=True, right=True),
    "binary images behind a threshold": Case(
        lambda n: Wrapped(n.plain, Threshold()), sound=True, images=lambda x: (x > 0.5).to(x)
    ),
    "a constant answer": Case(
        lambda n: Wrapped(n.plain, after=lambda z: 0 * z + torch.arange(10.0)), sound=True
    ),
    "a constant one-hot answer": Case(lambda n: Wrapped(n.plain, after=one_hot), sound=True),
    "no radius": Case(lambda n: Wrapped(n.plain), sound=True, epsilon=0.0),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images at 16×16 and their labels."""
    data = load_digits()
    pixels = torch.from_numpy(data.images / 16).float()[:, None]
    return F.interpolate(pixels, size=16, mode="bilinear").clamp(0, 1), torch.tensor(data.target)


@cache
def _trained(seed: int, steps: int = 0, std: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
        images, labels = digits()
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        for index in [i for _ in range(12) for i in torch.split(torch.randperm(1400), 64)]:
            x, y = images[index], labels[index]
            x = _attacked(net, x, y, steps) if steps else x + std * torch.randn_like(x)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval().requires_grad_(False)


def _attacked(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    moved = x.clone()
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(net(moved), y), moved)[0]
        moved = moved + EPSILON / 2 * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - EPSILON), x + EPSILON).clamp(0, 1)
    return moved.detach()


def held_out(images: Tensor, labels: Tensor) -> Split:
    """Held-out digits as a data set."""
    info = DatasetInfo(
        name="digits",
        title="Handwritten digits",
        pairing="paired",
        modalities=(IMAGE,),
        heads=(DIGIT,),
        licence="CC-BY-4.0",
        citation="https://doi.org/10.24432/C50P49",
        synthetic=False,
    )
    ids = tuple(f"d{i}" for i in range(SAMPLES))
    arrays, rows = {"image": images.numpy()}, {"image": np.arange(SAMPLES)}
    return Split("test", info, arrays, rows, {"digit": labels.numpy()}, ids, ids)


def plan_of_case(case: Case, seed: int) -> Plan:
    """The claim as a run would make it."""
    model = case.make(Nets(seed)).eval()
    random = model.draws_shared_by != "none"
    images, labels = (t[1400 : 1400 + SAMPLES] for t in digits())
    images = case.images(images)
    if case.right:
        labels = model({"image": images})["digit"].argmax(1)
    return Plan(
        model=model,
        split=held_out(images, labels),
        attack=make_attack(*case.attack),
        name=case.attack[0],
        threat=ThreatModel({"image": Budget("linf", case.epsilon)}),
        goal=Goal((DIGIT,)),
        eot=case.eot,
        draws=10 if random else 1,
        batch_size=SAMPLES,
        seed=seed,
        device="cpu",
    )


def audited(case: Case, seed: int, by: str = "default") -> tuple[float, Audit]:
    """The claimed robust accuracy under PGD-20, and the audit of that claim."""
    plan = plan_of_case(case, seed)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = evaluate(plan, Path(folder) / "run", lambda _: None)
        config = audit_config(by)
        bench = Bench(plan, outcomes, config, make_attack, Path(folder), lambda _: None, Thresholds())
        found = audit(bench)
    return float(correct(outcomes.adversarial, outcomes.labels, plan.goal).mean()), found
