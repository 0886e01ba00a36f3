"""``robmed check`` on a net and data of one's own: robust pixels, and pixels that are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from conftest import Robmed
from safetensors.torch import save_file

from robustbench_med.api.attack import Batch, Target
from robustbench_med.attacks.pgd import PGD

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, image):
        return self.head(image.flatten(1) - 0.5)

def make():
    return Net().eval()
"""
BLOCK = 16  # pixels that differ by much between the classes; the others by little, and certainly
ASKED: Mapping[str, Any] = {
    "model": "net.py:make",
    "weights": "net.safetensors",
    "data": "set.npz",
    "attacks": [{"attack": "pgd", "options": {"steps": 10}, "eps": "8/255"}],
    "samples": 60,
    "audit": "none",
}


def weights(share: float) -> None:
    """A net that looks at the robust pixels, and so much at the others."""
    row = torch.full((64,), 10.0 * share)
    row[:BLOCK] = 3.0
    save_file({"head.weight": torch.stack([-row, row]), "head.bias": torch.zeros(2)}, "net.safetensors")


def asks(**changes: Any) -> None:
    Path("robmed.yaml").write_text(yaml.safe_dump({**ASKED, **changes}))


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBMED_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        labels = np.arange(60) % 2
        sign = (2 * labels - 1)[:, None]
        images = 0.5 + 0.012 * sign + rng.normal(0, 0.004, (60, 64))
        images[:, :BLOCK] = 0.5 + 0.06 * sign + rng.normal(0, 0.09, (60, BLOCK))
        arrays |= {
            f"{split}_images": images.reshape(60, 1, 8, 8).astype(np.float32),
            f"{split}_labels": labels,
        }
    np.savez("set.npz", **arrays)
    Path("net.py").write_text(NET)
    weights(0.3)
    asks()


Said = tuple[int, str, list[str]]


