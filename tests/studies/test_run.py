"""A run is a function of its config: the same numbers again, however it was cut up or called."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Robmed
from numpy.typing import NDArray
from tiny import (
    ATTACKS,
    CHANNELS,
    CLASSES,
    CoinFlip,
    ConvNet,
    RandomNet,
    labelled_by,
    plan_of,
    random_split,
    seeded,
    split_of,
    threat_of,
)

from robustbench_med import cli
from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.data import Split
from robustbench_med.api.threat import Budget
from robustbench_med.evaluation import batches as evaluation
from robustbench_med.evaluation.batches import Copies, evaluate
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan
from robustbench_med.evaluation.prepare import RunConfig, prepare
from robustbench_med.flags import parser
from robustbench_med.measure.accuracy import EVERY, SOME, accuracies, correct
from robustbench_med.options import run_config
from robustbench_med.reporting import leaderboard
from robustbench_med.studies.result import Result
from robustbench_med.studies.run import run
from robustbench_med.studies.several import run_all
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import sha256_file

PGD, FGSM = ATTACKS.get("pgd"), ATTACKS.get("fgsm")


def config(weights: dict[str, Path], out: Path, model: str = "concat", **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "attack_options": {"steps": 3},
        "eot": 2,
        "draws": 3,
        "samples": 4,
        "batch_size": 2,
    }
    return RunConfig(model, "pgd", weights=str(weights[model]), out=str(out), **values | changes)


def rows(board: Path) -> list[dict[str, str]]:
    with board.open(newline="") as stream:
        return list(csv.DictReader(stream))


def stable(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in leaderboard.VOLATILE}


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files if name != "seconds"}


def assert_same(left: dict[str, NDArray[Any]], right: dict[str, NDArray[Any]]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def evaluated(plan: Plan, folder: Path) -> Outcomes:
    return evaluate(plan, folder, lambda _: None)


@pytest.mark.parametrize("model", ["concat", "robust-mail-rpf"])
def test_the_same_run_twice(model: str, weights: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the process drew from torch's global generator in between."""
    first = run(config(weights, tmp_path, model))
    before, (one,) = arrays(first.folder / "outcomes.npz"), rows(first.leaderboard)
    torch.manual_seed(123)
    second = run(config(weights, tmp_path, model))
    (two,) = rows(first.leaderboard)
    assert stable(one) == stable(two)
    assert first.folder == second.folder
    assert_same(before, arrays(second.folder / "outcomes.npz"))
    other = run(config(weights, tmp_path, model, seed=1))
    if model != "concat":
        assert (arrays(other.folder / "outcomes.npz")["clean/side"] != before["clean/side"]).all()


def test_what_a_run_leaves_behind(weights: dict[str, Path], tmp_path: Path) -> None:
    result = run(config(weights, tmp_path / "runs"))
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"record.json", "outcomes.npz", "picture.png"}
    assert (result.folder / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in (tmp_path / "runs").iterdir() if p.suffix != ".lock"} == {
        "leaderboard.csv",
        result.folder.name,
    }


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("model_class", [ConvNet, RandomNet])
def test_batch_size_changes_no_outcome(model_class: type[ConvNet], size: int, tmp_path: Path) -> None:
    """Draws per element follow the sample, whatever its company."""
    model, split = seeded(model_class, CHANNELS, CLASSES), random_split(9)
    threat = threat_of(a=0.05, b=0.02)
    plan = plan_of(model, split, PGD(steps=5, restarts=2), threat, batch_size=4)
    expected = evaluated(plan, tmp_path / "four")
    again = evaluated(replace(plan, batch_size=size), tmp_path / "other")
    for kind in ("clean", "adversarial", "choosing"):
        for task, scores in getattr(expected, kind).items():
            found = getattr(again, kind)[task]
            np.testing.assert_array_equal(found.argmax(2), scores.argmax(2))
            np.testing.assert_allclose(found, scores, atol=1e-4)
    assert (again.forward, again.backward) == (expected.forward, expected.backward)


