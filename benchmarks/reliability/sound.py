"""The sound files that cases spoil: one of every kind, small, made by the commands themselves."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from benchmarks.reliability import publishers
from benchmarks.reliability.files import save_image, save_table
from benchmarks.reliability.process import begin, execute, finish
from robustbench_med.data.milk10k import LARGE_CLASSES, PUBLISHED_COUNTS

PROTOCOL = """\
model: concat
attack: pgd
dataset: pair
eps: 4/255
norm: linf
modality: [a, b]
head: any
defenses: []
attack_options: {steps: 1, restarts: 1, loss: cross-entropy, keep: best, random_start: true, step_size: 1/255}
eot: 1
draws: 2
samples: 4
batch_size: 4
seed: 0
device: cpu
out: out
"""
RANDOM = "model: concat\nattack: pgd\ndataset: pair\ndefenses: ['gaussian-noise:sigma=0.1']\nsamples: 8\n"
RANDOM += "attack_options: {steps: 1}\neot: 2\ndraws: 2\nbatch_size: 4\n"
MODEL = "name: own\ntitle: My own\narchitecture: concat\noptions: {width: 0.03125, dropout: 0.25}\n"
MODEL += "defenses:\n  - {name: gaussian-noise, options: {sigma: 0.1}}\nadded: []\n"
SUITE = "title: A question\ndatasets: [pair]\nmodels: [concat]\n"
SUITE += "runs:\n  - {protocol: protocol.yaml, audit: '', samples: 4, batch_size: 4, title: one}\n"
AUDIT = """\
samples: 4
longer: 2
more_draws: 2
strong: {role: unbounded, attack: pgd, options: {steps: 2, loss: margin}, refined: false, eot: 1}
others:
  - {role: one step, attack: fgsm}
"""
RECIPE = """\
model: concat
model_options: {width: 0.03125}
dataset: pair
epochs: 1
batch_size: 12
learning_rate: 1.0e-3
weight_decay: 0.01
warmup: 0.1
noise_warmup: 0.0
class_balance: 1.0
label_smoothing: 0.0
norm_momentum: 0.1
gradient_clip: 1.0
patience: 5
seed: 0
threads: 1
channels_last: false
device: cpu
augmentation: {mirror: true, shift: 0.1, rotate: 5, zoom: 0.1, contrast: 0.1, brightness: 0.1}
adversarial: {attack: pgd, eps: 4/255, norm: linf, options: {steps: 1}, eot: 1, warmup: 0.0}
"""
GATE = """\
model: concat
weights: weights/pair/concat-x0.03125.safetensors
data: pair
attacks:
  - {attack: pgd, options: {steps: 2}, eps: 4/255, norm: linf, modality: [a, b], head: any, eot: 1, name: one}