@pytest.fixture
def say(robmed: Robmed, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command; its exit code, what it printed and what it complained of."""
    del robmed
    from robustbench_med import cli

    def call(*arguments: str) -> Said:
        code = cli.main(list(arguments))
        printed = capfd.readouterr()
        return code, printed.out, printed.err.splitlines()

    return call


@pytest.fixture
def baseline(say: Callable[..., Said]) -> None:
    code, out, lines = say("check", "--update")
    assert code == 0, (out, lines)


def stored() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path("baseline").iterdir())}


def test_without_a_baseline_nothing_is_judged(say: Callable[..., Said]) -> None:
    code, out, lines = say("check", "--junit", "j.xml", "--summary", "s.md")
    assert (code, out, len(lines)) == (2, "", 1)
    assert "robmed check --update" in lines[0]
    suite = ElementTree.parse("j.xml").getroot()[0]
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    assert "cannot be judged" in Path("s.md").read_text()


def test_unchanged(
    baseline: None, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del baseline
    assert list(stored()) == ["pgd-seed0.json", "pgd-seed1.json", "pgd-seed2.json"]
    (tmp_path / "page").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    shutil.rmtree("runs")  # another machine
    code, out, lines = say("check", "--junit", "j.xml", "--summary", "s.md")
    assert (code, lines) == (0, [])
    verdicts = [line for line in out.splitlines() if line.startswith("passed")]
    assert len(verdicts) == 3  # clean, robust, the attack's strength
    root = ElementTree.parse("j.xml").getroot()
    assert [s.get("tests") for s in root] == ["3"]
    assert [s.get("failures") for s in root] == ["0"]
    page = (tmp_path / "page").read_text()
    assert page == f"before\n{Path('s.md').read_text()}\n"
    assert page.count("| passed |") == 3


def test_weaker_weights_fail(baseline: None, say: Callable[..., Said]) -> None:
    del baseline
    weights(1.0)
    code, out, _ = say("check", "--junit", "j.xml")
    assert code == 1
    assert "FAILED    robust, every head right: fell by" in out
    assert "note      weights: " in out
    assert ElementTree.parse("j.xml").getroot()[0].get("failures") == "1"


@pytest.mark.parametrize(("audit", "status"), [("quick", 0), ("none", 1)])
def test_a_better_net_passes_with_an_audit(
    audit: str, status: int, baseline: None, say: Callable[..., Said]
) -> None:
    del baseline
    asks(audit=audit)
    weights(0.0)
    code, out, _ = say("check")
    assert code == status, out
    assert ("the audit is sound" if status == 0 else "no audit was made") in out


def test_another_attack_is_refused_and_so_is_its_baseline(baseline: None, say: Callable[..., Said]) -> None:
    """Fewer steps: not judged, and not made the baseline, unless somebody says why."""
    del baseline
    before = stored()
    weak = {"attack": "pgd", "options": {"steps": 1, "step_size": 0.001}, "eps": "8/255"}
    asks(attacks=[weak])
    code, out, lines = say("check")
    assert (code, len(lines)) == (2, 1)
    assert "run   " not in out  # before the attack, not after
    assert "steps: 10 before, 1 now" in lines[0]
    assert "robmed check --update" in lines[0]
    code, out, _ = say("check", "--update")
    assert code == 1
    assert "attack, steps: 10 -> 1" in out
    assert "DOUBT     pgd: it is weaker than fgsm" in out
    assert "DOUBT     pgd: it leaves" in out
    assert stored() == before
    assert say("check", "--update", "--accept", "a drill")[0] == 0
    code, out, _ = say("check")
    assert "in doubt: a drill" in out
    assert code == 1  # it is still weaker than one step of fgsm


@pytest.mark.parametrize(
    "attack",
    [
        {"attack": "fgsm", "eps": "8/255"},
        {"attack": "pgd", "options": {"steps": 10}, "eps": "4/255"},
        {"attack": "pgd", "options": {"steps": 10}, "eps": "8/255", "norm": "l2"},
    ],
)
def test_a_baseline_of_another_attack_or_radius(
    attack: dict[str, Any], baseline: None, say: Callable[..., Said]
) -> None:
    del baseline
    asks(attacks=[attack])
    code, out, lines = say("check")
    assert (code, len(lines)) == (2, 1)
    assert "run   " not in out  # before the attack, not after
    assert "robmed check --update" in lines[0]


def handed_back(self: PGD, target: Target, batch: Batch) -> dict[str, torch.Tensor]:
    del self, target
    return dict(batch.inputs)


@pytest.mark.parametrize("audit", ["quick", "none"])
def test_an_attack_that_does_nothing_fails(
    audit: str, baseline: None, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same name, options and version: its code was broken."""
    del baseline
    monkeypatch.setattr(PGD, "perturb", handed_back)
    asks(audit=audit, out="elsewhere")
    code, out, _ = say("check")
    assert code == 1
    assert "FAILED    robust, every head right: rose by" in out
    assert "FAILED    attack: it is weaker than fgsm" in out
    assert ("FAILED    audit: not sound" in out) is (audit == "quick")


def test_an_attack_that_does_nothing_hides_no_fall(
    baseline: None, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weaker weights and a broken attack: the number may be as before, the attack's strength is not."""
    del baseline
    weights(1.0)
    monkeypatch.setattr(PGD, "perturb", handed_back)
    asks(margins={"robust": 0.9}, out="elsewhere")
    code, out, _ = say("check")
    assert code == 1
    assert "passed    robust" in out
    assert "FAILED    attack: it is weaker than fgsm" in out


def test_a_random_net_against_itself(say: Callable[..., Said]) -> None:
    asks(defenses=["gaussian-noise:sigma=0.05"], draws=4)
    assert say("check", "--update")[0] == 0
    shutil.rmtree("runs")
    assert say("check")[0] == 0


def test_three_seeds_are_run_where_one_is_too_close(baseline: None, say: Callable[..., Said]) -> None:
    """The margin is the very fall: one seed is too few, and equality passes."""
    del baseline
    weights(0.36)
    say("check")
    records = [json.loads(path.read_text()) for path in Path("runs").glob("*-pgd-*/record.json")]
    old = json.loads(Path("baseline/pgd-seed0.json").read_text())
    new = next(r for r in records if r["model"]["weights_sha256"] != old["model"]["weights_sha256"])
    before, after = (r["accuracy"]["every head right"]["robust"]["value"] for r in (old, new))
    assert before > after
    asks(margins={"robust": before - after})
    code, out, _ = say("check")
    assert "3 attack seeds" in out
    assert "run       Net under pgd, seed 2" in out
    assert code == 0, out
    for further in (1, 2):
        Path(f"baseline/pgd-seed{further}.json").unlink()
    code, out, _ = say("check")
    assert code == 2
    assert "UNDECIDED robust, every head right" in out


def test_one_record_as_baseline(say: Callable[..., Said]) -> None:
    asks(baseline="base.json")
    assert say("check", "--update")[0] == 0
    assert json.loads(Path("base.json").read_text())["attack"]["name"] == "pgd"
    assert say("check")[0] == 0
    asks(baseline="base.json", attacks=["pgd", "fgsm"])
    code, _, lines = say("check")
    assert (code, len(lines)) == (2, 1)
    assert "name a folder" in lines[0]


def test_several_attacks_are_judged_each(say: Callable[..., Said]) -> None:
    attacks = [*ASKED["attacks"], {"attack": "fgsm", "eps": "8/255"}, {"attack": "fgsm", "name": "far"}]
    asks(attacks=attacks, margins={"heads": 0.05})
    assert say("check", "--update")[0] == 0
    assert list(stored())[:2] == ["far-seed0.json", "far-seed1.json"]
    code, out, _ = say("check")
    assert code == 0
    assert out.count("passed    clean, every head right") == 3
    assert out.count("passed    robust, label") == 3


def test_the_folder_of_a_baseline_is_its_own(baseline: None, say: Callable[..., Said]) -> None:
    del baseline
    Path("baseline/README.md").write_text("mine")
    Path("baseline/gone-seed0.json").write_text(Path("baseline/pgd-seed0.json").read_text())
    assert say("check", "--update")[0] == 0
    assert list(stored()) == ["README.md", "pgd-seed0.json", "pgd-seed1.json", "pgd-seed2.json"]
    for other in ("results.csv", "more"):
        place = Path("baseline") / other
        place.mkdir() if other == "more" else place.touch()
        code, _, lines = say("check", "--update")
        assert (code, len(lines)) == (2, 1)
        assert "holds other things" in lines[0]
        shutil.rmtree(place) if other == "more" else place.unlink()
    asks(baseline=".")
    assert say("check", "--update")[0] == 2
    assert Path("net.py").exists()


def test_what_is_interrupted_changes_no_baseline(
    baseline: None, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    del baseline
    from robustbench_med.studies.run import run_prepared

    made, before = [], stored()
    real = run_prepared

    def interrupted(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        if len(made) > 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    weights(0.5)
    monkeypatch.setattr("robustbench_med.studies.gate.run_prepared", interrupted)
    code, _, lines = say("check", "--update")
    assert code == 130
    assert "the same command goes on" in lines[0]
    assert stored() == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"atacks": ["pgd"]}, "did you mean 'attacks'"),
        ({"attacks": []}, "attacks is empty"),
        ({"attacks": ["pgd", "pgd"]}, "two attacks are called 'pgd'"),
        ({"attacks": ["pgd,fgsm"]}, "is several attacks"),
        ({"attacks": ["pdg"]}, "did you mean 'pgd'"),
        ({"attacks": [{"attack": "pgd", "step": 3}]}, "step"),
        ({"attacks": [{"attack": "pgd", "options": {"stepz": 3}}]}, "did you mean 'steps'"),
        ({"margins": {"robust": 2}}, "between 0 and 1"),
        ({"margins": {"robustt": 0.1}}, "robustt"),
        ({"audit": "quik"}, "did you mean 'quick'"),
        ({"watch": "fgsn"}, "did you mean 'fgsm'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"weights": "nett.safetensors"}, "did you mean net.safetensors"),
        ({"data": "sett.npz"}, "did you mean set.npz"),
        ({"baseline": ""}, "the baseline is empty"),
    ],
)
def test_bad_input_is_one_line(changes: dict[str, Any], complaint: str, say: Callable[..., Said]) -> None:
    asks(**changes)
    for flags in (("--update",), ()):
        code, _, lines = say("check", *flags)
        assert (code, len(lines)) == (2, 1), lines
        assert complaint in lines[0] or (not flags and "no baseline" in lines[0])
    assert not Path("baseline").exists()


def test_what_is_foreign_is_escaped(baseline: None, say: Callable[..., Said]) -> None:
    """A baseline comes with a pull request: what it says steers neither terminal, page nor XML."""
    del baseline
    path = Path("baseline/pgd-seed0.json")
    record = json.loads(path.read_text())
    record["model"]["label"] = "a|b<script>\x1b[31m\u202e\x00\uffff]]>"
    path.write_text(json.dumps(record))
    code, out, _ = say("check", "--junit", "j.xml", "--summary", "s.md")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    said = "".join(ElementTree.parse("j.xml").getroot().itertext())
    assert "<script>" in said
    page = Path("s.md").read_text()
    assert "\\<script\\>" in page
    assert "a\\|b" in page


def test_accept_goes_with_update(say: Callable[..., Said]) -> None:
    assert say("check", "--accept", "x")[0] == 2
    Path("robmed.yaml").unlink()
    assert "robmed init" in say("check")[2][0]
