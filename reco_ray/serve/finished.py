"""Finished answers as bytes: from an answer, and rewritten where one stands in for another."""

from collections.abc import Sequence

import orjson

from reco_ray.serve.answers import Answer
from reco_ray.serve.cache_key import SlateKey
from reco_ray.store import FinishedSlate, Precomputed

__all__ = ["finish", "fit", "mark", "precomputed_of", "reopen"]


def finish(answer: Answer, release: str, made: float) -> FinishedSlate:
    """Turn an answer into what a cache keeps.

    Args:
        made: unix time in seconds.
    """
    return FinishedSlate(answer.tail, answer.etag, release, made, tuple(answer.degraded))


def reopen(slate: FinishedSlate, request_id: str, timings: dict[str, float]) -> Answer:
    """Turn a finished slate into the answer to another request; nothing is parsed or hashed."""
    return Answer(request_id, slate.tail, slate.degraded, timings, slate.etag)


def fit(slate: FinishedSlate, key: SlateKey, hidden: set[str]) -> FinishedSlate | None:
    """Take out the ids in ``hidden`` and cut to the key's k, as the answer to another request; None when nothing is left."""
    fields = orjson.loads(b"{" + slate.tail)
    items = [item for item in fields["items"] if item["item_id"] not in hidden][: key.k]
    if not items:
        return None
    for position, item in enumerate(items, 1):
        item["position"] = position
        if not key.explain:
            item.pop("propensity", None)
    fields["items"] = items
    degraded = [mark for mark in slate.degraded if mark != "short_slate"]
    return _rewrite(slate, fields, degraded + (["short_slate"] if len(items) < key.k else []))


def mark(slate: FinishedSlate, marks: Sequence[str]) -> FinishedSlate:
    """Add to what is less than full in an answer."""
    return _rewrite(slate, orjson.loads(b"{" + slate.tail), [*slate.degraded, *marks])


def precomputed_of(slate: FinishedSlate) -> Precomputed:
    """Turn a finished answer into a precomputed slate."""
    items = orjson.loads(b"{" + slate.tail)["items"]
    return Precomputed(
        made=slate.made,
        release=slate.release,
        item_ids=tuple([item["item_id"] for item in items]),
        titles=tuple([item["title"] for item in items]),
        scores=tuple([item["score"] for item in items]),
        reasons=tuple([tuple(item["reasons"]) for item in items]),
    )


def _rewrite(slate: FinishedSlate, fields: dict[str, object], degraded: list[str]) -> FinishedSlate:
    fields["degraded"] = degraded
    return finish(Answer("", orjson.dumps(fields)[1:], degraded, {}), slate.release, slate.made)