def test_scoring_uses_draws_no_attack_has_seen(tmp_path: Path) -> None:
    model = seeded(RandomNet, CHANNELS, CLASSES)
    assert isinstance(model, RandomNet)
    evaluated(plan_of(model, random_split(6), PGD(steps=3), threat_of(a=0.05)), tmp_path)
    scoring, crafting = ([row.tobytes() for draw in d for row in draw.numpy()] for d in _draws(model))
    # Ten draws to score the clean inputs, to score the attacked ones, and to choose by; two heads. The copy
    # that was attacked is scored on the same draws, in another order.
    assert len(set(scoring)) == 3 * 10 * 2 * 6
    assert len(scoring) == 4 * 10 * 2 * 6
    assert len(crafting) == len(set(crafting)) == 2 * 2 * 4 * 6  # EOT 2, three steps and the last look
    assert not set(scoring) & set(crafting)


def test_scoring_more_often_changes_no_attack(tmp_path: Path) -> None:
    model = seeded(RandomNet, CHANNELS, CLASSES)
    shown = [
        evaluated(
            plan_of(model, random_split(6), FGSM(), threat_of(a=0.05), draws=draws), tmp_path / str(draws)
        ).shown
        for draws in (1, 10)
    ]
    order = [np.argsort(s["index"]) for s in shown]
    few, many = (s["adversarial/a"][o] for s, o in zip(shown, order, strict=True))
    np.testing.assert_array_equal(few, many)


def _draws(model: RandomNet) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return model.jitter.scoring, model.jitter.crafting


def coin_data(samples: int = 200) -> Split:
    split = random_split(samples, {"first": 2})
    images = {name: x.copy() for name, x in split.arrays.items()}
    images["a"][:, 0, 0, 0] = 0.25 + 0.5 * split.labels["first"]
    return split_of(images, split.labels, {"first": 2})


def test_the_coin_flip_model_scores_90_percent(tmp_path: Path) -> None:
    """docs/method.md, "Random models": judged by the draws it was crafted on it would lose far more."""
    attack = PGD(steps=10, restarts=2)
    plan = plan_of(seeded(CoinFlip), coin_data(), attack, threat_of(a=1e-9, b=1e-9), eot=1)
    accuracy = accuracies(evaluated(plan, tmp_path), plan.goal, "element")[EVERY]
    assert accuracy.robust.low <= 0.9 <= accuracy.robust.high
    assert accuracy.clean.low <= 0.9 <= accuracy.clean.high
    assert accuracy.robust.high - accuracy.robust.low < 0.05
    assert accuracy.majority.value > 0.98
    assert accuracy.worst_of_draws.value < 0.5


def test_a_killed_run_goes_on(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config(weights, tmp_path / "whole", "robust-mail"))
    original, seen = evaluation.evaluate_batch, []

    def fails_once(plan: Plan, copies: Copies, number: int, index: NDArray[np.int64]) -> Outcomes:
        seen.append(number)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return original(plan, copies, number, index)

    monkeypatch.setattr(evaluation, "evaluate_batch", fails_once)
    with pytest.raises(KeyboardInterrupt):
        run(config(weights, tmp_path / "cut", "robust-mail"))
    assert not (tmp_path / "cut" / "leaderboard.csv").exists()
    resumed = run(config(weights, tmp_path / "cut", "robust-mail"))
    assert seen == [0, 1, 1]
    assert_same(arrays(resumed.folder / "outcomes.npz"), arrays(whole.folder / "outcomes.npz"))
    assert stable(rows(resumed.leaderboard)[0]) == stable(rows(whole.leaderboard)[0])


