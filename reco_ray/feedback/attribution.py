"""What came of each slot of each decision: the one rule by which events count for what was shown.

- An event counts for the slot of the decision whose request_id it names and whose item it names. Without a request_id it counts
  for the latest decision, before it, that showed this item to this user (last touch). It counts for no other, so for at most
  one slot; where two decisions are of the same instant, for the one with the larger request_id.
- Events at or before the decision, and later than ``delay_hours`` after it, do not count. Without consent nothing counts: no
  event that lacks it, and for no decision that lacks it.
- A slot has at most one impression. Its grade is the highest grade among its events, and 0 without any.
- A purchase counts once per order_id and item: the earliest event of them. One without an order_id is an order of its own.
- A refund goes where the purchase of its order_id and item went, and takes its quantity, or all without one, and the revenue of
  that quantity off. An order of which nothing is left counts as no purchase; the grade stays, as the choice was made.
- Revenue is in the currency of the slot's first purchase; a purchase in another one counts and adds none.

Everything is decided by event time, event_id and request_id, never by the order of rows.
"""

from datetime import timedelta

import polars as pl

from reco_ray.config import FeedbackConfig
from reco_ray.schema import FEEDBACK

__all__ = ["DECISION_COLUMNS", "EVENT_COLUMNS", "attribute"]

DECISION_COLUMNS = (
    "request_id",
    "ts",
    "user_id",
    "surface",
    "consent",
    "release",
    "variant",
    "experiment",
    "rung",
    "draw_id",
    "item_ids",
    "first_position",
    "scores",
    "propensities",
    "date",
    "user_bucket",
)
EVENT_COLUMNS = (
    "event_id",
    "type",
    "user_id",
    "item_id",
    "ts",
    "order_id",
    "quantity",
    "price",
    "currency",
    "dwell_ms",
    "request_id",
    "consent",
)


def attribute(decisions: pl.DataFrame, events: pl.DataFrame, config: FeedbackConfig) -> pl.DataFrame:
    """Join events to the slots of decisions: rows of `schema.FEEDBACK`, sorted by ts, request_id and position.

    Args:
        decisions: `DECISION_COLUMNS` of exposures; one stored twice counts once.
        events: `EVENT_COLUMNS` of events. A purchase is the earliest of its order and item among these.
    """
    delay = timedelta(hours=config.delay_hours)
    slots = _slots(decisions)
    usable = events.filter("consent").sort("ts", "event_id").unique("event_id", keep="first", maintain_order=True)
    order = pl.coalesce("order_id", "event_id")
    purchases = usable.filter(type="purchase").unique([order, pl.col("item_id")], keep="first", maintain_order=True)
    rest = usable.filter(~pl.col("type").is_in(["purchase", "refund"]))
    followed = _place(slots, pl.concat([rest, purchases]).sort("ts", "event_id"), delay)
    refunds = usable.filter((pl.col("type") == "refund") & pl.col("order_id").is_not_null())
    sold = _sold(followed.filter(type="purchase").with_columns(order_id=order), refunds, delay)
    outcome = slots.join(_engagement(followed, config), on="slot", how="left").join(sold, on="slot", how="left")
    filled = outcome.with_columns(
        pl.col("impressions", "clicks", "purchases").fill_null(0),
        pl.col("revenue", "grade").fill_null(0.0),
        pl.col("order_ids").fill_null(pl.lit([], pl.List(pl.String))),
    )
    return filled.sort("ts", "request_id", "position").select(FEEDBACK.names)


def _slots(decisions: pl.DataFrame) -> pl.DataFrame:
    """One row per slot, with a number ``slot``."""
    shown = decisions.select(DECISION_COLUMNS).unique(["request_id", "ts"], keep="first")
    return (
        shown.filter(pl.col("item_ids").list.len() > 0)
        .with_columns(first=pl.col("first_position").fill_null(1))
        .with_columns(position=pl.int_ranges(pl.col("first"), pl.col("first") + pl.col("item_ids").list.len(), dtype=pl.Int32))
        .drop("first", "first_position")
        .explode("item_ids", "scores", "propensities", "position")
        .rename({"item_ids": "item_id", "scores": "score", "propensities": "propensity"})
        .with_row_index("slot")
    )


