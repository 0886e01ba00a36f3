"""The audit: known fakes are caught, sound models pass, and what a run stores of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import CASES, audited
from numpy.typing import NDArray
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    ConvNet,
    RandomNet,
    Shared,
    labelled_by,
    plan_of,
    random_split,
    seeded,
    threat_of,
)
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.data import Split
from robustbench_med.api.model import DrawsSharedBy, FusionModel
from robustbench_med.audit import AuditConfig, Bench, Other, Thresholds, audit
from robustbench_med.audit.by_attacks import silent_success, unbounded
from robustbench_med.audit.of_gradients import gradients
from robustbench_med.audit.of_model import no_memory
from robustbench_med.cli import main
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.measure.ranking import boards
from robustbench_med.measure.statistics import Scored, lead
from robustbench_med.measure.verdict import UNAUDITED, Finding, Result, is_failed, is_sound, verdict
from robustbench_med.reporting import leaderboard
from robustbench_med.studies import run as pipeline
from robustbench_med.studies.run import run
from robustbench_med.util.errors import UserError

QUICK = (
    "batch statistics",
    "hashed noise",
    "quantised pixels",
    "partial gradient",
    "reversed beside an idle layer",
    "reversed and declared",
    "memory",
    "bfloat16",
    "float16",
    "four pixels",
    "no radius",
    "a constant one-hot answer",
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
    assert is_sound(found.verdict) == CASES[name].sound, found.findings
    assert is_failed(found.verdict) != CASES[name].sound, found.findings


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_fake(name: str) -> None:
    """On the next seed; ``python -m benchmarks.audit --seeds 3`` takes longer."""
    _, found = audited(CASES[name], 1)
    assert is_sound(found.verdict) == CASES[name].sound, found.findings
    assert is_failed(found.verdict) != CASES[name].sound, found.findings


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
    failed = {f.check for f in found.findings if f.result == "failed"}
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
    assert found.result == "passed"
    assert found.numbers["lost"] == 0
    bench = bench_of(net, split, Forgetful(), tmp_path / "forgetful")
    (found,) = silent_success(bench)
    assert found.result == "failed"
    broken = 1 - float(bench_of(net, split, pgd, tmp_path / "again").right.mean())
    assert found.numbers["lost"] == pytest.approx(broken, abs=0.05)
    assert not bench.model._wrappers


def test_what_looks_at_outcomes_looks_at_all_of_them(tmp_path: Path) -> None:
    """The last of 60 samples has NaN, was given up and is remembered; the checks that cost passes see 20."""
    net = seeded(ConvNet, CHANNELS, CLASSES)
    plan = plan_of(net, labelled_by(net, random_split(60)), Lazy(), threat_of(a=0.1, b=0.1))
    outcomes = evaluate(plan, tmp_path / "run", lambda _: None)
    outcomes.adversarial["second"][0, -1] = np.nan
    outcomes.changed[-1] = 1.0
    outcomes = replace(outcomes, gave_up=(*outcomes.gave_up[:-1], "LinAlgError: singular"))
    config = AuditConfig(samples=20, others=(), strong=Other("unbounded", "fgsm"))
    bench = Bench(plan, outcomes, config, lambda *_: Lazy(), tmp_path, lambda _: None, Thresholds())
    found = {f.check: f for f in audit(bench, complete=False).findings}
    assert found["finite"].result == found["memory"].result == "failed"
    assert found["every sample attacked"].result == "not made"
    assert "s59: LinAlgError: singular" in found["every sample attacked"].evidence
    assert not is_sound(audit(bench, complete=False).verdict)


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
    assert present.result == "failed"
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
    assert found.result == "passed"


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


def lead_of(
    first: NDArray[np.bool_], second: NDArray[np.bool_], shared_by: DrawsSharedBy = "none"
) -> tuple[float, float]:
    names = [str(i) for i in range(first.shape[1])]
    one, two = (Scored.mean(right, shared_by) for right in (first, second))
    return lead(one, two, names, np.zeros(len(names), np.int64))


def test_a_lead_is_certain_only_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    same = rng.random((1, 100)) < 0.5
    assert lead_of(same, same) == (0.0, 0.0)
    fewer = same.copy()
    fewer[0, np.flatnonzero(same[0])[:1]] = False
    mean, low = lead_of(same, fewer)
    assert mean == pytest.approx(0.01)
    assert low < 0
    fewer[0, np.flatnonzero(same[0])[:12]] = False
    assert lead_of(same, fewer)[1] > 0.05
    # Draws shared by all samples: one lucky draw of ten is no certainty.
    draws = np.ones((10, 100), bool)
    lucky = draws.copy()
    lucky[0] = False
    assert lead_of(draws, lucky, "batch")[1] < 0
    assert lead_of(draws, lucky, "element")[1] > 0


def test_every_run_makes_the_cheap_checks(weights: dict[str, Path], tmp_path: Path) -> None:
    config = RunConfig("concat", "fgsm", weights=str(weights["concat"]), samples=4, out=str(tmp_path))
    found = run(config).record["audit"]
    checks = {"finite", "logits", "memory", "repeatable", "gradients", "faithful", "uphill", "steady"}
    assert {f["check"] for f in found["findings"]} == checks
    assert not found["complete"]
    failed = ", ".join(f["check"] for f in found["findings"] if f["result"] == "failed")
    assert found["verdict"] == (f"not sound: {failed}" if failed else UNAUDITED)


def test_robmed_audit_prints_every_check(concat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = concat.parent / "runs"
    flags = f"--model concat --attack pgd --weights {concat} --steps 1 --samples 3 --out {runs}"
    assert main(["audit", *flags.split()]) == 0
    printed = capsys.readouterr().out
    for word in ("verdict", "evidence", "monotone", "unbounded", "more steps", "scores", "transfer"):
        assert word in printed
    assert not list(runs.glob("*/audit"))


# A whole audit, with attacks of few steps: what they find is tested elsewhere.
SHORT = """\
longer: 2
more_draws: 2
strong: {role: unbounded, attack: pgd, options: {steps: 4, loss: margin}}
others:
  - {role: noise, attack: uniform-noise}
  - {role: scores, attack: square, options: {queries: 10}}