def test_sigkill(weights: dict[str, Path], tmp_path: Path) -> None:
    """Killed by the operating system, in the middle of whatever it was doing."""
    flags = ["--model=concat", f"--weights={weights['concat']}", "--attack=pgd", "--steps=40"]
    flags += ["--samples=12", "--batch-size=2", "--keep=last", f"--out={tmp_path / 'cut'}"]
    child = subprocess.Popen([sys.executable, "-m", "robustbench_med.cli", "run", *flags])
    while not list((tmp_path / "cut").glob("*/parts/00001.npz")):
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = set((tmp_path / "cut").glob("*/parts/0*.npz"))
    assert 2 <= len(done) < 6
    assert cli.main(["run", *flags]) == 0
    assert cli.main(["run", *flags, f"--out={tmp_path / 'whole'}"]) == 0
    cut, whole = (next((tmp_path / n).glob("*/outcomes.npz")) for n in ("cut", "whole"))
    assert_same(arrays(cut), arrays(whole))
    assert not list((tmp_path / "cut").glob("*/parts"))


@pytest.mark.parametrize("left", [0, 40, -30])
def test_a_damaged_part_is_named(left: int, tmp_path: Path) -> None:
    model, split = seeded(ConvNet, CHANNELS, CLASSES), random_split(4)
    plan = plan_of(model, split, FGSM(), threat_of(a=0.1))
    evaluated(plan, tmp_path)
    part = tmp_path / "00000.npz"
    part.write_bytes(part.read_bytes()[:left])
    with pytest.raises(UserError, match="is damaged"):
        evaluated(plan, tmp_path)


def test_another_model_under_the_same_name_is_another_run(weights: dict[str, Path], tmp_path: Path) -> None:
    """A card says what was trained; when it changes, parts of the earlier run must not be used."""
    first = run(config(weights, tmp_path / "out", "robust-mail"))
    copy = tmp_path / "robust-mail.safetensors"
    copy.write_bytes(weights["robust-mail"].read_bytes())
    card = json.loads(weights["robust-mail"].with_suffix(".json").read_text())
    card["model"]["defenses"][1]["options"]["std"] = 0.1
    copy.with_suffix(".json").write_text(json.dumps(card))
    second = run(config({"robust-mail": copy}, tmp_path / "out", "robust-mail"))
    assert second.folder != first.folder


def test_the_record_repeats_the_run(weights: dict[str, Path], tmp_path: Path) -> None:
    changes = {"eps": {"ct": 2 / 255}, "head": "side", "seed": 5, "attack_options": {"steps": 2}}
    result = run(config(weights, tmp_path, "robust-mail", **changes))
    record = json.loads((result.folder / "record.json").read_text())
    assert record["model"]["weights_sha256"] == sha256_file(weights["robust-mail"])
    assert record["model"]["options"]["width"] == 1 / 32
    assert record["model"]["defenses"][1]["options"] == {"std": 0.6}
    assert record["model"]["draws_shared_by"] == "element"
    assert record["dataset"]["synthetic"] is True
    assert len(record["dataset"]["fingerprint"]) == 64
    assert record["threat_model"]["budgets"] == {"ct": Budget("linf", 2 / 255).as_record()}
    assert record["threat_model"]["goal"] == "side"
    steps = record["attack"]["steps"]
    assert record["config"]["attack_options"]["steps"] == steps
    assert record["scoring"] == {"draws": 3, "headline": "mean"}
    assert record["seed"] == 5
    assert record["schema"] == 2
    assert {"python", "torch", "numpy", "robustbench-med"} <= record["code"]["versions"].keys()
    assert record["cost"]["forward_passes"] == 4 * 2 * (steps + 1)
    assert record["cost"]["backward_passes"] == 4 * 2 * steps
    again = build(
        RunConfig,
        record["config"] | {"weights": str(weights["robust-mail"]), "out": str(tmp_path / "again")},
        "record",
    )
    repeated = run(again)
    assert stable(rows(repeated.leaderboard)[0]) == stable(rows(result.leaderboard)[0])


OTHER_VALUES = "these weights were trained on other values of these samples: another size, or source"