def _place(slots: pl.DataFrame, events: pl.DataFrame, delay: timedelta) -> pl.DataFrame:
    """Give each event that counts its slot, and the time of the decision as ``shown_ts``."""
    showing = slots.filter("consent").select("slot", "request_id", "user_id", "item_id", "ts").sort("ts", "request_id")
    named = _latest(showing.drop("user_id"), events.filter(pl.col("request_id").is_not_null()), "request_id", delay)
    own = showing.filter(pl.col("user_id") != "").drop("request_id")
    touched = _latest(own, events.filter(pl.col("request_id").is_null()), "user_id", delay)
    return pl.concat([named, touched.select(named.columns)])


def _latest(showing: pl.DataFrame, events: pl.DataFrame, by: str, delay: timedelta) -> pl.DataFrame:
    """For each event the latest slot with its item, and the same ``by``, that is strictly before it and within the delay."""
    last = showing.unique([by, "item_id", "ts"], keep="last", maintain_order=True).with_columns(shown_ts="ts")
    found = events.join_asof(  # both are sorted by ts; with groups polars cannot check that and would warn
        last, on="ts", by=[by, "item_id"], strategy="backward", allow_exact_matches=False, check_sortedness=False
    )
    return found.filter(pl.col("ts") - pl.col("shown_ts") <= delay)


def _engagement(followed: pl.DataFrame, config: FeedbackConfig) -> pl.DataFrame:
    """Per slot: impressions, clicks, dwell_ms, grade, and the delay until the first event of that grade."""
    grade = pl.col("type").replace_strict(config.grades, default=None, return_dtype=pl.Float32)
    after_s = ((pl.col("ts") - pl.col("shown_ts")).dt.total_microseconds() / 1e6).cast(pl.Float32)
    graded = followed.with_columns(grade=grade, after_s=after_s)
    strongest = pl.col("grade") == pl.col("grade").max()
    return graded.group_by("slot").agg(
        (pl.col("type") == "impression").any().cast(pl.Int32).alias("impressions"),
        (pl.col("type") == "click").sum().cast(pl.Int32).alias("clicks"),
        pl.when(pl.col("dwell_ms").count() > 0).then(pl.col("dwell_ms").sum()).alias("dwell_ms"),
        pl.col("grade").max(),
        pl.col("after_s").filter(strongest).min().alias("delay_s"),
    )


def _sold(purchases: pl.DataFrame, refunds: pl.DataFrame, delay: timedelta) -> pl.DataFrame:
    """Per slot: purchases, order_ids, revenue and its currency, what was sent back taken off."""
    bought = purchases.select(
        "slot", "shown_ts", "ts", "event_id", "order_id", "item_id", "price", "currency", pl.col("quantity").fill_null(1)
    )
    back = refunds.select("order_id", "item_id", pl.col("quantity").alias("back"), pl.col("ts").alias("back_ts"))
    returned = (
        bought.join(back, on=["order_id", "item_id"], how="inner")
        .filter((pl.col("back_ts") > pl.col("shown_ts")) & (pl.col("back_ts") - pl.col("shown_ts") <= delay))
        .group_by("order_id", "item_id")
        .agg(pl.col("back").fill_null(pl.col("quantity")).sum())
    )
    left = (pl.col("quantity") - pl.col("back").fill_null(0)).clip(0)
    net = bought.join(returned, on=["order_id", "item_id"], how="left").with_columns(quantity=left).sort("ts", "event_id")
    first = pl.col("currency").drop_nulls().first()
    worth = (pl.col("quantity") * pl.col("price")).fill_null(0.0)
    kept = pl.col("quantity") > 0
    return net.group_by("slot").agg(
        kept.sum().cast(pl.Int32).alias("purchases"),
        pl.col("order_id").filter(kept).sort().alias("order_ids"),
        worth.filter(pl.col("currency").eq_missing(first)).sum().alias("revenue"),
        first.alias("currency"),
    )
