"""Anybody's adversarial inputs against a record: the lower number stands, with its finder's name."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Robmed
from numpy.typing import NDArray

from robustbench_med import cli
from robustbench_med.audit import Audit
from robustbench_med.evaluation import kept as files
from robustbench_med.evaluation.prepare import RunConfig
from robustbench_med.evaluation.recorded import Places, Recorded, recorded
from robustbench_med.measure.ranking import boards
from robustbench_med.measure.verdict import refuted_run, refuting
from robustbench_med.reporting import submission
from robustbench_med.reporting.leaderboard import read
from robustbench_med.studies.run import run
from robustbench_med.studies.verify import verify

pytestmark = pytest.mark.usefixtures("no_pictures")
ROOT = Path(__file__).parents[2]
Plain = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True, scope="module")
def _unaudited() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr("robustbench_med.studies.run.audit", lambda *_: Audit(False, (), 0, 0, 0, 0.0))
    patch.setattr("robustbench_med.studies.run.draw", lambda *_: None)
    yield
    patch.undo()


def made(out: Path, attack: str, model: str = "concat", **changes: Any) -> Path:
    values: dict[str, Any] = {"samples": 24, "save_adversarial": True, "out": str(out)}
    return run(RunConfig(model, attack, **(values | changes))).folder


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory, _unaudited: None) -> Path:
    """A run of a weak attack, with its inputs."""
    return made(tmp_path_factory.mktemp("weak"), "fgsm")


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory, _unaudited: None) -> Path:
    """A run of a stronger one on the same samples."""
    return made(tmp_path_factory.mktemp("strong"), "pgd", attack_options={"steps": 20})


@pytest.fixture
def here(weak: Path, tmp_path: Path) -> Path:
    """A copy of the run of the weak attack and of its board."""
    shutil.copytree(weak.parent, tmp_path / "runs")
    return tmp_path / "runs" / weak.name


def setting_of(folder: Path) -> Recorded:
    record = json.loads((folder / "record.json").read_text())
    return recorded(record, folder / "record.json", Places())


@pytest.fixture(scope="module")
def plain(strong: Path) -> Plain:
    """The stronger inputs, as anybody would hand them in."""
    split = setting_of(strong).split
    index = np.arange(len(split))
    kept, _ = files.read(strong / files.FILE)
    values = kept.values(index.tolist(), {m.name: split.values(m.name, index) for m in split.info.modalities})
    return {"ids": np.array(split.ids), **values}


@pytest.fixture
def hand(tmp_path: Path) -> Callable[[Plain], Path]:
    def write(arrays: Plain) -> Path:
        path = tmp_path / "inputs.npz"
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        return path

    return write


def headline(folder: Path) -> float:
    record = json.loads((folder / "record.json").read_text())
    return float(record["accuracy"][record["headline"]]["robust"]["value"])


def refuting_folder(out: Path) -> Path:
    (folder,) = out.glob("*-submission-*/")
    return folder


def refute(robmed: Robmed, record: Path, inputs: Path, out: Path, *flags: object) -> tuple[int, list[str]]:
    return robmed("refute", record, inputs, "--finder", "Ada L.", "--out", out, *flags)


def test_stronger_inputs_lower_the_number(
    here: Path, strong: Path, plain: Plain, hand: Callable[[Plain], Path], robmed: Robmed
) -> None:
    assert headline(strong) < headline(here)
    assert refute(robmed, here, hand(plain), here.parent) == (0, [])
    folder = refuting_folder(here.parent)
    new, old = (json.loads((f / "record.json").read_text()) for f in (folder, here))
    # Sample by sample the lower of both: never above either.
    assert headline(folder) <= min(headline(here), headline(strong)) + 1e-12
    assert new["refutes"]["finder"] == "Ada L."
    assert new["refutes"]["run"] == old["run"]
    assert new["accuracy"]["side"]["clean"] == old["accuracy"]["side"]["clean"]
    assert new["metrics"]["side"]["robust"]["macro_f1"] is not None
    assert verify(folder).status == 0
    (board,) = boards(read(here.parent / "leaderboard.csv"))
    said = {row["run"]: row["verdict"] for row in board.others}
    assert said[old["run"]] == f"refuted: inputs found by Ada L. leave {100 * headline(folder):.1f} %"
    assert said[new["run"]] == f"refutes {old['run']}: inputs found by Ada L."
    with (here.parent / "leaderboard.csv").open() as stream:
        attacks = [row["attack"] for row in csv.DictReader(stream)]
    assert "submission (finder=Ada L.; refutes=" in attacks[-1]


def test_our_own_format_is_taken_too(here: Path, strong: Path, robmed: Robmed) -> None:
    assert refute(robmed, here, strong / files.FILE, here.parent) == (0, [])
    # And the refutation can be refuted: by nobody who has only the same.
    folder = refuting_folder(here.parent)
    code, (line,) = refute(robmed, folder, strong / files.FILE, here.parent)
    assert code == 2
    assert "nothing is refuted" in line


def test_some_samples_do(here: Path, plain: Plain, hand: Callable[[Plain], Path], robmed: Robmed) -> None:
    """Without the record's inputs: its outcomes stand for what was not handed in."""
    record = json.loads((here / "record.json").read_text())
    del record["adversarial"]
    (here / "record.json").write_text(json.dumps(record))
    (here / files.FILE).unlink()
    some = {name: x[::2][::-1] for name, x in plain.items()}
    assert refute(robmed, here, hand(some), here.parent) == (0, [])
    folder = refuting_folder(here.parent)
    new = json.loads((folder / "record.json").read_text())
    assert new["refutes"]["samples"] == 12
    stronger = new["refutes"]["stronger"]
    assert 0 < stronger <= 12
    assert headline(folder) == pytest.approx(headline(here) - stronger / 24)
    assert new["metrics"]["side"]["robust"]["macro_f1"] is None  # nobody knows
    found = verify(folder)
    assert found.status == 2  # only some inputs are known
    assert f"the inputs of {24 - stronger} of 24 samples are missing" in found.findings[3].evidence


