"""Records that others can check: kept inputs, scored again; and what is wrong with a record is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Robmed

from robustbench_med import cli
from robustbench_med.audit import Audit
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation import kept as files
from robustbench_med.evaluation import rescore, scoring
from robustbench_med.evaluation.identity import claimed_id
from robustbench_med.evaluation.kept import Origin
from robustbench_med.evaluation.prepare import RunConfig, prepare
from robustbench_med.studies.result import Result
from robustbench_med.studies.run import run
from robustbench_med.studies.several import run_all
from robustbench_med.studies.verify import verify
from robustbench_med.util.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pictures")
RANDOM = ("robust-mail", "robust-mail-rpf")


@pytest.fixture(autouse=True, scope="module")
def _unaudited() -> Any:
    """No cheap checks: they take longer than these runs."""
    patch = pytest.MonkeyPatch()
    patch.setattr("robustbench_med.studies.run.audit", lambda *_: Audit(False, (), 0, 0, 0, 0.0))
    yield
    patch.undo()


def kept_run(out: Path, model: str = "concat", **changes: Any) -> Result:
    values: dict[str, Any] = {"attack": "fgsm", "samples": 24, "batch_size": 10, "save_adversarial": True}
    return run(RunConfig(model, out=str(out), **(values | changes)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of a shipped net, by its name; made once."""
    folders: dict[str, Path] = {}

    def of(model: str) -> Path:
        if model not in folders:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("robustbench_med.studies.run.draw", lambda *_: None)
                out = tmp_path_factory.mktemp(model)
                samples = {"samples": 12, "draws": 5, "eot": 2} if model in RANDOM else {}
                folders[model] = kept_run(out, model, **samples).folder
        return folders[model]

    return of


@pytest.fixture
def copied(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of such a run that a test may spoil."""

    def of(model: str) -> Path:
        return Path(shutil.copytree(made(model), tmp_path / model))

    return of


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    record = json.loads((folder / "record.json").read_text())
    change(record)
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def results(folder: Path) -> dict[str, str]:
    return {finding.check: finding.result for finding in verify(folder).findings}


def test_a_run_stands(made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(made("concat"))]) == 0
    said = capsys.readouterr().out
    assert "24 samples scored as recorded" in said
    found = verify(made("concat"))
    assert found.found == pytest.approx(found.said)
    assert said.splitlines()[-1].startswith(f"stands: {100 * found.said:.1f} % (every head right) recorded")
    assert {finding.result for finding in found.findings} == {"passed"}


@pytest.mark.parametrize("model", [RANDOM[0], pytest.param(RANDOM[1], marks=pytest.mark.slow)])
def test_a_random_model_stands_on_other_draws(model: str, made: Callable[[str], Path]) -> None:
    found = verify(made(model))
    assert found.status == 0
    checks = {finding.check: finding for finding in found.findings}
    assert "draws explain" in checks["robust, other draws"].evidence
    assert checks["robust scores"].result == "passed"  # its own draws come again on the same machine
    assert checks["votes"].result == "passed"


def test_a_random_model_whose_draws_do_not_come_again(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine: other draws decide, and it is said."""
    from robustbench_med.util import seeding

    for name in ("scores", "scores_turned"):
        elsewhere = _with_other_seed(getattr(scoring, name), seeding.derive)
        monkeypatch.setattr(rescore, name, elsewhere)
    found = verify(made("robust-mail"))
    checks = {finding.check: finding for finding in found.findings}
    assert checks["robust scores"].result == "does not apply"
    assert found.status == 0


def _with_other_seed(original: Any, derive: Any) -> Any:
    def ask(model: Any, inputs: Any, draws: int, seed: int, purpose: str, ids: Any) -> Any:
        return original(model, inputs, draws, derive(seed, "elsewhere"), purpose, ids)

    return ask


def test_a_number_that_draws_do_not_explain(copied: Callable[[str], Path]) -> None:
    """All of a record told consistently, but its model is said to withstand what breaks it."""
    from robustbench_med.measure.redrawn import retold, successes
    from robustbench_med.measure.samples import Samples

    folder = copied("robust-mail")

    def boast(record: dict[str, Any]) -> None:
        samples = Samples.from_record(record, "")
        boasted = dataclasses.replace(samples, robust={n: samples.clean[n] for n in samples.robust})
        record["outcomes"] = boasted.as_record()
        for name, kinds in retold(boasted).items():
            for kind, estimate in kinds.items():
                record["accuracy"][name][kind] = dataclasses.asdict(estimate)
        record["attack_success"] = successes(boasted)

    changed(folder, boast)
    checks = results(folder)
    assert checks["numbers"] == "passed"
    assert checks["robust, other draws"] == "failed"
    assert cli.main(["verify", str(folder)]) == 1


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda r: r["accuracy"]["side"]["robust"].update(value=0.99), "numbers"),
        (lambda r: r["accuracy"]["every head right"]["robust"].update(high=1.0), "numbers"),
        (lambda r: r["attack_success"].update({"side": 0.0}), "numbers"),
        (lambda r: r["accuracy"].pop("side"), "numbers"),
        (lambda r: r["dataset"].update(samples=1000), "numbers"),
        (lambda r: r["config"].update(eps={"mr": 0.1, "ct": 0.1}), "name"),
        (lambda r: r["attack"].update(name="apgd:ce"), None),  # the attack is not made again
        (lambda r: r["threat_model"]["budgets"]["mr"].update(epsilon=0.1), "terms"),
        (lambda r: r["threat_model"].update(goal="side"), "terms"),
        (lambda r: r.update(seed=5), "terms"),
        (lambda r: r["model"].update(draws_shared_by="element"), "terms"),
    ],
)
def test_a_record_that_was_tampered_with(
    change: Callable[[dict[str, Any]], object], check: str | None, copied: Callable[[str], Path]
) -> None:
    folder = changed(copied("concat"), change)
    failed = [name for name, result in results(folder).items() if result == "failed"]
    assert failed == ([] if check is None else [check])
    assert cli.main(["verify", str(folder)]) == (0 if check is None else 1)


