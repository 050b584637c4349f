"""What travels between the gateway and the stages: one block of bytes per request, candidate list, score list or slate.

The gateway passes candidates and scores on without opening them, so it packs a request once and unpacks one slate. A block is
the length of a JSON head, the head, and arrays as they lie in memory. Both ends run the same code version.
"""

import struct
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from reco_ray.store import pack_user, unpack_user
from reco_ray.types import EMPTY_USER, Candidates, Request, Slate

__all__ = [
    "pack_candidates",
    "pack_request",
    "pack_scores",
    "pack_slate",
    "ranked_by",
    "recall_scores",
    "unpack_candidates",
    "unpack_request",
    "unpack_scores",
    "unpack_slate",
]

_NO_SCORES = np.empty(0, np.float32)
_NO_MORE: list[Any] = [(), "", (), 0, 0]  # own items, their query, interests, how many were shown before and served
_LENGTH = struct.Struct("<I")
_SIZES = struct.Struct("<III")  # candidates, sources, length of the JSON list of missing sources
_NAME = 16  # bytes of a model's name
_NOBODY = bytes(_NAME)


def pack_request(request: Request) -> bytes:
    """Pack a request with its user row; own items, interests, items shown and served take room only where there are any."""
    more: tuple[object, ...] = ()
    if request.shown.size or request.served.size:
        more = request.items, request.query, request.interests, request.shown.size, request.served.size
    elif request.interests:
        more = request.items, request.query, request.interests
    elif request.items or request.query:
        more = request.items, request.query
    head = orjson.dumps(
        (
            request.request_id,
            request.user_id,
            request.k,
            request.surface,
            dict(request.context),
            request.session,
            dict(request.filters),
            request.exclude,
            request.consent,
            request.similar_to,
            request.at_us,
            *more,
        )
    )
    scores = _pack_floats(request.item_scores) if request.items else b""
    shown, served = (keys.astype("<u8", copy=False).tobytes() for keys in (request.shown, request.served))
    user = b"" if request.user is EMPTY_USER else pack_user(request.user)
    return b"".join((_LENGTH.pack(len(head)), head, scores, shown, served, user))


def unpack_request(block: bytes) -> Request:
    """Unpack what `pack_request` made; the arrays of the user row are not copied."""
    end = 4 + _LENGTH.unpack_from(block)[0]
    head = orjson.loads(block[4:end])
    request_id, user_id, k, surface, context, session, filters, exclude, consent, similar_to, at_us, *more = head
    items, query, interests, n_shown, n_served = more + _NO_MORE[len(more) :]
    scores = _NO_SCORES
    if items:
        scores = np.frombuffer(block, "<f4", len(items), end)
        end += 4 * len(items)
    shown = np.frombuffer(block, "<u8", n_shown, end)
    end += 8 * n_shown
    served = np.frombuffer(block, "<u8", n_served, end)
    end += 8 * n_served
    return Request(
        request_id=request_id,
        user_id=user_id,
        k=k,
        surface=surface,
        context=context,
        session=tuple(session),
        filters={name: tuple(values) for name, values in filters.items()},
        exclude=tuple(exclude),
        consent=consent,
        user=unpack_user(block[end:]) if len(block) > end else EMPTY_USER,
        similar_to=similar_to,
        items=tuple(items),
        item_scores=scores,
        query=query,
        at_us=at_us,
        interests=tuple(interests),
        shown=shown,
        served=served,
    )


def pack_candidates(found: Candidates) -> bytes:
    """Pack candidates: 10 bytes an item and 6 for each source."""
    missing = orjson.dumps(found.missing) if found.missing else b""
    n, n_sources = found.source_ranks.shape
    return b"".join(
        (
            _SIZES.pack(n, n_sources, len(missing)),
            found.scores.astype("<f4", copy=False).tobytes(),
            found.item_idx.astype("<i4", copy=False).tobytes(),
            found.source_scores.astype("<f4", copy=False).tobytes(),
            found.source_ranks.astype("<i2", copy=False).tobytes(),
            found.sources.astype("<u2", copy=False).tobytes(),
            missing,
        )
    )


def unpack_candidates(block: bytes) -> Candidates:
    """Unpack what `pack_candidates` made, without copying the arrays."""
    n, n_sources, n_missing = _SIZES.unpack_from(block)
    wide = n * n_sources
    at = _SIZES.size
    scores = np.frombuffer(block, "<f4", n, at)
    item_idx = np.frombuffer(block, "<i4", n, at := at + 4 * n)
    source_scores = np.frombuffer(block, "<f4", wide, at := at + 4 * n)
    source_ranks = np.frombuffer(block, "<i2", wide, at := at + 4 * wide)
    sources = np.frombuffer(block, "<u2", n, at + 2 * wide)
    missing = tuple(orjson.loads(block[-n_missing:])) if n_missing else ()
    shape = (n, n_sources)
    return Candidates(item_idx, scores, sources, source_ranks.reshape(shape), source_scores.reshape(shape), missing)


def recall_scores(block: bytes) -> bytes:
    """Cut recall's own scores out of packed candidates, as packed scores: what is left when there is no ranker."""
    n, _, _ = _SIZES.unpack_from(block)
    return _NOBODY + block[_SIZES.size : _SIZES.size + 4 * n]


def pack_scores(scores: NDArray[np.float32], ranker: str = "") -> bytes:
    """Pack scores, shape (n,), behind the name of the model that they are of."""
    return ranker.encode().ljust(_NAME, b"\0") + _pack_floats(scores)


def unpack_scores(block: bytes) -> NDArray[np.float32]:
    """Unpack scores, shape (n,), without copying."""
    return np.frombuffer(block, "<f4", offset=_NAME)


def ranked_by(block: bytes) -> str:
    """The name of the model that packed scores are of; empty for recall's."""
    return block[:_NAME].rstrip(b"\0").decode()


def _pack_floats(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def pack_slate(slate: Slate) -> bytes:
    """Pack a slate."""
    parts = (slate.request_id, slate.item_ids, slate.titles, slate.reasons, slate.degraded, slate.release)
    head = orjson.dumps((*parts, slate.rules, slate.missed_rules))
    scores, propensities = _pack_floats(slate.scores), _pack_floats(slate.propensities)
    return b"".join((_LENGTH.pack(len(head)), head, scores, propensities))


def unpack_slate(block: bytes) -> Slate:
    """Unpack what `pack_slate` made."""
    end = 4 + _LENGTH.unpack_from(block)[0]
    request_id, item_ids, titles, reasons, degraded, release, rules, missed = orjson.loads(block[4:end])
    n = len(item_ids)
    return Slate(
        request_id=request_id,
        item_ids=tuple(item_ids),
        titles=tuple(titles),
        scores=np.frombuffer(block, "<f4", n, end),
        propensities=np.frombuffer(block, "<f4", n, end + 4 * n),
        reasons=tuple(tuple(each) for each in reasons),
        degraded=tuple(degraded),
        release=release,
        rules=rules,
        missed_rules=tuple(missed),
    )
