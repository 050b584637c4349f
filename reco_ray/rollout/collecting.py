"""Counting: records of decisions and events from the bus become `Evidence`.

A decision belongs to the release that answered; where a stage failed, to the release that was asked, which the variant tells:
the slate may be an older one of the other release. A click belongs to the decision that its event names, and counts once.
Users who are held out count apart, and test users who were sent to a release by name nowhere.
"""

from collections import OrderedDict
from collections.abc import Iterable

import orjson

from reco_ray.errors import DataError
from reco_ray.events.bus import Record
from reco_ray.events.encoding import decode
from reco_ray.hashing import hash64
from reco_ray.rollout.decide import State
from reco_ray.rollout.evidence import N_BUCKETS, Arm, Evidence
from reco_ray.rollout.variants import CANARY, HOLDOUT, MAIN, OVERRIDE

__all__ = ["CANDIDATE", "CHAMPION", "Collector"]

CANDIDATE, CHAMPION = 0, 1
_CALLS = frozenset(("recommend", "recommend_user"))
_FAILED = frozenset(("recall_unavailable", "ranker_unavailable", "rerank_unavailable", "late"))
_SETTLE_US = 3_000_000  # until all gateways follow new shares
_OPEN_MOST = 200_000


class Collector:
    """Counts for one rollout. Decisions wait in memory for their clicks: those of a controller that died get none any more,
    on both sides alike.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._open: OrderedDict[str, tuple[Arm, int]] = OrderedDict()
        self.users: tuple[set[bytes], set[bytes]] = (set(), set())

    def decisions(self, records: Iterable[Record], state: State) -> None:
        """Count records of decisions; what is none is passed over."""
        for record in records:
            try:
                self._decision(orjson.loads(record.value), state)
            except (ValueError, KeyError, TypeError):
                continue

    def events(self, records: Iterable[Record]) -> None:
        """Count clicks; what is no event is passed over."""
        for record in records:
            try:
                found = decode(record.value)
            except DataError:
                continue
            waiting = self._open.pop(str(found.get("request_id") or ""), None) if found.get("type") == "click" else None
            if waiting is not None:
                arm, bucket = waiting
                arm.rates[bucket, 1] += 1

    def next_step(self) -> None:
        """Count anew; clicks still find the decisions of the step before."""
        self.evidence.next_step()
        for users in self.users:
            users.clear()

    def _decision(self, found: dict[str, object], state: State) -> None:
        marks, ts_us = found["degraded"], found["ts"]
        variant = found["variant"]
        if found["call"] not in _CALLS or variant == OVERRIDE or not isinstance(marks, list) or not isinstance(ts_us, int):
            return
        failed = not _FAILED.isdisjoint(marks)
        evidence, heard = self.evidence, ts_us / 1e6
        evidence.heard_ts = max(evidence.heard_ts, heard)
        evidence.total += 1
        evidence.good += not failed
        side = None if variant == HOLDOUT else self._side(found, state, failed)
        if side is None and variant != HOLDOUT:
            return
        if side == CANDIDATE:
            evidence.candidate_ts = max(evidence.candidate_ts, heard)
        if ts_us < state.since_ts * 1e6 + _SETTLE_US:
            return
        arm, request_id = evidence.held[-1] if side is None else evidence.now[side], str(found["request_id"])
        user = str(found["user_id"] or "")
        bucket = hash64(user or request_id, state.rollout_id) % N_BUCKETS
        arm.rates[bucket, 0] += 1
        if user and side is not None:
            self.users[side].add(hash64(user, f"seen {state.rollout_id}").to_bytes(8, "little"))
        self._open[request_id] = (arm, bucket)
        if len(self._open) > _OPEN_MOST:
            self._open.popitem(last=False)
        if not failed and found["draw_id"] != request_id:
            return  # from the cache: says nothing of the release's health
        arm.made += 1
        arm.errors += failed
        arm.degraded += found["rung"] != "full"
        arm.empty += not found["item_ids"]
        timings = found["timings"]
        if isinstance(timings, dict) and timings and not failed:
            arm.took(sum(ms for stage, ms in timings.items() if stage in ("recall", "rank", "rerank")))

    def _side(self, found: dict[str, object], state: State, failed: bool) -> int | None:
        if failed:
            candidate_is = MAIN if state.share > 0.5 else CANARY
            return CANDIDATE if found["variant"] == candidate_is else CHAMPION
        return {state.release: CANDIDATE, state.champion: CHAMPION}.get(str(found["release"]))
