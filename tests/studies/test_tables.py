"""Commands that take several runs: curve, modalities, suite and board."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
    ConvNet,
    labelled_by,
    outcomes_of,
    plan_of,
    random_split,
    record_of,
    seeded,
    threat_of,
)

from robustbench_med.api.data import Modality
from robustbench_med.evaluation.prepare import Prepared, RunConfig, prepare
from robustbench_med.measure.accuracy import EVERY, Accuracy
from robustbench_med.measure.curve import EpsilonCurve, curve_of
from robustbench_med.measure.ranking import boards
from robustbench_med.measure.statistics import Estimate
from robustbench_med.reporting.leaderboard import read
from robustbench_med.studies import crew, modalities
from robustbench_med.studies import run as pipeline
from robustbench_med.studies.curve import epsilon_curve
from robustbench_med.studies.result import Result
from robustbench_med.studies.run import checked
from robustbench_med.studies.suite import Entry, Making, Suite, run_suite
from robustbench_med.util.errors import UserError


def flags(weights: dict[str, Path], out: Path) -> tuple[object, ...]:
    common = ("--model", "concat", "--attack", "fgsm", "--samples", 4, "--out", out)
    return (*common, "--weights", weights["concat"])


def test_curve_and_its_reuse(
    robmed: Robmed, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("curve", *flags(weights, tmp_path), "--radii", "1/255,4/255")
    assert robmed(*call)[0] == 0
    found = json.loads(next(tmp_path.glob("*-curve-*/curve.json")).read_text())
    assert found["radii"] == pytest.approx([0, 1 / 255, 4 / 255])
    assert len(found["runs"]) == 2
    assert {"lesion", "side", "every head right"} == set(found["accuracy"])
    assert next(tmp_path.glob("*-curve-*/curve.png")).stat().st_size > 0
    assert not (tmp_path / "leaderboard.csv").exists()
    assert len(list(tmp_path.glob("*/record.json"))) == 2

    def again(*_: object) -> None:
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(pipeline, "evaluate", again)
    assert robmed(*call)[0] == 0
    one = ("run", *flags(weights, tmp_path), "--eps", "4/255")
    monkeypatch.undo()
    assert robmed(*one)[0] == 0
    rows = (tmp_path / "leaderboard.csv").read_text().splitlines()
    assert len(rows) == 2
    assert robmed(*call)[0] == 0
    assert (tmp_path / "leaderboard.csv").read_text().splitlines() == rows, "a curve takes no row away"


def curve_through(breaks_at: NDArray[np.float64], radii: Sequence[float]) -> EpsilonCurve:
    """The curve of a model whose sample i is right below the radius ``breaks_at[i]``."""
    records = [
        record_of(f"{radius:g}", outcomes_of(breaks_at[None] > 0, breaks_at[None] > radius))
        for radius in radii
    ]
    return curve_of(records, radii, "a")


def test_area_and_median() -> None:
    """Samples that break evenly between 0 and 1: the area is a half, and so is the median."""
    evenly = np.linspace(0.001, 1, 1000)
    found = curve_through(evenly, [0.25, 0.5, 0.75, 1])
    assert found.radii == (0, 0.25, 0.5, 0.75, 1)
    assert (found.norm, found.headline) == ("l2", "every head right")
    assert found.area == pytest.approx(0.5, abs=0.01)
    assert found.median == (0.25, 0.5)
    assert curve_through(evenly, [0.1, 0.2]).median == (0.2, None)
    assert curve_through(np.zeros(10), [0.1, 0.2]).median == (0, 0)


@pytest.mark.parametrize("radii", [[], [0, 1]])
def test_a_curve_needs_radii(radii: list[float], weights: dict[str, Path], tmp_path: Path) -> None:
    config = RunConfig("concat", "fgsm", norm="l2", weights=str(weights["concat"]), out=str(tmp_path))
    with pytest.raises(UserError, match="radii above 0"):
        epsilon_curve(config, radii)
    assert not list(tmp_path.iterdir())


def test_modalities(robmed: Robmed, weights: dict[str, Path], tmp_path: Path) -> None:
    assert robmed("modalities", *flags(weights, tmp_path))[0] == 0
    found = json.loads(next(tmp_path.glob("*-modalities-*/modalities.json")).read_text())
    said = [(row["kind"], row["modalities"]) for row in found["rows"]]
    both = [("attacked", ["mr"]), ("attacked", ["ct"]), ("attacked", ["mr", "ct"])]
    assert said == [("clean", []), *both, ("missing", ["mr"]), ("missing", ["ct"])]
    assert found["leakage"] == {}  # both images are of the same head
    assert len(list(tmp_path.glob("concat*-fgsm-*/record.json"))) == 3
    (row,) = read(tmp_path / "leaderboard.csv")
    assert row["epsilon"] == "mr=4/255; ct=4/255"


def test_what_a_net_does_not_look_at_is_not_attacked_alone(robmed: Robmed, tmp_path: Path) -> None:
    flags = ("--model", "single-1", "--attack", "fgsm", "--samples", "6", "--out", tmp_path)
    assert robmed("modalities", *flags)[0] == 0
    found = json.loads(next(tmp_path.glob("*-modalities-*/modalities.json")).read_text())
    clean, *others = found["rows"]
    rows = {(row["kind"], tuple(row["modalities"])): row for row in others}
    assert rows["attacked", ("ct",)]["accuracy"] == clean["accuracy"]
    assert rows["attacked", ("ct",)]["run"] == ""
    assert rows["attacked", ("mr",)]["accuracy"] == rows["attacked", ("mr", "ct")]["accuracy"]
    assert len(list(tmp_path.glob("single-1*-fgsm-*/record.json"))) == 2


def test_a_missing_modality_is_black_and_unrelated_images_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = seeded(ConvNet, CHANNELS, CLASSES)
    split = labelled_by(net, random_split(20))
    heads = tuple(replace(h, modalities=(m,)) for h, m in zip(split.info.heads, CHANNELS, strict=True))
    split = replace(split, info=replace(split.info, pairing="unpaired", heads=heads))
    plan = plan_of(net, split, ATTACKS.get("fgsm")(), threat_of(a=0.1, b=0.1), batch_size=7)
    loaded = SimpleNamespace(config=SimpleNamespace(label="m"))

    shown = SimpleNamespace(loaded=SimpleNamespace(caveats=()), whole=split)

    def prepare(config: RunConfig, *_: object) -> Any:
        return SimpleNamespace(config=config, plan=plan, loaded=loaded, subject=shown)

    asked = []

    def run(prepared: Any, audited: str | None, reuse: bool, pictures: bool, *_: object) -> Any:
        assert (audited, reuse, pictures) == (None, True, True)
        asked.append((prepared.config.modality, prepared.config.head))
        half = Estimate(0.5, 0.4, 0.6, "wilson")
        accuracy = {name: Accuracy(half, half, half, half, 20) for name in (*CLASSES, EVERY)}
        return Result(accuracy, {"run": str(len(asked))}, tmp_path, tmp_path)

    monkeypatch.setattr(modalities, "prepare", prepare)
    monkeypatch.setattr(crew, "run_prepared", run)
    found, folder = modalities.modality_table(RunConfig("m", "fgsm", out=str(tmp_path)))
    assert asked == [
        (("a",), "any"),
        (("b",), "any"),
        (("a", "b"), "any"),
        (("b",), "first"),
        (("a",), "second"),
    ]
    assert found.leakage == {"b -> first": 0.5, "a -> second": 0.5}  # all right when clean
    black = {"a": torch.zeros(20, *split.arrays["a"].shape[1:]), "b": torch.from_numpy(split.arrays["b"])}
    with torch.no_grad():
        right = net(black)["first"].argmax(1).numpy() == split.labels["first"]
    missing = next(row for row in found.rows if row.kind == "missing")
    assert missing.modalities == ("a",)
    assert missing.accuracy["first"].value == pytest.approx(right.mean())
    assert right.mean() < 1
    assert {path.name for path in folder.iterdir()} == {"modalities.json", "modalities.png"}


def test_of_a_missing_table_every_feature_has_its_mean() -> None:
    """Half of its range would say of one-hot columns that every answer is half true."""
    values = np.array([[30, 1, 0], [40, 1, 0], [80, 0, 1], [90, 1, 0]], np.float32)
    table = Modality("record", (3,), kind="table", high=np.array([100, 1, 1], np.float32))
    split = random_split(4)
    info = replace(split.info, modalities=(*split.info.modalities, table))
    arrays: dict[str, NDArray[Any]] = {**split.arrays, "record": values}
    rows = {**split.rows, "record": np.arange(4)}
    split = replace(split, info=info, arrays=arrays, rows=rows)
    assert modalities._blank(split, "record", "cpu").tolist() == [60, 0.75, 0.25]
    assert modalities._blank(split.take(np.array([0, 2])), "record", "cpu").tolist() == [55, 0.5, 0.5]
    assert float(modalities._blank(split, "a", "cpu")) == 0


SUITE = """
title: Small
datasets: [phantom, milk10k]
models: [concat]
runs:
  - {protocol: released, samples: 4}
  - {protocol: PROTOCOL, samples: 6, batch_size: 3}
