"""What the ranker learns from: candidates of users, or what exposures showed, in that order and without telling it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from reco_ray.config import ColumnsConfig, RankConfig, SourceConfig, SourceKind
from reco_ray.errors import ConfigError, DataError
from reco_ray.lake import tables
from reco_ray.lake.cohorts import NOT_TOLD, cohorts
from reco_ray.lake.sources import map_users
from reco_ray.rank.cuts import balanced, groups_of_exposures, groups_of_users
from reco_ray.rank.flow import _Candidates
from reco_ray.schema import EXPOSURES

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SHOWN = ["item-31", "item-2", "item-8", "item-17", "item-12", "nowhere"]


def feedback(**more: Any) -> pl.DataFrame:
    """Ten exposures, one an hour, of three items each; something followed the second place of each."""
    rows = [
        {
            "request_id": f"r{at}",
            "user_id": f"user-{at % 3}",
            "ts": NOON + timedelta(hours=at),
            "item_id": f"item-{at + place}",
            "position": place,
            "grade": 0.6 if place == 2 else 0.0,
            "consent": True,
        }
        for at in range(10)
        for place in (3, 1, 2)
    ]
    return pl.DataFrame(rows, schema_overrides={"ts": pl.Datetime("us", "UTC")}).with_columns(**more)


def contexts(n: int = 10) -> pl.DataFrame:
    kind = pl.from_arrow(EXPOSURES.empty_table().select(["context"])).schema["context"]  # type: ignore[union-attr]
    return pl.DataFrame(
        {"request_id": [f"r{at}" for at in range(n)], "context": [{"device": "phone"}] * n}, schema_overrides={"context": kind}
    )


def test_exposures_stand_in_displayed_order_and_the_latest_are_held_out() -> None:
    groups = groups_of_exposures(feedback(), contexts(), 0.3)
    assert groups["group_id"].to_list() == [f"r{at}" for at in range(10)]
    assert groups["item_ids"].to_list() == [[f"item-{at + place}" for place in (1, 2, 3)] for at in range(10)]
    assert [list(map(bool, grades)) for grades in groups["grades"]] == [[False, True, False]] * 10
    assert groups.filter("held_out")["group_id"].to_list() == ["r7", "r8", "r9"]
    assert groups["context"].struct.field("device").to_list() == ["phone"] * 10


@pytest.mark.parametrize(
    "unusable",
    [{"consent": pl.lit(False)}, {"user_id": pl.lit("")}, {"grade": pl.lit(0.3)}, {"position": pl.lit(5000)}],
    ids=lambda each: next(iter(each)),
)
def test_exposures_of_nobody_or_that_nothing_followed_teach_nothing(unusable: dict[str, pl.Expr]) -> None:
    with pytest.raises(DataError, match=r"rank.groups=exposures: found \d+ exposures .* run join_feedback"):
        groups_of_exposures(feedback(**unusable), contexts(), 0.3)


def test_users_are_held_out_by_their_id_alone() -> None:
    labels = pl.DataFrame({"user_id": [f"u{at}" for at in range(500)]})
    groups = groups_of_users(labels, 0.2, 7)
    assert groups["held_out"].mean() == pytest.approx(0.2, abs=0.05)
    again = groups_of_users(labels.reverse(), 0.2, 7).sort("user_id")
    assert again.equals(groups.sort("user_id"))


def test_cohorts_weigh_alike_and_are_no_column_of_the_training_set() -> None:
    groups = groups_of_users(pl.DataFrame({"user_id": [f"u{at}" for at in range(400)]}), 0.2, 7)
    of = ["many"] * 240 + ["some"] * 60 + [NOT_TOLD] * 100
    found = balanced(groups, of)
    assert found.columns == groups.columns
    totals = found.group_by(pl.Series(of), maintain_order=True).agg(pl.col("weight").sum())["weight"]
    assert totals.to_list() == pytest.approx([150, 150, 100]), "those who told nothing keep what they had"
    rare = balanced(groups, ["many"] * 399 + ["one"])["weight"]
    assert rare[-1] == 5.0, "one person does not decide"
    assert balanced(groups, [NOT_TOLD] * 400)["weight"].to_list() == [1.0] * 400


def test_what_users_told_is_read_by_attribute_in_the_order_asked(tmp_path: Path) -> None:
    raw = pl.DataFrame({"user_id": ["a", "b", "c"], "age": ["25-34", None, "65+"], "children": ["0", "2", "0"]})
    users = map_users(raw, SourceConfig(kind=SourceKind.completejourney, permute_ids=False), ColumnsConfig(), 0, "users")
    tables.replace(str(tmp_path), "users", users)
    asked = pl.Series("of_groups", ["c", "stranger", "a", "b", "c"])
    assert cohorts(str(tmp_path), "age", asked, "rank.balance") == ["65+", NOT_TOLD, "25-34", NOT_TOLD, "65+"]
    with pytest.raises(ConfigError, match=r"rank.balance: found 'race', expected an attribute of users, \['age', 'children'\]"):
        cohorts(str(tmp_path), "race", asked, "rank.balance")


def test_an_unbiased_ranker_needs_exposures() -> None:
    with pytest.raises(ConfigError, match=r"rank.unbiased: found rank.groups=users, expected exposures"):
        RankConfig(unbiased=True)


def made(folder: Path, users: pl.DataFrame, items: list[str], shown: bool) -> pl.DataFrame:
    grades = [1.0 if item == "item-8" else 0.0 for item in items]
    group = pl.DataFrame({"user_id": ["user-4"], "group_id": ["r"], "item_ids": [items], "grades": [grades]})
    joined = users.join(group, on="user_id").with_columns(
        ts=pl.lit(NOON), context=pl.lit(None), user_bucket=3, held_out=False, weight=2.0, shown=pl.lit(shown)
    )
    rows = pl.from_arrow(_Candidates(str(folder), {})(joined.to_arrow()))
    assert isinstance(rows, pl.DataFrame)
    return rows


def test_the_rows_of_an_exposure_are_what_was_shown_and_their_columns_do_not_tell_the_order(
    folder: Path, users: pl.DataFrame
) -> None:
    rows, other = made(folder, users, SHOWN, True), made(folder, users, SHOWN[::-1], True)
    assert rows["item_id"].to_list() == SHOWN[:-1], "all that the catalogue knows"
    assert other["item_id"].to_list() == SHOWN[-2::-1]
    assert rows["label"].to_list() == [0, 0, 3, 0, 0]
    assert rows["place"].to_list() == list(range(5))
    assert set(rows["weight"]) == {2.0}
    np.testing.assert_array_equal(
        np.array(rows.sort("item_id")["features"].to_list()), np.array(other.sort("item_id")["features"].to_list())
    )


def test_the_rows_of_a_user_are_all_that_recall_brings(folder: Path, users: pl.DataFrame) -> None:
    rows = made(folder, users, SHOWN, False)
    assert rows.height > len(SHOWN)
    assert rows["item_id"].n_unique() == rows.height
    assert rows.filter(pl.col("label") > 0)["item_id"].to_list() in ([], ["item-8"])