def test_outcomes_that_were_tampered_with(copied: Callable[[str], Path]) -> None:
    """Consistent numbers that the inputs do not bear out; the samples are named."""
    from robustbench_med.measure.redrawn import retold, successes
    from robustbench_med.measure.samples import Samples

    def boast(record: dict[str, Any]) -> None:
        samples = Samples.from_record(record, "")
        robust = {name: bits.copy() for name, bits in samples.robust.items()}
        broken = np.flatnonzero(~robust["every head right"][0] & samples.clean["every head right"][0])[:2]
        for bits in robust.values():
            bits[0, broken] = True
        boasted = dataclasses.replace(samples, robust=robust)
        record["outcomes"] = boasted.as_record()
        for name, kinds in retold(boasted).items():
            for kind, estimate in kinds.items():
                record["accuracy"][name][kind] = dataclasses.asdict(estimate)
        record["attack_success"] = successes(boasted)
        record["lied"] = [samples.ids[i] for i in broken]

    folder = changed(copied("concat"), boast)
    found = verify(folder)
    failed = {finding.check: finding.evidence for finding in found.findings if finding.result == "failed"}
    assert list(failed) == ["robust scores"]
    assert all(sample in failed["robust scores"] for sample in found.record["lied"])
    assert found.found is not None
    assert found.found < found.said


