"""Explanations of answered requests: the record of the decision is read from the lake, and its stages are run again.

Rare calls for people, off the event loop: the release that the record names is loaded in this process, and the last one stays.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import polars as pl
import redis

from reco_ray.errors import ArtifactError, NotReadyError, SchemaError
from reco_ray.lake import tables
from reco_ray.release import open_release, user_view
from reco_ray.rules import NO_RULES, Standing
from reco_ray.serve.http import problems
from reco_ray.slate import Explanation, LearningStage, Pipeline, RuledStage, explain
from reco_ray.store import BanditStore, OnlineStore, unpack_user
from reco_ray.types import EMPTY_USER, Request, UserRow

__all__ = ["ExplanationCalls", "find_decision"]

_TABLE = "exposures"
_DAYS = 14  # of records that are looked through, the newest first
_EXPLAINED = ("recommend", "recommend_user")


class ExplanationCalls:
    """Answers them.

    Args:
        root: where the lake and the releases lie.
        store: gives a user's row of now where the record does not hold that of then.
        hides: whether a user is being erased.
        rules: those in force; the stages are run again by them, and by what a bandit knows now.
    """

    def __init__(
        self,
        root: str,
        store: OnlineStore,
        hides: Callable[[str], bool],
        rules: Callable[[], Standing] = lambda: NO_RULES,
    ) -> None:
        self._root, self._store, self._hides, self._rules = root, store, hides, rules
        self._one = asyncio.Lock()  # loading a release takes memory: one at a time

    async def explain(self, request_id: str, item_id: str = "") -> dict[str, Any]:
        """Answer ``GET /v1/explanations/{request_id}``; with an item, also what became of it.

        Raises: HttpProblem: no record of the request is in the lake, or its release is gone.
        """
        async with self._one:
            decision = await asyncio.to_thread(find_decision, self._root, request_id)
            if decision is None or (decision["user_id"] and self._hides(decision["user_id"])):
                raise problems.unknown_request()
            if decision["call"] not in _EXPLAINED:
                raise problems.unexplained(f"call {decision['call']}")
            if (decision["first_position"] or 1) > 1:
                raise problems.unexplained("a later page, which hangs on what the pages before have shown")
            try:
                user, whose = await self._user(decision)
                found = await asyncio.to_thread(_explained, self._root, decision, user, item_id, self._rules(), self._store)
            except (ArtifactError, FileNotFoundError) as exc:
                raise problems.unexplained(f"release {decision['release']}, which is gone or cannot be read") from exc
        return _answer(decision, found, whose, item_id)

    async def _user(self, decision: Mapping[str, Any]) -> tuple[UserRow, str]:
        """The user's row that is taken, and of when it is."""
        if not decision["user_id"]:
            return EMPTY_USER, "nobody"
        if decision["user_row"] is not None:
            try:
                return unpack_user(decision["user_row"]), "then"
            except SchemaError:  # recorded before the format changed
                pass
        view = await asyncio.to_thread(user_view, self._root, decision["release"])
        try:
            return (await asyncio.to_thread(self._store.users, [decision["user_id"]], view))[0], "now"
        except (redis.RedisError, SchemaError) as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc


def find_decision(root: str, request_id: str) -> dict[str, Any] | None:
    """The record of an answered request among those of the last days; None where the lake has none yet, or no longer."""
    if not tables.exists(root, _TABLE):
        return None
    for date in sorted(tables.partitions(root, _TABLE), reverse=True)[:_DAYS]:
        found = tables.read(root, _TABLE, where=(pl.col("date") == date) & (pl.col("request_id") == request_id))
        if found.height:
            return found.row(0, named=True)
    return None


@functools.lru_cache(maxsize=1)
def _pipeline(root: str, release: str) -> Pipeline:
    return Pipeline.load(open_release(root, release))


def _explained(
    root: str, decision: Mapping[str, Any], user: UserRow, item_id: str, rules: Standing, store: OnlineStore
) -> Explanation:
    context = {name: value for name, value in (decision["context"] or {}).items() if value is not None}
    request = Request(
        request_id=decision["draw_id"] or decision["request_id"],  # what was left to chance comes out the same
        user_id=decision["user_id"],
        k=max(1, len(decision["item_ids"])),
        surface=decision["surface"] or "",
        context=context,
        consent=decision["consent"],
        user=user,
        at_us=round(decision["ts"].timestamp() * 1e6),
    )
    others = dict.fromkeys((*decision["item_ids"], *((item_id,) if item_id else ())))
    pipeline = _pipeline(root, decision["release"])
    if isinstance(pipeline.rerank, RuledStage):
        pipeline.rerank.obey(rules)
    if isinstance(pipeline.rerank, LearningStage) and pipeline.rerank.learns:
        with contextlib.suppress(NotReadyError, SchemaError):  # then by what it knew before
            pipeline.rerank.learn(BanditStore(store).read().parts)
    return explain(pipeline, request, tuple(others))


def _answer(decision: Mapping[str, Any], found: Explanation, whose: str, item_id: str) -> dict[str, Any]:
    """The answer of `explanation_bodies.ExplanationAnswer`: what was recorded, beside what comes out now."""
    now = {each.item_id: asdict(each) for each in (*found.items, *found.others)}
    places = zip(decision["item_ids"], decision["scores"], decision["sources"], decision["rules"], strict=True)
    items = [
        {**now[shown], "position": place, "recorded_score": score, "recorded_sources": sources, "rules": rules}
        for place, (shown, score, sources, rules) in enumerate(places, 1)
    ]
    return {
        "request_id": decision["request_id"],
        "release": decision["release"],
        "rung": decision["rung"],
        "ranker": decision.get("ranker"),
        "ts": decision["ts"].isoformat(),
        "user_row": whose,
        "same_slate": list(found.item_ids) == decision["item_ids"],
        "items": items,
        "item": now[item_id] if item_id else None,
    }