@pytest.mark.parametrize(
    ("trained_on", "fingerprint", "caveat"),
    [
        (None, "", ["no card says what these weights were trained on; test samples may be among it"]),
        ("elsewhere", "", ["these weights were trained on elsewhere"]),
        ("phantom", "", []),
        ("phantom", "0", [OTHER_VALUES]),
    ],
)
def test_the_record_says_what_is_known_of_the_training(
    trained_on: str | None, fingerprint: str, caveat: list[str], concat: Path, phantom: Split, tmp_path: Path
) -> None:
    path = concat.with_suffix(".json")
    card = json.loads(path.read_text())
    if trained_on:
        card["dataset"] = {"name": trained_on, "members": {"test": phantom.members}}
        card["dataset"]["fingerprints"] = {"test": fingerprint or phantom.fingerprint}
    path.write_text(json.dumps(card))
    result = run(config({"concat": concat}, tmp_path))
    assert result.record["model"]["caveats"] == caveat


YAML = """
model: robust-mail
attack: pgd
eps: {mr: 4/255, ct: 2/255}
modality: [ct, mr]
head: lesion
attack_options: {steps: 7, step_size: 1/255, random_start: false}
samples: 20
eot: 3
"""


def test_flags_yaml_and_python_are_the_same(tmp_path: Path) -> None:
    python = RunConfig(
        model="robust-mail",
        attack="pgd",
        eps={"mr": 4 / 255, "ct": 2 / 255},
        modality=("ct", "mr"),
        head="lesion",
        attack_options={"steps": 7, "step_size": 1 / 255, "random_start": False},
        samples=20,
        eot=3,
    )
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    flags = "--model robust-mail --attack pgd --eps mr=4/255,ct=2/255 --modality ct,mr --head lesion"
    flags += " --steps 7 --step-size 1/255 --no-random-start --samples 20 --eot 3"
    from_yaml = RunConfig.from_yaml(str(path))
    from_flags = _parsed(flags.split())
    for config_ in (from_yaml, from_flags, _parsed([str(path)])):
        # Attack options reach their types when the attack is built.
        assert replace(config_, attack_options={}) == replace(python, attack_options={})
        assert build(PGD, config_.attack_options, "") == build(PGD, python.attack_options, "")  # type: ignore[arg-type]
    assert RunConfig.from_yaml(str(path), samples=3) == replace(from_yaml, samples=3)
    changed = _parsed([str(path), "--steps", "9", "--eps", "1/255"])
    assert changed.eps == 1 / 255
    assert changed.attack_options == {**from_yaml.attack_options, "steps": 9}


def _parsed(arguments: list[str]) -> RunConfig:
    options = parser().parse_args(["run", *arguments])
    parsed = run_config(options)
    assert isinstance(parsed, RunConfig)
    return parsed


def test_flags_give_the_row_that_python_gives(
    robmed: Robmed, weights: dict[str, Path], tmp_path: Path
) -> None:
    result = run(config(weights, tmp_path / "python"))
    flags = "--model concat --attack pgd --steps 3 --eps 4/255 --samples 4 --batch-size 2 --draws 3"
    code, _ = robmed("run", *flags.split(), "--weights", weights["concat"], "--out", tmp_path / "flags")
    assert code == 0
    row = rows(tmp_path / "flags" / "leaderboard.csv")[0]
    assert stable(row) == stable(rows(result.leaderboard)[0])


def test_one_modality_under_attack(weights: dict[str, Path], tmp_path: Path) -> None:
    result = run(config(weights, tmp_path, modality=("ct",), eps=8 / 255))
    shown = arrays(result.folder / "outcomes.npz")
    np.testing.assert_array_equal(shown["shown/adversarial/mr"], shown["shown/clean/mr"])
    change = np.abs(shown["shown/adversarial/ct"] - shown["shown/clean/ct"]).max((1, 2, 3))
    assert change.max() == pytest.approx(8 / 255, abs=1e-6)
    assert result.record["threat_model"]["budgets"].keys() == {"ct"}
    assert rows(result.leaderboard)[0]["epsilon"] == "ct=8/255"


