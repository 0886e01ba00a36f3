"""What an audit works with: its configuration, a part of the run, and a way to run other attacks on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor

from robustbench_med.api.attack import Attack, Evaluation, Passes, Target
from robustbench_med.api.losses import Loss
from robustbench_med.api.model import FusionModel
from robustbench_med.api.objective import Goal
from robustbench_med.audit.thresholds import Thresholds
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.batches import evaluate
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.plan import Plan, load_batch
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.verdict import Finding, verdict
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT
from robustbench_med.util.files import sha256_json
from robustbench_med.util.seeding import derive


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
        samples: at most so many of the run's; further attacks are made on those that the run left standing.
        others: attacks that must not be stronger than the run's.
        strong: the attack that is to break everything when nothing bounds it.
        longer: factor on the steps of the run's attack.
        more_draws: factor on its EOT draws.

    Raises:
        UserError: a number that makes no sense; an attack or an option of one that there is not.
    """

    others: tuple[Other, ...]
    strong: Other
    samples: int = 100
    longer: int = 4
    more_draws: int = 4

    def __post_init__(self) -> None:
        if min(self.samples, self.longer, self.more_draws, *(o.eot for o in self.others)) < 1:
            raise UserError("audit: samples, longer, more_draws and eot must be 1 or more")
        for other in (self.strong, *self.others):  # said before the run, not in a finding after it
            try:
                make_attack(other.attack, other.options)
            except UserError as error:
                raise UserError(f"audit, {other.role}: {error}") from error


@dataclass(frozen=True)
class Audit:
    """All findings on a run and what they add up to.

    Attributes:
        complete: False when only the cheap checks were made.
        samples: how many of the run's were looked at.
        forward, backward, seconds: what it cost.
        knowledge: what attackers the model admits at most, if not all.
    """

    complete: bool
    findings: tuple[Finding, ...]
    samples: int
    forward: int
    backward: int
    seconds: float
    knowledge: str = ""

    @property
    def verdict(self) -> str:
        """In words; see ``measure.verdict``."""
        return verdict(self.findings, self.complete, self.knowledge)

    def as_record(self) -> dict[str, Any]:
        """For the run's record."""
        return {"verdict": self.verdict, **asdict(self)}


class Bench:
    """What checks work with.

    Attributes:
        plan: the run's, on the first samples of its split.
        outcomes: the run's, of these samples.
        everyone: the run's, of all samples: what looks at outcomes alone looks at all of them.
        clean, right: (R, N) which of them were right before and after the run's attack, on each scoring draw.
        standing: positions of the samples that the run's attack left right in any draw.
        tried: outcomes on the standing samples of every other attack so far, within the run's threat model.
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
        self.outcomes, self.everyone = outcomes.take(np.arange(count)), outcomes
        self.clean = correct(self.outcomes.clean, self.outcomes.labels, plan.goal)
        self.right = correct(self.outcomes.adversarial, self.outcomes.labels, plan.goal)
        self.standing = np.flatnonzero(self.right.any(0))
        self.batch = load_batch(self.plan.split, np.arange(count), plan.device)
        self.tried: list[Outcomes] = []
        self._model: FusionModel | None = None

    def anew(self, tried: Sequence[Outcomes] = ()) -> Bench:
        """The same bench, whose model was asked nothing yet: no check depends on another that came before.

        Args:
            tried: see the attribute.
        """
        bench = copy.copy(self)
        bench.passes, bench.tried, bench._model = Passes(), list(tried), None
        return bench

    @property
    def deterministic(self) -> bool:
        """Whether the model is."""
        return self.plan.model.draws_shared_by == "none"

    @property
    def model(self) -> FusionModel:
        """A copy for the checks that look at the model."""
        if self._model is None:
            self._model = self.plan.fresh()
        return self._model

    def run(self, title: str, index: NDArray[np.int64] | None = None, **changes: Any) -> Outcomes:
        """The outcomes under the plan with ``changes``, on the samples at ``index`` (all); kept on disk."""
        split = self.plan.split if index is None else self.plan.split.take(index)
        plan = replace(self.plan, split=split, **changes)
        self.announce(title)
        attack = {"class": type(plan.attack).__name__, **asdict(plan.attack)}  # type: ignore[call-overload]
        budgets = {name: budget.as_record() for name, budget in plan.threat.budgets.items()}
        # Audits of other sizes may have left parts here.
        key = [attack, budgets, plan.threat.joint, plan.eot, plan.goal.aim, split.fingerprint]
        outcomes = evaluate(plan, self.folder / sha256_json(key)[:12], lambda _: None)
        self.passes.forward += outcomes.forward
        self.passes.backward += outcomes.backward
        return outcomes

    def under(self, title: str, **changes: Any) -> NDArray[np.bool_]:
        """(R, N): what is right under the run's threat model with another attack, or more of the same.

        Only what the run left standing is attacked; the rest is broken already.
        """
        right = np.zeros_like(self.right)
        if not len(self.standing):
            return right
        outcomes = self.run(title, self.standing, **changes)
        right[:, self.standing] = correct(outcomes.adversarial, outcomes.labels, self.plan.goal)
        self.tried.append(outcomes)
        return right

    def target(self, goal: Goal | None = None) -> Target:
        """The model under the run's threat model, its draws started anew; for the run's goal or another."""
        target = self.plan.target(self.model, derive(self.plan.seed, "audit"), self.passes)
        return replace(target, goal=goal or self.plan.goal)

    def look(
        self,
        inputs: Mapping[str, Tensor],
        loss: Loss,
        gradient: bool = True,
        goal: Goal | None = None,
        draws: int | None = None,
    ) -> Evaluation:
        """Loss and gradient, on the same draws every time; of the run's goal, or of another.

        Args:
            draws: of the model's randomness, the first so many of the run's; all of them when not given.
        """
        target = replace(self.target(goal), raw_gradients=True, eot=draws or self.plan.eot)
        return target.evaluate(self.batch, inputs, loss, gradient)

    def scores(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores by head, on the same draws every time."""
        return self.target().scores(replace(self.batch, inputs=dict(inputs)))

    def each_draw(self, inputs: Mapping[str, Tensor], draws: int) -> list[dict[str, Tensor]]:
        """Scores by head on each of the draws that ``look`` looks at."""
        return replace(self.target(), eot=draws).each_draw(self.batch, inputs)

    def stands(self, device: torch.device) -> Tensor:
        """Which samples the run's attack left right in most draws, bool (N,)."""
        return torch.from_numpy(self.right.mean(0) > 0.5).to(device)


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"
