"""From bodies to requests, and from slates to answers as bytes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import orjson
from numpy.typing import NDArray

from reco_ray.events.personal import coarse_location
from reco_ray.hashing import digest, item_keys
from reco_ray.serve.http.contract import Context, RankBody, RecommendationsBody, SimilarItemsBody
from reco_ray.serve.http.cursors import NOTHING_SHOWN
from reco_ray.serve.served import Served
from reco_ray.store import NO_INTERESTS, FinishedSlate, Interests
from reco_ray.types import EMPTY_USER, Request, Slate, UserRow

__all__ = [
    "Answer",
    "Asked",
    "also_in",
    "caller_order",
    "context_of",
    "finish",
    "rank_request",
    "recommend_request",
    "seal",
    "server_timing",
    "similar_request",
]

_UNASKED = frozenset(("store_unavailable", "no_consent", "profiling_off"))
_ALSO = ("rules", "ranker")
_NOTHING_ELSE: Mapping[str, object] = {}


def recommend_request(
    body: RecommendationsBody,
    request_id: str,
    user: UserRow = EMPTY_USER,
    interests: Interests = NO_INTERESTS,
    at_us: int = 0,
    shown: NDArray[np.uint64] = NOTHING_SHOWN,
    served: NDArray[np.uint64] = NOTHING_SHOWN,
) -> Request:
    """Turn a checked body into the request that the stages take.

    Args:
        interests: of a user without a history; `NO_INTERESTS` of others. at_us: when it was asked.
        shown: from `cursors.read`. served: from the online store.
    """
    return Request(
        request_id=request_id,
        user_id=body.user_id,
        k=body.k,
        surface=body.surface,
        context=context_of(body.context),
        session=body.session,
        filters=_filters(body),
        exclude=body.exclude,
        consent=body.consent,
        user=_begun(user, interests.items),
        interests=interests.categories,
        at_us=at_us,
        shown=shown,
        served=served,
    )


def similar_request(body: SimilarItemsBody, request_id: str) -> Request:
    """Turn a checked body into a request for the neighbours of an item."""
    return Request(request_id=request_id, k=body.k, filters=_filters(body), exclude=body.exclude, similar_to=body.item_id)


def rank_request(
    body: RankBody, request_id: str, user: UserRow = EMPTY_USER, interests: Interests = NO_INTERESTS, at_us: int = 0
) -> Request:
    """Turn a checked body into a request for the caller's own items, put in the caller's order.

    Order: the caller's scores, largest first, then the items without one; equal ones as they were sent.

    Args:
        interests: as `recommend_request`.
    """
    scores = np.array([np.nan if item.score is None else item.score for item in body.items], np.float64)
    order = np.argsort(-scores, kind="stable")
    n = len(body.items)
    return Request(
        request_id=request_id,
        user_id=body.user_id,
        k=min(body.k or n, n),
        surface=body.surface,
        context=context_of(body.context),
        session=body.session,
        consent=body.consent,
        user=_begun(user, interests.items),
        interests=interests.categories,
        items=tuple(body.items[i].item_id for i in order),
        item_scores=scores[order].astype(np.float32),
        query=body.query,
        at_us=at_us,
    )


def caller_order(request: Request) -> Slate:
    """Answer a request for the caller's own items without any stage: its first ``k`` in the caller's order and scores.

    The last rung of `rank_request`. It knows no release: titles are empty, no rule holds, and blocked items come back.
    """
    item_ids = request.items[: request.k]
    n = len(item_ids)
    ones = np.ones(n, np.float32)
    return Slate(request.request_id, item_ids, ("",) * n, request.item_scores[:n], ones, ((),) * n)


def context_of(given: Context) -> dict[str, str]:
    """What a request says of its circumstances; of its location only what is coarse."""
    place = coarse_location(given.location)
    pairs = (("device", given.device), ("locale", given.locale), ("surface", given.surface), ("location", place))
    return {name: value for name, value in pairs if value is not None}


def _begun(user: UserRow, liked: Sequence[str]) -> UserRow:
    """Let the items that a user says to like stand in for the history that there is not.

    Each has full strength, and the one liked most is the newest, as sources and ranker give the newest more weight. They count
    as seen: they come back only where seen items do.
    """
    if not liked:
        return user
    keys = item_keys(reversed(liked))
    had = EMPTY_USER.had  # nothing says when
    return replace(user, history=keys, weights=np.ones(keys.size, np.float32), seen=np.union1d(user.seen, keys), had=had)


def _filters(body: RecommendationsBody | SimilarItemsBody) -> Mapping[str, tuple[str, ...]]:
    return cast(Mapping[str, tuple[str, ...]], body.filters)  # its keys are literals, which a mapping does not widen


@dataclass(slots=True)
class Asked:
    """Who asked, and with what: for the record of the decision, never for a log.

    Attributes:
        user_id: empty for anonymous requests, without consent, and where profiling is off.
        user_view, user: the row that the slate was made with, and the view that it is of; empty where another request read it.
            The history of a row without features is what the user said to like.
        circumstances: that a bandit drew places in, for its own request; empty where it drew none.
    """

    user_id: str = field(default="", repr=False)
    surface: str = ""
    context: Context | None = field(default=None, repr=False)
    consent: bool = True
    user_view: str = ""
    user: UserRow = field(default=EMPTY_USER, repr=False)
    circumstances: tuple[float, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class Answer:
    """A finished slate on its way to one caller.

    Attributes:
        timings: milliseconds per stage; empty when it was not made for this caller.
        cache: how the cache came by it: fresh, stale, made or joined; empty when it was not asked.
        asked: by whom. next_cursor: asks for the next page; empty where there is none.
        at: unix time in seconds of the answer; set when it is written.
    """

    request_id: str
    slate: FinishedSlate
    variant: str
    timings: dict[str, float] = field(default_factory=dict)
    cache: str = ""
    asked: Asked = field(default_factory=Asked)
    next_cursor: str = field(default="", repr=False)
    at: float = 0.0

    def body(self, now: float) -> bytes:
        """Write the JSON of `contract.RecommendationsAnswer`; nothing of the slate is written anew.

        Args:
            now: unix time in seconds.
        """
        self.at = now
        head: dict[str, object] = {"request_id": self.request_id, "age_s": round(max(0.0, now - self.slate.made), 3)}
        if self.next_cursor:
            head["next_cursor"] = self.next_cursor
        return b"".join((orjson.dumps(head)[:-1], b",", self.slate.tail))

    def describe(self, served: Served) -> None:
        """Fill in what is recorded of it."""
        slate = self.slate
        served.release, served.variant, served.rung, served.cache = slate.release, self.variant, slate.rung, self.cache
        served.degraded, served.timings = slate.degraded, self.timings
        served.items = slate.tail.count(b'"item_id":')  # within a string its quotes would be escaped


def finish(
    slate: Slate,
    release: str,
    variant: str,
    rung: str,
    degraded: Sequence[str],
    made: float,
    *,
    explain: bool = False,
    draw_id: str | None = None,
    before: int = 0,
) -> FinishedSlate:
    """Write a slate out once; positions count from 1 over all pages, and a score that is not finite is null.

    Args:
        degraded: what the path adds to the slate's own.
        made: unix time in seconds.
        draw_id: request that the slate was made for, where that is another one.
        before: places of earlier pages.
    """
    scores = [score if math.isfinite(score) else None for score in slate.scores.tolist()]
    items: list[dict[str, object]] = [
        {"item_id": item_id, "title": title, "score": score, "position": position, "reasons": reasons}
        for position, (item_id, title, score, reasons) in enumerate(
            zip(slate.item_ids, slate.titles, scores, slate.reasons, strict=True), before + 1
        )
    ]
    if explain:
        for item, propensity in zip(items, slate.propensities.tolist(), strict=True):
            item["propensity"] = propensity
    # where the store was not asked, whether the user is known is not known either
    unasked = not _UNASKED.isdisjoint(degraded)
    own = [each for each in slate.degraded if each not in degraded and not (each == "unknown_user" and unasked)]
    drawn = b"" if (slate.propensities == 1).all() else slate.propensities.astype("<f4").tobytes()
    draw_id = slate.request_id if draw_id is None else draw_id
    rules = {"version": slate.rules, "missed": slate.missed_rules} if slate.rules else None
    also = {name: value for name, value in (("rules", rules), ("ranker", slate.ranker)) if value}
    return seal(items, release, variant, rung, (*degraded, *own), made, draw_id, drawn, also)


def seal(
    items: object,
    release: str,
    variant: str,
    rung: str,
    degraded: Sequence[str],
    made: float,
    draw_id: str = "",
    propensities: bytes = b"",
    also: Mapping[str, object] = _NOTHING_ELSE,
) -> FinishedSlate:
    """Write the fields of an answer that do not change with who asks.

    Args:
        also: fields that not every answer has, as `also_in` finds them.
    """
    fields = {"release": release, "variant": variant, "rung": rung, "items": items, "degraded": degraded, **also}
    tail = orjson.dumps(fields)[1:]
    return FinishedSlate(tail, f'"{digest(tail, length=20)}"', release, made, tuple(degraded), rung, draw_id, propensities)


def also_in(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of an answer that not every one has, to be sealed again."""
    return {name: fields[name] for name in _ALSO if name in fields}


def server_timing(timings: dict[str, float]) -> bytes:
    """Write the Server-Timing header: milliseconds per stage."""
    return ", ".join([f"{name};dur={ms:.2f}" for name, ms in timings.items()]).encode()
