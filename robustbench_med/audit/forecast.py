"""What an audit will cost, before it is made."""

from __future__ import annotations

from dataclasses import replace

from robustbench_med.audit.bench import AuditConfig
from robustbench_med.audit.draws import MOST, SAMPLES
from robustbench_med.audit.of_gradients import DRAWS
from robustbench_med.evaluation.adversary import make_attack
from robustbench_med.evaluation.forecast import FREE, Cost, attack_cost, scoring_cost
from robustbench_med.evaluation.plan import Plan
from robustbench_med.util.errors import UserError

# Of the checks that every run makes, as measured with two heads: for each of the run's draws, and for each of
# those few on which gradients are compared with differences.
LOOKS, COMPARED = Cost(13, 4), Cost(18, 2)


def looks_cost(plan: Plan) -> Cost:
    """The passes of the checks that every run makes, a sample, about."""
    return LOOKS * plan.eot + COMPARED * min(plan.eot, DRAWS)


def audit_cost(plan: Plan, config: AuditConfig, of_run: Cost) -> Cost:
    """The most passes that an audit makes for a sample, about: for one that stands under every attack.

    Args:
        of_run: of the run's own attack.
    """
    random, score = plan.model.draws_shared_by != "none", scoring_cost(plan)
    again = of_run + score
    total = looks_cost(plan) + again * 2 + of_run * (0 if random else 1) + of_run * config.longer + score
    if random:
        total += of_run * config.more_draws + of_run + score * 2
    for other in (config.strong, *config.others):
        attack = make_attack(other.attack, other.options)
        eot = max(plan.eot, other.eot) if random else 1
        if (attack.knowledge == "transfer" and not random) or (attack.knowledge == "decisions" and random):
            continue
        total += _cost(replace(plan, attack=attack, eot=eot)) + score
    return total


def _cost(plan: Plan) -> Cost:
    try:
        return attack_cost(plan)
    except UserError:  # it will not be made
        return FREE


def search_cost(plan: Plan, of_one_draw: Cost) -> Cost:
    """The most passes that the search for EOT draws makes, all its samples together."""
    doublings = 2 * MOST - 1
    return (of_one_draw * doublings + scoring_cost(plan) * 6) * min(SAMPLES, len(plan.split))
