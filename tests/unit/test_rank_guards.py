"""What a ranker may not be trained on: a column that knows the labels, and a sensitive one that nobody declared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.compose import compose_config
from reco_ray.errors import ConfigError, DataError
from reco_ray.features import USER_COLUMNS
from reco_ray.features.views import VIEWS, Column
from reco_ray.hashing import user_bucket
from reco_ray.rank import features as rank_features
from reco_ray.rank.features import RankFeatures, view_columns
from reco_ray.rank.plausible import LEAST_USERS, LIMIT, orderings, refuse_implausible
from reco_ray.rank.sensitive import check_declared
from reco_ray.rank.training_set import TrainingSet, write_training_set
from reco_ray.workflow import STEPS
from reco_ray.workflow.graph import run_all

PLACE = Column("user_place", 0.0, "where a user lives", sensitive=True)


def training_set(users: int, leak: float, seed: int = 1) -> tuple[pl.DataFrame, list[str]]:
    """Thirty rows a user, three of them positive: a column that is honest, one of the user, and one that leaks by so much."""
    rng = np.random.default_rng(seed)
    n = users * 30
    label = np.tile(np.repeat([2, 0], [3, 27]), users)
    honest = 0.5 * (label > 0) + rng.normal(size=n)
    known = leak * (label > 0) + rng.normal(size=n)
    features = np.stack([honest, np.repeat(rng.normal(size=users), 30), known], axis=1).astype(np.float32)
    rows = pl.DataFrame({"user_id": np.repeat([f"u{at:04}" for at in range(users)], 30), "label": label.astype(np.int32)})
    return rows.with_columns(pl.Series("features", features, dtype=pl.Array(pl.Float32, 3)).arr.to_list()), ["a", "b", "known"]


@pytest.mark.parametrize("leak", [5.0, -5.0])
def test_a_column_that_orders_the_labels_alone_is_named(leak: float) -> None:
    rows, columns = training_set(LEAST_USERS, leak)
    with pytest.raises(
        DataError, match=r"ranker: known \(AUC (0.99|1.00|0.00)\d\) alone orders what 100 users turned to, expected"
    ):
        refuse_implausible(rows, columns)


def test_an_honest_column_passes_and_few_users_prove_nothing() -> None:
    refuse_implausible(*training_set(LEAST_USERS, 1.0))
    refuse_implausible(*training_set(LEAST_USERS - 1, 9.0))
    refuse_implausible(training_set(2, 0.0)[0].with_columns(label=pl.lit(0, pl.Int32)), ["a", "b", "known"])


def test_a_ranker_is_not_fitted_on_such_a_set(tmp_path: Path) -> None:
    from reco_ray.rank.trainer import train_ranker

    config = compose_config([])
    rows, columns = training_set(LEAST_USERS, 9.0)
    buckets = pl.Series([user_bucket(user) for user in rows["user_id"]], dtype=pl.Int32)
    places = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
    grouped = rows.with_columns(group_id="user_id", item_id="user_id", user_bucket=buckets, place=places, held_out=False)
    write_training_set(str(tmp_path), "made", iter([grouped.with_columns(weight=1.0).to_arrow()]))
    given = TrainingSet(str(tmp_path), "made", tuple(columns), {}, rows.height, LEAST_USERS, 0)
    target = tmp_path / "model"
    with pytest.raises(DataError, match=r"known .* such a column knows the labels"):
        train_ranker(given, config.rank, config.cluster, 1, "guarded", str(tmp_path), target)
    assert not target.exists()


@given(
    st.lists(
        st.tuples(st.sampled_from("uvw"), st.booleans(), st.one_of(st.integers(0, 3).map(float), st.just(float("nan")))),
        min_size=1,
        max_size=30,
    )
)
def test_an_ordering_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[str, bool, float]]) -> None:
    frame = pl.DataFrame(
        {"user_id": [u for u, _, _ in rows], "label": [int(p) for _, p, _ in rows], "features": [[v] for *_, v in rows]},
        schema={"user_id": pl.String, "label": pl.Int32, "features": pl.List(pl.Float32)},
    )
    users, found = orderings(frame, ["x"])
    areas = []
    for user in "uvw":
        mine = [(p, -np.inf if np.isnan(v) else v) for u, p, v in rows if u == user]
        pairs = [(a > b) + 0.5 * (a == b) for positive, a in mine if positive for negative, b in mine if not negative]
        if pairs:
            areas.append(np.mean(pairs))
    assert users == len(areas)
    assert found == ({"x": pytest.approx(np.mean(areas))} if areas else {})
    assert 0.5 < LIMIT < 1


def test_every_column_of_a_view_in_the_matrix_is_looked_at(catalogue: Any) -> None:
    """A new view whose columns go into the matrix has its place in `view_columns` too."""
    matrix = set(RankFeatures(catalogue, {}, None, {}).columns)
    of_views = {column.name for view in VIEWS for column in view.columns}
    assert of_views & matrix == {column.name for column in view_columns()} & matrix
    assert {column.name for view in VIEWS for column in view.per_category} <= {column.name for column in view_columns()}


def test_a_sensitive_column_is_used_only_where_it_is_declared() -> None:
    used = (*USER_COLUMNS, PLACE, replace(PLACE, name="user_age"))
    check_declared(used, ["user_age", "user_place"])
    with pytest.raises(
        ConfigError, match=r"sensitive columns \['user_age'\] undeclared.*give rank.declared_sensitive=\[user_age,user_place\]"
    ):
        check_declared(used, ["user_place"])
    with pytest.raises(ConfigError, match=r"found \['user_span_days'\], expected only sensitive columns .*take the others out"):
        check_declared(used, ["user_age", "user_place", "user_span_days"])


def test_training_stops_at_an_undeclared_column_before_it_reads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_features, "USER_COLUMNS", (*USER_COLUMNS, PLACE))
    (step,) = (step for step in STEPS if step.name == "build_training_set")
    config = compose_config([f"root={tmp_path}"])
    with pytest.raises(ConfigError, match="user_place"):
        run_all(STEPS, config)
    assert not list(tmp_path.iterdir())
    declared = compose_config([f"root={tmp_path}", "rank.declared_sensitive=[user_place]"])
    assert step.settings(declared) != step.settings(config), "a declaration trains anew"
