"""The audit: known fakes are caught, sound models pass, and what a run stores of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from torch import Tensor

from benchmarks.audit import CASES, audited
from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.audit import SOUND, UNAUDITED, AuditConfig, Bench, Other, Thresholds, audit
from robustbench_med.audit.by_attacks import _lead, silent_success, unbounded
from robustbench_med.audit.of_model import gradients
from robustbench_med.cli import main
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.board import boards
from robustbench_med.studies import run as pipeline
from robustbench_med.studies.run import run

QUICK = (
    "batch statistics",
    "hashed noise",
    "quantised pixels",
    "partial gradient",
    "reversed gradient",
    "shattered gradient",
    "thermometer code",
    "logits times 1000",
    "probabilities",
    "NaN gradient",
    "undeclared noise",
    "undefended",
)


@pytest.mark.parametrize("name", QUICK)
def test_fakes_are_flagged_and_sound_models_are_not(name: str) -> None:
    _, found = audited(CASES[name], 0)
    assert (found.verdict == SOUND) == CASES[name].sound, found.findings


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_every_fake_on_three_seeds(name: str, seed: int) -> None:
    _, found = audited(CASES[name], seed)
    assert (found.verdict == SOUND) == CASES[name].sound, found.findings


@dataclass(frozen=True)
class Lazy(Attack):
    """Returns the clean images: an attack that every other one beats."""

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        del target
        return dict(batch.inputs)


def test_a_weak_attack_is_named_by_what_beats_it(tmp_path: Path) -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    plan = plan_of(net, labelled_by(net, random_split(60)), Lazy(), threat_of(a=0.1, b=0.1))
    outcomes = evaluate(plan, tmp_path / "run", lambda _: None)
    config = AuditConfig(others=(Other("one step", "fgsm"),), strong=Other("unbounded", "fgsm"))

    def make(name: str, options: Mapping[str, Any]) -> Attack:
        assert (name, options) == ("fgsm", {})
        return ATTACKS.get("fgsm")()

    found = audit(Bench(plan, outcomes, config, make, tmp_path, lambda _: None, Thresholds()))
    failed = {f.check for f in found.findings if not f.passed}
    assert "one step" in failed
    assert not failed & {"finite", "logits", "gradients", "uphill"}
    assert found.forward > 0


@dataclass(frozen=True)
class Forgetful(Attack):
    """Lets the model see adversarial images and hands back the clean ones."""

    steps: int = 3

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        ATTACKS.get("pgd")(steps=self.steps).perturb(target, batch)
        return dict(batch.inputs)


def bench_of(net: FusionModel, split: Split, attack: Attack, folder: Path, draws: int = 1) -> Bench:
    plan = plan_of(net, split, attack, threat_of(a=0.1, b=0.1), draws=draws)
    outcomes = evaluate(plan, folder / "run", lambda _: None)
    config = AuditConfig(others=(), strong=Other("unbounded", "fgsm"))
    return Bench(plan, outcomes, config, lambda *_: attack, folder, lambda _: None, Thresholds())


def test_what_an_attack_broke_and_did_not_return_is_seen(tmp_path: Path) -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    split = labelled_by(net, random_split(40))
    pgd = ATTACKS.get("pgd")(steps=3)
    (found,) = silent_success(bench_of(net, split, pgd, tmp_path / "pgd"))
    assert found.passed
    assert found.numbers["silent"] == 0
    bench = bench_of(net, split, Forgetful(), tmp_path / "forgetful")
    (found,) = silent_success(bench)
    assert not found.passed
    broken = 1 - float(bench_of(net, split, pgd, tmp_path / "again").right.mean())
    assert found.numbers["silent"] == pytest.approx(broken, abs=0.05)
    assert not net._wrappers


def test_a_blocked_modality_is_named_and_an_unseen_one_is_not(tmp_path: Path) -> None:
    """Half of the gradient is zero in both nets: in one it is blocked, in the other nothing depends on it."""

    class Blocked(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return super().forward({**inputs, "b": inputs["b"].detach()})

    class Unseeing(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return super().forward({**inputs, "b": torch.full_like(inputs["b"], 0.5)})

    def lacking(cls: type[FusionModel]) -> float:
        net = seeded(cls, CHANNELS, CLASSES)
        bench = bench_of(net, random_split(20), ATTACKS.get("fgsm")(), tmp_path / cls.__name__)
        return next(iter(gradients(bench))).numbers["zero"]

    assert [lacking(cls) for cls in (ConvNet, Unseeing, Blocked)] == [0, 0, 1]


def test_a_masked_head_cannot_hide_behind_another(tmp_path: Path) -> None:
    """The second head is always right by more, so that the nearest boundary is never its own."""

    class Hidden(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            logits = super().forward(inputs)
            rounded = super().forward({name: (x * 7).round() / 7 for name, x in inputs.items()})
            return {"first": logits["first"], "second": 100 * rounded["second"]}

    net = seeded(Hidden, CHANNELS, CLASSES)
    split = labelled_by(net, random_split(20))
    (present, *_) = gradients(bench_of(net, split, ATTACKS.get("pgd")(steps=2), tmp_path))
    assert not present.passed
    assert present.evidence.startswith("second")


def test_nothing_is_unbounded_while_another_image_stays(tmp_path: Path) -> None:
    """Only "a" may change, and "b" alone gives the answer."""

    class Late(ConvNet):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return super().forward({**inputs, "a": inputs["a"] * 0.01})

    net = seeded(Late, CHANNELS, CLASSES)
    attack = ATTACKS.get("pgd")(steps=5)
    plan = plan_of(net, labelled_by(net, random_split(20)), attack, threat_of(a=0.1))
    outcomes = evaluate(plan, tmp_path / "run", lambda _: None)
    config = AuditConfig(others=(), strong=Other("unbounded", "pgd"))
    bench = Bench(plan, outcomes, config, lambda *_: attack, tmp_path, lambda _: None, Thresholds())
    (found,) = unbounded(bench)
    assert found.numbers["robust"] > found.numbers["constant"] + 0.2
    assert found.passed


def test_parts_of_an_audit_of_another_size_are_not_read(tmp_path: Path) -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    split, attack = labelled_by(net, random_split(20)), ATTACKS.get("fgsm")()
    bench = bench_of(net, split, attack, tmp_path)
    small = Bench(
        bench.plan,
        bench.outcomes,
        replace(bench.config, samples=5),
        bench.make,
        tmp_path,
        print,
        Thresholds(),
    )
    assert small.under("again", attack=attack).shape == (1, 5)
    assert bench.under("again", attack=attack).shape == (1, 20)


def test_prolonged_multiplies_steps_and_nothing_else() -> None:
    whole = ATTACKS.get("autoattack")
    assert whole(version="rand").prolonged(4) == whole(version="rand", steps=400)
    assert ATTACKS.get("pgd")(steps=7).prolonged(2) == ATTACKS.get("pgd")(steps=14)
    assert ATTACKS.get("uniform-noise")().prolonged(2) is None


def test_a_lead_is_certain_only_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    same = rng.random((1, 100)) < 0.5
    assert _lead(same, same) == (0.0, 0.0)
    fewer = same.copy()
    fewer[0, np.flatnonzero(same[0])[:1]] = False
    mean, low = _lead(same, fewer)
    assert mean == pytest.approx(0.01)
    assert low < 0
    fewer[0, np.flatnonzero(same[0])[:12]] = False
    assert _lead(same, fewer)[1] > 0.05
    # Draws shared by all samples: one lucky draw of ten is no certainty.
    draws = np.ones((10, 100), bool)
    lucky = draws.copy()
    lucky[0] = False
    assert _lead(draws, lucky)[1] < 0


def test_every_run_makes_the_cheap_checks(weights: dict[str, Path], tmp_path: Path) -> None:
    config = RunConfig("concat", "fgsm", weights=str(weights["concat"]), samples=4, out=str(tmp_path))
    found = run(config).record["audit"]
    checks = {"finite", "logits", "repeatable", "gradients", "faithful", "uphill", "steady"}
    assert {f["check"] for f in found["findings"]} == checks
    assert not found["complete"]
    failed = [f["check"] for f in found["findings"] if not f["passed"]]
    assert found["verdict"] == (", ".join(failed) or UNAUDITED)


def test_robmed_audit_prints_every_check(concat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = concat.parent / "runs"
    flags = f"--model concat --attack pgd --weights {concat} --steps 1 --samples 3 --out {runs}"
    assert main(["audit", *flags.split()]) == 0
    printed = capsys.readouterr().out
    for word in ("verdict", "evidence", "monotone", "unbounded", "more steps", "scores", "transfer"):
        assert word in printed
    assert not list(runs.glob("*/audit"))


def test_a_finished_run_is_audited_without_another_attack(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(
        "robust-mail", "pgd", weights=str(weights["robust-mail"]), samples=3, out=str(tmp_path), eot="auto"
    )
    config = replace(config, attack_options={"steps": 1}, draws=2)
    first = run(config)
    monkeypatch.setattr(pipeline, "_make", None)  # whoever attacks fails
    second = run(config, "quick")
    assert second.record["audit"]["complete"]
    for kept in ("run", "accuracy", "eot_curve", "cost", "started"):
        assert second.record[kept] == first.record[kept]
    assert {f["check"] for f in second.record["audit"]["findings"]} >= {"EOT", "more steps", "unbounded"}
    monkeypatch.undo()
    third = run(config).record["audit"]
    assert third["complete"], "a run made again lost its audit"
    assert third["verdict"] == second.record["audit"]["verdict"]
    rows = leaderboard.read(tmp_path / "leaderboard.csv")[:2]
    assert [row["run"] for row in rows] == [first.record["run"]] * 2
    assert len(boards(rows)[0].ranked) + len(boards(rows)[0].others) == 1


@pytest.mark.parametrize(("draws", "asked"), [(1, False), (4, True)])
def test_one_draw_cannot_choose_among_attacks(draws: int, asked: bool, tmp_path: Path) -> None:
    """The least of several single draws is low whatever the attacks; with more, half of them choose."""
    net = seeded(RandomNet, CHANNELS, CLASSES)
    plan = plan_of(net, random_split(20), ATTACKS.get("fgsm")(), threat_of(a=0.1, b=0.1), draws=draws)
    outcomes = evaluate(plan, tmp_path / "run", lambda _: None)
    config = AuditConfig(others=(Other("again", "fgsm"),), strong=Other("unbounded", "fgsm"))

    def make(name: str, options: Mapping[str, Any]) -> Attack:
        return ATTACKS.get(name)(**options)

    found = audit(Bench(plan, outcomes, config, make, tmp_path, lambda _: None, Thresholds()))
    checks = {f.check for f in found.findings}
    assert "again" in checks
    assert ("together" in checks) is asked
