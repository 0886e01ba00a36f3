"""The command line: quick to answer, and what it prints can be read by people and programs."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Robmed

from robustbench_med import cli, flags
from robustbench_med.api.registry import Registry
from robustbench_med.completion import script
from robustbench_med.models.named import ARCHITECTURES
from robustbench_med.studies.listing import REGISTRIES
from robustbench_med.studies.sources import read_plugin
from robustbench_med.util.fields import fraction

HEAVY = ("torch", "numpy", "pandas", "matplotlib", "pydantic", "torchattacks", "art")
PROBE = f"""
import sys
from robustbench_med.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("loaded:", *[name for name in {HEAVY} if name in sys.modules])
"""


def test_help_imports_nothing_heavy() -> None:
    shown = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert "usage: robmed" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "loaded:"


def test_help_answers_at_once() -> None:
    """Under half a second; the best of three, since other processes may be busy."""
    call = [sys.executable, "-m", "robustbench_med.cli", "--help"]
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(call, capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


COMMANDS = (
    *(
        "run",
        "audit",
        "curve",
        "modalities",
        "suite",
        "check",
        "compare",
        "board",
        "verify",
        "refute",
        "submit",
    ),
    *("certify", "train", "data", "init", "convert", "list", "completion"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: robmed {command}" in capsys.readouterr().out


def test_no_command_is_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "usage: robmed [" in capsys.readouterr().out
    assert cli.main(["data"]) == 0
    assert "usage: robmed data [" in capsys.readouterr().out


def test_version_and_module() -> None:
    call = [sys.executable, "-m", "robustbench_med", "--version"]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout.startswith("robmed ")


RUN = "run --model concat --attack pgd"
MISTAKES = {
    "ruun": "unknown command 'ruun'; did you mean 'run'?",
    "concat": "that is a model; say robmed run --model concat",
    "adaptive": "that is a protocol; say robmed run adaptive",
    "net.py:make": "that is a net; say robmed run --model net.py:make",
    "data chek x": "unknown action 'chek'; did you mean 'check'?",
    "list model": "unknown kind 'model'; did you mean 'models'?",
    "run --modle concat": "robmed run has no flag --modle; did you mean --model?",
    f"{RUN} --stepz=3": "robmed run has no flag --stepz; did you mean --steps?",
    "data check phantom --pictur=a --wiht x": "robmed data check has no flag --wiht",
    "run adaptive concat": "'concat' is one word too many, and a model; did you mean --model concat?",
    "run concat": "'concat' is not a protocol but a model; say --model concat",
    "run pgd": "'pgd' is not a protocol but an attack; say --attack pgd",
    "run phantom": "'phantom' is not a protocol but a data set; say --dataset phantom",
    "run net.py:make": "'net.py:make' is not a protocol but a net; say --model net.py:make",
    "run data.csv": "'data.csv' is not a protocol but a path; say --data data.csv",
    "suite adaptive": "say robmed run adaptive",
    "train mail": "'mail' is not a recipe but a model; say --model mail",
    "train phantm": "unknown recipe 'phantm'; did you mean 'phantom'?",
    "run --model net.safetensors --attack pgd": "is not a model but a file of weights; say --weights net.saf",
    "run --model data.csv --attack pgd": "'data.csv' is not a model but a path; say --data data.csv",
    "run --model nett.py:make --attack pgd": "there is no file nett.py; did you mean net.py?",
    "run --model net.pth --attack pgd": "there is no file net.pth",
    "run --model modl.yaml --attack pgd": "modl.yaml does not exist; did you mean model.yaml?",
    "run --model concat --attack phantom": "'phantom' is not an attack but a data set; say --dataset phantom",
    "run --model concat --attack pgd,pdg": "unknown attack 'pdg'; did you mean 'pgd'?",
    f"{RUN} --dataset dta.csv": "there is no file or folder dta.csv; did you mean data.csv?",
    f"{RUN} --dataset net.py": "'net.py' is not a data set but a net; say --model net.py",
    f"{RUN} --with fantom --data phantom": "unknown data set 'fantom'; did you mean 'phantom'?",
    f"{RUN} --weights concat": "'concat' is not a file of weights but a model; say --model concat",
    f"{RUN} --weights nett.safetensors": "no weights file nett.safetensors; did you mean net.safetensors?",
    f"{RUN} --defense jpg": "unknown defense 'jpg'; did you mean 'jpeg'?",
    f"{RUN} --audit quik": "unknown audit 'quik'; did you mean 'quick'?",
    f"{RUN} --eps four": "--eps: 'four' is not a radius",
    f"{RUN} --mode evil": "did you mean 'eval'?",
    "certify --model conact --sigma 1": "unknown model 'conact'; did you mean 'concat'?",
    "data check fantom": "unknown data set 'fantom'; did you mean 'phantom'?",
    "data import fantom --from .": "unknown data set 'fantom'; did you mean 'phantom'?",
    "board dta.csv": "dta.csv does not exist; did you mean data.csv?",
    "run runn.yaml": "runn.yaml does not exist",
}
LOOKED_UP = """
import sys
from robustbench_med.cli import main
for line in sys.stdin.read().splitlines():
    try:
        code = main(line.split())
    except SystemExit as end:  # of argparse
        code = end.code
    print("END", code, "torch" in sys.modules, flush=True)
