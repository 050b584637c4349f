"""A decision as a record: from the gateway to the bus as JSON, and from there to rows of `schema.EXPOSURES`.

What a slate's places hold stays the same for all decisions that one slate answers, so it is written once (`encode_slots`).
"""

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from reco_ray.config import DateUnit, SourceName
from reco_ray.events.bus import Record
from reco_ray.hashing import user_bucket
from reco_ray.lake.dates import date_of
from reco_ray.schema import EXPOSURES, TS

__all__ = ["Decision", "encode", "encode_slots", "rows_to_table"]

_SOURCES = frozenset(source.value for source in SourceName)
_NO_RULE = _SOURCES | {"unknown_item"}  # the latter says what the release lacks
_SEPARATOR = ","  # in one string instead of a list for each place: a third of the time to read
_ROWS = 500  # at a time: with more lists than that alive, the garbage collector takes most of the time
_HOUR_US = 3_600_000_000
_NUMPY = orjson.OPT_SERIALIZE_NUMPY

_bucket = lru_cache(100_000)(user_bucket)


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer of the gateway.

    Attributes:
        call: of the table of calls. ts_us: when it was answered, microseconds since 1970.
        user_id: empty for anonymous requests and without consent.
        draw_id: request that the slate was made for. age_s: of the slate.
        slots: from `encode_slots`.
        user_view: version of the view that ``user_row``, packed as in the online store, is a row of.
        timings: milliseconds per stage.
        circumstances: what a bandit knew of the request; empty where it drew nothing.
    """

    request_id: str
    call: str
    user_id: str = field(repr=False)
    ts_us: int
    surface: str
    context: Mapping[str, str] = field(repr=False)
    consent: bool
    release: str
    variant: str
    rung: str
    degraded: Sequence[str]
    draw_id: str
    age_s: float
    slots: bytes = field(repr=False)
    user_view: str = ""
    user_row: bytes | None = field(default=None, repr=False)
    timings: Mapping[str, float] = field(default_factory=dict)
    experiment: str = ""
    circumstances: Sequence[float] = ()


def encode_slots(
    item_ids: Sequence[str],
    scores: NDArray[np.float32],
    reasons: Sequence[Sequence[str]],
    propensities: NDArray[np.float32] | None = None,
    rules_version: int | None = None,
    first_position: int = 1,
    ranker: str | None = None,
) -> bytes:
    """Write a slate's places; a score that is not finite becomes null.

    Args:
        reasons: per place, names of recall sources and of the rules that took effect; they are told apart here.
        propensities: None where the slate was not drawn at random.
        rules_version: of the rules in force. first_position: of the first place, more than 1 on a later page.
        ranker: name of the model whose scores they are.
    """
    told_apart = [_told_apart(tuple(each)) for each in reasons]
    fields = {
        "item_ids": item_ids,
        "scores": scores,
        "propensities": propensities,
        "sources": [sources for sources, _ in told_apart],
        "rules": [rules for _, rules in told_apart],
        "rules_version": rules_version,
        "first_position": first_position,
        "ranker": ranker,
    }
    return orjson.dumps(fields, option=_NUMPY)


def encode(decision: Decision) -> bytes:
    """Write a decision for the bus: 3 us. Floats keep what float32 and milliseconds need, and no more."""
    head = {
        "request_id": decision.request_id,
        "call": decision.call,
        "user_id": decision.user_id,
        "ts": decision.ts_us,
        "surface": decision.surface or None,
        "context": decision.context or None,
        "consent": decision.consent,
        "release": decision.release,
        "variant": decision.variant,
        "experiment": decision.experiment or None,
        "rung": decision.rung,
        "degraded": decision.degraded,
        "draw_id": decision.draw_id,
        "age_s": round(decision.age_s, 3),
        "circumstances": [round(value, 6) for value in decision.circumstances] or None,
        "user_view": decision.user_view or None,
        "user_row": None if decision.user_row is None else base64.b64encode(decision.user_row).decode(),
        "timings": {stage: round(ms, 2) for stage, ms in decision.timings.items()},
    }
    return b"".join((orjson.dumps(head)[:-1], b",", decision.slots[1:]))


def rows_to_table(records: Sequence[Record], unit: DateUnit) -> pa.Table:
    """Turn records of the bus into rows of `schema.EXPOSURES`, in order. ``received_ts`` is when the bus took them.

    Args:
        unit: of the table's dates.
    Raises: ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException: a record is none of `encode`.
    """
    parts = [_rows_to_table(records[start : start + _ROWS], unit) for start in range(0, len(records), _ROWS)]
    return pa.concat_tables([EXPOSURES.empty_table(), *parts])


def _rows_to_table(records: Sequence[Record], unit: DateUnit) -> pa.Table:
    rows: list[dict[str, Any]] = [orjson.loads(record.value) for record in records]
    sizes = [len(row["item_ids"]) for row in rows]
    if any([len(row[name]) for row in rows] != sizes for name in ("scores", "sources", "rules")):
        raise ValueError("a decision's scores, sources or rules are not as many as its items")
    given = {
        "received_ts": pa.array([record.ts_ms * 1000 for record in records], pa.int64()).cast(TS),
        "bus_position": pa.array([str(record.position) for record in records], pa.string()),
        "ts": pa.array([row["ts"] for row in rows], pa.int64()).cast(TS),
        "degraded": _lists([row["degraded"] for row in rows], pa.string()),
        "item_ids": _lists([row["item_ids"] for row in rows], pa.string()),
        "scores": _lists([row["scores"] for row in rows], pa.float32()),
        "propensities": _propensities([row["propensities"] for row in rows], sizes),
        "sources": _split([row["sources"] for row in rows]),
        "rules": _split([row["rules"] for row in rows]),
        # records of before lack them
        "rules_version": pa.array([row.get("rules_version") for row in rows], pa.int32()),
        "first_position": pa.array([row.get("first_position") for row in rows], pa.int32()),
        "ranker": pa.array([row.get("ranker") for row in rows], pa.string()),
        "circumstances": pa.array([row.get("circumstances") for row in rows], pa.list_(pa.float32())),
        "user_row": pa.array([_unpacked(row["user_row"]) for row in rows], pa.binary()),
        "timings": _maps([row["timings"] for row in rows]),
        "date": pa.array([_date(row["ts"] // _HOUR_US, unit) for row in rows], pa.string()),
        "user_bucket": pa.array([_bucket(row["user_id"]) for row in rows], pa.int32()),
    }
    columns = [
        given[field.name] if field.name in given else pa.array([row[field.name] for row in rows], field.type)
        for field in EXPOSURES
    ]
    return pa.table(columns, schema=EXPOSURES)


@lru_cache(10_000)
def _told_apart(reasons: tuple[str, ...]) -> tuple[str, str]:
    sources = [name for name in reasons if name in _SOURCES]
    return _SEPARATOR.join(sources), _SEPARATOR.join([name for name in reasons if name not in _NO_RULE])


@lru_cache(10_000)
def _date(hour: int, unit: DateUnit) -> str:
    return date_of(hour * _HOUR_US, unit)


def _unpacked(row: str | None) -> bytes | None:
    return None if row is None else base64.b64decode(row, validate=True)


def _offsets(lists: Sequence[Sequence[object] | Mapping[str, object]]) -> pa.Array:
    return pa.array(list(itertools.accumulate(map(len, lists), initial=0)), pa.int32())


def _lists(lists: Sequence[Sequence[object]], kind: pa.DataType) -> pa.Array:
    """As ``pa.array(lists, pa.list_(kind))``, a third of the time."""
    return pa.ListArray.from_arrays(_offsets(lists), pa.array(list(itertools.chain.from_iterable(lists)), kind))


def _propensities(drawn: Sequence[Sequence[float] | None], sizes: Sequence[int]) -> pa.Array:
    """Nulls, as many as there are places, for slates that were not drawn: mostly for all of them."""
    if any(drawn):
        return _lists([each or [None] * size for each, size in zip(drawn, sizes, strict=True)], pa.float32())
    offsets = pa.array(list(itertools.accumulate(sizes, initial=0)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.nulls(sum(sizes), pa.float32()))


def _split(lists: Sequence[Sequence[str]]) -> pa.Array:
    """Lists of joined names to lists of lists of names; few of the joined names are distinct."""
    flat = pa.array(list(itertools.chain.from_iterable(lists)), pa.string()).dictionary_encode()
    names = [each.split(_SEPARATOR) if each else [] for each in flat.dictionary.to_pylist()]
    return pa.ListArray.from_arrays(_offsets(lists), pa.array(names, pa.list_(pa.string())).take(flat.indices))


def _maps(maps: Sequence[Mapping[str, float]]) -> pa.Array:
    keys = pa.array(list(itertools.chain.from_iterable(maps)), pa.string())
    values = pa.array(list(itertools.chain.from_iterable(each.values() for each in maps)), pa.float32())
    return pa.MapArray.from_arrays(_offsets(maps), keys, values)
