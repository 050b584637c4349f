"""Splits in time: nothing after a cut counts as before it."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import SplitConfig, SplitKind
from reco_ray.errors import DataError
from reco_ray.features.splits import Split, assign_beside, assign_parts, choose_split, crossing, cuts_of, minutes_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def frame(rows: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user, _ in rows],
            "ts": pl.Series([START + timedelta(minutes=minute) for _, minute in rows], dtype=pl.Datetime("us", "UTC")),
            "event_id": [f"e{i}" for i in range(len(rows))],
        }
    )


def split_of(events: pl.DataFrame, config: SplitConfig) -> Split:
    cuts = cuts_of(minutes_of(events), config)
    return choose_split(cuts, *crossing(events, cuts[1]), config)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), min_size=1, max_size=80), st.sampled_from(SplitKind))
def test_within_a_user_parts_never_go_back_in_time(rows: list[tuple[int, int]], kind: SplitKind) -> None:
    events = frame(rows)
    parts = events.with_columns(assign_parts(events, split_of(events, SplitConfig(kind=kind))))
    for _, mine in parts.sort("user_id", "ts", "part").group_by("user_id", maintain_order=True):
        assert mine["part"].is_sorted()


def test_equal_times_are_ordered_by_event_id_whatever_the_row_order() -> None:
    events = frame([(0, 0)] * 10)
    split = split_of(events, SplitConfig(kind=SplitKind.per_user))
    shuffled = events.sample(fraction=1, shuffle=True, seed=3)
    one = dict(zip(events["event_id"], assign_parts(events, split), strict=True))
    other = dict(zip(shuffled["event_id"], assign_parts(shuffled, split), strict=True))
    assert one == other
    assert sorted(one.values()).count(0) == 7


def test_a_global_cut_is_taken_when_enough_test_users_have_a_history() -> None:
    lasting = frame([(user, 10 * user + 60 * day) for user in range(10) for day in range(30)])
    split = split_of(lasting, SplitConfig(min_test_users=5))
    assert split.kind is SplitKind.global_time
    assert split.warm_test_users == 10
    assert "One global cut" in split.sentence


def test_people_who_come_once_are_split_each_on_their_own() -> None:
    sittings = frame([(user, 1000 * user + i) for user in range(10) for i in range(10)])
    split = split_of(sittings, SplitConfig(min_test_users=5))
    assert split.kind is SplitKind.per_user
    assert split.cold_test_users == 2
    assert "last 20% of each user's own events" in split.sentence


def test_no_events_are_an_error_that_names_the_remedy() -> None:
    with pytest.raises(DataError, match="run import_dataset first"):
        split_of(frame([]), SplitConfig())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), min_size=1, max_size=80), st.integers(0, 5))
def test_counts_of_some_users_and_of_the_others_add_up_to_the_whole(rows: list[tuple[int, int]], first: int) -> None:
    events = frame(rows)
    some = pl.col("user_id") <= f"u{first}"
    parts = [events.filter(some), events.filter(~some)]
    cuts = cuts_of(minutes_of(events), SplitConfig())
    assert cuts_of(pl.concat([minutes_of(part) for part in parts]), SplitConfig()) == cuts
    each = [crossing(part, cuts[1]) for part in parts]
    assert tuple(map(sum, zip(*each, strict=True))) == crossing(events, cuts[1])
    before = events.filter(pl.col("ts").dt.epoch("us") < cuts[0]).height
    assert before <= SplitConfig().fit * len(rows)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=60), st.sampled_from(SplitKind))
def test_what_is_beside_the_events_never_comes_into_a_part_before_its_user_does(
    rows: list[tuple[int, int]], kind: SplitKind
) -> None:
    events = frame(rows)
    split = split_of(events, SplitConfig(kind=kind))
    events = events.with_columns(assign_parts(events, split).alias("part"))
    beside = frame([(user, minute) for user in range(5) for minute in range(0, 60, 7)])
    parts = beside.with_columns(assign_beside(beside, events, split).alias("part"))
    for user, ts, part in parts.select("user_id", "ts", "part").iter_rows():
        mine = events.filter(pl.col("user_id") == user, pl.col("ts") <= ts)["part"]
        if split.kind is SplitKind.per_user:
            assert part == (mine.max() if len(mine) else 0)
        elif len(mine):
            assert part >= mine.max()
