"""The controller: counts what the bus says, decides, and changes the shares. All that it knows lies in the online store.

It may die at any time: counts are stored together with the positions of the bus that they reach to, and a change of shares
together with its state and audit record. Another one, started anywhere, goes on from there.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reco_ray.events.bus import EVENTS, EXPOSURES, Reader
from reco_ray.rollout.collecting import Collector
from reco_ray.rollout.decide import Decision, State, Status, decide
from reco_ray.rollout.evidence import Evidence
from reco_ray.rollout.mirrored import report_of, take
from reco_ray.store import RolloutStore, Shadow, ShadowStore, Traffic
from reco_ray.store.rollouts import Change

__all__ = ["Controller", "audit_record", "shadow_of", "shares"]

log = logging.getLogger(__name__)

_ROWS = 2_000
_ROUNDS = 20  # reads of one partition in one turn


class Controller:
    """One turn after the other, from one thread.

    Args:
        readers: of exposures and events, by topic and partition.
        shadows: what gateways count of mirrored requests.
        tell: given each audit record once it is stored; what it raises is logged.
    """

    def __init__(
        self,
        store: RolloutStore,
        readers: Mapping[tuple[str, int], Reader],
        shadows: ShadowStore,
        tell: Callable[[Mapping[str, Any]], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._readers, self._shadows, self._tell, self._clock = store, readers, shadows, tell, clock
        self._rollout_id = ""
        self._mirrored: dict[str, float] = {}
        self._collector = Collector(Evidence())
        self._positions: dict[str, int] = {}

    def turn(self) -> Decision | None:
        """Read, decide, act; None where no rollout runs.

        Raises: NotReadyError: the store or the bus is away; nothing was changed.
        """
        found = self._store.load()
        if found is None or (state := State.from_json(found)).status.over:
            self._rollout_id = ""
            return None
        if state.rollout_id != self._rollout_id:
            self._open(state)
        while len(self._collector.evidence.steps) <= state.step:
            self._collector.next_step()  # the step was stored, and then its controller died
        self._read(state)
        evidence, now = self._collector.evidence, self._clock()
        self._mirrored = self._shadows.read(state.rollout_id) if state.shadow else {}
        if state.shadow:
            take(evidence.now[0], self._mirrored)
        for side, arm in enumerate(("candidate", "champion")):
            evidence.now[side].users = self._store.saw_users(state.rollout_id, state.step, arm, self._collector.users[side])
            self._collector.users[side].clear()
        self._store.save_evidence(
            {"rollout_id": state.rollout_id, "positions": self._positions, "evidence": evidence.to_json()}
        )
        decision = decide(state, evidence, now)
        return self._carry_out(state, decision, now)

    def _open(self, state: State) -> None:
        kept = self._store.evidence()
        if kept is not None and kept["rollout_id"] == state.rollout_id:
            self._collector = Collector(Evidence.from_json(kept["evidence"]))
            self._positions = dict(kept["positions"])
            log.info("rollout %s: goes on from what was counted", state.rollout_id)
        else:
            self._collector = Collector(Evidence())
            self._positions = {f"{t}:{p}": reader.newest() for (t, p), reader in self._readers.items()}
        self._rollout_id = state.rollout_id

    def _read(self, state: State) -> None:
        """Decisions first: a click on one that is read after it would be lost."""
        for topic in (EXPOSURES, EVENTS):
            for (of, partition), reader in self._readers.items():
                if of != topic:
                    continue
                name = f"{topic}:{partition}"
                for _ in range(_ROUNDS):
                    records = reader.read(self._positions.get(name, -1), _ROWS, 0.0)
                    if not records:
                        break
                    if topic == EXPOSURES:
                        self._collector.decisions(records, state)
                    else:
                        self._collector.events(records)
                    self._positions[name] = records[-1].position

    def _carry_out(self, state: State, decision: Decision, now: float) -> Decision:
        def make(found: Mapping[str, Any] | None, traffic: Traffic) -> Change | None:
            nonlocal decision
            if found is None or State.from_json(found) != state:
                return None  # somebody else changed it meanwhile: decided anew in the next turn
            if {k: v for k, v in traffic.weights.items() if v} != shares(state) or traffic.shadow != shadow_of(state):
                reason = f"shares were changed from outside to {dict(traffic.weights)}"
                decision = Decision("abort", reason, replace(state, status=Status.aborted, reason=reason), decision.numbers)
                return Change(decision.state.to_json(), None, audit_record(decision, now, state.by))
            if decision.action == "hold":
                return None
            weights, shadow = shares(decision.state), shadow_of(decision.state)
            audit = audit_record(decision, now, "controller")
            return Change(
                decision.state.to_json(),
                weights if (weights, shadow) != (shares(state), shadow_of(state)) else None,
                {**audit, "mirrored": report_of(self._mirrored)} if self._mirrored else audit,
                shadow,
            )

        change = self._store.change(make)
        if change is None:
            return replace(decision, action="hold")
        if decision.action == "step":
            self._collector.next_step()
        log.info("rollout %s of %s: %s, %s", state.rollout_id, state.release, decision.action, decision.reason)
        try:
            self._tell(change.audit)
        except Exception as exc:
            log.warning("rollout %s: the webhook did not take the decision: %s", state.rollout_id, type(exc).__name__)
        return decision


def shares(state: State) -> dict[str, float]:
    """Weights of the two releases; one without any is left out."""
    found = {state.release: state.share, state.champion: 1 - state.share}
    return {release: weight for release, weight in found.items() if weight > 0}


def shadow_of(state: State) -> Shadow | None:
    """What the traffic record is to say of copies."""
    return Shadow(state.release, state.shadow, state.rollout_id) if state.shadow else None


def audit_record(decision: Decision, now: float, by: str) -> dict[str, Any]:
    """What is kept of a decision: who, when, what, why, from which numbers."""
    state = decision.state
    numbers = {name: value if value == value else None for name, value in decision.numbers.items()}
    return {
        "ts": now,
        "by": by,
        "action": decision.action,
        "reason": decision.reason,
        "rollout_id": state.rollout_id,
        "release": state.release,
        "champion": state.champion,
        "step": state.step,
        "share": state.share,
        "status": str(state.status),
        "numbers": numbers,
    }
