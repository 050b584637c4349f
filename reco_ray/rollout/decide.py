"""What a rollout does next, from its state and what was counted. A pure function; who calls it carries it out.

Breaches come before everything: a rollout that waits, or whose error budget is spent, still leaves when it hurts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from reco_ray.rollout.evidence import Evidence
from reco_ray.rollout.planning import budget_left
from reco_ray.rollout.policy import Policy
from reco_ray.rollout.statistics import compare_rates, excess, mismatch

__all__ = ["Decision", "State", "Status", "decide", "first_state"]

_LEAST_USERS = 50
_MISSED = 20.0  # decisions of the candidate that should have been seen, before their absence means something
_SLOW_FACTOR = 2.0


class Status(StrEnum):
    """Where a rollout stands."""

    running = "running"
    waiting = "waiting"  # something that it needs is missing; goes on by itself
    paused = "paused"  # by a person; goes on by a person
    promoted = "promoted"
    rolled_back = "rolled_back"
    aborted = "aborted"

    @property
    def over(self) -> bool:
        """Nothing will happen any more."""
        return self in (Status.promoted, Status.rolled_back, Status.aborted)


@dataclass(frozen=True, slots=True)
class State:
    """A rollout as it is stored.

    Attributes:
        release, champion: the candidate, and what it is to replace.
        step: index into the policy's steps. since_ts, started_ts: of the step, of the rollout; seconds since 1970.
        reason: of the last change.
    """

    rollout_id: str
    release: str
    champion: str
    policy: Policy
    started_ts: float
    since_ts: float
    step: int = 0
    status: Status = Status.running
    reason: str = "started"
    by: str = ""

    @property
    def share(self) -> float:
        """Of the users that the candidate is to have now."""
        if self.status in (Status.rolled_back, Status.aborted) or self.shadow:
            return 0.0
        return 1.0 if self.status is Status.promoted else self.policy.steps[self.step].share

    @property
    def shadow(self) -> float:
        """Share of the requests whose copies the candidate is to have now."""
        step = self.policy.steps[self.step]
        return step.share if step.shadow and not self.status.over else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "policy": self.policy.to_json(), "status": str(self.status)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "State":
        """Read `to_json`."""
        return cls(**{**found, "policy": Policy.from_json(found["policy"]), "status": Status(found["status"])})


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens now.

    Attributes:
        action: hold, step, promote, roll_back, wait or resume.
        numbers: all that it was decided from.
    """

    action: str
    reason: str
    state: State
    numbers: Mapping[str, float] = field(default_factory=dict)


def first_state(rollout_id: str, release: str, champion: str, policy: Policy, now: float, by: str) -> State:
    """A rollout that begins."""
    return State(rollout_id, release, champion, policy, now, now, by=by)


def decide(state: State, evidence: Evidence, now: float) -> Decision:
    """Say what a rollout that is not over does now."""
    numbers = dict(_numbers(state, evidence, now))
    breach = next(_breaches(state.policy, numbers), "")
    if breach:
        return _changed("roll_back", breach, replace(state, status=Status.rolled_back, reason=breach), numbers)
    if state.status is Status.paused:
        return Decision("hold", state.reason, state, numbers)
    if missing := _missing(state, numbers):
        action = "hold" if state.status is Status.waiting else "wait"
        return Decision(action, missing, replace(state, status=Status.waiting, reason=missing), numbers)
    if state.status is Status.waiting:
        back = "what was missing is back"
        return Decision("resume", back, replace(state, status=Status.running, reason=back), numbers)
    if reason := _not_yet(state, numbers):
        return Decision("hold", reason, state, numbers)
    if state.step == len(state.policy.steps) - 1:
        return _changed(
            "promote", "all steps passed", replace(state, status=Status.promoted, reason="all steps passed"), numbers
        )
    reason = f"step {state.step + 1} of {len(state.policy.steps)} passed"
    return _changed("step", reason, replace(state, step=state.step + 1, since_ts=now, reason=reason), numbers)


def _changed(action: str, reason: str, state: State, numbers: Mapping[str, float]) -> Decision:
    return Decision(action, reason, state, numbers)


