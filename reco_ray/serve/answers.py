"""From bodies to requests, and from slates to answers as bytes."""

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
import orjson

from reco_ray.hashing import digest
from reco_ray.serve.contract import Context, RankBody, RecommendationsBody, SimilarItemsBody
from reco_ray.types import EMPTY_USER, Request, Slate, UserRow

__all__ = ["Answer", "caller_order", "rank_request", "recommend_request", "server_timing", "similar_request", "write_answer"]


def recommend_request(body: RecommendationsBody, request_id: str, user: UserRow = EMPTY_USER) -> Request:
    """Turn a checked body into the request that the stages take."""
    return Request(
        request_id=request_id,
        user_id=body.user_id,
        k=body.k,
        surface=body.surface,
        context=_context(body.context),
        session=body.session,
        filters=_filters(body),
        exclude=body.exclude,
        user=user,
    )


def similar_request(body: SimilarItemsBody, request_id: str) -> Request:
    """Turn a checked body into a request for the neighbours of an item."""
    return Request(request_id=request_id, k=body.k, filters=_filters(body), exclude=body.exclude, similar_to=body.item_id)


def rank_request(body: RankBody, request_id: str, user: UserRow = EMPTY_USER) -> Request:
    """Turn a checked body into a request for the caller's own items, put in the caller's order.

    Order: the caller's scores, largest first, then the items without one; equal ones as they were sent.
    """
    scores = np.array([np.nan if item.score is None else item.score for item in body.items], np.float64)
    order = np.argsort(-scores, kind="stable")
    n = len(body.items)
    return Request(
        request_id=request_id,
        user_id=body.user_id,
        k=min(body.k or n, n),
        surface=body.surface,
        context=_context(body.context),
        session=body.session,
        user=user,
        items=tuple(body.items[i].item_id for i in order),
        item_scores=scores[order].astype(np.float32),
        query=body.query,
    )


def caller_order(request: Request) -> Slate:
    """Answer a request for the caller's own items without any stage: its first ``k`` in the caller's order and scores.

    The last rung of `rank_request`. It knows no release: titles are empty, no rule holds, and blocked items come back.
    """
    item_ids = request.items[: request.k]
    n = len(item_ids)
    ones = np.ones(n, np.float32)
    return Slate(request.request_id, item_ids, ("",) * n, request.item_scores[:n], ones, ((),) * n)


def _context(given: Context) -> dict[str, str]:
    pairs = (("device", given.device), ("locale", given.locale), ("surface", given.surface))
    return {name: value for name, value in pairs if value is not None}


def _filters(body: RecommendationsBody | SimilarItemsBody) -> Mapping[str, tuple[str, ...]]:
    return cast(Mapping[str, tuple[str, ...]], body.filters)  # its keys are literals, which a mapping does not widen


class Answer:
    """A slate as it goes out.

    Attributes:
        etag: of the slate without its request_id: equal slates have equal tags, whoever asked and when.
    """

    __slots__ = ("_fields", "degraded", "request_id", "timings")

    def __init__(self, request_id: str, fields: dict[str, object], degraded: list[str], timings: dict[str, float]) -> None:
        self.request_id, self._fields, self.degraded, self.timings = request_id, fields, degraded, timings

    @property
    def etag(self) -> str:
        return f'"{digest(orjson.dumps(self._fields), length=20)}"'

    def body(self) -> bytes:
        """Write the JSON of `contract.RecommendationsAnswer`."""
        return orjson.dumps({"request_id": self.request_id, **self._fields})


def write_answer(
    slate: Slate, release: str, variant: str, degraded: list[str], timings: dict[str, float], *, explain: bool = False
) -> Answer:
    """Make the answer of a slate; positions count from 1, and a score that is not finite is null.

    Args:
        degraded: what the path adds to the slate's own.
    """
    scores = [score if math.isfinite(score) else None for score in slate.scores.tolist()]
    items: list[dict[str, object]] = [
        {"item_id": item_id, "title": title, "score": score, "position": position, "reasons": reasons}
        for position, (item_id, title, score, reasons) in enumerate(
            zip(slate.item_ids, slate.titles, scores, slate.reasons, strict=True), 1
        )
    ]
    if explain:
        for item, propensity in zip(items, slate.propensities.tolist(), strict=True):
            item["propensity"] = propensity
    everything = [*degraded, *slate.degraded]
    fields: dict[str, object] = {"release": release, "variant": variant, "items": items, "degraded": everything}
    return Answer(slate.request_id, fields, everything, timings)


def server_timing(timings: dict[str, float]) -> bytes:
    """Write the Server-Timing header: milliseconds per stage."""
    return ", ".join([f"{name};dur={ms:.2f}" for name, ms in timings.items()]).encode()
