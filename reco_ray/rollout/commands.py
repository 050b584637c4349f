"""What people do to rollouts, each with an audit record: start, pause, resume, abort, and sending all traffic back at once."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reco_ray.errors import ConfigError
from reco_ray.rollout.controller import audit_record, shadow_of, shares
from reco_ray.rollout.decide import Decision, State, Status, first_state
from reco_ray.rollout.policy import Policy
from reco_ray.rollout.variants import CANARY, MAIN
from reco_ray.store import MOST_OVERRIDES, RolloutStore, Traffic
from reco_ray.store.rollouts import Change

__all__ = ["abort", "end_holdout", "fall_back", "note", "override", "pause", "resume", "start"]

_Found = Mapping[str, Any] | None


def start(store: RolloutStore, release: str, policy: Policy, now: float, by: str, why: str = "started") -> State:
    """Give a release that is loaded beside the champion its first share.

    Raises: ConfigError: another rollout runs, the release is not loaded, or there is none that has all the traffic.
    """

    def make(found: _Found, traffic: Traffic) -> Change:
        if found is not None and not (state := State.from_json(found)).status.over:
            raise ConfigError(f"rollout {state.rollout_id} of {state.release}: found it {state.status}; abort it first")
        live = [each for each, weight in traffic.weights.items() if weight > 0]
        if len(live) != 1 or release not in traffic.weights or release in live:
            raise ConfigError(
                f"traffic: found {dict(traffic.weights)}, expected one release with all of it and {release} with none; "
                "deploy the champion with jobs/deploy_release.py, and the candidate with `reco rollouts start`"
            )
        new = replace(first_state(secrets.token_hex(6), release, live[0], policy, now, by), reason=why)
        audit = audit_record(Decision("start", new.reason, new), now, by)
        holdout = policy.holdout or traffic.holdout
        also = {"holdout": holdout.of(live[0])} if holdout is not None else {}
        return Change(new.to_json(), shares(new), audit, shadow_of(new), also)

    return _state(store.change(make))


def note(
    store: RolloutStore, action: str, release: str, reason: str, now: float, by: str, numbers: Mapping[str, Any] | None = None
) -> None:
    """Leave an audit record of what changes no share, such as what the gates said."""
    record = {"ts": now, "by": by, "action": action, "release": release, "reason": reason, **(numbers or {})}
    store.change(lambda _found, _traffic: Change(None, None, record))


def pause(store: RolloutStore, now: float, by: str, reason: str) -> State:
    """Keep the shares as they are until a person resumes; breaches still end it.

    Raises: ConfigError: no rollout runs.
    """
    return _set(store, Status.paused, "pause", now, by, reason)


def resume(store: RolloutStore, now: float, by: str, reason: str = "resumed") -> State:
    """Go on after a pause.

    Raises: ConfigError: no rollout runs.
    """
    return _set(store, Status.running, "resume", now, by, reason)


def abort(store: RolloutStore, now: float, by: str, reason: str) -> State:
    """End a rollout: the champion has all traffic at once.

    Raises: ConfigError: no rollout runs.
    """
    return _set(store, Status.aborted, "abort", now, by, reason)


def fall_back(store: RolloutStore, release: str, now: float, by: str, why: str = "") -> str:
    """Send all traffic to another loaded release at once, and end the rollout that runs; returns its id.

    Args:
        release: where to; empty: the champion of the rollout that runs, or else the only other one that is loaded.
    Raises: ConfigError: it is not loaded, or there are several.
    """
    chosen: list[str] = []

    def make(found: _Found, traffic: Traffic) -> Change:
        state = State.from_json(found) if found is not None else None
        running = state is not None and not state.status.over
        idle = [each for each, weight in traffic.weights.items() if weight < 1]
        to = release or (state.champion if running and state is not None else idle[0] if len(idle) == 1 else "")
        if to not in traffic.weights:
            raise ConfigError(
                f"fallback: found {to or 'no release'} to go to, expected one of {sorted(traffic.weights)}; name it"
            )
        chosen.append(to)
        reason = f"all traffic to {to}: {why}" if why else f"all traffic to {to}"
        audit: dict[str, Any] = {"ts": now, "by": by, "action": "fallback", "reason": reason, "before": dict(traffic.weights)}
        ended = None
        if running and state is not None:
            ended = replace(state, status=Status.aborted, reason=reason)
            audit = {**audit_record(Decision("fallback", reason, ended), now, by), **audit}
        also = {"holdout": traffic.holdout.of(to)} if traffic.holdout is not None else {}
        return Change(ended.to_json() if ended else None, {to: 1.0}, audit, also=also)

    store.change(make)
    return chosen[-1]


def override(store: RolloutStore, user: str, to: str, now: float, by: str, reason: str) -> int:
    """Send a test user to a release whatever their share says, or take that back; returns how many there are then.

    The audit record does not say who it is.

    Args:
        user: `hashing.user_digest`. to: a release, ``main`` or ``canary``; empty: no override any more.
    Raises: ConfigError: there is nothing of that name, there are too many, nothing says why, or the user has none to take back.
    """
    made: list[int] = []
    if not reason.strip():
        raise ConfigError("overrides: found no reason, expected a sentence; give one with --why")

    def make(_found: _Found, traffic: Traffic) -> Change:
        rest = {each: its for each, its in traffic.overrides.items() if each != user}
        if to and to not in (MAIN, CANARY, *traffic.weights):
            raise ConfigError(f"overrides: found {to!r}, expected one of {[MAIN, CANARY, *sorted(traffic.weights)]}")
        if not to and len(rest) == len(traffic.overrides):
            raise ConfigError("overrides: found none of this user, expected one to take back; see `reco overrides list`")
        if len(rest) >= MOST_OVERRIDES:
            raise ConfigError(f"overrides: found {len(rest)}, expected less than {MOST_OVERRIDES}; take some back first")
        after = {**rest, user: to} if to else rest
        made.append(len(after))
        audit = {"ts": now, "by": by, "action": "override" if to else "override_off", "reason": reason, "overrides": len(after)}
        return Change(None, None, {**audit, "release": to}, also={"overrides": after})

    store.change(make)
    return made[-1]


def end_holdout(store: RolloutStore, now: float, by: str, reason: str) -> None:
    """Let users who are held out have what their share says.

    Raises: ConfigError: nobody is.
    """

    def make(_found: _Found, traffic: Traffic) -> Change:
        if traffic.holdout is None:
            raise ConfigError("holdout: found none, expected one to end; a rollout's policy declares it")
        audit = {"ts": now, "by": by, "action": "holdout_off", "reason": reason, "held": traffic.holdout.share}
        return Change(None, None, audit, also={"holdout": None})

    store.change(make)


def _set(store: RolloutStore, status: Status, action: str, now: float, by: str, reason: str) -> State:
    def make(found: _Found, traffic: Traffic) -> Change:
        if found is None or (state := State.from_json(found)).status.over:
            raise ConfigError(f"rollouts: found none that runs, expected one to {action}; see `reco rollouts status`")
        new = replace(state, status=status, reason=reason)
        ours = status is Status.aborted and set(traffic.weights) >= {new.release, new.champion}
        weights = shares(new) if ours else None  # a deployment that came between has moved the traffic already
        return Change(new.to_json(), weights, audit_record(Decision(action, reason, new), now, by))

    return _state(store.change(make))


def _state(change: Change | None) -> State:
    if change is None or change.state is None:
        raise ConfigError("rollouts: found nothing to change, expected a rollout; see `reco rollouts status`")
    return State.from_json(change.state)
