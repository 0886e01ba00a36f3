"""Which checks have nothing to ask of which runs: one table, so that nobody waives a check in passing.

A check that does not apply does not lower a verdict; one that could not be made does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robustbench_med.api.attack import Attack
from robustbench_med.audit.bench import Bench

Reason = Callable[[Bench], str | None]


def _at_zero(bench: Bench) -> str | None:
    nothing = all(budget.epsilon == 0 for budget in bench.plan.threat.budgets.values())
    return "epsilon is 0: there is nothing to attack" if nothing else None


def _without_gradients(bench: Bench) -> str | None:
    return None if bench.plan.model.differentiable else "the model tells scores, no gradients"


def _deterministic(bench: Bench) -> str | None:
    return "the model is deterministic" if bench.deterministic else None


def _random(bench: Bench) -> str | None:
    return None if bench.deterministic else "one broken draw of a random model is no success"


def _one_draw(bench: Bench) -> str | None:
    if bench.deterministic or bench.plan.draws > 1:
        return None
    return "the least of several single draws is too low, however strong the attacks"


def _towards(bench: Bench) -> str | None:
    return None if bench.plan.goal.towards is None else "a chosen answer is not reached by any change at all"


# By the name of a check's function: the reasons for which it may not apply, in this order.
TABLE: Mapping[str, tuple[Reason, ...]] = {
    "went_through": (),
    "finite_outputs": (),
    "logits_not_probabilities": (),
    "no_memory": (),
    "repeatable": (),
    "gradients": (_at_zero, _without_gradients),
    "unbounded": (_at_zero, _towards),
    "monotone": (_at_zero,),
    "silent_success": (_at_zero, _random),
    "longer": (_at_zero,),
    "more_draws": (_at_zero, _deterministic),
    "no_other_is_stronger": (_at_zero,),
    "no_better_together": (_at_zero, _one_draw),
}


def waived(check: str, bench: Bench) -> str | None:
    """Why a check does not apply to this run; None if it does."""
    return next((said for reason in TABLE[check] if (said := reason(bench))), None)


def other_waived(attack: Attack, bench: Bench) -> str | None:
    """Why another attack has nothing to say about this run; None if it has.

    A deterministic model is its own noise-off twin, and a model without gradients can only be asked.
    """
    asks = attack.knowledge
    if asks == "transfer" and getattr(attack, "surrogate", None) == "twin" and bench.deterministic:
        return "the noise-off twin of a deterministic model is the model itself"
    if asks == "decisions" and not bench.deterministic:
        return "decisions of a random model are votes over its scores, which other attacks see"
    if not bench.plan.model.differentiable and asks in ("white box", "transfer"):
        return "the model tells scores, no gradients"
    return None
