"""The online state of users and items: what the stream adds each micro-batch to. Pure.

A user's state is the sums and the newest events; the row that requests read (`types.UserRow`) follows from it. Events may come
late, twice and in any order: sums do not mind the order (`add_item_events` tells of one that does), the newest events are kept
in the order of `transform.prepare`, and the ids of the last events applied tell repeated ones.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import FeaturesConfig
from reco_ray.errors import SchemaError
from reco_ray.features.finish import had_items, user_features
from reco_ray.features.items import ItemFacts
from reco_ray.features.sums import DAY_US, ITEM_SUMS, US, Sums, added_up, half_lives, item_sums, merged, shown_sums, user_sums
from reco_ray.hashing import hash64_many
from reco_ray.types import UserRow

__all__ = [
    "REMEMBERED",
    "SHOWN",
    "Recent",
    "UserState",
    "add_item_events",
    "add_user_events",
    "had_before",
    "pack_items",
    "unknown",
    "unpack_items",
    "unshown",
]

REMEMBERED = 256
"""Ids of a user's last events that are kept: one that comes again behind so many others counts twice, until the state is made
anew from the lake, which knows all ids."""

SHOWN = 4096
"""Ids of a partition's last impressions that are kept, likewise."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_HEADER = struct.Struct("<HHIIIqqq")  # format, columns of sums, events, events to start with, ids, first, last, position
_FORMAT = 1
_RECENT = np.dtype([("us", "<i8"), ("key", "<u8"), ("strength", "<f8")])  # sorted by all three, in this order

Recent = NDArray[np.void]
"""Events of one user, oldest first, of dtype (us, key, strength)."""


@dataclass(frozen=True, slots=True, eq=False)
class UserState:
    """State of one user.

    Attributes:
        first, last: times of the oldest and the newest event, microseconds.
        values: sums as in `sums.user_sums`, float64, shape (K,).
        recent: the newest ``seen_limit`` events.
        ids: hashes of the last `REMEMBERED` event ids applied, uint64.
        position: on the bus, of the last record applied; -1 where all came from the lake.
    """

    first: int
    last: int
    values: NDArray[np.float64]
    recent: Recent
    ids: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    position: int = -1

    def pack(self) -> bytes:
        """Pack the state: 40 bytes, 8 per sum, 24 per event, 8 per id."""
        header = (_FORMAT, self.values.size, self.recent.size, 0, self.ids.size, self.first, self.last, self.position)
        return b"".join((_HEADER.pack(*header), self.values.tobytes(), self.recent.tobytes(), self.ids.tobytes()))

    @classmethod
    def unpack(cls, raw: bytes) -> "UserState":
        """Unpack what `pack` made.

        Raises: SchemaError: it has another format or length.
        """
        remedy = "run materialize_features again"
        if len(raw) < _HEADER.size:
            raise SchemaError(f"user state: found {len(raw)} bytes, expected at least {_HEADER.size}; {remedy}")
        version, n_sums, n_events, _, n_ids, first, last, position = _HEADER.unpack_from(raw)
        ends = np.cumsum([_HEADER.size, 8 * n_sums, _RECENT.itemsize * n_events, 8 * n_ids]).tolist()
        if version != _FORMAT or ends[-1] != len(raw):
            found = f"format {version} and {len(raw)} bytes"
            raise SchemaError(f"user state: found {found}, expected format {_FORMAT} and {ends[-1]}; {remedy}")
        values = np.frombuffer(raw, "<f8", n_sums, ends[0])
        recent = np.frombuffer(raw, _RECENT, n_events, ends[1])
        return cls(first, last, values, recent, np.frombuffer(raw, "<u8", n_ids, ends[2]), position)


def unknown(events: pl.DataFrame, stored: dict[str, UserState]) -> pl.DataFrame:
    """Leave out repeated events; adds ``event_hash``.

    Args:
        events: from `transform.prepare`, with ``event_id`` and ``bus_position`` (int64; -1 for one that comes from the lake).
        stored: user_id -> state, of those who have one.
    """
    events = events.unique("event_id", keep="first", maintain_order=True)
    events = events.with_columns(pl.Series("event_hash", hash64_many(events["event_id"], "event"), dtype=pl.UInt64))
    known = [(user, state.ids) for user, state in stored.items() if state.ids.size]
    if not known:
        return events
    seen = pl.DataFrame(
        {
            "user_id": np.repeat([user for user, _ in known], [ids.size for _, ids in known]),
            "event_hash": np.concatenate([ids for _, ids in known]),
        },
        schema={"user_id": pl.String, "event_hash": pl.UInt64},
    )
    return events.join(seen, on=["user_id", "event_hash"], how="anti", maintain_order="left")


def add_user_events(
    events: pl.DataFrame, stored: dict[str, UserState], items: ItemFacts, config: FeaturesConfig
) -> dict[str, tuple[UserState, UserRow]]:
    """Add events to the states of their users.

    Args:
        events: of `unknown`. stored: user_id -> state, of those who have one.
    Returns: user_id -> new state and row, of the users of these events.
    """
    if events.is_empty():
        return {}
    user_ids, added = user_sums(items.describe(events), items.in_category, config)
    users = user_ids.to_list()
    total = merged(_stacked([stored.get(user) for user in users], added.half_lives), added)
    features = user_features(total)
    found: dict[str, tuple[UserState, UserRow]] = {}
    lists = events.group_by("user_id", maintain_order=True).agg(
        US.alias("us"), pl.col("item_key"), pl.col("strength"), pl.col("event_hash"), pl.col("bus_position").max()
    )
    for at, (user, us, keys, strengths, hashes, position) in enumerate(lists.iter_rows()):
        old = stored.get(user)
        recent = np.empty(len(us), _RECENT)
        recent["us"], recent["key"], recent["strength"] = us, keys, strengths
        ids = np.array(hashes, np.uint64)
        if old is not None:
            late = old.recent.size and recent[0]["us"] <= old.recent[-1]["us"]
            recent = np.concatenate([old.recent, recent])
            if late:
                recent = np.sort(recent)
            ids, position = np.concatenate([old.ids, ids]), max(position, old.position)
        state = UserState(
            int(total.first[at]),
            int(total.last[at]),
            total.values[at],
            recent[-config.seen_limit :],
            ids[-REMEMBERED:],
            position,
        )
        found[user] = state, _row(state, features[at], config)
    return found