defenses: []
samples: 8
draws: 1
batch_size: 2
seed: 0
seeds: 2
device: cpu
audit: none
watch: none
baseline: baseline
margins: {clean: 0.02, robust: 0.02}
out: out
"""
LONG = RECIPE.replace("epochs: 1", "epochs: 6").replace("batch_size: 12", "batch_size: 4")
TEXTS = {
    "long": LONG,
    "protocol": PROTOCOL,
    "random": RANDOM,
    "model": MODEL,
    "suite": SUITE,
    "audit": AUDIT,
    "recipe": RECIPE,
    "gate": GATE,
}
BASELINE = "baseline/one-seed0.json"
WEIGHTS = "weights/pair/concat-x0.03125.safetensors"
CARD = "weights/pair/concat-x0.03125.json"
NETS = ("weights/pair",)
CERTIFY = (
    *("--model", "concat", "--dataset", "pair", "--sigma", "0.1"),
    *("--n", "20", "--n0", "5", "--samples", "4"),
)


def run_on(dataset: str) -> tuple[str, ...]:
    """A run of a second."""
    weights = () if dataset == "pair" else ("--weights", f"weights/{dataset}/{Path(WEIGHTS).name}")
    more = (*weights, "--dataset", dataset, "--samples", "4", "--steps", "1", "--out", "out")
    return ("run", "--model", "concat", "--attack", "pgd", *more)


RUN = run_on("pair")
FLAGS = RUN[1:]


def make(root: Path) -> None:
    """Make them below ``root``, in a child each, so that this process stays fit to fork."""
    plug_in(root / "plugins", {"datasets": {"pair": "benchmarks.reliability.plugins:Pair"}})
    sys.path.insert(0, str(root / "plugins"))
    for name, text in TEXTS.items():
        (root / f"{name}.yaml").write_text(text, "utf-8")
    (root / "odd.yaml").write_text(
        "model: concat\nmodel_options: {width: 0.03125}\ndataset: odd\nepochs: 1\n", "utf-8"
    )
    plain = RECIPE.replace("adversarial: {", "# {")
    (root / "narrow.yaml").write_text(
        "name: concat\narchitecture: concat\noptions: {width: 0.03125}\n", "utf-8"
    )
    (root / "plain.yaml").write_text(plain, "utf-8")
    _do(root, "train", "plain.yaml", "--out", "weights/pair")
    for seed in (0, 1):
        _do(root, "run", "protocol.yaml", "--out", "runs", "--seed", str(seed))
    for name, folder in zip(("old", "new"), sorted(root.glob("runs/concat-*")), strict=True):
        shutil.copytree(folder, root / name)
    shutil.copy(root / "runs/leaderboard.csv", root / "board.csv")
    _do(root, "certify", *CERTIFY, "--out", "runs")
    _do(root, "check", "--config", "gate.yaml", "--update")
    _checkpoint(root)
    milk10k(root / "milk")
    mri_ct(root / "slices")
    publishers.download(root / "pad")
    _do(root, "data", "import", publishers.NAME, "--from", "pad", "--option", "size=28")
    for name, source in (("milk10k", "milk"), ("mri-ct", "slices")):
        _do(root, "data", "import", name, "--from", source, "--option", "size=28")
        (root / f"{name}.yaml").write_text(plain.replace("dataset: pair", f"dataset: {name}"), "utf-8")
        _do(root, "train", f"{name}.yaml", "--out", f"weights/{name}")


def _do(root: Path, *arguments: str) -> None:
    done = execute(arguments, root, limit=60)
    if done.code != 0:
        raise RuntimeError(f"robmed {' '.join(arguments)} should work: {done.err or done.out}")


def _checkpoint(root: Path) -> None:
    """What a training leaves that is killed after its first epoch."""
    begun = begin(("train", "long.yaml", "--out", "cut"), root, limit=60)
    started = time.monotonic()
    left = root / "cut/.concat-x0.03125.checkpoint"
    while not left.exists():
        if time.monotonic() - started > 60:
            raise RuntimeError(f"robmed train left no checkpoint: {finish(begun).err}")
        time.sleep(0.005)
    os.kill(begun.child, signal.SIGKILL)
    finish(begun, end=(0.0, signal.SIGKILL))
    shutil.copyfile(left, root / "checkpoint")


def plug_in(folder: Path, entries: dict[str, dict[str, str]], name: str = "reliability-plugins") -> None:
    """A package's metadata as an installer leaves it."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", "utf-8")
    lines = [
        f"[robustbench_med.{group}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items())
        for group, each in entries.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")


def milk10k(folder: Path, per_class: int = 6) -> None:
    """A folder in MILK10k's layout."""
    classes = LARGE_CLASSES
    labels: list[dict[str, str]] = []
    metadata: list[dict[str, str]] = []
    rest = {"age_approx": "45.0", "sex": "female", "skin_tone_class": "3", "site": "trunk"}
    for number in range(per_class * len(classes)):
        lesion, label = f"IL_{number:04d}", classes[number % len(classes)]
        labels.append({"lesion_id": lesion, **{name: str(float(name == label)) for name in PUBLISHED_COUNTS}})
        for which, kind in enumerate(("clinical: close-up", "dermoscopic")):
            image = f"ISIC_{2 * number + which:04d}"
            metadata.append({"lesion_id": lesion, "image_type": kind, "isic_id": image, **rest})
            save_image(
                folder / "MILK10k_Training_Input" / lesion / f"{image}.jpg", 2 * number + which, colour=True
            )
    save_table(folder / "MILK10k_Training_GroundTruth.csv", labels)
    save_table(folder / "MILK10k_Training_Metadata.csv", metadata)


def mri_ct(folder: Path) -> None:
    """Both downloads of mri-ct."""
    seed = 1000
    for part, count in (("Training", 8), ("Testing", 2)):
        for label in ("glioma", "meningioma", "notumor", "pituitary"):
            for number in range(count):
                seed += 1
                save_image(
                    folder / "brain_tumor_mri" / part / label / f"{part[:2]}-{label[:2]}_{number}.png", seed
                )
    inner = folder / "iqothnccd_lung_ct" / "The IQ-OTHNCCD lung cancer dataset"
    for label in ("Bengin", "Malignant", "Normal"):
        for number in range(10):
            seed += 1
            save_image(inner / f"{label} cases" / f"{label} case ({number + 1}).png", seed)


def lay_out(root: Path, needs: tuple[str, ...], folder: Path) -> None:
    """Copies of some of the sound files in the folder of a case."""
    for need in needs:
        source, target = root / need, folder / need
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