"""


def test_a_finished_run_is_audited_without_another_attack(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(
        "robust-mail", "pgd", weights=str(weights["robust-mail"]), samples=3, out=str(tmp_path), eot="auto"
    )
    config = replace(config, attack_options={"steps": 1}, draws=2)
    first = run(config)
    for attacks in ("_evaluated", "_searched"):
        monkeypatch.setattr(pipeline.Work, attacks, None)  # whoever calls one fails
    short = tmp_path / "short.yaml"
    short.write_text(SHORT)
    second = run(config, str(short))
    assert second.record["audit"]["complete"]
    for kept in ("run", "accuracy", "eot_curve", "cost", "started"):
        assert second.record[kept] == first.record[kept]
    assert {f["check"] for f in second.record["audit"]["findings"]} >= {"EOT", "more steps", "unbounded"}
    monkeypatch.undo()
    third = run(config).record["audit"]
    assert third["complete"], "a run made again lost its audit"
    assert third["verdict"] == second.record["audit"]["verdict"]
    rows = leaderboard.read(tmp_path / "leaderboard.csv")
    assert [row["run"] for row in rows] == [first.record["run"]]
    assert len(boards(rows)[0].ranked) + len(boards(rows)[0].others) == 1


@pytest.mark.parametrize(("draws", "asked"), [(1, False), (4, True)])
def test_one_draw_cannot_choose_among_attacks(draws: int, asked: bool, tmp_path: Path) -> None:
    """The least of several single draws is low whatever the attacks; with more, other draws choose."""
    net = seeded(RandomNet, CHANNELS, CLASSES)
    plan = plan_of(net, random_split(20), ATTACKS.get("fgsm")(), threat_of(a=0.1, b=0.1), draws=draws)
    outcomes = evaluate(plan, tmp_path / "run", lambda _: None)
    config = AuditConfig(others=(Other("again", "fgsm"),), strong=Other("unbounded", "fgsm"))

    def make(name: str, options: Mapping[str, Any]) -> Attack:
        return ATTACKS.get(name)(**options)

    found = audit(Bench(plan, outcomes, config, make, tmp_path, lambda _: None, Thresholds()))
    results = {f.check: f.result for f in found.findings}
    assert results["again"] in ("passed", "failed")
    assert (results["together"] != "does not apply") is asked


class Remembering(ConvNet):
    """Answers otherwise the more it was asked; its copies begin anew."""

    asked = 0

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.asked += 1
        return {head: z * (1 + self.asked) for head, z in super().forward(inputs).items()}


class Placed(ConvNet):
    """Answers by a sample's place in the batch."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        place = torch.arange(len(inputs["a"]))[:, None]
        return {head: z + place for head, z in super().forward(inputs).items()}


