"""A catalogue that grows: rows of the release stay, new items stand behind them, and what goes cannot be shown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.errors import ArtifactError
from reco_ray.features import ITEM_COLUMNS, Catalogue
from reco_ray.store import NO_SLOT, Item, LiveItem

N = 40  # items of the release, item-0 to item-39
ALIEN = Item("Alien", ("odd", "nowhere"), 1979, "In space.")
PRICED = Item("Priced", price=9.99)


def live(item_id: str, item: Item | None = ALIEN, slot: int = 0, version: int = 1) -> LiveItem:
    return LiveItem(item_id, version, slot if item is not None else NO_SLOT, 1.7e9, item)


def test_a_new_item_stands_behind_the_release_in_the_row_of_its_slot(catalogue: Catalogue) -> None:
    grown, growth = catalogue.with_items([live("new", slot=2)])
    assert grown.find(("new", "item-3", "nobody")).tolist() == [N + 2, catalogue.find(("item-3",))[0], -1]
    assert (grown.item_ids[N + 2], grown.titles[N + 2], grown.years[N + 2]) == ("new", "Alien", 1979)
    assert [grown.categories[c] for c in np.flatnonzero(grown.in_category[N + 2])] == ["odd"]
    assert len(grown) == N + 3
    assert grown.available.tolist() == [True] * N + [False, False, True]
    assert (growth.put.tolist(), growth.removed.tolist()) == ([N + 2], [])
    assert growth.described.select("item_id", "title", "year", "text").row(0) == ("new", "Alien", 1979, "In space.")


def test_the_snapshot_before_stays_as_it_was(catalogue: Catalogue) -> None:
    before = {
        name: getattr(catalogue, name).copy() for name in ("keys", "in_category", "years", "prices", "available", "features")
    }
    first, _ = catalogue.with_items([live("a", slot=0), live("item-1", None), live("item-2", PRICED)])
    second, _ = first.with_items([live("b", slot=1), live("a", None)])
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(catalogue, name), array)
        np.testing.assert_array_equal(getattr(second, name)[:N] if name not in ("available", "prices") else array, array)
    assert (len(catalogue), len(first), len(second)) == (N, N + 1, N + 2)
    assert catalogue.find(("a",))[0] == -1
    assert (bool(first.available[N]), bool(second.available[N])) == (True, False)


def test_a_new_item_has_the_features_of_one_that_nobody_has_met(items: pl.DataFrame, as_of: int, events: pl.DataFrame) -> None:
    from conftest import item_view

    from reco_ray.config import FeaturesConfig

    said = pl.DataFrame(
        {"item_id": ["new"], "title": ["Alien"], "categories": [["odd"]], "year": [1979], "text": [None], "available": [True]}
        | {"price": [9.5]},
        schema_overrides={name: items.schema[name] for name in ("year", "text")},
    ).with_columns(items["updated_ts"].head(1))
    with_it = pl.concat([items, said.select(items.columns)])
    built = Catalogue.build(with_it, item_view(events, with_it, as_of, FeaturesConfig()))
    grown, _ = Catalogue.build(items, item_view(events, items, as_of, FeaturesConfig())).with_items([live("new")])
    expected = built.features[built.find(("new",))[0]]
    # shrunk: of the item with the fewest events
    within = {"item_positive_share", "item_value_mean", "item_ctr", "item_times", "item_again"}
    for column, value, own in zip(ITEM_COLUMNS, expected, grown.features[N], strict=True):
        assert own == pytest.approx(value, abs=0.1 if column.name in within else 1e-6), column.name


def test_items_of_the_release_come_and_go_by_availability(catalogue: Catalogue) -> None:
    row = int(catalogue.find(("item-4",))[0])
    gone, growth = catalogue.with_items([live("item-4", None)])
    assert (growth.put.tolist(), growth.removed.tolist(), bool(gone.available[row])) == ([], [row], False)
    assert gone.with_items([live("item-4", None)])[1].removed.tolist() == []
    back, growth = gone.with_items([live("item-4", Item("Fourth"))])
    assert (growth.put.tolist(), growth.removed.tolist(), back.titles[row]) == ([row], [], "Fourth")
    np.testing.assert_array_equal(back.in_category, catalogue.in_category)


def test_the_price_that_was_put_last_is_in_force(catalogue: Catalogue) -> None:
    row = int(catalogue.find(("item-4",))[0])
    assert catalogue.prices[row] == 10.0
    grown, growth = catalogue.with_items([live("item-4", PRICED), live("new", PRICED), live("bare", slot=1)])
    assert (grown.prices[row], grown.prices[N], catalogue.prices[row]) == (9.99, 9.99, 10.0)
    assert np.isnan(grown.prices[N + 1])
    assert growth.put.tolist() == [N, N + 1], "a price is nothing to the sources"
    assert growth.described["price"].to_list() == [9.99, None]
    without, _ = grown.with_items([live("item-4"), live("new", None), live("b", ALIEN, slot=3)])
    assert np.isnan(without.prices[[row, N + 2, N + 3]]).all(), "put without a price it has none"


def test_releases_from_before_prices_know_none(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.save(tmp_path)
    np.testing.assert_array_equal(Catalogue.load(tmp_path).prices, catalogue.prices)
    replace(catalogue, _table=catalogue._table.drop(["price"])).save(tmp_path)
    old = Catalogue.load(tmp_path)
    assert np.isnan(old.prices).all()
    assert len(old) == N


def test_a_release_of_another_item_view_is_refused_by_name(catalogue: Catalogue, tmp_path: Path) -> None:
    replace(catalogue, _table=catalogue._table.drop(["item_again"])).save(tmp_path)
    with pytest.raises(ArtifactError, match=r"found no \['item_again'\].*publish the release again"):
        Catalogue.load(tmp_path)


def test_what_is_deleted_and_was_never_known_changes_nothing(catalogue: Catalogue) -> None:
    grown, growth = catalogue.with_items([live("nobody", None)])
    assert (len(grown), growth.put.size, growth.removed.size) == (N, 0, 0)


def test_an_item_that_may_not_be_shown_is_known_all_the_same(catalogue: Catalogue) -> None:
    grown, growth = catalogue.with_items([live("new", Item("Soon", available=False))])
    assert (int(grown.find(("new",))[0]), bool(grown.available[N]), growth.put.size) == (N, False, 0)


def test_a_slot_that_was_given_again_belongs_to_its_new_item(catalogue: Catalogue) -> None:
    first, _ = catalogue.with_items([live("a", slot=0)])
    second, growth = first.with_items([live("b", slot=0)])
    assert second.find(("a", "b")).tolist() == [-1, N]
    assert growth.put.tolist() == [N]
    third, growth = second.with_items([live("b", slot=5)])
    assert (third.find(("b",)).tolist(), growth.put.tolist(), growth.removed.tolist()) == ([N + 5], [N + 5], [N])


@given(st.lists(st.lists(st.tuples(st.integers(30, 50), st.booleans()), max_size=6, unique_by=lambda c: c[0]), max_size=8))
def test_after_any_changes_what_may_be_shown_is_what_was_put_last(world: list[list[tuple[int, bool]]]) -> None:
    catalogue, slots, expected = _CATALOGUE[0], dict[int, int](), dict.fromkeys(range(N), True)
    for batch in world:
        changes = []
        for number, is_put in batch:
            slot = slots.setdefault(number, len(slots)) if is_put else slots.get(number, NO_SLOT)
            changes.append(LiveItem(f"item-{number}", 1, slot, 0.0, Item(f"T{number}") if is_put else None))
            expected[number] = is_put
        catalogue, _ = catalogue.with_items(changes)
    rows = catalogue.find([f"item-{i}" for i in expected])
    shown = {i for i, row in zip(expected, rows, strict=True) if row >= 0 and catalogue.available[row]}
    assert shown == {i for i, is_shown in expected.items() if is_shown}
    assert int(catalogue.available.sum()) == len(shown)
    assert all(catalogue.item_ids[row] == f"item-{i}" for i, row in zip(expected, rows, strict=True) if row >= 0)


_CATALOGUE: list[Catalogue] = []


@pytest.fixture(autouse=True)
def at_hand(catalogue: Catalogue) -> None:
    """Hypothesis asks for no fixtures of the function's own."""
    _CATALOGUE[:] = [catalogue]


def test_a_grown_catalogue_saves_the_release(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.with_items([live("new")])[0].save(tmp_path)
    assert len(Catalogue.load(tmp_path)) == N
