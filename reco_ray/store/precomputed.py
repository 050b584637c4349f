"""Slates made before anybody asked: per user a short list that answers when the stages cannot."""

import struct
from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import orjson

from reco_ray.arrays import lookup
from reco_ray.errors import SchemaError
from reco_ray.hashing import item_keys
from reco_ray.types import Request, Slate

__all__ = ["Precomputed", "pack_precomputed", "unpack_precomputed"]

_HEADER = struct.Struct("<Hd")  # format, made: the store's script compares ages by these ten bytes
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Precomputed:
    """One user's list, best first.

    Attributes:
        made: unix time in seconds. release: the one that made it.
        item_ids, titles, reasons: per item. scores: None where not finite.
        draw_id: request that it was made for; empty when a job made it.
    """

    made: float
    release: str
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    scores: tuple[float | None, ...]
    reasons: tuple[tuple[str, ...], ...]
    draw_id: str = ""

    def __post_init__(self) -> None:
        sizes = (len(self.item_ids), len(self.titles), len(self.scores), len(self.reasons))
        if len(set(sizes)) != 1:
            raise ValueError(f"item_ids, titles, scores, reasons have lengths {sizes}, expected equal ones")

    def pick(self, request: Request, seen_items_return: bool = False, withdrawn: Container[str] = ()) -> Slate | None:
        """Make a slate of what may still be shown; ``short_slate`` marks one of fewer than k.

        Leaves out what the request excludes, what earlier pages showed or was served lately, its session and, unless they
        return, the items seen since the list was made. None when the request filters or asks for neighbours, which the list
        knows nothing of, or when nothing is left.

        Args:
            withdrawn: ids that nobody may be shown any more.
        """
        if request.filters or request.similar_to:
            return None
        hidden = set(request.exclude) if seen_items_return else {*request.exclude, *request.session}
        rows = [row for row, item_id in enumerate(self.item_ids) if item_id not in hidden and item_id not in withdrawn]
        if request.user.seen.size and not seen_items_return:
            unseen = lookup(request.user.seen, item_keys([self.item_ids[row] for row in rows])) < 0
            rows = [row for row, keep in zip(rows, unseen.tolist(), strict=True) if keep]
        if (past := request.past).size:
            new = lookup(past, item_keys([self.item_ids[row] for row in rows])) < 0
            rows = [row for row, keep in zip(rows, new.tolist(), strict=True) if keep]
        rows = rows[: request.k]
        if not rows:
            return None
        scores = [self.scores[row] for row in rows]
        return Slate(
            request_id=request.request_id,
            item_ids=tuple([self.item_ids[row] for row in rows]),
            titles=tuple([self.titles[row] for row in rows]),
            scores=np.array([np.nan if score is None else score for score in scores], np.float32),
            propensities=np.ones(len(rows), np.float32),
            reasons=tuple([self.reasons[row] for row in rows]),
            degraded=("short_slate",) if len(rows) < request.k else (),
            release=self.release,
        )


def pack_precomputed(slate: Precomputed) -> bytes:
    """Pack a list: ten bytes of format and age, then JSON."""
    fields = (slate.release, slate.item_ids, slate.titles, slate.scores, slate.reasons, slate.draw_id)
    return _HEADER.pack(_FORMAT, slate.made) + orjson.dumps(fields)


def unpack_precomputed(raw: bytes) -> Precomputed:
    """Unpack what `pack_precomputed` made.

    Raises: SchemaError: the value has another format.
    """
    if len(raw) <= _HEADER.size or (found := _HEADER.unpack_from(raw))[0] != _FORMAT:
        raise SchemaError(f"precomputed slate: found {raw[:10]!r}, expected format {_FORMAT}; run recommend_batch again")
    try:
        release, item_ids, titles, scores, reasons, *draw = orjson.loads(raw[_HEADER.size :])  # once without a draw_id
    except ValueError as exc:
        raise SchemaError(f"precomputed slate: found {len(raw)} bytes that are no list, run recommend_batch again") from exc
    reason_lists = tuple([tuple(each) for each in reasons])
    return Precomputed(found[1], release, tuple(item_ids), tuple(titles), tuple(scores), reason_lists, *draw)
