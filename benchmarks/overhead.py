"""What the harness costs: wall time of a run over the bare cost of the passes it makes.

Bare passes and runs take turns in one process, on the same model and batch, and medians are
compared. Exits with 1 when a run takes more than 1.10 times its passes, with Square, whose proposals
are made on a small net, 1.25 times.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.threat import Budget, ThreatModel
from robustbench_med.data.catalog import load_dataset
from robustbench_med.evaluation.attacks import ATTACKS
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.models.layout import lay_channels_last
from robustbench_med.models.named import build_model, model_config

WIDTH, DRAWS = 0.25, 10


@dataclass(frozen=True)
class Case:
    """What is timed, and how many times its passes it may take."""

    model: str
    attack: Attack
    eot: int = 1
    limit: float = 1.10


@dataclass(frozen=True)
class Timing:
    """Medians of seconds on the whole batch: a run, a pass forward and back, one forward.

    Attributes:
        scored: passes a sample that scored it.
    """

    run: float
    both: float
    forward: float
    outcomes: Outcomes
    scored: int

    @property
    def ratio(self) -> float:
        """Wall time of the run over that of its bare passes."""
        samples = len(self.outcomes.ids)
        backward = self.outcomes.backward / samples
        forward_only = self.outcomes.forward / samples - backward + self.scored
        return self.run / (backward * self.both + forward_only * self.forward)


def main() -> int:
    """Print one line a model; 1 when any is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100, help="size of the one batch")
    parser.add_argument(
        "--steps", type=int, default=20, help="of PGD, its default; Square has 10 queries a step"
    )
    parser.add_argument("--rounds", type=int, default=5, help="repetitions")
    options = parser.parse_args()
    square = ATTACKS.get("square")(queries=10 * options.steps)  # type: ignore[call-arg]
    pgd = ATTACKS.get("pgd")(steps=options.steps)  # type: ignore[call-arg]
    cases = (Case("mail", pgd), Case("robust-mail", pgd, eot=2), Case("early", square, limit=1.25))
    over = False
    for case in cases:
        timing = measure(plan(case, options.samples), options.rounds)
        over |= timing.ratio > case.limit
        print(
            f"{case.model}, {type(case.attack).__name__} (EOT {case.eot}): run {timing.run:.3f} s, "
            f"forward and backward {timing.both * 1e3:.1f} ms, forward {timing.forward * 1e3:.1f} ms, "
            f"ratio {timing.ratio:.3f}, limit {case.limit:.2f}",
            flush=True,
        )
    print(f"{torch.get_num_threads()} threads, {options.samples} samples")
    return int(over)


def plan(case: Case, samples: int) -> Plan:
    """An attack that breaks no sample, so that each of its passes is over the whole batch."""
    split = load_dataset("phantom").take(np.arange(samples))
    torch.manual_seed(0)
    model = build_model(model_config(case.model).with_options({"width": WIDTH}), split.info)
    model.eval().requires_grad_(False)
    lay_channels_last(model)  # as whoever loads one has it
    everyone = load_batch(split, np.arange(samples), "cpu")
    with torch.inference_mode():
        labels = {task: logits.argmax(1).numpy() for task, logits in model(everyone.inputs).items()}
    random = model.draws_shared_by != "none"
    return Plan(
        model=model,
        split=replace(split, labels=labels),
        attack=case.attack,
        name=type(case.attack).__name__.lower(),
        threat=ThreatModel({m.name: Budget("linf", 1e-6) for m in split.info.modalities}),
        goal=Goal(split.info.heads),
        eot=case.eot,
        draws=DRAWS if random else 1,
        batch_size=samples,
        seed=0,
        device="cpu",
    )


def measure(plan: Plan, rounds: int) -> Timing:
    """Time runs and bare passes in turns, after one round that warms up."""
    batch = load_batch(plan.split, np.arange(len(plan.split)), "cpu")
    outcomes: list[Outcomes] = []
    tasks: dict[str, Callable[[], object]] = {
        "both": lambda: forward_and_backward(plan.model, batch),
        "forward": lambda: forward_only(plan.model, batch.inputs),
        "run": lambda: outcomes.append(one_run(plan)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            # A pass is short beside the run it is compared with: time as many as the run makes.
            repeats = 1 if name == "run" else 10
            started = time.perf_counter()
            for _ in range(repeats):
                task()
            seconds[name].append((time.perf_counter() - started) / repeats)
    run, both, forward = (statistics.median(seconds[name][1:]) for name in ("run", "both", "forward"))
    # Clean inputs once; what the attack found on a fresh copy and on the one that was attacked; and of a
    # random model once more, to choose among attacks by.
    return Timing(run, both, forward, outcomes[-1], plan.draws * (4 if outcomes[-1].choosing else 3))


def one_run(plan: Plan) -> Outcomes:
    """The run as ``robmed run`` makes it, up to its outcomes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        return evaluate(plan, Path(folder), lambda _: None)


def forward_and_backward(model: FusionModel, batch: Batch) -> None:
    """One pass through the model and back to its inputs."""
    leaves = {name: x.detach().requires_grad_() for name, x in batch.inputs.items()}
    logits = model(leaves)
    losses = [F.cross_entropy(logits[task], labels) for task, labels in batch.labels.items()]
    torch.autograd.grad(torch.stack(losses).sum(), list(leaves.values()))


def forward_only(model: FusionModel, inputs: Mapping[str, Tensor]) -> None:
    """One pass through the model without a graph."""
    with torch.inference_mode():
        model(inputs)


if __name__ == "__main__":
    raise SystemExit(main())
