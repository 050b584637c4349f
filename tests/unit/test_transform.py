"""Features: defined once, blind to the future, the same in parts and as a whole."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import FeaturesConfig
from reco_ray.features import ITEM_COLUMNS, USER_COLUMNS, Catalogue, pairs, transform, user_view_version
from reco_ray.features.finish import had_items
from reco_ray.features.flow import _groups, _of_group
from reco_ray.features.items import ItemFacts
from reco_ray.features.sums import ITEM_SUMS, Sums, added_up, item_sums, item_sums_of, merged, shown_sums
from reco_ray.hashing import USER_BUCKETS
from reco_ray.lake import sources

CONFIG = FeaturesConfig(history=5)
DAY = 86_400_000_000


def test_a_user_row_holds_the_newest_events_in_order(events: pl.DataFrame, items: pl.DataFrame, catalogue: Catalogue) -> None:
    rows = transform.user_rows(events, ItemFacts.of(items, catalogue.categories), CONFIG)
    mine = events.filter(user_id="user-3").sort("ts")
    row = rows.filter(user_id="user-3").row(0, named=True)
    assert row["history"] == mine["item_id"].tail(5).to_list()
    assert row["seen"] == mine["item_id"].to_list()
    assert row["seen_days"] == mine["ts"].dt.epoch("d").to_list()
    assert row["as_of"] == mine["ts"].dt.epoch("us").max()
    assert len(row["features"]) == len(USER_COLUMNS) + 2 * len(catalogue.categories)
    assert row["features"][0] == pytest.approx(np.log1p(8), abs=1e-5)
    taste = dict(zip(catalogue.categories, row["features"][len(USER_COLUMNS) :], strict=False))
    assert taste == pytest.approx({"all": 0.5, "odd": 0.5, "even": 0.0})


@given(cut=st.integers(1, 9))
def test_features_as_of_a_time_never_see_an_event_at_or_after_it(
    events: pl.DataFrame, items: pl.DataFrame, catalogue: Catalogue, cut: int
) -> None:
    until = events["ts"].min() + timedelta(days=cut)  # type: ignore[operator]
    before = events.filter(pl.col("ts") < until)
    poisoned = pl.concat([before, events.filter(pl.col("ts") >= until).with_columns(item_id=pl.lit("item-0"))])
    kept = poisoned.filter(pl.col("ts") < until)
    one, other = (transform.user_rows(e, ItemFacts.of(items, catalogue.categories), CONFIG) for e in (before, kept))
    assert one.equals(other)


@given(st.integers(1, 23))
def test_sums_over_parts_of_the_users_equal_the_whole(events: pl.DataFrame, items: pl.DataFrame, as_of: int, cut: int) -> None:
    first = events.filter(pl.col("user_id").str.slice(5).cast(int) < cut)
    rest = events.filter(pl.col("user_id").str.slice(5).cast(int) >= cut)
    ids = items["item_id"]
    one, other, whole = (added_up(item_sums(e, CONFIG), ids, CONFIG) for e in (first, rest, events))
    names = [c.name for c in ITEM_COLUMNS]
    np.testing.assert_allclose(
        *(transform.item_rows(sums, items, as_of).select(names).to_numpy() for sums in (merged(one, other), whole)), atol=2e-5
    )
    sums = pl.concat([pairs.covisit_partials(e, ids, CONFIG) for e in (first, rest)])
    together = pairs.covisit_rows(pairs.covisit_partials(events, ids, CONFIG), ids, CONFIG)
    apart = pairs.covisit_rows(sums, ids, CONFIG)
    assert apart.sort("a", "b").select("a", "b").equals(together.sort("a", "b").select("a", "b"))


def test_a_counter_halves_after_its_half_life(events: pl.DataFrame) -> None:
    sums = item_sums_of(item_sums(events.head(1), CONFIG), FeaturesConfig(half_life_days=10))
    at = ITEM_SUMS.index("decayed")
    fresh, old = (sums.at(sums.last + days * DAY)[0, at] for days in (0, 10))
    assert (fresh, old) == (1.0, pytest.approx(0.5))
    later = merged(sums, Sums.none(1, sums.half_lives))
    assert later.values.tolist() == sums.values.tolist(), "no events change nothing"


def test_neighbours_in_a_checkerboard_are_of_the_same_taste(events: pl.DataFrame, items: pl.DataFrame) -> None:
    ids = items["item_id"]
    rows = pairs.covisit_rows(pairs.covisit_partials(events, ids, CONFIG), ids, CONFIG)
    assert rows.height > 100
    parity = [(int(a[5:]) - int(b[5:])) % 2 for a, b in rows.select("a", "b").rows()]
    assert set(parity) == {0}
    assert rows.group_by("a", maintain_order=True).agg(pl.col("score").is_sorted(descending=True))["score"].all()


def test_what_says_nothing_for_an_item_or_has_no_consent_is_left_out(events: pl.DataFrame) -> None:
    raw = events.drop("strength", "positive").head(6)
    raw = raw.with_columns(
        type=pl.Series(["impression", "dismiss", "refund", "rating", "rating", "purchase"]),
        value=pl.Series([None, None, None, 2.0, 4.5, None], dtype=pl.Float32),
        consent=pl.Series([True, True, True, True, True, False]),
    )
    kept = transform.prepare(raw, FeaturesConfig()).sort("strength")
    assert kept["strength"].to_list() == [0.25, 1.0]
    assert kept["positive"].to_list() == [False, True]


def test_labels_hold_discoveries_only(events: pl.DataFrame) -> None:
    later = events.filter(user_id="user-0")
    already = later.head(3).select("user_id", "item_id")
    labels = transform.label_rows(later, already)
    assert sorted(labels["item_ids"][0]) == sorted(later["item_id"].tail(-3))


def test_labels_tell_when_and_in_which_context_the_first_of_them_came(events: pl.DataFrame) -> None:
    devices = [None, "tv", "phone", "tv", "tv", None, "tv", "tv"]
    contexts = [device and {"device": device, "locale": None, "surface": None, "location": None} for device in devices]
    later = events.filter(user_id="user-0").with_columns(context=pl.Series(contexts, dtype=events["context"].dtype))
    for known, device in ((0, None), (2, "phone")):
        (row,) = transform.label_rows(later, later.head(known).select("user_id", "item_id")).iter_rows(named=True)
        assert row["ts"] == later["ts"][known]
        assert (row["context"] and row["context"]["device"]) == device


def test_where_items_return_they_are_labels_again(events: pl.DataFrame) -> None:
    later = events.filter(user_id="user-0")
    twice = pl.concat([later, later])
    labels = transform.label_rows(twice, None)
    assert sorted(labels["item_ids"][0]) == sorted(later["item_id"])


def test_the_catalogue_finds_items_by_id_and_survives_saving(catalogue: Catalogue, tmp_path: object) -> None:
    catalogue.save(tmp_path)  # type: ignore[arg-type]
    back = Catalogue.load(tmp_path)  # type: ignore[arg-type]
    assert back.find(["item-7", "nobody"]).tolist() == [catalogue.item_ids.index("item-7"), -1]
    np.testing.assert_array_equal(back.features, catalogue.features)
    np.testing.assert_array_equal(back.in_category, catalogue.in_category)
    assert back.titles == catalogue.titles


def test_the_user_views_version_changes_with_its_meaning() -> None:
    assert user_view_version(FeaturesConfig(), ["a"]) == user_view_version(FeaturesConfig(), ["a"])
    assert user_view_version(FeaturesConfig(), ["a"]) != user_view_version(FeaturesConfig(history=9), ["a"])
    assert user_view_version(FeaturesConfig(), ["a"]) != user_view_version(FeaturesConfig(), ["b"])


def test_items_without_any_description_still_make_a_catalogue_and_user_rows(events: pl.DataFrame, as_of: int) -> None:
    items = pl.DataFrame(sources.bare_items(sorted(events["item_id"].unique())))
    rows = transform.user_rows(events, ItemFacts.of(items, []), CONFIG)
    assert rows["features"].list.len().unique().to_list() == [len(USER_COLUMNS)]
    sums = added_up(item_sums(events, CONFIG), items["item_id"], CONFIG)
    catalogue = Catalogue.build(items, transform.item_rows(sums, items, as_of))
    assert catalogue.in_category.shape == (items.height, 0)
    assert catalogue.titles == [""] * items.height


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=40), st.integers(1, 4))
def test_neighbours_are_those_of_a_plain_count(rows: list[tuple[int, int]], window: int) -> None:
    """Against the definition, pair by pair; some items at a time or all at once."""
    ordered = sorted(rows, key=lambda row: row[0])
    frame = pl.DataFrame(
        {"user_id": [f"u{user}" for user, _ in ordered], "item_id": [f"i{item}" for _, item in ordered]}
    ).with_columns(strength=pl.lit(1.0))
    config = FeaturesConfig(covisit_window=window, covisit_neighbours=2)
    weight: dict[tuple[str, str], float] = {}
    users, items = frame["user_id"].to_list(), frame["item_id"].to_list()
    for i in range(len(items)):
        for j in range(i + 1, min(len(items), i + window + 1)):
            if users[i] == users[j] and items[i] != items[j]:
                for pair in ((items[i], items[j]), (items[j], items[i])):
                    weight[pair] = weight.get(pair, 0.0) + (j - i) ** -0.5
    total = {item: sum(w for (a, _), w in weight.items() if a == item) + config.covisit_shrinkage for item in items}
    scores = {(a, b): np.float32(round(w / (total[a] * total[b]) ** 0.5, 6)) for (a, b), w in weight.items()}
    ids = pl.Series([f"i{n}" for n in range(6)])
    found = pairs.covisit_rows(pairs.covisit_partials(frame, ids, config), ids, config)
    for a in {a for a, _ in scores}:
        best = sorted((b for x, b in scores if x == a), key=lambda b: (-scores[a, b], b))[:2]
        mine = found.filter(a=a)
        np.testing.assert_allclose(mine["score"].to_numpy(), [scores[a, b] for b in best], atol=2e-6)
    assert found["a"].n_unique() == len({a for a, _ in scores})
    assert found.select("a", "b").is_unique().all()


@pytest.mark.parametrize("rows", [0, 1, 5_000_000, 9_000_000, 50_000_000, 64_000_001, 200_000_000])
def test_every_user_is_in_one_group_and_no_group_is_much_larger_than_a_million(rows: int) -> None:
    groups = _groups(rows)
    assert groups >= 8
    assert rows / groups <= 1_000_000
    users = pl.DataFrame({"user_id": [f"u{i}" for i in range(3_000)], "user_bucket": [i % USER_BUCKETS for i in range(3_000)]})
    held = [users.filter(_of_group(group, groups)).height for group in range(groups)]
    assert sum(held) == users.height
    assert groups > USER_BUCKETS or max(held) - min(held) <= USER_BUCKETS // groups


def test_an_item_tells_how_many_had_it_and_how_many_of_them_come_back(items: pl.DataFrame) -> None:
    bought = [("u1", 0, "item-1", 1.0), ("u1", 10, "item-1", 0.5), ("u1", 20, "item-1", 1.0), ("u2", 20, "item-1", 1.0)]
    bought += [("u2", 20, "item-2", 1.0)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    events = pl.DataFrame(
        [
            {"user_id": user, "item_id": item, "ts": start + timedelta(days=day), "strength": strength, "positive": True}
            for user, day, item, strength in bought
        ]
    ).with_columns(type=pl.lit("purchase"), value=pl.lit(None, pl.Float32))
    config = FeaturesConfig(half_life_days=10)
    sums = added_up(item_sums(events, config), items["item_id"], config)
    of = dict(zip(ITEM_SUMS, sums.values[items["item_id"].index_of("item-1") or 0], strict=True))
    assert (of["people"], of["again"], of["decayed"]) == pytest.approx((2, 0.25 + 1, 0.25 + 0.25 + 2))
    later = sums.last.max() + 10 * DAY
    rows = transform.item_rows(sums, items, int(later))
    found = {name: dict(zip(rows["item_id"], rows[name], strict=True)) for name in ("item_people", "item_times", "item_again")}
    expected = {
        "item_people": (np.log(3), np.log(2), 0),
        "item_times": tuple(np.log((n + 5 * 5 / 3) / (people + 5)) for n, people in ((4, 2), (1, 1), (0, 0))),
        "item_again": tuple((again + 5 * 1.25 / 3.5) / (decayed + 5) for again, decayed in ((0.625, 1.25), (0, 0.5), (0, 0))),
    }
    for name, values in expected.items():
        assert [found[name][f"item-{at}"] for at in (1, 2, 0)] == pytest.approx(values, abs=1e-4), name
    nobody = transform.item_rows(Sums.none(items.height, sums.half_lives), items, 0)
    assert nobody.select("item_people", "item_times", "item_again").to_numpy().any() == np.False_


def test_who_had_an_item_before_does_not_count_as_a_new_user_of_it(events: pl.DataFrame) -> None:
    one = events.head(3)
    sums = item_sums_of(item_sums(one, CONFIG, np.array([True, False, True])), CONFIG)
    columns = [ITEM_SUMS.index(name) for name in ("n", "people", "again", "decayed")]
    assert sums.values[:, columns].tolist() == [[1, 0, 1, 1], [1, 1, 0, 1], [1, 0, 1, 1]]


def test_an_items_ctr_is_of_clicks_per_impression_and_shrunk(events: pl.DataFrame, items: pl.DataFrame, as_of: int) -> None:
    clicks = events.head(1).with_columns(type=pl.lit("click"), ts=events["ts"].max(), item_id=pl.lit("item-1"))
    shown = pl.concat([clicks.with_columns(type=pl.lit("impression"))] * 30)
    shown = pl.concat([shown, shown.with_columns(item_id=pl.lit("item-2"))])
    total = added_up(pl.concat([item_sums(clicks, CONFIG), shown_sums(shown, CONFIG)]), items["item_id"], CONFIG)
    rows = transform.item_rows(total, items, as_of)
    found = dict(zip(rows["item_id"], rows["item_ctr"], strict=True))
    assert found["item-1"] == pytest.approx((1 + 20 / 60) / 50, abs=1e-4)
    assert found["item-2"] == pytest.approx((0 + 20 / 60) / 50, abs=1e-4)
    assert found["item-0"] == pytest.approx(1 / 60, abs=1e-4), "an item that was never shown has that of all"
    assert rows.filter(item_id="item-2")["item_age_days"][0] == 0, "an impression is no event of the item"


def test_what_was_had_is_counted_by_days() -> None:
    keys = np.array([7, 5, 7, 7, 9], np.uint64)
    seen, had = had_items(keys, np.array([100, 80, 100, 90, 100]))
    assert seen.tolist() == [5, 7, 9]
    assert had.tolist() == [[1, 20, 20], [2, 10, 0], [1, 0, 0]], "days; days from the first and from the last to the newest"
    assert had_items(keys[:2], np.array([100_000, 0]))[1].tolist() == [[1, 65_535, 65_535], [1, 0, 0]]
    assert [each.shape for each in had_items(keys[:0], np.array([], np.int64))] == [(0,), (0, 3)]
