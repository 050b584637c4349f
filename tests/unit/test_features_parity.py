"""The same events give the same numbers, whether they are added up at once or arrive late, twice, and out of order."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reco_ray.config import FeaturesConfig
from reco_ray.errors import SchemaError
from reco_ray.features import ITEM_COLUMNS, transform, user_row
from reco_ray.features.finish import item_features
from reco_ray.features.items import ItemFacts
from reco_ray.features.online import UserState, add_item_events, add_user_events, unknown, unpack_items, unshown
from reco_ray.features.sums import added_up, item_sums, shown_sums
from reco_ray.types import UserRow

TOLERANCE = 2e-5  # features are rounded to five digits; another order of adding may round the other way
CONFIG = FeaturesConfig(history=4, seen_limit=7, half_life_days=3, trending_half_life_days=0.5)
ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "year": [1999, None, 2010, 2020],
        "categories": [["x"], ["x", "y"], [], ["y", "rare"]],
    },
    schema_overrides={"year": pl.Int32},
)
FACTS = ItemFacts.of(ITEMS, ["x", "y"])
START = datetime(2026, 5, 1, tzinfo=UTC)

EVENT = st.tuples(
    st.sampled_from(["u1", "u2", "u3"]),
    st.sampled_from(["a", "b", "c", "d", "not in the catalogue"]),
    st.integers(0, 20),  # hours, so that times are often equal
    st.sampled_from(["view", "click", "purchase", "rating", "dismiss", "impression"]),
    st.one_of(st.none(), st.floats(0, 5, width=32)),
    st.booleans(),
)


def frame(rows: list[tuple[str, str, int, str, float | None, bool]]) -> pl.DataFrame:
    """Events as the lake has them; their place is their id."""
    return pl.DataFrame(
        [
            {
                "user_id": user,
                "item_id": item,
                "ts": START + timedelta(hours=hours),
                "type": kind,
                "value": value,
                "event_id": f"e{at}",
                "consent": consent,
                "bus_position": at,
            }
            for at, (user, item, hours, kind, value, consent) in enumerate(rows)
        ],
        schema={
            "user_id": pl.String,
            "item_id": pl.String,
            "ts": pl.Datetime("us", "UTC"),
            "type": pl.String,
            "value": pl.Float32,
            "event_id": pl.String,
            "consent": pl.Boolean,
            "bus_position": pl.Int64,
        },
    )


class Stream:
    """What a consumer does with each micro-batch, without bus and store."""

    def __init__(self, config: FeaturesConfig) -> None:
        self._config = config
        self.states: dict[str, bytes] = {}
        self.rows: dict[str, UserRow] = {}
        self.items: dict[str, bytes] = {}
        self.shown = b""

    def take(self, raw: pl.DataFrame) -> None:
        events = transform.prepare(raw, self._config, extra=["event_id", "bus_position"])
        stored = {user: UserState.unpack(value) for user, value in self.states.items()}
        fresh = unknown(events, stored)
        for user, (state, row) in add_user_events(fresh, stored, FACTS, self._config).items():
            self.states[user], self.rows[user] = state.pack(), row
        shown, self.shown = unshown(transform.shown(raw), self.shown)
        self.items |= add_item_events(fresh, shown, self.items, stored, self._config)


@settings(max_examples=300)
@given(st.lists(EVENT, min_size=1, max_size=40), st.data())
def test_a_stream_in_any_order_with_repeats_gives_what_the_batch_gives(
    rows: list[tuple[str, str, int, str, float | None, bool]], data: st.DataObject
) -> None:
    raw = frame(rows)
    arrivals = data.draw(st.permutations(range(len(rows))))
    again = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    order = [*arrivals, *again]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=6)))
    stream = Stream(CONFIG)
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        stream.take(raw[order[start:end]])

    events = transform.prepare(raw, CONFIG)
    batch = {row["user_id"]: user_row(row) for row in transform.user_rows(events, FACTS, CONFIG).iter_rows(named=True)}
    assert set(batch) == set(stream.rows)
    for user, expected in batch.items():
        found = stream.rows[user]
        np.testing.assert_allclose(found.features, expected.features, atol=TOLERANCE)
        for name in ("history", "weights", "seen", "had"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        assert found.as_of == expected.as_of

    as_of = int((START + timedelta(hours=30)).timestamp() * 1e6)
    partials = pl.concat([item_sums(events, CONFIG), shown_sums(transform.shown(raw), CONFIG)])
    whole = transform.item_rows(added_up(partials, ITEMS["item_id"], CONFIG), ITEMS, as_of)
    sums = unpack_items([stream.items.get(item) for item in ITEMS["item_id"]], CONFIG)
    years = ITEMS["year"].fill_null(0).to_numpy()
    online = item_features(sums, years, as_of)
    # here states forget events, and late ones count as returns
    kept = [at for at, c in enumerate(ITEM_COLUMNS) if c.name not in ("item_people", "item_times", "item_again")]
    batched = whole.select(c.name for c in ITEM_COLUMNS).to_numpy()
    np.testing.assert_allclose(online[:, kept], batched[:, kept], atol=TOLERANCE)


def item_views(raw: pl.DataFrame, parts: list[pl.DataFrame], config: FeaturesConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The item view of a stream over the parts, and of the batch."""
    stream = Stream(config)
    for part in parts:
        stream.take(part)
    as_of = int((START + timedelta(hours=30)).timestamp() * 1e6)
    sums = unpack_items([stream.items.get(item) for item in ITEMS["item_id"]], config)
    events = transform.prepare(raw, config)
    partials = pl.concat([item_sums(events, config), shown_sums(transform.shown(raw), config)])
    whole = added_up(partials, ITEMS["item_id"], config)
    names = ["item_id", *(c.name for c in ITEM_COLUMNS)]
    online, batch = (transform.item_rows(each, ITEMS, as_of).select(names) for each in (sums, whole))
    return online, batch