"""


def test_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each in one line that says what was meant, and neither errors nor lists wait for torch."""
    for name in ("net.py", "data.csv", "net.safetensors", "model.yaml"):
        (tmp_path / name).touch()
    lists = ["list", *(f"list {what}" for what in flags.LISTS), "completion bash", "completion zsh"]
    lines = "\n".join([*MISTAKES, *lists])
    call = [sys.executable, "-c", LOOKED_UP]
    done = subprocess.run(
        call, input=lines, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=100
    )
    ends = [line for line in done.stdout.splitlines() if line.startswith("END")]
    assert ends == ["END 2 False"] * len(MISTAKES) + ["END 0 False"] * len(lists)
    said = done.stderr.splitlines()
    assert len(said) == len(MISTAKES)
    for (call_, complaint), line in zip(MISTAKES.items(), said, strict=True):
        assert complaint in line, call_


@pytest.mark.parametrize("registry", [*REGISTRIES.values(), ARCHITECTURES], ids=lambda r: r.kind)
def test_what_lists_read_from_sources_is_so(registry: Registry[Any]) -> None:
    """The same line and the same defaults as the imported class has."""
    for name, entry in registry.entries().items():
        read, plugin = read_plugin(entry), registry.get(name)
        assert read is not None, name
        assert read[0] == (inspect.getdoc(plugin) or "").split("\n", 1)[0]
        known = fields(plugin) if is_dataclass(plugin) else ()
        defaults = {f.name: f.default for f in known if f.default is not MISSING}
        assert list(defaults) == list(read[1]), name
        for option, value in read[1].items():
            written = fraction(value) if isinstance(value, str) else value
            assert written == defaults[option], (name, option)


def test_everything_is_listed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for what, names in LISTED.items():
        assert what in out.splitlines()
        for name in names:
            assert any(re.match(rf"{name} +\w", line) for line in out.splitlines()), name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("robmed run --model con", ["concat", "concat-at", "concat-tuned"]),
        ("robmed run --model robust-mail-r", ["robust-mail-rpf"]),
        ("robmed c", ["curve", "check", "compare", "certify", "convert", "completion"]),
        ("robmed data che", ["check"]),
        ("robmed data import m", ["milk10k", "milk10k-record", "mri-ct"]),
        ("robmed run --data sars", ["sars-cov-2-ct"]),
        ("robmed run --mode e", ["eval"]),
        ("robmed suite rob", ["robust-mail"]),
        ("robmed run --no-r", ["--no-random-start"]),
    ],
)
def test_completion(words: str, expected: list[str], completer: Path) -> None:
    typed = words.split()
    asks = f"source {completer}; COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _robmed; "
    call = ["bash", "--norc", "-c", asks + 'echo "${COMPREPLY[@]}"']
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout.split() == expected


@pytest.fixture(scope="module")
def completer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    path = tmp_path_factory.mktemp("completion") / "robmed.bash"
    path.write_text(script("bash"))
    return path


LISTED = {
    "models": ["mail", "robust-mail", "robust-mail-rpf", "concat"],
    "attacks": ["fgsm", "pgd", "apgd", "fab", "square", "cw", "autoattack", "torchattacks", "art"],
    "defenses": ["attention-noise", "projection-filters"],
    "datasets": ["phantom", "milk10k", "milk10k-record", "mri-ct", "ham10000", "pad-ufes-20", "derm7pt"],
    "recipes": ["phantom-mail", "milk10k-concat"],
    "protocols": ["released", "eot", "adaptive", "standard"],
    "suites": ["robust-mail"],
    "audits": ["default", "quick"],
}