def test_a_smaller_subset_is_part_of_a_larger_one(weights: dict[str, Path], tmp_path: Path) -> None:
    small, large, whole = (prepare(config(weights, tmp_path, samples=n)).plan.split.ids for n in (5, 50, 0))
    assert set(small) < set(large) < set(whole)
    assert len(whole) == 1000


def test_samples_wrong_before_the_attack_cost_nothing(tmp_path: Path) -> None:
    model = seeded(ConvNet, CHANNELS, CLASSES)
    split = labelled_by(model, random_split(8))
    wrong = {task: (y + (np.arange(8) < 3)) % CLASSES[task] for task, y in split.labels.items()}
    plan = plan_of(model, replace(split, labels=wrong), FGSM(), threat_of(a=0.0))
    outcomes = evaluated(plan, tmp_path)
    assert (outcomes.forward, outcomes.backward) == (5, 5)
    assert accuracies(outcomes, plan.goal, "none")[EVERY].robust.value == 5 / 8


def test_an_attack_that_leaves_its_ball_is_a_bug(tmp_path: Path) -> None:
    class Cheat(Attack):
        def perturb(self, _: Any, batch: Any) -> dict[str, torch.Tensor]:
            return {name: x + 0.02 for name, x in batch.inputs.items()}

    model = seeded(RandomNet, CHANNELS, CLASSES)
    for threat, complaint in (
        (threat_of(a=0.01, b=0.01), "left the ball"),
        (threat_of(a=0.3), "not attacked"),
    ):
        with pytest.raises(RuntimeError, match=complaint):
            evaluated(plan_of(model, random_split(4), Cheat(), threat), tmp_path)


@pytest.mark.parametrize("head", ["all", "lesion"])
def test_the_headline_is_what_the_attack_aimed_at(
    head: str, weights: dict[str, Path], tmp_path: Path
) -> None:
    result = run(config(weights, tmp_path, head=head))
    aimed = {"all": SOME}.get(head, head)
    assert result.record["headline"] == aimed
    assert rows(result.leaderboard)[0]["robust"] == f"{result.accuracy[aimed].robust.value:.4f}"


def test_l2_needs_its_own_radius(weights: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="norm l2 needs its own --eps"):
        run(config(weights, tmp_path, norm="l2"))
    result = run(config(weights, tmp_path, norm="l2", eps=0.5))
    assert rows(result.leaderboard)[0]["epsilon"] == "mr=0.5; ct=0.5"


