"""What an audit works with: thresholds, configuration, findings, and a part of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor

from robustbench_med.api.attack import Attack, Evaluation, Passes, Target
from robustbench_med.api.objective import Goal, Loss
from robustbench_med.evaluation.batches import Plan, evaluate, load_batch
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure.accuracy import correct, headline
from robustbench_med.measure.verdict import SOUND, UNAUDITED
from robustbench_med.util.fields import STRICT
from robustbench_med.util.files import sha256_json
from robustbench_med.util.seeding import derive


@dataclass(frozen=True)
class Thresholds:
    """Where a check fails, each with its reason.

    Attributes:
        zero_gradients: share of samples whose gradient is exactly zero. No sound network has any: in
            float32 a cross-entropy must be right by some 100 logits for that.
        zero_entries: share of a gradient's entries that are exactly zero. Backgrounds and dead units give
            a sound network many; steps in front of the whole image give nearly all.
        faithful: share of the margin's changes along random directions that the gradient explains, on all
            but the worst quarter of the samples. All but rounding and kinks in a sound network (0.99 and
            more); 0.8 where an eighth of the pixels is left out.
        uphill: share of samples on which a small step along the gradient raises the margin. What is
            differentiable rises to first order; plateaus and shattered gradients do not (Athalye et al.
            2018, section 3).
        small_step: that step, as a share of epsilon.
        unsteady: share of samples that stand although a random step of half of epsilon moves the margin as
            far as the gradient's own step of that length. In a sound network the gradient's step moves it
            further by about the root of the number of pixels; where it does not, the attack was blind
            (loss variability, Pintor et al. 2022, arXiv:2106.09947).
        repeatable: by how much of their range logits may change when the same pass, on the same draws, is
            made again or in another batch. Beyond rounding, of half precision at most, only what is not
            declared can change them.
        stronger: by how much (in share of samples) another attack may be stronger before this run's
            counts as weak, on top of chance. Weaker kinds of attack have no business being stronger at
            all (Carlini et al. 2019, section 4).
        refined: the same for attacks that cost more than the run's, which may well gain a little.
            A number further off than this is no longer the one that is reported. So it is for samples
            that an attack breaks on its way and hands back unbroken.
        together: by how much the best of all attacks, chosen for each sample, may be stronger than the
            run's. Every attack misses a few samples; one that misses many was not the worst case.
    """

    zero_gradients: float = 0.0
    zero_entries: float = 0.98
    faithful: float = 0.95
    uphill: float = 0.9
    small_step: float = 0.05
    unsteady: float = 0.1
    repeatable: float = 0.01
    stronger: float = 0.002
    refined: float = 0.02
    together: float = 0.05


@dataclass(frozen=True)
class Other:
    """Another attack to compare with.

    Attributes:
        role: how the evidence calls it.
        attack: name, as in ``--attack``.
        options: its fields.
        refined: True for one that is costlier than most headline attacks (see ``Thresholds.refined``).
        eot: least number of draws behind its gradients on a random model; else it has the run's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    role: str
    attack: str
    options: Mapping[str, Any] = field(default_factory=dict)
    refined: bool = False
    eot: int = 1


@dataclass(frozen=True)
class AuditConfig:
    """What an audit runs.

    Attributes:
        samples: at most so many of the run's.
        others: attacks that must not be stronger than the run's.
        strong: the attack that is to break everything when nothing bounds it.
        longer: factor on the steps of the run's attack.
        more_draws: factor on its EOT draws.
    """

    others: tuple[Other, ...]
    strong: Other
    samples: int = 100
    longer: int = 4
    more_draws: int = 4


@dataclass(frozen=True)
class Finding:
    """One check: whether it passed, and on what evidence."""

    check: str
    passed: bool
    evidence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """All findings on a run and what they add up to.

    Attributes:
        complete: False when only the cheap checks were made.
        samples: how many of the run's were looked at.
        forward, backward, seconds: what it cost.
    """

    complete: bool
    findings: tuple[Finding, ...]
    samples: int
    forward: int
    backward: int
    seconds: float

    @property
    def verdict(self) -> str:
        """ "sound", or the names of the failed checks; "unaudited" if few were made and none failed."""
        failed = ", ".join(f.check for f in self.findings if not f.passed)
        return failed or (SOUND if self.complete else UNAUDITED)

    def as_record(self) -> dict[str, Any]:
        """For the run's record."""
        return {"verdict": self.verdict, **asdict(self)}


class Bench:
    """What checks work with: a part of the run, and a way to run other attacks on it.

    Attributes:
        plan: the run's, on the first samples of its split.
        right: (R, N) which of them the run's attack left right, on each scoring draw.
        tried: the same of every other attack so far within the run's threat model.
    """

    def __init__(
        self,
        plan: Plan,
        outcomes: Outcomes,
        config: AuditConfig,
        make: Callable[[str, Mapping[str, Any]], Attack],
        folder: Path,
        announce: Callable[[str], None],
        thresholds: Thresholds,
    ) -> None:
        count = min(config.samples, len(plan.split))
        self.plan = replace(plan, split=plan.split.take(np.arange(count)))
        self.config, self.make, self.folder, self.announce = config, make, folder, announce
        self.thresholds, self.passes = thresholds, Passes()
        self.outcomes = outcomes
        self.right = correct(outcomes.adversarial, outcomes.labels, plan.goal)[headline(plan.goal)][:, :count]
        self.clean = correct(outcomes.clean, outcomes.labels, plan.goal)[headline(plan.goal)][:, :count]
        self.batch = load_batch(self.plan.split, np.arange(count), plan.device)
        self.tried: list[NDArray[np.bool_]] = []

    def under(self, title: str, **changes: Any) -> NDArray[np.bool_]:
        """(R, N): what is right under the plan with ``changes``; kept on disk for after a kill."""
        plan = replace(self.plan, **changes)
        self.announce(title)
        attack = {"class": type(plan.attack).__name__, **asdict(plan.attack)}  # type: ignore[call-overload]
        samples = plan.split.fingerprint  # audits of other sizes may have left parts here
        key = sha256_json([attack, asdict(plan.threat), plan.eot, plan.goal.head, samples])[:12]
        outcomes = evaluate(plan, self.folder / key, lambda _: None)
        self.passes.forward += outcomes.forward
        self.passes.backward += outcomes.backward
        right = correct(outcomes.adversarial, outcomes.labels, plan.goal)[headline(plan.goal)]
        if plan.threat == self.plan.threat:
            self.tried.append(right)
        return right

    def target(self) -> Target:
        """The model under the run's threat model, its draws started anew."""
        plan = self.plan
        plan.model.eval().requires_grad_(False)
        plan.model.noise.reseed(derive(plan.seed, "audit"))
        seed = derive(plan.seed, "audit")
        return Target(plan.model, plan.threat, plan.goal, plan.eot, seed, self.passes, plan.batch_size)

    def look(
        self, inputs: Mapping[str, Tensor], loss: Loss, gradient: bool = True, goal: Goal | None = None
    ) -> Evaluation:
        """Loss and gradient, on the same draws every time; of the run's goal, or of another."""
        target = replace(self.target(), raw_gradients=True, goal=goal or self.plan.goal)
        return target.evaluate(inputs, self.batch.labels, loss, gradient)


class Check(Protocol):
    """What can be asked about a run."""

    __name__: str

    def __call__(self, bench: Bench) -> Iterator[Finding]: ...


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"
