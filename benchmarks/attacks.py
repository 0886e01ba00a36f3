"""Native attacks against the libraries': robust accuracy, passes and seconds, in one run.

(a) a small conv net on scikit-learn's digits, trained here; (b) the shipped phantom MAIL. Every
attack goes through the same contract and is scored by the same code. Libraries that are not
installed are left out. Exits with 1 when a native attack is weaker than a library's by more than
a point that is not chance (exact McNemar test on the same samples), or slower than the fastest that
is as strong, or AutoAttack is not twice as fast as the official package.

    python -m benchmarks.attacks --quick
    python -m benchmarks.attacks --kinds PGD-40 APGD-CE
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from torch import Tensor, nn

from robustbench_med import load_dataset, load_model
from robustbench_med.api.attack import Batch, Passes, Target
from robustbench_med.api.data import Modality
from robustbench_med.api.heads import SingleLabel
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.evaluation.attacks import ATTACKS
from robustbench_med.evaluation.plan import load_batch

POINT = 0.01
CHANCE = 0.05
BATCH = 500  # rows of a pass, for every rival
TWICE = 2.0
LONG, ROUNDS = 60.0, 5  # kinds that take fewer seconds, all rivals together, are timed so often
SLACK = 1.05  # two timings of the same work differ by so much
EXTRAS = ("foolbox", "pyautoattack")  # optional, under the name of their adapter
# Kind of attack: who runs it, the native one first.
RIVALS: Mapping[str, Sequence[tuple[str, Mapping[str, object]]]] = {
    "PGD-40": (
        ("pgd", {"steps": 40}),
        ("torchattacks:PGD", {"steps": 40}),
        ("foolbox:LinfPGD", {"steps": 40}),
        ("art:PGD", {"steps": 40}),
    ),
    "APGD-CE": (("apgd:ce", {}), ("pyautoattack:apgd-ce", {}), ("torchattacks:APGD", {})),
    "APGD-T": (("apgd:t", {}), ("pyautoattack:apgd-t", {}), ("torchattacks:APGDT", {})),
    "FAB-T": (("fab", {}), ("pyautoattack:fab-t", {})),
    "Square": (("square", {}), ("pyautoattack:square", {})),
    "AutoAttack": (
        ("autoattack:standard", {}),
        ("pyautoattack:standard", {}),
        ("torchattacks:AutoAttack", {}),
    ),
}


@dataclass(frozen=True)
class Row:
    """One attack on one model.

    Attributes:
        standing: whether each sample is still classified rightly, as "1" and "0".
        forward, backward: passes a sample.
    """

    model: str
    kind: str
    attack: str
    robust: float
    forward: float
    backward: float
    seconds: float
    standing: str


class DigitsNet(FusionModel):
    """Two strided convolutions and two dense layers on 16×16 digits."""

    def __init__(self) -> None:
        head = SingleLabel("digit", classes=tuple("0123456789"), modalities=("image",))
        super().__init__((Modality("image", (1, 16, 16)),), (head,))
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"digit": self.body(inputs["image"])}


def main() -> int:
    """Print a line an attack and write them all as CSV; 1 when a native attack loses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="the conv net only, 100 samples")
    parser.add_argument("--kinds", nargs="+", choices=RIVALS, default=list(RIVALS), metavar="KIND")
    parser.add_argument("--out", type=Path, default=Path("runs/attacks.csv"))
    options = parser.parse_args()
    samples = 100 if options.quick else options.samples
    cases: dict[str, Callable[[], tuple[FusionModel, Batch, ThreatModel]]] = {
        "digits": lambda: digits_case(samples)
    }
    if not options.quick:
        cases["phantom mail"] = lambda: phantom_case(samples)
    rows = [row for name, case in cases.items() for row in compared(name, *case(), options.kinds)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(Row.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    complaints = list(lost(rows))
    print("\n".join(complaints) or "no native attack is weaker or slower")
    return int(bool(complaints))


def digits_case(samples: int) -> tuple[FusionModel, Batch, ThreatModel]:
    """The conv net, trained with FGSM at 0.05 so that attacks differ; Linf 0.1."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16).float()[:, None]
    images, labels = F.interpolate(pixels, size=16, mode="bilinear").clamp(0, 1), torch.tensor(digits.target)
    torch.manual_seed(0)
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for index in [i for _ in range(25) for i in torch.split(torch.randperm(1400), 64)]:
        x, y = images[index].requires_grad_(), labels[index]
        loss = F.cross_entropy(model({"image": x})["digit"], y)
        worse = (x + 0.05 * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1).detach()
        optimizer.zero_grad()
        F.cross_entropy(model({"image": worse})["digit"], y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    chosen = slice(1400, 1400 + samples)
    ids = tuple(str(i) for i in range(len(labels[chosen])))
    batch = Batch({"image": images[chosen].detach()}, {"digit": labels[chosen]}, ids)
    return model.eval().requires_grad_(False), batch, ThreatModel({"image": Budget("linf", 0.1)})


def phantom_case(samples: int) -> tuple[FusionModel, Batch, ThreatModel]:
    """The shipped MAIL, both modalities at 2/255."""
    model = load_model("mail").model.requires_grad_(False)
    batch = load_batch(load_dataset("phantom"), np.arange(samples), "cpu")
    return model, batch, ThreatModel({name: Budget("linf", 2 / 255) for name in model.takes})


def compared(
    name: str, model: FusionModel, batch: Batch, threat: ThreatModel, kinds: Sequence[str]
) -> list[Row]:
    """Every rival of some kinds on one model.

    Rivals take turns, and the least of each one's timings counts: what else the machine does, or what
    the first pass of a process costs, must not fall on one of them.
    """
    rows = []
    with torch.inference_mode():
        model(batch.inputs)
    for kind in kinds:
        present = [rival for rival in RIVALS[kind] if installed(rival[0])]
        turn = [measured(name, kind, *rival, model, batch, threat) for rival in present]
        for _ in range(ROUNDS - 1 if sum(row.seconds for row in turn) < LONG else 0):
            again = [measured(name, kind, *rival, model, batch, threat) for rival in present]
            turn = [min(pair, key=lambda row: row.seconds) for pair in zip(turn, again, strict=True)]
        for row in turn:
            print(
                f"{row.model:12} {row.kind:10} {row.attack:24} robust {100 * row.robust:5.1f} %  "
                f"{row.forward:7.1f} f {row.backward:7.1f} b a sample  {row.seconds:7.2f} s",
                flush=True,
            )
        rows += turn
    return rows


def installed(attack: str) -> bool:
    """Whether the library of an adapter is there."""
    library = attack.partition(":")[0]
    return library not in EXTRAS or find_spec(library) is not None


def measured(
    name: str,
    kind: str,
    attack: str,
    options: Mapping[str, object],
    model: FusionModel,
    batch: Batch,
    threat: ThreatModel,
) -> Row:
    """Attack the samples that the model gets right; robust accuracy is over all."""
    library, _, variant = attack.partition(":")
    cls = ATTACKS.get(library)
    made = cls(**options, **(cls.variant_of(variant) if variant else {}))
    goal, passes = Goal(tuple(model.answers.values())), Passes()
    with torch.inference_mode():
        right = goal.success(model(batch.inputs), batch.labels) == 0
    part = batch.take(torch.nonzero(right).squeeze(1))
    target = Target(model, threat, goal, 1, 0, passes, BATCH)
    started = time.perf_counter()
    found = made.perturb(target, part)
    seconds = time.perf_counter() - started
    threat.check(found, part.inputs, attack)
    with torch.inference_mode():
        right[right.clone()] = goal.success(model(found), part.labels) == 0
    count, standing = len(batch), "".join(str(int(r)) for r in right)
    costs = (passes.forward / count, passes.backward / count, seconds)
    return Row(name, kind, attack, float(right.float().mean()), *costs, standing)


def weaker(native: Row, peer: Row) -> bool:
    """Whether the peer is stronger by more than a point, and more than by chance."""
    pairs = list(zip(native.standing, peer.standing, strict=True))
    lost, won = pairs.count(("1", "0")), pairs.count(("0", "1"))
    if lost - won <= POINT * len(pairs):
        return False
    return bool(binomtest(lost, lost + won, alternative="greater").pvalue < CHANCE)


def lost(rows: Sequence[Row]) -> list[str]:
    """One line for each way in which a native attack loses."""
    out = []
    for native in (row for row in rows if row.attack == RIVALS[row.kind][0][0]):
        peers = [r for r in rows if (r.model, r.kind) == (native.model, native.kind) and r is not native]
        for peer in peers:
            if weaker(native, peer):
                out.append(f"{native.model}: {native.attack} is weaker than {peer.attack}")
            if peer.robust <= native.robust and native.seconds > SLACK * peer.seconds:
                out.append(
                    f"{native.model}: {native.attack} is slower than {peer.attack}, which is as strong"
                )
            official = peer.attack == "pyautoattack:standard"
            if official and native.model == "digits" and native.seconds * TWICE > peer.seconds:
                out.append("autoattack is not twice as fast as the official package")
    return out


if __name__ == "__main__":
    raise SystemExit(main())
