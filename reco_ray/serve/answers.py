"""From bodies to requests, and from slates to answers as bytes."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import orjson

from reco_ray.hashing import digest
from reco_ray.serve.contract import RecommendationsBody, SimilarItemsBody
from reco_ray.types import EMPTY_USER, Request, Slate, UserRow

__all__ = ["Answer", "recommend_request", "server_timing", "similar_request", "write_answer"]


def recommend_request(body: RecommendationsBody, request_id: str, user: UserRow = EMPTY_USER) -> Request:
    """Turn a checked body into the request that the stages take."""
    given = body.context
    context = {
        name: value
        for name, value in (("device", given.device), ("locale", given.locale), ("surface", given.surface))
        if value is not None
    }
    return Request(
        request_id=request_id,
        user_id=body.user_id,
        k=body.k,
        surface=body.surface,
        context=context,
        session=body.session,
        filters=_filters(body),
        exclude=body.exclude,
        user=user,
    )


def similar_request(body: SimilarItemsBody, request_id: str) -> Request:
    """Turn a checked body into a request for the neighbours of an item."""
    return Request(request_id=request_id, k=body.k, filters=_filters(body), exclude=body.exclude, similar_to=body.item_id)


def _filters(body: RecommendationsBody | SimilarItemsBody) -> Mapping[str, tuple[str, ...]]:
    return cast(Mapping[str, tuple[str, ...]], body.filters)  # its keys are literals, which a mapping does not widen


class Answer:
    """A slate as it goes out.

    Args:
        tail: the JSON of `contract.RecommendationsAnswer` after its first field, the request_id.
        etag: of the slate without its request_id, when it is known already.
    """

    __slots__ = ("_etag", "degraded", "request_id", "tail", "timings")

    def __init__(
        self, request_id: str, tail: bytes, degraded: Sequence[str], timings: dict[str, float], etag: str = ""
    ) -> None:
        self.request_id, self.tail, self.degraded, self.timings, self._etag = request_id, tail, degraded, timings, etag

    @property
    def etag(self) -> str:
        """Equal slates have equal tags, whoever asked and when."""
        if not self._etag:
            self._etag = f'"{digest(b"{" + self.tail, length=20)}"'
        return self._etag

    def body(self) -> bytes:
        """The whole JSON."""
        return b"".join((b'{"request_id":', orjson.dumps(self.request_id), b",", self.tail))


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
    return Answer(slate.request_id, orjson.dumps(fields)[1:], everything, timings)


def server_timing(timings: dict[str, float]) -> bytes:
    """Write the Server-Timing header: milliseconds per stage."""
    return ", ".join([f"{name};dur={ms:.2f}" for name, ms in timings.items()]).encode()
