"""Finished answers rewritten where one stands in for another."""

from collections.abc import Sequence

import orjson

from reco_ray.serve.caching.cache_key import SlateKey
from reco_ray.serve.http.answers import also_in, seal
from reco_ray.store import FinishedSlate, Precomputed

__all__ = ["fit", "mark", "precomputed_of"]


def fit(slate: FinishedSlate, key: SlateKey, hidden: set[str]) -> FinishedSlate | None:
    """Take out the ids in ``hidden`` and cut to the key's k, as the answer to another request; None when nothing is left.

    Propensities were those of the whole slate, and go.
    """
    fields = orjson.loads(b"{" + slate.tail)
    items = [item for item in fields["items"] if item["item_id"] not in hidden][: key.k]
    if not items:
        return None
    first = fields["items"][0]["position"]  # of a later page the places count on
    for position, item in enumerate(items, first):
        item["position"] = position
        if not key.explain:
            item.pop("propensity", None)
    degraded = [each for each in slate.degraded if each != "short_slate"] + ["short_slate"] * (len(items) < key.k)
    return seal(items, slate.release, fields["variant"], slate.rung, degraded, slate.made, slate.draw_id, also=also_in(fields))


def mark(slate: FinishedSlate, marks: Sequence[str], rung: str) -> FinishedSlate:
    """Let an answer stand in on a lower rung, for the reasons in ``marks``."""
    fields = orjson.loads(b"{" + slate.tail)
    marked = tuple(dict.fromkeys((*marks, *slate.degraded)))
    return seal(
        fields["items"],
        slate.release,
        fields["variant"],
        rung,
        marked,
        slate.made,
        slate.draw_id,
        slate.propensities,
        also_in(fields),
    )


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
        draw_id=slate.draw_id,
    )
