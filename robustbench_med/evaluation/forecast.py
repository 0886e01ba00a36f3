"""What a run will cost, before it is made: passes by letting its attack loose on a stand-in, time and memory
by one pass of the model itself."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_med.api.attack import Batch, Passes
from robustbench_med.api.losses import cross_entropy
from robustbench_med.api.model import DrawsSharedBy, FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.api.randomness import RandomLayer
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.util.seeding import derive

ROWS = 20  # of the pass that is timed
REPEATS = 3
COPIES = 4  # of the model: as it was loaded, and in its three roles
SLOPE = 1e-4


class _Draws(RandomLayer):
    """Makes a stand-in as random as the model; it draws nothing."""

    def __init__(self, shared_by: DrawsSharedBy) -> None:
        super().__init__()
        self.random = shared_by != "none"
        self.shared_by = "batch" if shared_by == "batch" else "element"

    @property
    def is_random(self) -> bool:
        return self.random


class Unyielding(FusionModel):
    """Answers right whatever it is shown, with a slight slope: no attack on it ends early.

    Args:
        like: the model in whose place it stands.
        batch: the samples whose answers it knows; it gives those of the first to all others.
    """

    def __init__(self, like: FusionModel, batch: Batch, goal: Goal) -> None:
        super().__init__(list(like.takes.values()), list(like.answers.values()))
        self.differentiable = like.differentiable
        self.draws = _Draws(like.draws_shared_by)
        right = _right_scores(batch, goal, {head.name: head.columns[0] for head in like.answers.values()})
        self.right = nn.ParameterDict(
            {name: nn.Parameter(z, requires_grad=False) for name, z in right.items()}
        )
        self.adopt_random_layers()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = torch.stack([x.flatten(1).mean(1) for x in inputs.values()]).sum(0)
        return {
            name: z + SLOPE * seen[:, None] * torch.arange(1, len(z) + 1, device=z.device)
            for name, z in self.right.items()
        }


def _right_scores(batch: Batch, goal: Goal, columns: Mapping[str, int]) -> dict[str, Tensor]:
    """Scores by head (columns,) with which the first sample is right by far."""
    first = batch.take(torch.zeros(1, dtype=torch.long, device=batch.device))
    leaves = {
        name: torch.zeros(1, count, device=batch.device, requires_grad=True)
        for name, count in columns.items()
    }
    for _ in range(30):
        loss = Goal(goal.heads).loss(cross_entropy, leaves, first.labels, None).sum()
        slopes = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        with torch.no_grad():
            for leaf, slope in zip(leaves.values(), slopes, strict=True):
                leaf -= 3 * slope
    return {name: leaf.detach()[0] * 10 for name, leaf in leaves.items()}


@dataclass(frozen=True)
class Cost:
    """Of something done to one sample.

    Attributes:
        forward, backward: passes.
    """

    forward: float
    backward: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.forward * factor, self.backward * factor)


FREE = Cost(0, 0)


def attack_cost(plan: Plan) -> Cost:
    """The most passes that the attack of a plan makes for a sample: those for one that resists to the end.

    Raises:
        UserError: the attack cannot express this threat model or this model.
    """
    batch = load_batch(plan.split, np.zeros(1, np.int64), plan.device)
    model = Unyielding(plan.model, batch, plan.goal).to(plan.device).eval()
    passes = Passes()
    target = replace(plan, model=model, eot=1).target(model, derive(plan.seed, "attack"), passes)
    plan.attack.perturb(target, batch)
    return Cost(passes.forward, passes.backward) * plan.eot


def scoring_cost(plan: Plan) -> Cost:
    """The passes that score a sample: clean, found on two copies, and of a random model to choose by."""
    random = plan.model.draws_shared_by != "none"
    return Cost((4 if random else 3) * plan.draws, 0)


@dataclass(frozen=True)
class Pass:
    """A pass of the model on this machine.

    Attributes:
        forward, both: seconds a sample, forwards alone and with the way back.
        memory: bytes that a worker has in use while a batch goes forth and back, about.
    """

    forward: float
    both: float
    memory: int

    def seconds(self, cost: Cost) -> float:
        """Of some passes; each backward one goes with a forward one."""
        return cost.backward * self.both + max(cost.forward - cost.backward, 0) * self.forward


def time_pass(plan: Plan) -> Pass:
    """Time the model on a few samples; medians, after one pass that warms up."""
    rows = min(ROWS, len(plan.split), plan.batch_size)
    batch = load_batch(plan.split, np.arange(rows), plan.device)
    model = plan.fresh()
    model.noise.key([derive(plan.seed, "time", sample) for sample in batch.ids])
    forward = _median(lambda: _forward(model, batch), plan.device) / rows
    graded = model.differentiable
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        both = _median(lambda: _both(model, batch), plan.device) / rows if graded else forward
    inputs = sum(x.nbytes for x in batch.inputs.values())
    activations = (saved.bytes / (REPEATS + 1) + 4 * inputs) / rows * min(plan.batch_size, len(plan.split))
    weights = sum(p.nbytes for p in model.parameters())
    return Pass(forward, both, int(_in_use() + COPIES * weights + activations))


class _Saved:
    """Counts what is kept for the way back."""

    bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        self.bytes += tensor.nbytes
        return tensor


def _forward(model: FusionModel, batch: Batch) -> None:
    with torch.inference_mode():
        model(batch.inputs)


def _both(model: FusionModel, batch: Batch) -> None:
    leaves = {name: x.detach().requires_grad_() for name, x in batch.inputs.items()}
    scores = model(leaves)
    total = torch.stack([z.float().sum() for z in scores.values()]).sum()
    if total.requires_grad:
        torch.autograd.grad(total, list(leaves.values()), allow_unused=True)


def _median(call: Callable[[], None], device: str) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        call()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _in_use() -> int:
    """The most memory this process had in use, in bytes."""
    try:
        import resource
    except ImportError:  # on Windows; then only what comes on top of it is told
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
