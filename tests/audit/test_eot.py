"""EOT auto: it stops where doubling the draws stops to matter, and costs nothing where it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    ConvNet,
    RandomNet,
    labelled_by,
    plan_of,
    random_split,
    seeded,
    threat_of,
)

from robustbench_med.api.attack import Passes
from robustbench_med.audit import converged
from robustbench_med.audit.draws import MOST, Curve, Point, agreement, converge, settled
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.studies.run import run


def curve_of(folder: Path, std: float) -> Curve:
    net, clean = seeded(RandomNet, CHANNELS, CLASSES, std=std), seeded(ConvNet, CHANNELS, CLASSES)
    split = labelled_by(clean, random_split(30))
    plan = plan_of(net, split, ATTACKS.get("pgd")(steps=3), threat_of(a=0.02, b=0.02))
    return converge(plan, folder, lambda _: None)


def test_less_noise_needs_fewer_draws(tmp_path: Path) -> None:
    calm, wild = curve_of(tmp_path / "calm", 0.05), curve_of(tmp_path / "wild", 3.0)
    assert calm.converged
    assert calm.draws == 2
    assert wild.draws > calm.draws
    assert [p.draws for p in wild.points] == [2**i for i in range(len(wild.points))]
    assert wild.points[0].agreement < calm.points[0].agreement
    assert wild.forward > calm.forward > 0


def test_agreement_rises_with_the_draws() -> None:
    net = seeded(RandomNet, CHANNELS, CLASSES, std=3.0)
    split = random_split(30)
    found = []
    for eot in (1, 4, 16):
        plan = plan_of(net, split, ATTACKS.get("pgd")(), threat_of(a=0.02, b=0.02), eot=eot)
        found.append(agreement(plan, Passes()))
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.1


def point(draws: int, robust: float, cosine: float, fell: float = 1.0, fell_at_most: float = 1.0) -> Point:
    return Point(draws, robust, robust - 0.05, robust + 0.05, cosine, fell, fell_at_most)


@pytest.mark.parametrize(
    ("last", "done"),
    [
        (point(2, 0.51, 0.9, -0.01, 0.03), True),
        (point(2, 0.49, 0.9, 0.01, 0.03), True),
        (point(2, 0.40, 0.9, 0.1, 0.15), False),
        (point(2, 0.60, 0.9, -0.1, -0.05), False),
        (point(2, 0.49, 0.9, 0.01, 0.08), False),  # so few samples do not exclude that it fell further
        (point(2, 0.51, 0.2, -0.01, 0.03), False),
    ],
)
def test_both_accuracy_and_gradients_decide(last: Point, done: bool) -> None:
    points = [point(1, 0.5, 0.9), last]
    assert settled(points) == done
    assert not settled(points[:1])
    finding = converged(Curve(tuple(points), done, 50, 0, 0))
    assert (finding.result == "passed") == done
    assert ("not converged" in finding.evidence) != done


def test_a_deterministic_model_costs_one_draw(weights: dict[str, Path], tmp_path: Path) -> None:
    config = RunConfig("concat", "fgsm", weights=str(weights["concat"]), samples=4, out=str(tmp_path))
    plain, auto = run(config), run(RunConfig(**{**vars(config), "eot": "auto"}))
    assert auto.record["attack"]["eot"] == 1
    assert "eot_curve" not in auto.record
    assert auto.record["cost"]["forward_passes"] == plain.record["cost"]["forward_passes"]


def test_a_random_model_is_attacked_with_the_draws_that_were_found(
    weights: dict[str, Path], tmp_path: Path
) -> None:
    options = {"weights": str(weights["robust-mail"]), "samples": 4, "out": str(tmp_path)}
    found = run(RunConfig("robust-mail", "fgsm", eot="auto", **options))  # type: ignore[arg-type]
    curve = found.record["eot_curve"]
    assert found.record["attack"]["eot"] == curve["points"][-1]["draws"] <= MOST
    assert np.isfinite([p["agreement"] for p in curve["points"]]).all()
    assert (found.folder / "eot.png").stat().st_size > 5000
    assert not (found.folder / "eot").exists()
    assert [f["check"] for f in found.record["audit"]["findings"]][-1] == "EOT"
