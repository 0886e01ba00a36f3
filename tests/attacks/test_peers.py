"""Native attacks against the official AutoAttack, on models trained here (minutes: ``pytest -m slow``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from tiny import target_of
from torch import Tensor, nn

from benchmarks.attacks import RIVALS, Row, digits_case, measured, weaker
from robustbench_med.api.attack import Batch
from robustbench_med.api.model import FusionModel
from robustbench_med.api.threat import Budget, Norm, ThreatModel
from robustbench_med.attacks.cw import CW

pytest.importorskip("pyautoattack")
pytestmark = pytest.mark.slow

SAMPLES = 100
RADII: Mapping[Norm, float] = {"linf": 0.1, "l2": 0.8}
KINDS = [kind for kind, rivals in RIVALS.items() if any(r.startswith("pyauto") for r, _ in rivals)]


class Sharpened(FusionModel):
    """Another model with its logits scaled, where plain cross-entropy has no gradient left."""

    def __init__(self, model: FusionModel, factor: float) -> None:
        super().__init__(tuple(model.takes.values()), tuple(model.answers.values()))
        self.model, self.factor = nn.ModuleList([model]), factor

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {task: self.factor * logits for task, logits in self.model[0](inputs).items()}


@cache
def case() -> tuple[FusionModel, Batch]:
    model, batch, _ = digits_case(SAMPLES)
    return model, batch


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_weaker_than_the_official_attack(kind: str, norm: Norm) -> None:
    native, official = both(kind, norm, 1.0)
    assert official.robust < 0.75
    assert not weaker(native, official), f"{native.robust:.3f} against {official.robust:.3f}"


def test_scaled_logits_do_not_hide_from_autoattack() -> None:
    native, official = both("AutoAttack", "linf", 1e4)
    plain, _ = both("APGD-T", "linf", 1.0)
    assert not weaker(native, official)
    assert math.isclose(native.robust, plain.robust, abs_tol=0.02)


def test_cw_finds_images_as_near_as_the_best_library() -> None:
    """Median L2 distance at equal success, each attack with a search over its constant."""
    foolbox = pytest.importorskip("foolbox")
    model, batch = case()
    with torch.no_grad():
        right = model(batch.inputs)["digit"].argmax(1) == batch.labels["digit"]
    batch = batch.take(torch.nonzero(right).squeeze(1))
    images, labels = batch.inputs["image"], batch.labels["digit"]

    class OneImage(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return model({"image": image})["digit"]

    wide = ThreatModel({"image": Budget("l2", 10.0)})
    found, _ = CW().minimise(target_of(model, wide), batch)
    library = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=1000)
    with torch.random.fork_rng():
        theirs = library(
            foolbox.PyTorchModel(OneImage().eval(), (0, 1), "cpu"), images, labels, epsilons=None
        )[1]
    distances = []
    for moved in (found["image"], theirs):
        with torch.no_grad():
            assert (OneImage()(moved).argmax(1) != labels).all()
        distances.append((moved - images).flatten(1).norm(dim=1).median().item())
    assert distances[0] <= 1.02 * distances[1]


def both(kind: str, norm: Norm, factor: float) -> tuple[Row, Row]:
    model, batch = case()
    model = model if factor == 1 else Sharpened(model, factor).requires_grad_(False)
    threat = ThreatModel({"image": Budget(norm, RADII[norm])})
    rivals = [r for r in RIVALS[kind] if not r[0].startswith(("torchattacks", "art", "foolbox"))]
    with torch.random.fork_rng():
        first, second = (measured("digits", kind, *rival, model, batch, threat) for rival in rivals)
    return first, second