@pytest.mark.parametrize(
    ("cls", "result"),
    [(ConvNet, "passed"), (RandomNet, "passed"), (Remembering, "failed"), (Placed, "failed")],
)
def test_a_model_that_was_attacked_answers_as_one_that_was_not(
    cls: type[FusionModel], result: Result, tmp_path: Path
) -> None:
    net = seeded(cls, CHANNELS, CLASSES)
    (found,) = no_memory(bench_of(net, random_split(12), ATTACKS.get("pgd")(steps=2), tmp_path))
    assert found.result == result


class Counted(ConvNet):
    """Takes note of the first pixel of everything that it is shown with a gradient."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shown: list[set[float]] = Shared()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if inputs["a"].requires_grad:
            self.shown.append(set(inputs["b"][:, 0, 0, 0].tolist()))
        return super().forward(inputs)


def test_further_attacks_are_made_on_what_stands(tmp_path: Path) -> None:
    """Only "a" is attacked, so that "b" tells who it is."""
    net = seeded(Counted, CHANNELS, CLASSES)
    assert isinstance(net, Counted)
    split, attack = labelled_by(net, random_split(30)), ATTACKS.get("pgd")(steps=5)
    plan = plan_of(net, split, attack, threat_of(a=0.1))
    outcomes = evaluate(plan, tmp_path / "run", lambda _: None)
    config = AuditConfig(others=(), strong=Other("unbounded", "fgsm"))
    bench = Bench(plan, outcomes, config, lambda *_: attack, tmp_path, lambda _: None, Thresholds())
    assert 0 < len(bench.standing) < 30
    net.shown.clear()
    right = bench.under("again", attack=attack)
    standing = set(split.arrays["b"][bench.standing, 0, 0, 0].tolist())
    assert set.union(*net.shown) == standing
    assert right.sum() <= len(bench.standing)


def test_what_cannot_be_made_is_no_success(tmp_path: Path) -> None:
    """A library that knows no radii of their own, for two modalities of different sizes."""
    net = seeded(ConvNet, CHANNELS, CLASSES)
    bench = bench_of(net, labelled_by(net, random_split(20)), Lazy(), tmp_path)
    twin = Other("transfer", "transfer")
    others = (Other("library", "torchattacks", {"variant": "PGD"}), twin)
    bench.config = replace(bench.config, others=others)
    bench.make = lambda name, options: ATTACKS.get("pgd" if name == "fgsm" else name)(**options)
    found = {f.check: f for f in audit(bench).findings}
    assert found["library"].result == "not made"
    assert "use --attack pgd" in found["library"].evidence
    assert found["transfer"].result == "does not apply"
    assert "the model itself" in found["transfer"].evidence


@pytest.mark.parametrize(
    ("results", "complete", "knowledge", "words"),
    [
        (["passed", "does not apply"], True, "", "sound"),
        (["passed", "passed"], True, "score", "sound against score attackers"),
        (["passed", "passed"], False, "", "unaudited"),
        (["passed", "failed"], False, "", "not sound: 1"),
        (["failed", "failed", "not made"], True, "", "not sound: 0, 1"),
        (["passed", "not made"], True, "", "incomplete: 1"),
    ],
)
def test_verdicts_are_words(results: list[Result], complete: bool, knowledge: str, words: str) -> None:
    found = [Finding(str(number), result, "") for number, result in enumerate(results)]
    assert verdict(found, complete, knowledge) == words
    assert is_sound(words) == words.startswith("sound")
    assert is_failed(words) == words.startswith("not sound")


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        ("fgsmm", {}, "audit, noise: unknown attack 'fgsmm'; did you mean 'fgsm'"),
        ("pgd", {"stepz": 2}, "unknown option 'stepz'"),
        ("pgd", {"steps": "many"}, "steps"),
        ("pgd", {"loss": ["margin"]}, "loss"),
    ],
)
def test_an_attack_that_cannot_be_made_is_refused_before_the_run(
    attack: str, options: dict[str, Any], message: str
) -> None:
    """As a finding after hours it would come too late."""
    wrong, right = Other("noise", attack, options), Other("noise", "fgsm")
    for others, strong in (((wrong,), right), ((right,), wrong)):
        with pytest.raises(UserError, match=message):
            AuditConfig(others=others, strong=strong)
