"""Rollouts: counts of what two releases did come in, decisions about their shares of the traffic go out, each with its numbers.

`decide` and the tests are pure; `controller` reads the bus, calls `decide`, and carries out what it says in the online store.
"""

from reco_ray.rollout import commands
from reco_ray.rollout.decide import Decision, State, Status, decide, first_state
from reco_ray.rollout.evidence import N_BUCKETS, Arm, Evidence
from reco_ray.rollout.planning import budget_left, sample_size
from reco_ray.rollout.policy import DEFAULT_POLICY, Guards, Policy, Step
from reco_ray.rollout.statistics import Difference, compare_rates, excess, mismatch

__all__ = [
    "DEFAULT_POLICY",
    "N_BUCKETS",
    "Arm",
    "Decision",
    "Difference",
    "Evidence",
    "Guards",
    "Policy",
    "State",
    "Status",
    "Step",
    "budget_left",
    "commands",
    "compare_rates",
    "decide",
    "excess",
    "first_state",
    "mismatch",
    "sample_size",
]
