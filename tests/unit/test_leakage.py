"""Leaks: whatever knows the future is named, what is honest passes, and a step that finds one publishes nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reco_ray.compose import compose_config
from reco_ray.config import DateUnit, FeaturesConfig, SplitKind
from reco_ray.errors import DataError
from reco_ray.features import flow, snapshots, transform
from reco_ray.features.leakage import LABELLED, Leak, Learnt, before, leaks, learnt, message, some_users
from reco_ray.features.snapshots import Group
from reco_ray.features.splits import Split
from reco_ray.features.views import ITEM_COLUMNS, SNAPSHOTS, USER_COLUMNS
from reco_ray.lake import tables
from reco_ray.lake.appending import append_events
from reco_ray.workflow import STEPS
from reco_ray.workflow.graph import Step, run_all

CONFIG = FeaturesConfig(history=4, half_life_days=3, trending_half_life_days=0.5)
START = datetime(2026, 5, 1, tzinfo=UTC)
HOURS = 40
ITEMS = pl.DataFrame(
    {"item_id": ["a", "b", "c", "d"], "year": [1999, None, 2010, 2020], "categories": [["x"], ["x", "y"], [], ["y"]]},
    schema_overrides={"year": pl.Int32},
)
CATEGORIES = ["x", "y"]
SPLITS = {
    "global": Split(
        SplitKind.global_time, 0.64, 0.8, *(int((START + timedelta(hours=h)).timestamp() * 1e6) for h in (20, 30)), 9, 0
    ),
    "per user": Split(SplitKind.per_user, 0.5, 0.75, 0, 0, 0, 0),
}
ROW = st.tuples(
    st.sampled_from(["u1", "u2", "u3"]),
    st.sampled_from(["a", "b", "c", "d", "not in the catalogue"]),
    st.integers(0, HOURS - 1),
    st.sampled_from(["view", "click", "purchase", "rating", "dismiss", "impression", "impression"]),
    st.one_of(st.none(), st.floats(0, 5, width=32)),
    st.booleans(),
)
EMPTY_CONTEXT = pl.Struct(dict.fromkeys(("device", "locale", "surface", "location"), pl.String))
Row = tuple[str, str, int, str, float | None, bool]


def frame(rows: Sequence[Row], first_id: int = 0) -> pl.DataFrame:
    """Events as the lake has them."""
    names = {"user_id": pl.String, "item_id": pl.String, "hour": pl.Int64, "type": pl.String, "value": pl.Float32}
    found = pl.DataFrame(rows, schema={**names, "consent": pl.Boolean}, orient="row")
    return found.with_columns(
        ts=pl.lit(START) + pl.duration(hours="hour"),
        context=pl.lit(None, EMPTY_CONTEXT),
        event_id=pl.Series([f"e{at:05}" for at in range(first_id, first_id + len(rows))], dtype=pl.String),
    ).drop("hour")


def honest(snapshot: str) -> tuple[Learnt, ...]:
    return learnt(snapshot, ITEMS, CATEGORIES, True, CONFIG)


def found_in(raw: pl.DataFrame, split: Split, tables_of: Callable[[str], Sequence[Learnt]] = honest) -> list[Leak]:
    return [leak for snapshot in LABELLED for leak in leaks(raw, split, snapshot, tables_of(snapshot), CONFIG)]


@pytest.fixture(scope="module")
def raw() -> pl.DataFrame:
    """Thirty users, eight events each on either side of the global cut; who had much has much again."""
    rng = np.random.default_rng(3)
    rows: list[Row] = []
    for user in range(30):
        hours = [*rng.integers(0, 20, 1 + user // 4), *rng.integers(20, HOURS, 1 + int(rng.integers(8)))]
        rows += [(f"u{user}", "abcd"[rng.integers(4)], int(hour), "purchase", None, True) for hour in hours]
    return frame(rows)


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=60), st.sampled_from(list(SPLITS)))
def test_an_honest_build_passes_whatever_the_events(rows: list[Row], split: str) -> None:
    assert found_in(frame(rows), SPLITS[split]) == []


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=40), st.lists(ROW, max_size=20), st.data())
def test_events_that_come_or_change_at_or_after_the_cut_change_no_feature(
    rows: list[Row], more: list[Row], data: st.DataObject
) -> None:
    """The very cut included: an event at that instant belongs to the future."""
    split = SPLITS["global"]
    kept = [row for row in rows if row[2] < 20]
    late = [(user, item, 20 + hour % 20, *rest) for user, item, hour, *rest in more]
    changed = data.draw(st.permutations([row for row in rows if row[2] >= 20]))
    one, other = frame(rows), pl.concat([frame(kept), frame([*changed[1:], *late], 1000)])  # type: ignore[list-item]
    for table in honest("fit"):
        made = [table.rows(snapshots.divided(each, split, CONFIG)).sort(table.keys) for each in (one, other)]
        assert made[0].equals(made[1]), table.name


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=40), st.sampled_from(["a", "d", "not in the catalogue"]))
def test_what_a_user_s_later_events_are_changes_no_feature_of_a_split_per_user(rows: list[Row], item: str) -> None:
    split, every = SPLITS["per user"], frame(rows)
    early = before(every, split, "fit", CONFIG)["event_id"]
    late = ~pl.col("event_id").is_in(early.to_list())
    # a dismissed item is no event of the split, and would move its cuts
    changed = every.with_columns(item_id=pl.when(late).then(pl.lit(item)).otherwise("item_id"))
    for table in honest("fit"):
        made = [table.rows(snapshots.divided(each, split, CONFIG)) for each in (every, changed)]
        assert made[0].equals(made[1]), table.name


@pytest.mark.parametrize("split", SPLITS)
def test_a_snapshot_that_holds_a_part_too_many_leaks_everywhere(
    raw: pl.DataFrame, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SNAPSHOTS, "fit", SNAPSHOTS["eval"])
    found = found_in(raw, SPLITS[split])
    assert {leak.snapshot for leak in found} == {"fit"}
    columns = {(leak.table, leak.column) for leak in found}
    assert {table for table, _ in columns} == {"users", "items", "pairs", "sequences"}
    assert {c.name for c in USER_COLUMNS if c.name.endswith(("events", "decayed"))} <= {c for _, c in columns}
    assert {"history", "weights", "seen", "as_of", "user_share:x"} <= {c for _, c in columns}
    assert {c.name for c in ITEM_COLUMNS if c.name.endswith(("events", "decayed"))} <= {c for _, c in columns}


def test_one_sum_that_includes_the_labels_is_named_with_what_it_foretells(raw: pl.DataFrame) -> None:
    split = SPLITS["global"]

    def leaking(snapshot: str) -> list[Learnt]:
        table = honest(snapshot)[0]

        def rows(group: Group) -> pl.DataFrame:
            n = group.events.filter(part=1).group_by("user_id").len("n")
            return (
                table.rows(group).join(n, on="user_id", how="left").with_columns(user_events=pl.col("n").fill_null(0)).drop("n")
            )

        return [replace(table, rows=rows)] if snapshot == "fit" else []

    (leak,) = found_in(raw, split, leaking)
    assert (leak.snapshot, leak.table, leak.column) == ("fit", "users", "user_events")
    assert leak.rows == 30
    later = raw.filter(pl.col("ts") >= START + timedelta(hours=20), pl.col("ts") < START + timedelta(hours=30))
    assert leak.differ == later["user_id"].n_unique()
    assert leak.future > 0.8
    assert leak.past == 0, "without the future it is the same for everybody"
    text = message([leak], split)
    assert "once the events from 2026-05-01T20:00:00Z on are removed, found other values of user_events for " in text
    assert (
        f"for {leak.differ} of 30 users of snapshot fit (rank correlation with the label {leak.future:.2f}, then 0.00)" in text
    )
    assert "expected no difference; the transform must use only events before the snapshot's cut" in text


def test_a_message_names_the_worst_columns_and_counts_the_others() -> None:
    found = [Leak("fit", "users", f"c{at}", 10, at, float("nan"), float("nan")) for at in range(1, 8)]
    text = message([*found, Leak("eval", "items", "late", 4000, 4000, 0.5, 0.1)], SPLITS["per user"])
    assert "once the last 25% of each user's events and the last 50% of each user's events are removed" in text
    assert (
        "late for 4,000 of 4,000 items of snapshot eval (rank correlation with the label 0.50, then 0.10); c7 for 7 of 10"
        in text
    )
    assert "and 3 more columns" in text


def test_users_who_are_known_only_from_later_are_differences_too(raw: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    late = frame([("nobody before", "a", 25, "view", None, True)], 5000)
    monkeypatch.setitem(SNAPSHOTS, "fit", 1)
    found = {leak.column: leak for leak in found_in(pl.concat([raw, late]), SPLITS["global"])}
    assert found["user_strength_mean"].rows == 31
    assert found["user_strength_mean"].differ >= 1


@given(st.lists(ROW, min_size=1, max_size=60), st.sampled_from(list(LABELLED)))
def test_the_second_definition_of_the_cut_agrees_with_the_first(rows: list[Row], snapshot: str) -> None:
    every = frame(rows)
    for split in SPLITS.values():
        held = snapshots.held(snapshots.divided(every, split, CONFIG), snapshot)
        kept = before(every, split, snapshot, CONFIG)
        for early, first in ((transform.usable(kept, CONFIG), held.events), (transform.shown(kept), held.shown)):
            one, other = (each.select("user_id", "ts", "item_id", "type").sort(pl.all()) for each in (early, first))
            assert one.equals(other)


@given(st.lists(ROW, min_size=1, max_size=60), st.integers(1, 60))
def test_some_users_come_with_all_their_events(rows: list[Row], events: int) -> None:
    every = frame(rows)
    some = some_users(every, events)
    assert some.height >= min(events, every.height)
    assert some.equals(every.filter(pl.col("user_id").is_in(some["user_id"].to_list())))
    largest = every["user_id"].value_counts()["count"].max()
    assert some.height < events + int(largest)  # type: ignore[call-overload]


def in_this_process(groups: Sequence[int], task: Callable[..., pa.Table], **given: Any) -> Iterator[pa.Table]:
    """Stands in for Ray's tasks."""
    for group in groups:
        yield task(pa.table({"group": [group]}), **given)