"""


def test_suite(robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))  # without MILK10k
    protocol, suite = tmp_path / "fast.yaml", tmp_path / "small.yaml"
    protocol.write_text("attack: fgsm\neps: 2/255\n")
    suite.write_text(SUITE.replace("PROTOCOL", str(protocol)))
    out = tmp_path / "out"
    assert robmed("suite", suite, "--out", out)[0] == 0
    table = (out / "table.md").read_text().splitlines()
    assert table[0] == "# Small"
    assert len(table) == 5
    assert "4 / 6" in table[-1]
    assert "✓" not in table[-1]  # nobody asked for an audit
    assert (out / "figure.png").stat().st_size > 0
    assert len((out / "leaderboard.csv").read_text().splitlines()) == 3


def test_defenses_of_a_protocol_hold_for_its_column_alone(tmp_path: Path) -> None:
    """Each column of a suite is about the net that its own protocol asks for, whichever was loaded before."""
    for name, defenses in (("bare", ""), ("noisy", "defenses: ['gaussian-noise:sigma=0.5']\n")):
        (tmp_path / f"{name}.yaml").write_text(f"attack: fgsm\ndraws: 2\n{defenses}")
    entries = tuple(Entry(str(tmp_path / f"{name}.yaml"), samples=4) for name in ("bare", "noisy"))
    both = (entries, entries[::-1])
    found = [
        run_suite(Suite("S", ("phantom",), ("concat",), e), Making(tmp_path / str(e is both[0])))
        for e in both
    ]
    for records in (result.records for result in found):
        labels = {key[2]: record["model"]["label"] for key, record in records.items()}
        assert labels == {"bare": "concat-x0.1875", "noisy": "concat-x0.1875+gaussian-noise(sigma=0.5)"}
    runs = [sorted(record["run"] for record in result.records.values()) for result in found]
    assert runs[0] == runs[1]


def test_a_net_is_never_taken_for_another(tmp_path: Path) -> None:
    config = checked(RunConfig("concat", "fgsm", samples=4, out=str(tmp_path)))
    subject = prepare(config).subject
    prepare(replace(config, seed=1), subject)
    with pytest.raises(RuntimeError, match="was loaded by"):
        prepare(checked(replace(config, defenses=("gaussian-noise:sigma=0.5",))), subject)  # type: ignore[arg-type]


def test_a_suite_takes_over_what_is_published(tmp_path: Path) -> None:
    """A run with a record is not made; one whose record lacks the audit that is asked for is."""
    entry = Entry("released", samples=4)
    suite = Suite("Small", ("phantom",), ("concat",), (entry,))
    (made,) = run_suite(suite, Making(tmp_path / "first")).records.values()
    records = {"any name": {**made, "started": "earlier"}}

    def started(entry: Entry, name: str) -> str:
        asked = replace(suite, runs=(entry,))
        (found,) = run_suite(asked, Making(tmp_path / name, published=records)).records.values()
        return str(found["started"])

    assert started(entry, "second") == "earlier"
    assert not (tmp_path / "second" / "leaderboard.csv").exists()
    assert started(replace(entry, audit="quick"), "third") != "earlier"


def zoo_of(*runs: Entry) -> Suite:
    widths = {"phantom": 0.1875}
    return Suite("Zoo", ("phantom",), ("concat", "robust-mail"), runs, widths, report="zoo")


def test_a_zoo_tells_what_each_member_reaches_loses_and_costs(tmp_path: Path) -> None:
    entry = Entry("released", samples=4, only="deterministic", modalities=True)
    suite = zoo_of(entry, Entry("released", samples=3, only="random", title="noisy"))
    made = run_suite(suite, Making(tmp_path / "out"))
    assert set(made.records) == {("phantom", "concat", "released"), ("phantom", "robust-mail", "noisy")}
    assert set(made.situations) == {("phantom", "concat")}
    heading, _, concat, _ = made.table.read_text().splitlines()[4:]
    cells = dict(zip(heading.split(" | "), concat.split(" | "), strict=True))
    assert cells["| net"] == "| `concat-x0.1875`"
    rows = made.situations["phantom", "concat"]["rows"]
    for kind, said in (("attacked", "mr attacked alone"), ("missing", "ct missing")):
        (row,) = (r for r in rows if r["kind"] == kind and r["modalities"] == (said.split()[0],))
        assert cells[said] == f"{100 * row['accuracy']['every head right']['value']:.1f}"
    assert " → " in cells["balanced: lesion"]
    assert made.figure.stat().st_size > 0


def test_a_zoo_takes_over_what_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = zoo_of(Entry("released", samples=4, only="deterministic", modalities=True))
    made = run_suite(suite, Making(tmp_path / "out"))
    (record,), (table,) = made.records.values(), made.situations.values()
    monkeypatch.setattr(crew, "run_prepared", None)  # called, it would fail
    again = run_suite(
        suite, Making(tmp_path / "again", published={"r": record}, situations={record["run"]: table})
    )
    assert (again.failed, again.records, again.situations) == ([], made.records, made.situations)
    assert again.table.read_text() == made.table.read_text()


def test_a_width_that_nobody_trained_is_left_out(tmp_path: Path) -> None:
    suite = replace(zoo_of(Entry("released", samples=4)), widths={"phantom": 7.0})
    with pytest.raises(UserError, match="nothing of this suite"):
        run_suite(suite, Making(tmp_path / "out"))


def test_a_suite_takes_the_net_that_it_names(tmp_path: Path) -> None:
    nets = {"phantom": {"concat": "concat-x0.125"}}
    suite = replace(zoo_of(Entry("released", samples=4)), models=("concat",), nets=nets)
    (record,) = run_suite(suite, Making(tmp_path / "out")).records.values()
    assert record["model"]["label"] == "concat-x0.125"


@pytest.mark.parametrize("nets", ["{milk10k: {concat: concat-x0.25}}", "{phantom: {late: late-x0.125}}"])
def test_a_net_for_what_a_suite_does_not_ask_is_refused(tmp_path: Path, nets: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"title: T\ndatasets: [phantom]\nmodels: [concat]\nruns: [{{protocol: released}}]\nnets: {nets}\n"
    )
    with pytest.raises(UserError, match=r"suite\.yaml: nets: \w+ on \w+ is no part of this suite"):
        Suite.from_yaml(str(path))


def test_records_that_other_code_made_are_taken_over_and_counted(tmp_path: Path) -> None:
    suite = Suite("Small", ("phantom",), ("concat",), (Entry("released", samples=4),))
    (made,) = run_suite(suite, Making(tmp_path / "first")).records.values()
    other = {"r": {**made, "started": "earlier", "code": {**made["code"], "sources": "0"}}}
    taken = run_suite(suite, Making(tmp_path / "second", published=other))
    assert taken.other_code == 1
    assert [record["started"] for record in taken.records.values()] == ["earlier"]
    again = run_suite(suite, Making(tmp_path / "third", published=other, again=True))
    assert [record["started"] for record in again.records.values()] != ["earlier"]


def test_a_cell_that_fails_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(Entry("released", samples=n, title=str(n)) for n in (2, 4))
    original = pipeline.run_prepared

    def run(prepared: Prepared, *arguments: Any, **named: Any) -> Result:
        if len(prepared.plan.split) == 2:
            raise RuntimeError("a bug")
        return original(prepared, *arguments, **named)

    monkeypatch.setattr(crew, "run_prepared", run)
    result = run_suite(Suite("Small", ("phantom",), ("concat",), entries), Making(tmp_path))
    assert list(result.records) == [("phantom", "concat", "4")]
    assert result.failed == ["concat on phantom, 2: RuntimeError: a bug"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("concat", "conact"), "did you mean 'concat'"),
        (("phantom", "phantm"), "did you mean 'phantom'"),
        (("released", "relased"), "did you mean 'released'"),
        (("samples: 4", "audit: quik"), "did you mean 'quick'"),
        (("samples: 4", "sampels: 4"), "runs.0.sampels"),
        (("samples: 4", "samples: -4"), "samples must be 0 (all) or more"),
        (("batch_size: 3", "batch_size: 0"), "batch_size 1 or more"),
        (("[concat]", "[]"), "models names none"),
        (("[concat]", "[concat, concat]"), "models has 'concat' twice"),
        (("[phantom, milk10k]", "[phantom, phantom]"), "datasets has 'phantom' twice"),
        (("samples: 6", "title: released"), "runs has 'released' twice; give each a title"),
        (("models:", "widths: {milk10: 0.125}\nmodels:"), "widths: milk10: 0.125; give a number above 0"),
        (("models:", "widths: {phantom: .nan}\nmodels:"), "widths: phantom: nan; give a number above 0"),
        (("models:", "nets: {phantom: {concat: late-x0.125}}\nmodels:"), "late-x0.125 is no net of concat"),
    ],
)
def test_bad_suites(change: tuple[str, str], complaint: str, robmed: Robmed, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("PROTOCOL", "eot").replace(*change))
    code, lines = robmed("suite", path, "--out", tmp_path / "out")
    assert (code, len(lines)) == (2, 1)
    assert complaint in lines[0]
    assert not (tmp_path / "out").exists()


def test_every_shipped_suite_can_be_read() -> None:
    assert Suite.from_yaml("robust-mail").runs


def line(model: str, robust: float, verdict: str = "sound", **changes: str) -> dict[str, str]:
    threat = {"dataset": "d", "dataset_fingerprint": "f", "epsilon": "4/255", "norm": "linf", "goal": "any"}
    score = {"robust": str(robust), "robust_low": "0", "robust_high": "1", "clean": "1", "samples": "9"}
    return {
        "model": model,
        "weights_sha256": model,
        "verdict": verdict,
        "attack": "x",
        "run": f"{model} {robust}",
        **threat,
        **score,
    } | changes


def test_only_what_is_sound_is_ranked() -> None:
    rows = [
        line("weak", 0.1),
        line("strong", 0.4),
        line("strong", 0.3),  # a stronger attack: this is the number
        line("boast", 0.9, "not sound: together"),
        line("new", 0.8, "unaudited"),
        line("weak", 0.2, epsilon="2/255", run="smaller"),
        line("late", 0.2, "unaudited"),
        line("late", 0.2),  # the same run, audited since
        line("soft", 0.5),
        line("soft", 0.45, "unaudited"),  # a better upper bound, whatever its verdict
    ]
    first, second = boards(rows)
    ranked = [(row["model"], row["robust"]) for row in first.ranked]
    assert ranked == [("strong", "0.3"), ("late", "0.2"), ("weak", "0.1")]
    others = [(row["model"], row["verdict"]) for row in first.others]
    assert others[:3] == [("boast", "not sound: together"), ("new", "unaudited"), ("soft", "unaudited")]
    assert others[3:] == [("soft", "refuted: x leaves less")]
    assert [row["model"] for row in second.ranked] == ["weak"]


def test_board(robmed: Robmed, weights: dict[str, Path], tmp_path: Path) -> None:
    assert robmed("run", *flags(weights, tmp_path))[0] == 0
    assert robmed("board", tmp_path / "leaderboard.csv")[0] == 0
    code, lines = robmed("board", tmp_path / "none.csv")
    assert (code, len(lines)) == (2, 1)