def differing(one: pl.DataFrame, other: pl.DataFrame) -> set[str]:
    return {c.name for c in ITEM_COLUMNS if not np.allclose(one[c.name], other[c.name], rtol=0, atol=TOLERANCE)}


@settings(max_examples=300)
@given(st.lists(EVENT, min_size=1, max_size=40), st.data())
def test_a_stream_in_order_knows_who_comes_back_as_the_batch_does(
    rows: list[tuple[str, str, int, str, float | None, bool]], data: st.DataObject
) -> None:
    config = replace(CONFIG, seen_limit=40)
    raw = frame(rows)
    hours = sorted(data.draw(st.lists(st.integers(0, 20), max_size=6)))
    passed = [START + timedelta(hours=hour) for hour in (-1, *hours, 21)]
    parts = [raw.filter((pl.col("ts") > after) & (pl.col("ts") <= until)) for after, until in itertools.pairwise(passed)]
    assert differing(*item_views(raw, parts, config)) == set()


@settings(max_examples=100)
@given(st.lists(EVENT, min_size=1, max_size=40), st.data())
def test_a_stream_in_any_order_counts_each_user_of_an_item_once(
    rows: list[tuple[str, str, int, str, float | None, bool]], data: st.DataObject
) -> None:
    raw = frame(rows)[data.draw(st.permutations(range(len(rows))))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    parts = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    assert differing(*item_views(raw, parts, replace(CONFIG, seen_limit=40))) <= {"item_again"}


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (3,), (1, 2, 3)], ids=str)
def test_a_user_who_returns_is_known_within_a_batch_and_in_a_later_one(cuts: tuple[int, ...]) -> None:
    seen = [("u1", "a", 1), ("u2", "a", 2), ("u1", "a", 3), ("u1", "b", 4)]
    raw = frame([(user, item, hours, "purchase", None, True) for user, item, hours in seen])
    parts = [raw[start:end] for start, end in zip((0, *cuts), (*cuts, len(seen)), strict=True)]
    online, batch = item_views(raw, parts, CONFIG)
    assert differing(online, batch) == set()
    assert np.expm1(online["item_people"]).round().to_list() == [2, 1, 0, 0]
    assert online["item_again"].arg_max() == 0


def test_a_users_row_names_the_last_record_it_holds() -> None:
    stream = Stream(CONFIG)
    raw = frame([("u1", "a", 3, "view", None, True), ("u1", "b", 1, "view", None, True), ("u2", "c", 5, "view", None, True)])
    stream.take(raw[:1])
    stream.take(raw[1:])
    assert {user: row.position for user, row in stream.rows.items()} == {"u1": 1, "u2": 2}


@pytest.mark.parametrize("raw", [b"", b"short", b"\xff" * 60])
def test_a_damaged_state_is_refused_with_the_remedy(raw: bytes) -> None:
    with pytest.raises(SchemaError, match="run materialize_features again"):
        UserState.unpack(raw)


def test_damaged_sums_of_an_item_are_refused_with_the_remedy() -> None:
    with pytest.raises(SchemaError, match="run materialize_features again"):
        unpack_items([b"short"], CONFIG)