@pytest.mark.parametrize("leaking", [False, True])
def test_a_leak_fails_the_step_and_nothing_is_published(
    raw_events: pl.DataFrame,
    items: pl.DataFrame,
    source: Any,
    admitted: Callable[..., pa.Table],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leaking: bool,
) -> None:
    config = compose_config([f"root={tmp_path}", "split.min_test_users=1"])
    append_events(str(tmp_path), admitted(raw_events, source), "test", 0, DateUnit.month)
    tables.replace(str(tmp_path), "items", items.to_arrow())
    monkeypatch.setattr(flow, "_tasks", in_this_process)
    steps = [Step("import_dataset", (), lambda _: None, lambda _: {"content": "here"}), STEPS[1]]
    if not leaking:
        assert run_all(steps, config)["build_features"].facts["users"] == raw_events["user_id"].n_unique()
        return
    monkeypatch.setitem(SNAPSHOTS, "fit", 1)
    with pytest.raises(
        DataError, match=r"features leak: once the events from .* of snapshot fit .* and \d+ more columns; expected"
    ):
        run_all(steps, config)
    assert not list((tmp_path / "steps" / "build_features").rglob("*"))
    assert not any(
        tables.exists(str(tmp_path), name) for name in ("features_users", "features_items", "features_pairs", "labels")
    )