def test_nothing_is_raised(here: Path, strong: Path, robmed: Robmed) -> None:
    """Weaker inputs change nothing, and leave nothing behind."""
    before = there(here.parent)
    code, (line,) = refute(robmed, strong, here / files.FILE, here.parent)
    assert code == 2
    # A weak attack may break what a strong one missed; then that is said, and it is not a rise.
    assert "nothing is refuted" in line
    assert there(here.parent) == before
    code, (line,) = refute(robmed, here, here / files.FILE, here.parent)
    assert code == 2


def there(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix != ".lock")


def far(arrays: Plain) -> Plain:
    values = arrays["mr"].copy()
    values[3, 0, 4, 4] += np.float32(0.03) if values[3, 0, 4, 4] < 0.5 else np.float32(-0.03)
    return {**arrays, "mr": values}


def spoilt(arrays: Plain, value: float) -> Plain:
    values = arrays["ct"].copy()
    values[5, 0, 0, 0] = value
    return {**arrays, "ct": values}


REFUSED: dict[str, tuple[Callable[[Plain], Plain], str]] = {
    "out of the ball": (far, "'mr' lies outside the ball of 0.0156863 by"),
    "NaN": (lambda a: spoilt(a, float("nan")), "'ct' has NaN or infinite values"),
    "too large": (
        lambda a: {**spoilt(a, 0), "ct": spoilt(a, 0)["ct"].astype(np.float64) + 1e300},
        "NaN or inf",
    ),
    "no ids": (lambda a: {"mr": a["mr"], "ct": a["ct"]}, "has no array 'ids'"),
    "no inputs": (lambda a: {"ids": a["ids"]}, "has no modality"),
    "other ids": (lambda a: {**a, "ids": np.char.add(a["ids"], "x")}, "the record has no sample"),
    "numbers as ids": (lambda a: {**a, "ids": np.arange(24)}, "'ids' is of type"),
    "an id twice": (lambda a: {**a, "ids": np.array([a["ids"][0], *a["ids"][:-1]])}, "is there twice"),
    "another shape": (lambda a: {**a, "mr": a["mr"][:, :, :16]}, "'mr' has shape"),
    "too few rows": (lambda a: {**a, "mr": a["mr"][:5]}, "'mr' has shape"),
    "whole numbers": (lambda a: {**a, "mr": (255 * a["mr"]).astype(np.uint8)}, "'mr' is of uint8"),
    "another modality": (lambda a: {**a, "pet": a["mr"]}, "has an array 'pet'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(
    case: str, weak: Path, plain: Plain, hand: Callable[[Plain], Path], robmed: Robmed, tmp_path: Path
) -> None:
    change, said = REFUSED[case]
    code, (line,) = refute(robmed, weak, hand(change(plain)), tmp_path / "out")
    assert code == 2
    assert said in line, line
    if case in ("out of the ball", "NaN"):
        assert f"sample {plain['ids'][3 if case == 'out of the ball' else 5]}:" in line
    assert not (tmp_path / "out").exists()


def test_what_is_no_such_file(weak: Path, tmp_path: Path, robmed: Robmed) -> None:
    path = tmp_path / "x.npz"
    code, (line,) = refute(robmed, weak, path, tmp_path / "out")
    assert (code, "missing" in line) == (2, True)
    path.write_bytes(b"PK\x03\x04 nothing")
    code, (line,) = refute(robmed, weak, path, tmp_path / "out")
    assert (code, "no whole .npz" in line) == (2, True)
    with path.open("wb") as stream:
        np.savez(stream, ids=np.array([{}], dtype=object))  # would be unpickled
    code, (line,) = refute(robmed, weak, path, tmp_path / "out")
    assert (code, "holds objects" in line) == (2, True)
    for name in ("", " ", "x" * 81, "a\tb\x1b[31m"):
        assert robmed("refute", weak, path, f"--finder={name}", "--out", tmp_path / "out")[0] == 2


def test_what_may_not_be_changed(tmp_path: Path, hand: Callable[[Plain], Path], robmed: Robmed) -> None:
    """An attack on one modality is not refuted by changing the other."""
    folder = made(tmp_path / "one", "fgsm", modality=("ct",), samples=8)
    split = setting_of(folder).split
    values = {m.name: split.values(m.name, np.arange(8)) for m in split.info.modalities}
    values["mr"] = values["mr"] + np.float32(1e-3)
    code, (line,) = refute(robmed, folder, hand({"ids": np.array(split.ids), **values}), tmp_path / "out")
    assert code == 2
    assert "'mr' differs from the clean input" in line


def some_of(folder: Path, record: dict[str, Any]) -> Plain:
    """The inputs of the first three samples."""
    split = recorded(record, folder / "record.json", Places()).split
    clean = {m.name: split.values(m.name, np.arange(3)) for m in split.info.modalities}
    kept, _ = files.read(folder / files.FILE)
    return {"ids": np.array(split.ids[:3]), **kept.values([0, 1, 2], clean)}


@pytest.mark.slow
def test_a_random_model_is_refuted_on_draws_of_the_submission(
    tmp_path: Path, hand: Callable[[Plain], Path], robmed: Robmed
) -> None:
    options: dict[str, Any] = {"samples": 30, "draws": 5, "eot": 2}
    weak = made(tmp_path / "a", "uniform-noise", "robust-mail", **options)
    strong = made(tmp_path / "b", "pgd", "robust-mail", attack_options={"steps": 5}, **options)
    assert refute(robmed, weak, strong / files.FILE, tmp_path / "a") == (0, [])
    folder = refuting_folder(tmp_path / "a")
    assert headline(folder) < headline(weak)
    found = verify(folder)
    assert found.status == 0
    checks = {finding.check: finding.result for finding in found.findings}
    assert checks["robust scores"] == "passed"  # on the draws of the submission's hash
    assert checks["robust, other draws"] == "passed"
    # Within what draws explain nothing is refuted: the same inputs once more.
    code, (line,) = refute(robmed, weak, weak / files.FILE, tmp_path / "a")
    assert code == 2
    # Without the record's inputs all samples must be handed in.
    (weak / files.FILE).unlink()
    assert refute(robmed, weak, strong / files.FILE, tmp_path / "c") == (0, [])
    record = json.loads((weak / "record.json").read_text())
    code, (line,) = refute(robmed, weak, hand(some_of(strong, record)), tmp_path / "c")
    assert code == 2
    assert "hand in all" in line


def test_a_published_row_can_be_refuted(
    tmp_path: Path, hand: Callable[[Plain], Path], robmed: Robmed
) -> None:
    """Records that came from schema 1 know no samples: what was not handed in counts as not attacked."""
    paths = sorted((ROOT / "leaderboards" / "records").glob("*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    concat = [r for r in records if r["dataset"]["name"] == "phantom" and r["model"]["name"] == "concat"]
    old = next(record for record in concat if record["outcomes"] is None)
    path = tmp_path / "old.json"
    old["accuracy"][old["headline"]]["robust"]["value"] = 0.95  # what a weak attack left
    path.write_text(json.dumps(old))
    setting = recorded(old, path, Places())
    split = setting.split
    rng = np.random.default_rng(0)
    index = np.arange(len(split))
    values = {}
    for name in setting.threat.budgets:
        clean = split.values(name, index)
        values[name] = np.clip(clean + rng.choice([-1, 1], clean.shape) * np.float32(4 / 255), 0, 1)
    plain = {"ids": np.array(split.ids), **{n: x.astype(np.float32) for n, x in values.items()}}
    code, lines = refute(robmed, path, hand(plain), tmp_path / "runs")
    assert (code, lines) == (0, [])
    assert headline(refuting_folder(tmp_path / "runs")) < 0.95


def test_the_board_ranks_what_is_refuted_below() -> None:
    terms = {"dataset": "d", "dataset_fingerprint": "f", "epsilon": "e", "norm": "n", "goal": "any"}
    net = {"model": "m", "weights_sha256": "w", "attack": "pgd (x)"}

    def row(run: str, robust: float, verdict: str) -> dict[str, str]:
        return {**terms, **net, "run": run, "robust": str(robust), "verdict": verdict}

    words = refuting("aa", "Ada: L.")
    assert refuted_run(words) == ("aa", "Ada: L.")
    assert refuted_run("refuted: x leaves less") is None
    (board,) = boards([row("aa", 0.5, "sound"), row("bb", 0.4, words)])
    assert not board.ranked
    assert [r["verdict"] for r in board.others] == [words, "refuted: inputs found by Ada: L. leave 40.0 %"]
    (board,) = boards([row("aa", 0.5, "sound"), row("bb", 0.49, words)])  # within what an audit tolerates
    assert [r["run"] for r in board.ranked] == ["aa"]
    (board,) = boards([row("aa", 0.5, "unaudited"), row("bb", 0.4, words)])
    assert board.others[0]["verdict"] == "refuted: inputs found by Ada: L. leave 40.0 %"


def test_a_folder_for_a_pull_request(here: Path, tmp_path: Path, robmed: Robmed) -> None:
    out = tmp_path / "mine"
    assert robmed("submit", here, "--out", out) == (0, [])
    names = {path.name for path in out.iterdir()}
    assert names == {"record.json", "run.yaml", "adversarial.npz", "card.md", "SUBMISSION.md"}
    assert verify(out).status == 0
    said = RunConfig.from_yaml(str(out / "run.yaml"))
    assert (said.model, said.attack, said.samples) == ("concat", "fgsm", 24)
    assert "passed: 24 inputs are those that were attacked" in (out / "card.md").read_text()
    code, (line,) = robmed("submit", here, "--out", out)
    assert (code, "is there already" in line) == (2, True)


def test_weights_of_ones_own_go_along(weights: dict[str, Path], tmp_path: Path, robmed: Robmed) -> None:
    folder = made(tmp_path / "own", "fgsm", samples=6, weights=str(weights["concat"]))
    assert robmed("submit", folder, "--out", tmp_path / "sub", "--weights", weights["concat"]) == (0, [])
    assert (tmp_path / "sub" / "concat.safetensors").read_bytes() == weights["concat"].read_bytes()
    assert verify(tmp_path / "sub").status == 0  # found beside the record, by their hash


def test_what_would_be_refused_later(here: Path, tmp_path: Path, robmed: Robmed) -> None:
    whole = json.loads((here / "record.json").read_text())

    def refused(change: Callable[[dict[str, Any]], object]) -> str:
        record = json.loads(json.dumps(whole))
        change(record)
        (here / "record.json").write_text(json.dumps(record))
        code, (line,) = robmed("submit", here, "--out", tmp_path / "sub")
        assert code == 2
        assert not (tmp_path / "sub").exists()
        return line

    assert "does not stand" in refused(lambda r: r["accuracy"]["side"]["robust"].update(value=1.0))
    assert "code makes" in refused(lambda r: r["model"].update(architecture="net.py:make"))
    (tmp_path / "data.csv").write_text("a")
    assert "of your own" in refused(lambda r: r["config"].update(dataset=str(tmp_path / "data.csv")))
    assert "schema" in refused(lambda r: r.update(schema=1))


def test_the_template_asks_what_the_form_asks() -> None:
    template = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE" / "submission.md").read_text()
    for question in submission.QUESTIONS:
        assert f"- [ ] {question}" in template
    for field in submission.FIELDS:
        assert f"**{field}:**" in template


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_the_workflow_scores_a_submission_again(here: Path, tmp_path: Path, robmed: Robmed) -> None:
    """Its steps, by a plain shell in a scratch repository: what stands passes, what does not fails."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "submission.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    (script,) = [step["run"] for step in workflow["jobs"]["verify"]["steps"] if step.get("id") == "verify"]
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    git(repository, "commit", "-q", "--allow-empty", "-m", "base")
    base = git(repository, "rev-parse", "HEAD")
    summary, tools = tmp_path / "summary.md", tmp_path / "bin"
    tools.mkdir()
    (tools / "robmed").write_text(f'#!/bin/sh\nexec {sys.executable} -m robustbench_med "$@"\n')
    (tools / "robmed").chmod(0o755)

    def checked(message: str) -> int:
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "-m", message)
        summary.write_text("")
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "BASE": base, "GITHUB_STEP_SUMMARY": str(summary)}
        return subprocess.run(["bash", "-e", "-c", script], cwd=repository, env=env, check=False).returncode

    assert robmed("submit", here, "--out", repository / "submissions" / "it's $(mine)")[0] == 0
    assert checked("one that stands") == 0
    assert "stands:" in summary.read_text()
    bad = repository / "submissions" / "bad"
    shutil.copytree(repository / "submissions" / "it's $(mine)", bad)
    record = json.loads((bad / "record.json").read_text())
    record["accuracy"]["side"]["robust"]["value"] = 1.0
    (bad / "record.json").write_text(json.dumps(record))
    assert checked("one that does not") == 1
    assert "does not stand" in summary.read_text()
    (bad / "record.json").write_text("{}")
    assert checked("one that cannot be judged") == 1
    shutil.rmtree(repository / "submissions")
    (repository / "README").write_text("x")
    assert checked("none") == 0
    assert cli.main(["verify", str(here)]) == 0