def add_item_events(
    events: pl.DataFrame, shown: pl.DataFrame, stored: dict[str, bytes], users: dict[str, UserState], config: FeaturesConfig
) -> dict[str, bytes]:
    """Add events to the packed sums of their items; item_id -> sums.

    Whether a user had an item before, the newest events of the user's state tell. Of two events that come in the wrong order,
    the late one counts as the return; a return behind ``seen_limit`` other events of the user counts as somebody new. Both hold
    until the sums are made anew from the lake.

    Args:
        events: of `unknown`. shown: of `transform.shown`, less those applied before.
        stored: item_id -> packed sums, of those that have some.
        users: user_id -> state before these events, of those who have one.
    """
    rows = pl.concat([item_sums(events, config, had_before(events, users)), shown_sums(shown, config)])
    ids = rows["item_id"].unique(maintain_order=True)
    old = unpack_items([stored.get(item) for item in ids], config)
    return dict(zip(ids, pack_items(merged(old, added_up(rows, ids, config))), strict=True))


def had_before(events: pl.DataFrame, users: dict[str, UserState]) -> NDArray[np.bool_]:
    """Tell of each event whether its user had its item before all of these events, shape (n,).

    Args:
        events: of `unknown`. users: user_id -> state before these events, of those who have one.
    """
    if events.is_empty():
        return np.zeros(0, np.bool_)
    ids = events["user_id"].unique(maintain_order=True)
    recent = [users[user].recent["key"] if user in users else np.empty(0, np.uint64) for user in ids]
    salts = np.arange(len(ids), dtype=np.uint64) * _ODD  # a key with its user's salt stands for both
    before = pl.Series(np.concatenate(recent) ^ np.repeat(salts, [keys.size for keys in recent]))
    wanted = events["item_key"] ^ events["user_id"].replace_strict(ids, pl.Series(salts), return_dtype=pl.UInt64)
    found = before.filter(before.is_in(wanted.implode()))  # the states' events are many: only looked up, never in a table
    return wanted.is_in(found.implode()).to_numpy()


def unshown(shown: pl.DataFrame, known: bytes) -> tuple[pl.DataFrame, bytes]:
    """Leave out repeated impressions.

    They are many, and nobody's own: a partition remembers the ids of its last `SHOWN`, instead of each user some.

    Args:
        shown: of `transform.shown`, with ``event_id``. known: what this returned for the batch before; empty at first.
    Returns: the others, and what to remember.
    """
    ids = hash64_many(shown["event_id"], "event")
    old = np.frombuffer(known, np.uint64)
    first = np.zeros(ids.size, np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    new = first & ~np.isin(ids, old)
    return shown.filter(pl.Series(new, dtype=pl.Boolean)), np.concatenate([old, ids[new]])[-SHOWN:].tobytes()


def pack_items(sums: Sums) -> list[bytes]:
    """Pack the sums of each item: 16 bytes and 8 per sum."""
    times = np.stack([sums.first, sums.last], axis=1).astype("<i8")
    return [time.tobytes() + values.tobytes() for time, values in zip(times, sums.values, strict=True)]


def unpack_items(raw: Sequence[bytes | None], config: FeaturesConfig) -> Sums:
    """Unpack what `pack_items` made; no events where there is nothing.

    Raises: SchemaError: it has another length.
    """
    sums = Sums.none(len(raw), half_lives(ITEM_SUMS, config))
    size = 16 + 8 * len(ITEM_SUMS)
    found = [(at, value) for at, value in enumerate(raw) if value is not None]
    if wrong := [len(value) for _, value in found if len(value) != size]:
        raise SchemaError(f"item sums: found {wrong[0]} bytes, expected {size}; run materialize_features again")
    if found:
        at = np.array([place for place, _ in found])
        block = np.frombuffer(b"".join(value for _, value in found), "<i8").reshape(len(found), -1)
        sums.first[at], sums.last[at] = block[:, 0], block[:, 1]
        sums.values[at] = np.ascontiguousarray(block[:, 2:]).view("<f8")
    return sums


def _stacked(states: Sequence[UserState | None], lives: NDArray[np.float64]) -> Sums:
    sums = Sums.none(len(states), lives)
    for at, state in enumerate(states):
        if state is not None:
            if state.values.size != lives.size:
                raise SchemaError(
                    f"user state: found {state.values.size} sums, expected {lives.size}; run materialize_features again"
                )
            sums.first[at], sums.last[at], sums.values[at] = state.first, state.last, state.values
    return sums


def _row(state: UserState, features: NDArray[np.float32], config: FeaturesConfig) -> UserRow:
    newest = state.recent[-config.history :]
    seen, had = had_items(state.recent["key"], state.recent["us"] // DAY_US)
    return UserRow(
        history=np.ascontiguousarray(newest["key"]),
        weights=newest["strength"].astype(np.float32),
        seen=seen,
        had=had,
        features=features,
        as_of=state.last,
        position=state.position,
    )