def test_equal_runs_at_once_take_turns(weights: dict[str, Path], tmp_path: Path) -> None:
    script = "import sys; from robustbench_med.cli import main; sys.exit(main(sys.argv[1:]))"
    flags = ["run", "--model", "concat", "--attack", "pgd", "--weights", str(weights["concat"])]
    flags += ["--samples", "40", "--batch-size", "4", "--out", str(tmp_path)]
    both = [subprocess.Popen([sys.executable, "-c", script, *flags]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (row,) = rows(tmp_path / "leaderboard.csv")
    (record,) = tmp_path.glob("*/record.json")
    assert json.loads(record.read_text())["run"] == row["run"]


def test_an_attack_cannot_mend_a_head(tmp_path: Path) -> None:
    """A random point of the ball may be right where the clean image was wrong."""
    split = random_split(60)
    plan = plan_of(seeded(ConvNet, CHANNELS, CLASSES), split, _Scatter(), threat_of(a=0.5, b=0.5))
    outcomes = evaluated(plan, tmp_path)
    before, after = (
        np.all([kind[t].argmax(2)[0] == y for t, y in outcomes.labels.items()], axis=0)
        for kind in (outcomes.clean, outcomes.adversarial)
    )
    assert not (after & ~before).any()


@dataclass(frozen=True)
class _Scatter(Attack):
    """Random points of the ball, which is no way to attack."""

    def perturb(self, target: Target, batch: Batch) -> dict[str, torch.Tensor]:
        return target.threat.random_start(batch.inputs, batch.ids, target.seed)


def test_python_callers_get_the_checks_of_the_command_line(weights: dict[str, Path], tmp_path: Path) -> None:
    given = config(weights, tmp_path, eps="4/255")
    assert run(given).record["threat_model"]["budgets"]["mr"]["epsilon"] == 4 / 255
    with pytest.raises(UserError, match="modality"):
        run(config(weights, tmp_path, modality="mr"))


def ensemble_of(
    model: str, head: str, weights: dict[str, Path], out: Path, **changes: Any
) -> tuple[list[Result], Result, list[Outcomes], Outcomes]:
    """Three attacks and their worst case, with what happened to every sample."""
    shared = config(weights, out, model, head=head, samples=12, **changes)
    *members, ensemble = run_all(replace(shared, attack="fgsm, uniform-noise,pgd"))
    each, worst = (
        [Outcomes.load(result.folder / "outcomes.npz") for result in results]
        for results in (members, [ensemble])
    )
    return members, ensemble, each, worst[0]


@pytest.mark.parametrize("head", ["any", "all", "side"])
def test_the_ensemble_is_the_worst_case_of_its_members(
    head: str, weights: dict[str, Path], tmp_path: Path
) -> None:
    members, ensemble, each, worst = ensemble_of("concat", head, weights, tmp_path, batch_size=5)
    assert [m.record["attack"]["name"] for m in members] == ["fgsm", "pgd", "uniform-noise"]
    assert members[1].record["attack"]["steps"] == 3
    key = ensemble.record["headline"]
    assert ensemble.accuracy[key].robust.value <= min(m.accuracy[key].robust.value for m in members)
    assert ensemble.accuracy[key].clean == members[0].accuracy[key].clean
    assert ensemble.record["members"] == [m.record["run"] for m in members]
    assert [row["run"] for row in rows(ensemble.leaderboard)][-1] == ensemble.record["run"]
    assert rows(ensemble.leaderboard)[-1]["attack"] == "ensemble (members=fgsm + pgd + uniform-noise)"
    for i in range(12):
        here = worst.adversarial["side"][:, i]
        assert any(np.array_equal(here, outcomes.adversarial["side"][:, i]) for outcomes in each)


@pytest.mark.parametrize("head", ["any", "all", "side"])
def test_the_ensemble_of_a_random_model_is_chosen_on_draws_that_do_not_score_it(
    head: str, weights: dict[str, Path], tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"batch_size": 12, "attack_options": {"steps": 1}}
    members, ensemble, each, worst = ensemble_of("robust-mail", head, weights, tmp_path, **quick)
    goal = prepare(config(weights, tmp_path, "robust-mail", head=head)).plan.goal
    left = np.stack([correct(outcomes.choosing, outcomes.labels, goal).mean(0) for outcomes in each])
    for i in range(12):
        same = [np.array_equal(worst.adversarial["side"][:, i], o.adversarial["side"][:, i]) for o in each]
        assert left[same, i].min() == left[:, i].min()
    assert ensemble.accuracy[EVERY].clean == members[0].accuracy[EVERY].clean


@pytest.mark.parametrize(
    ("attack", "options", "complaint"),
    [
        ("pgd,pgd", {}, "names an attack twice"),
        ("pgd,fgsm", {"queries": 3}, "none of pgd,fgsm has the option 'queries'"),
        ("pgd,fgms", {}, "did you mean 'fgsm'"),
    ],
)
def test_bad_lists_of_attacks(
    attack: str, options: dict[str, Any], complaint: str, weights: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        run_all(replace(config(weights, tmp_path), attack=attack, attack_options=options))
    assert not list(tmp_path.iterdir())