def test_inputs_that_were_tampered_with(copied: Callable[[str], Path], robmed: Robmed) -> None:
    folder = copied("concat")
    kept, origin = files.read(folder / files.FILE)
    split = prepare(RunConfig("concat", "fgsm", samples=24)).plan.split
    threat = prepare(RunConfig("concat", "fgsm", samples=24)).plan.threat
    clean = {name: split.values(name, np.arange(len(split))) for name in threat.budgets}
    weaker = dataclasses.replace(kept, blobs=files.packed(clean, clean, threat))
    files.write(folder / files.FILE, weaker, origin)
    code, (line,) = robmed("verify", folder)
    assert code == 2
    assert "other inputs than those of run" in line
    # The file by itself is consistent, the record still names the inputs it was made of.
    files.write(folder / files.FILE, weaker, dataclasses.replace(origin, digest=weaker.digest(split)))
    assert robmed("verify", folder)[0] == 2
    # Both of them were forged: the scores tell.
    changed(folder, lambda r: r["adversarial"].update(inputs_sha256=weaker.digest(split)))
    code, lines = robmed("verify", folder)
    assert (code, lines) == (1, [])


def test_inputs_outside_the_ball(copied: Callable[[str], Path]) -> None:
    """What a record says was reached within 4/255 was reached beyond: found whatever else was forged."""
    folder = copied("concat")
    split = prepare(RunConfig("concat", "fgsm", samples=24)).plan.split
    kept, origin = files.read(folder / files.FILE)
    wide = {n: dataclasses.replace(e, reach=np.float32(2) * e.reach) for n, e in kept.ends.items()}
    forged = dataclasses.replace(kept, ends=wide)
    digest = forged.digest(split)
    files.write(folder / files.FILE, forged, dataclasses.replace(origin, digest=digest))
    changed(folder, lambda r: r["adversarial"].update(inputs_sha256=digest))
    checks = {finding.check: finding for finding in verify(folder).findings}
    assert checks["ball, range and masks"].result == "failed"
    assert "lies outside the ball of 0.0156863 by 0.0157" in checks["ball, range and masks"].evidence


def test_other_weights_and_other_data(copied: Callable[[str], Path], robmed: Robmed, tmp_path: Path) -> None:
    folder = copied("concat")
    shipped = Path(cli.__file__).parent / "weights" / "phantom" / "concat-x0.1875.safetensors"
    other = tmp_path / "other.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(shipped)
    name = next(n for n, x in state.items() if x.is_floating_point())
    state[name] = state[name] + torch.finfo(state[name].dtype).eps
    save_file(state, other)
    code, (line,) = robmed("verify", folder, "--weights", other)
    assert code == 2
    assert "is not what was attacked" in line
    code, (line,) = robmed("verify", folder, "--data", "phantom-volume")
    assert code == 2
    changed(folder, lambda r: r["dataset"].update(fingerprint="0" * 64))
    changed(folder, lambda r: r.update(run=claimed_id(r)))
    code, (line,) = robmed("verify", folder)
    assert code == 2
    assert "not that of the record" in line


def test_what_is_missing_is_one_line(copied: Callable[[str], Path], robmed: Robmed, tmp_path: Path) -> None:
    folder = copied("concat")
    moved = (folder / files.FILE).rename(tmp_path / "moved.npz")
    code, (line,) = robmed("verify", folder)
    assert code == 2
    assert "is missing; give it by --adversarial" in line
    assert robmed("verify", folder, "--adversarial", moved) == (0, [])
    changed(folder, lambda r: r.pop("adversarial"))
    code, (line,) = robmed("verify", folder)
    assert code == 2
    assert "was made without --save-adversarial" in line
    published = Path(__file__).parents[2] / "leaderboards" / "records"
    code, (line,) = robmed("verify", sorted(published.glob("*.json"))[0])
    assert code == 2
    code, (line,) = robmed("verify", folder, "--adversarial", folder / "outcomes.npz")
    assert code == 2
    assert "holds no adversarial inputs" in line


def test_a_strangers_code_is_not_run(copied: Callable[[str], Path], robmed: Robmed, tmp_path: Path) -> None:
    """Even where a file of that name lies at hand."""
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    where = f"{tmp_path / 'evil.py'}:make"
    folder = changed(copied("concat"), lambda r: r["model"].update(architecture=where))
    changed(folder, lambda r: r.update(run=claimed_id(r)))
    code, (line,) = robmed("verify", folder)
    assert code == 2
    assert "nobody's code runs unasked" in line