def _numbers(state: State, evidence: Evidence, now: float) -> Iterator[tuple[str, float]]:
    guards, share = state.policy.guards, state.share
    candidate, champion = evidence.now
    yield "share", share
    yield "step_s", now - state.since_ts
    yield "decisions", candidate.made if state.shadow else candidate.decisions
    yield "champion_decisions", champion.decisions
    yield "quiet_s", now - max(evidence.heard_ts, state.since_ts)
    yield "candidate_quiet_s", now - max(evidence.candidate_ts, state.since_ts)
    others_per_s = champion.decisions / max(1e-9, now - state.since_ts)
    expected = others_per_s * share / max(1e-9, 1 - share) if share < 1 else 0.0
    yield "candidate_missed", expected * (now - max(evidence.candidate_ts, state.since_ts))
    # at its last step a candidate has all traffic: what the champion did before is what it is measured by
    base = champion if share < 1 else next((b for _, b in reversed(evidence.steps) if b.made), champion)
    for name, margin in (
        ("errors", guards.error_margin),
        ("degraded", guards.degraded_margin),
        ("empty", guards.empty_margin),
    ):
        usual = getattr(base, name) / base.made if base.made else 0.0
        yield f"{name}_rate", getattr(candidate, name) / candidate.made if candidate.made else 0.0
        yield f"champion_{name}_rate", usual
        yield f"{name}_evidence", excess(candidate.made, getattr(candidate, name), min(0.99, usual + margin))
    p95 = base.quantile_ms(0.95)
    timed = int(candidate.latency.sum())
    yield "p95_ms", candidate.quantile_ms(0.95)
    yield "champion_p95_ms", p95
    known = math.isfinite(p95) and base.latency.sum() >= 100
    yield "p95_evidence", excess(timed, candidate.slower_than(guards.p95_ratio * p95), 0.05) if known else 1.0
    ctr = compare_rates([(a.rates, b.rates) for a, b in evidence.steps], guards.ctr_alpha, guards.ctr_effect)
    yield from ((f"ctr_{name}", value) for name, value in asdict(ctr).items())
    if held := sum(each.decisions for each in evidence.held):
        yield "holdout_decisions", held
        yield (
            "holdout_errors_rate",
            sum(each.errors for each in evidence.held) / max(1, sum(each.made for each in evidence.held)),
        )
        pairs = [(a.rates, each.rates) for (a, _), each in zip(evidence.steps, evidence.held, strict=True)]
        apart = compare_rates(pairs, guards.ctr_alpha, guards.ctr_effect)
        yield from ((f"holdout_ctr_{name}", value) for name, value in asdict(apart).items() if name != "n")
    users, others = candidate.users, champion.users
    yield "users", users
    yield "champion_users", others
    enough = users + others >= _LEAST_USERS and share < 1
    yield "mismatch_evidence", mismatch(users, others, share) if enough else 1.0
    yield "budget_left", budget_left(evidence.good, evidence.total, guards.slo)


def _breaches(policy: Policy, numbers: Mapping[str, float]) -> Iterator[str]:
    guards = policy.guards
    limit = len(policy.steps) / guards.alpha  # each step counts anew
    for name in ("errors", "degraded", "empty"):
        if numbers[f"{name}_evidence"] >= limit:
            rate, usual = numbers[f"{name}_rate"], numbers[f"champion_{name}_rate"]
            yield f"{name}: {rate:.2%} of its answers, {usual:.2%} of the champion's"
    if numbers["p95_evidence"] >= limit:
        yield f"latency: p95 {numbers['p95_ms']:.0f} ms, the champion's {numbers['champion_p95_ms']:.0f} ms"
    if numbers["ctr_high"] < 0:
        low, high = numbers["ctr_low"], numbers["ctr_high"]
        yield f"clicks: rate differs by {numbers['ctr_mean']:.4f}, between {low:.4f} and {high:.4f}"


def _missing(state: State, numbers: Mapping[str, float]) -> str:
    guards = state.policy.guards
    if numbers["quiet_s"] > guards.quiet_s:
        return f"no record of any decision for {numbers['quiet_s']:.0f} s"
    if numbers["candidate_quiet_s"] > guards.quiet_s and numbers["candidate_missed"] > _MISSED:
        return f"no record of the candidate for {numbers['candidate_quiet_s']:.0f} s"
    if numbers["mismatch_evidence"] >= len(state.policy.steps) / guards.mismatch_alpha:
        return f"shares are not as declared: {numbers['users']:.0f} users and {numbers['champion_users']:.0f} of the champion"
    if numbers["budget_left"] <= 0:
        return "the error budget is spent"
    return ""


def _not_yet(state: State, numbers: Mapping[str, float]) -> str:
    step = state.policy.steps[state.step]
    wanted_s = step.min_s * (_SLOW_FACTOR if numbers["budget_left"] < 0.5 else 1.0)
    if numbers["step_s"] < wanted_s:
        return f"{numbers['step_s']:.0f} of {wanted_s:.0f} s"
    if numbers["decisions"] < step.min_decisions:
        return f"{numbers['decisions']:.0f} of {step.min_decisions} decisions"
    return ""
