"""The protocols by which recall is measured, as papers do; always against the whole catalogue, never a sample of it.

- ``leave_one_out``: the last item of each user is the test, the one before it the validation (Kang and McAuley 2018). Models
  learn from what is before both; the history of the test holds the validation item.
- ``global_time``: one cut in time for all; nobody's model has seen anything after it.
- ``strong_generalisation``: some users are held out whole; their first four fifths are the history (Marlin 2004, Liang et al.
  2018; there the fifths are drawn at random, here they are in order of time).
- ``next_item``: the last sessions are held out, and in each of them every item is predicted from those before it (Hidasi et al.
  2016). A row's user is the session.
- ``separate_test``: a test file of the user's own; what the same user has in the first file is the history.

Slices: ``cold_users`` (no event of theirs in training), ``cold_items`` (the relevant items that have no event in training).
"""

from dataclasses import dataclass

import polars as pl

from reco_ray.config import BenchmarkConfig, ProtocolName
from reco_ray.errors import DataError
from reco_ray.evaluation.datasets import Dataset
from reco_ray.hashing import hash64_many
from reco_ray.recall.training.chunks import NEXT

__all__ = ["Division", "divide"]

_HISTORY_SHARE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """What models learn from and what they are asked.

    Attributes:
        train: columns user_id, item_ids (oldest first), perhaps `chunks.NEXT`; a row per user.
        cases: columns user_id, history (oldest first, may be empty), relevant (distinct, at least one), cold_user;
            a row per question.
        withheld: items kept out of ``train`` on purpose, sorted.
    """

    train: pl.DataFrame
    cases: pl.DataFrame
    withheld: list[str]


def divide(data: Dataset, config: BenchmarkConfig) -> Division:
    """Divide a dataset by the protocol that is named, and keep a share of the items out of training if that is asked.

    Raises: DataError: nothing is left to learn from or to ask.
    """
    match config.protocol:
        case ProtocolName.leave_one_out:
            train, cases = _leave_one_out(data.events)
        case ProtocolName.global_time:
            train, cases = _global_time(data.events, config.held_out)
        case ProtocolName.strong_generalisation:
            train, cases = _strong_generalisation(data.events, config.held_out, config.seed)
        case ProtocolName.next_item:
            train, cases = _next_item(data.events, config.held_out)
        case ProtocolName.separate_test:
            assert data.test is not None
            train, cases = _lists(data.events), _after(data.events, data.test)
    withheld = _some(data.items["item_id"], config.withhold, f"withhold-{config.seed}")
    train = _without(train, withheld)
    if not config.items_return:
        fresh = pl.col("relevant").list.set_difference(pl.col("history"))
        cases = cases.with_columns(relevant=pl.when(pl.col("history").list.len() > 0).then(fresh).otherwise("relevant"))
    cases = cases.filter(pl.col("relevant").list.len() > 0).with_columns(
        cold_user=~pl.col("user_id").is_in(train["user_id"].implode())
    )
    if not train.height or not cases.height:
        raise DataError(
            f"protocol={config.protocol.value}: found {train.height} users to learn from and {cases.height} questions, "
            "expected some of both; choose another protocol or held_out"
        )
    return Division(train, cases.sort("user_id"), withheld.sort().to_list())


def _lists(events: pl.DataFrame) -> pl.DataFrame:
    return events.group_by("user_id", maintain_order=True).agg(pl.col("item_id").alias("item_ids"))


def _leave_one_out(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    lists = _lists(events)
    items = pl.col("item_ids")
    tested = lists.filter(items.list.len() >= 3)
    rest = lists.filter(items.list.len() < 3).with_columns(pl.lit(None, pl.String).alias(NEXT))
    train = tested.select("user_id", items.list.head(items.list.len() - 2), items.list.get(-2).alias(NEXT))
    cases = tested.select(
        "user_id", items.list.head(items.list.len() - 1).alias("history"), items.list.tail(1).alias("relevant")
    )
    return pl.concat([train, rest]), cases


def _global_time(events: pl.DataFrame, held_out: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    cut = events["ts"].sort().gather([min(int(events.height * (1 - held_out)), events.height - 1)]).item()
    before, after = events.filter(pl.col("ts") < cut), events.filter(pl.col("ts") >= cut)
    return _lists(before), _after(before, after)


def _after(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """What each user turned to in the later part, with what it had in the earlier one as the history."""
    relevant = after.group_by("user_id", maintain_order=True).agg(
        pl.col("item_id").unique(maintain_order=True).alias("relevant")
    )
    history = _lists(before).rename({"item_ids": "history"})
    joined = relevant.join(history, on="user_id", how="left", maintain_order="left")
    return joined.select("user_id", pl.col("history").fill_null(pl.lit([], pl.List(pl.String))), "relevant")


def _strong_generalisation(events: pl.DataFrame, held_out: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    lists = _lists(events)
    items = pl.col("item_ids")
    chosen = _some(lists["user_id"], held_out, f"users-{seed}")
    tested = lists.filter(pl.col("user_id").is_in(chosen.implode()), items.list.len() >= 2)
    n = (items.list.len() * _HISTORY_SHARE).cast(pl.Int64).clip(1)
    cases = tested.select(
        "user_id",
        items.list.head(n).alias("history"),
        items.list.slice(n, items.list.len() - n).list.unique(maintain_order=True).alias("relevant"),
    )
    return lists.filter(~pl.col("user_id").is_in(chosen.implode())), cases


def _next_item(events: pl.DataFrame, held_out: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    sessions = events.group_by("user_id").agg(pl.col("ts").min()).sort("ts", "user_id")
    late = sessions.tail(max(1, round(sessions.height * held_out)))["user_id"]
    is_late = pl.col("user_id").is_in(late.implode())
    lists = _lists(events.filter(is_late)).filter(pl.col("item_ids").list.len() >= 2)
    places = lists.with_columns(at=pl.int_ranges(1, pl.col("item_ids").list.len())).explode("at")
    items = pl.col("item_ids")
    cases = places.select("user_id", items.list.head("at").alias("history"), items.list.slice("at", 1).alias("relevant"))
    return _lists(events.filter(~is_late)), cases


def _some(ids: pl.Series, share: float, salt: str) -> pl.Series:
    """A share of the ids, chosen by their hash."""
    return ids.filter(pl.Series(hash64_many(ids, salt)) < int(share * 2**64))


def _without(train: pl.DataFrame, withheld: pl.Series) -> pl.DataFrame:
    if withheld.is_empty():
        return train
    flat = train.select("user_id", "item_ids").explode("item_ids").filter(~pl.col("item_ids").is_in(withheld.implode()))
    lists = flat.group_by("user_id", maintain_order=True).agg("item_ids")
    kept = lists.join(train.drop("item_ids"), on="user_id", how="left", maintain_order="left")
    if NEXT in kept.columns:
        kept = kept.with_columns(pl.when(~pl.col(NEXT).is_in(withheld.implode())).then(NEXT).alias(NEXT))
    return kept