def test_a_boundary_sample_is_tolerated_and_said(
    made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of another machine, on a net whose answer hangs on them."""
    original = scoring.scores_turned
    flipped: list[str] = []

    def elsewhere(model: Any, inputs: Any, draws: int, seed: int, purpose: str, ids: Any) -> Any:
        found = original(model, inputs, draws, seed, purpose, ids)
        scores = found["side"]
        right = scores[0, 0].argmax()  # the first sample of each batch: its two answers made nearly equal
        top = scores[0, 0].clone()
        top[right], top[1 - right] = 1.0, 1.0 + 1e-5
        scores[0, 0] = top
        flipped.append(ids[0])
        return found

    monkeypatch.setattr(rescore, "scores_turned", elsewhere)
    found = verify(made("concat"))
    checks = {finding.check: finding for finding in found.findings}
    assert found.status == 0
    assert "3 lie on the boundary" in checks["robust scores"].evidence
    assert len(flipped) == 3


@pytest.mark.parametrize("data", ["phantom-record", "phantom-volume"])
def test_tables_and_volumes(data: str, tmp_path: Path) -> None:
    result = kept_run(tmp_path, dataset=data, samples=6, batch_size=3)
    assert verify(result.folder).status == 0


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l2-joint", 0.5), ("linf", {"ct": 2 / 255})])
def test_other_norms_and_one_modality(norm: str, eps: Any, tmp_path: Path) -> None:
    result = kept_run(tmp_path, norm=norm, eps=eps, samples=8)
    assert verify(result.folder).status == 0


def test_keeping_changes_no_number(tmp_path: Path) -> None:
    kept = kept_run(tmp_path / "kept", samples=8)
    plain = kept_run(tmp_path / "plain", samples=8, save_adversarial=False)
    assert kept.record["run"] == plain.record["run"]
    assert kept.record["outcomes"] == plain.record["outcomes"]
    assert "adversarial" not in plain.record
    assert not (plain.folder / files.FILE).exists()


def test_a_finished_run_is_made_again_only_for_what_it_lacks(tmp_path: Path) -> None:
    plain = kept_run(tmp_path, samples=8, save_adversarial=False)
    again = kept_run(tmp_path, samples=8)
    assert again.folder == plain.folder
    assert verify(again.folder).status == 0
    once_more = kept_run(tmp_path, samples=8, save_adversarial=False)  # its inputs are the same
    assert once_more.record["adversarial"] == again.record["adversarial"]
    elsewhere = kept_run(tmp_path, samples=8, save_adversarial=str(tmp_path / "else" / "a.npz"))
    assert elsewhere.inputs == tmp_path / "else" / "a.npz"
    assert verify(elsewhere.folder, str(elsewhere.inputs)).status == 0


def test_the_worst_case_keeps_its_inputs(tmp_path: Path, robmed: Robmed) -> None:
    config = RunConfig(
        "concat", "fgsm,pgd", samples=8, attack_options={"steps": 2}, out=str(tmp_path), save_adversarial=True
    )
    worst = run_all(config, pictures=False)[-1]
    assert verify(worst.folder).status == 0
    flags = ["--model=concat", "--attack=fgsm,pgd", "--samples=4", f"--out={tmp_path}"]
    code, (line,) = robmed("run", *flags, "--save-adversarial", tmp_path / "one.npz")
    assert code == 2
    assert "makes several runs" in line
    code, (line,) = robmed("run", *flags[:1], "--attack=fgsm", "--save-adversarial", "released")
    assert code == 2
    assert "ends in .npz" in line


def test_a_killed_run_ends_with_a_complete_file(tmp_path: Path) -> None:
    """Killed by the operating system after some batches; and parts of a run that kept none are not used."""
    flags = ["--model=concat", "--attack=pgd", "--steps=5", "--samples=16", "--batch-size=2", "--no-picture"]
    flags += [f"--out={tmp_path}", "--save-adversarial"]
    child = subprocess.Popen([sys.executable, "-m", "robustbench_med.cli", "run", *flags])
    while not list(tmp_path.glob("*/parts-kept/00002.npz")):
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = list(tmp_path.glob("*/parts-kept/0*.npz"))
    assert 3 <= len(done) < 8
    assert not list(tmp_path.glob("*/adversarial.npz"))
    assert cli.main(["run", *flags]) == 0
    (folder,) = (path.parent for path in tmp_path.glob("*/record.json"))
    assert verify(folder).status == 0
    assert not (folder / "parts-kept").exists()
    assert cli.main(["run", *flags, f"--out={tmp_path / 'whole'}"]) == 0
    (whole,) = (tmp_path / "whole").glob("*/adversarial.npz")
    assert whole.read_bytes() == (folder / files.FILE).read_bytes()


def test_a_file_belongs_to_one_run(made: Callable[[str], Path], tmp_path: Path, robmed: Robmed) -> None:
    other = kept_run(tmp_path, samples=24, seed=3)
    code, (line,) = robmed("verify", made("concat"), "--adversarial", other.folder / files.FILE)
    assert code == 2
    assert "other inputs than those of run" in line
    _, origin = files.read(other.folder / files.FILE)
    assert origin == Origin(
        other.record["run"],
        other.record["dataset"]["fingerprint"],
        other.record["adversarial"]["inputs_sha256"],
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("scoring"),
        lambda r: r.update(seed="x"),
        lambda r: r["outcomes"].update(batches=[1]),
        lambda r: r["outcomes"].update(ids=[]),
        lambda r: r["accuracy"].update({"side": 3}),
        lambda r: r["model"].update(weights=None),
        lambda r: r["config"].update(samples="all"),
        lambda r: r["config"].update(dataset="nowhere"),
        lambda r: r["model"].update(options={"width": "wide"}),
    ],
)
def test_damaged_records_are_one_line(
    change: Callable[[dict[str, Any]], object], copied: Callable[[str], Path], robmed: Robmed
) -> None:
    folder = changed(copied("concat"), change)
    changed(folder, lambda r: r.update(run=claimed_id(r)))
    code, lines = robmed("verify", folder)
    assert (code, len(lines)) == (2, 1), lines


def test_ids_of_the_split_are_those_of_the_record(made: Callable[[str], Path]) -> None:
    record = json.loads((made("concat") / "record.json").read_text())
    assert set(record["outcomes"]["ids"]) <= set(load_dataset("phantom").ids)
    with pytest.raises(UserError, match="does not exist"):
        verify(made("concat") / "nothing.json")


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lesion, self.side = nn.Linear(2048, 3), nn.Linear(2048, 2)

    def forward(self, mr, ct):
        flat = torch.cat([mr.flatten(1), ct.flatten(1)], 1)
        return {"lesion": self.lesion(flat), "side": self.side(flat)}

def make():
    return Net().eval()
"""


def test_a_net_that_code_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robmed: Robmed) -> None:
    """Whoever verifies names the code; other code, or another net of it, is told apart by its hash."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET.replace("nn.Linear(2048, 3)", f"nn.Linear(2048, {_lesions()})"))
    folder = kept_run(tmp_path / "runs", "net.py:make", samples=6).folder
    code, (line,) = robmed("verify", folder)
    assert code == 2
    assert "--model FILE.py:MAKE (it was net.py:make)" in line
    assert robmed("verify", folder, "--model", "net.py:make") == (0, [])
    Path("other.py").write_text(Path("net.py").read_text().replace("manual_seed(0)", "manual_seed(1)"))
    code, (line,) = robmed("verify", folder, "--model", "other.py:make")
    assert code == 2
    assert "is not what was attacked" in line


def _lesions() -> int:
    return len(load_dataset("phantom").info.head("lesion").answers)