@pytest.mark.parametrize("what", flags.LISTS)
def test_lists(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line[:1].strip()]  # what wraps is indented
    assert set(LISTED[what]) <= set(names)
    assert len(names) == len(set(names))


def test_what_a_run_prints(
    weights: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--weights", str(weights["concat"]), "--samples", "4", "--steps", "2", "--out", str(tmp_path)]
    assert cli.main(["run", "--model", "concat", "--attack", "pgd", *flags]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    heads = ("lesion", "side", "every head right", "95 %", "F1", "AUROC")
    for text in ("synthetic", *heads, "4/255", "passes a sample", "UNAUDITED: the cheap"):
        assert text in printed.out
    tables = printed.out.partition("record  ")[0].splitlines()
    assert max(map(len, tables)) <= 80
    for name in ("record.json", "picture.png", "leaderboard.csv"):
        assert name in printed.out


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lesion, self.side = nn.Linear(1024, 4), nn.Linear(1024, 2)

    def forward(self, first, second):
        return self.lesion(first.flatten(1)), self.side(second.flatten(1))

def make():
    torch.manual_seed(0)
    return Net().eval()
"""


def test_guesses_are_said_before_the_attack(
    robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(OWN)

    class AttackedError(Exception):
        pass

    def attack(*_: object) -> None:
        raise AttackedError

    monkeypatch.setattr("robustbench_med.studies.run.evaluate", attack)
    flags = ["--model", f"{tmp_path / 'net.py'}:make", "--attack", "fgsm", "--samples", 4, "--out", tmp_path]
    for command in ("run", "curve", "modalities"):
        with pytest.raises(AttackedError):
            robmed(command, *flags)
        assert " ".join(capfd.readouterr().out.split()).startswith(
            "note: Net: forward(first, second): modalities mr, ct in this order; output 0 → lesion, output 1"
        )


def test_no_picture(robmed: Robmed, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(OWN)
    flags = ["--model", f"{tmp_path / 'net.py'}:make", "--attack", "fgsm", "--samples", 4, "--no-picture"]
    for command in ("run", "curve --radii 1/255", "modalities"):
        assert robmed(*command.split(), *flags, "--out", tmp_path / "runs") == (0, [])
    assert "picture" not in capfd.readouterr().out
    assert not list(tmp_path.rglob("*.png"))


def test_ctrl_c(robmed: Robmed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_med.studies.several.run_all", interrupt)
    code, lines = robmed("run", "--model", "concat", "--attack", "pgd", "--out", tmp_path)
    assert code == 130
    assert lines == ["robmed: interrupted; the same command goes on from here"]
    monkeypatch.setattr("robustbench_med.data.catalog.import_dataset", interrupt)
    code, lines = robmed("data", "import", "milk10k", "--from", ".")
    assert code == 130
    assert lines == ["robmed: interrupted; nothing was written"]


def test_any_option_of_an_attack_can_be_a_flag(
    robmed: Robmed, tmp_path: Path, weights: dict[str, Path]
) -> None:
    common = ("run", "--model", "concat", "--attack", "pgd", "--samples", 4, "--weights", weights["concat"])
    code, _ = robmed(*common, "--out", tmp_path, "--option", "steps=2", "--option", "random-start=false")
    assert code == 0
    record = json.loads(next(tmp_path.glob("*/record.json")).read_text())
    assert record["attack"]["steps"] == 2
    assert record["attack"]["random_start"] is False
    code, lines = robmed(*common, "--out", tmp_path, "--option", "stepz=2")
    assert (code, len(lines)) == (2, 1)
    assert "steps" in lines[0]


def test_a_model_file_has_its_own_say_over_the_card(
    robmed: Robmed, tmp_path: Path, weights: dict[str, Path]
) -> None:
    model = tmp_path / "robust-mail.yaml"
    model.write_text(
        "architecture: mail\noptions: {width: 0.03125, branch_norm: true}\n"
        "defenses: [{name: attention-noise, options: {std: 0.1}}]\n"
    )
    weights_flag = ("--weights", weights["robust-mail"])
    code, lines = robmed(
        "run", "--model", model, "--attack", "fgsm", "--samples", 4, *weights_flag, "--out", tmp_path
    )
    assert (code, lines) == (0, [])
    record = json.loads(next(tmp_path.glob("*/record.json")).read_text())
    assert record["model"]["defenses"][0]["options"] == {"std": 0.1}
