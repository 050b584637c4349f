"""Groups of a training set stay whole, however they are cut into batches and workers, and training on them can be resumed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xgboost
from rank_world import stored, together, training_rows

from reco_ray.config import GroupKind, RankConfig
from reco_ray.errors import DataError
from reco_ray.rank import training_set
from reco_ray.rank.groups import quantile_matrices
from reco_ray.rank.parameters import parameters
from reco_ray.rank.rounds import best_rounds, fit_rounds
from reco_ray.rank.training_set import TrainingSet, write_training_set


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_set, "_ROWS", 500)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.usefixtures("small_batches")
def test_workers_and_batches_share_the_groups_and_cut_none(tmp_path: Path, world: int) -> None:
    rows = training_rows()
    given = stored(tmp_path, rows, 77)
    useful = rows.filter((pl.col("label") > 0).any().over("group_id"))
    sizes: list[int] = []
    read = []
    for rank in range(world):
        batches = list(given.read(None, rank, world))
        assert len(batches) > 1
        for matrix in quantile_matrices(batches):
            sizes += np.diff(matrix.get_uint_info("group_ptr")).tolist()
        read += batches
    assert sorted(sizes) == sorted(useful.group_by("group_id").len()["len"].to_list())
    by = ["user_id", "place"]
    assert pl.concat(read).select(rows.columns).sort(by).equals(useful.sort(by))
    assert given.groups == useful.filter(held_out=False)["group_id"].n_unique()
    assert pl.concat(given.read(False)).select(rows.columns).sort(by).equals(useful.filter(held_out=False).sort(by))
    assert pl.concat(given.read(True, useful=False)).height == rows.filter("held_out").height


def test_a_group_in_two_pieces_is_refused_within_a_batch_and_across_two() -> None:
    rows = training_rows(20)
    torn = pl.concat([rows.tail(2), rows.head(rows.height - 2)])
    with pytest.raises(DataError, match="found 17 pieces of 16 groups, expected one each"):
        quantile_matrices([torn])
    with pytest.raises(DataError, match="found 17 pieces of 16 groups, expected one each"):
        quantile_matrices([rows.head(rows.height - 2), rows.tail(2)])


def test_a_set_hashes_to_the_same_in_whichever_batches_it_comes(tmp_path: Path) -> None:
    rows = training_rows(30)
    hashes = {
        write_training_set(str(tmp_path), "made", (part.to_arrow() for part in rows.iter_slices(size))).content()
        for size in (7, 50, 10_000)
    }
    assert len(hashes) == 1
    other = write_training_set(str(tmp_path), "made", iter([training_rows(30, seed=1).to_arrow()]))
    assert other.content() not in hashes
    with pytest.raises(DataError, match="found no user"):
        write_training_set(str(tmp_path), "made", iter(()))


def test_weights_are_of_groups() -> None:
    rows = training_rows(20)
    names = rows["group_id"].unique(maintain_order=True).to_list()
    weights = {name: float(at + 1) for at, name in enumerate(names)}
    weighed = rows.with_columns(weight=pl.col("group_id").replace_strict(weights))
    halves = [weighed.filter(pl.col("group_id").is_in(part)) for part in (names[:9], names[9:])]
    for held_out, matrix in enumerate(quantile_matrices(halves)):
        of = weighed.filter(held_out=bool(held_out)).unique("group_id", maintain_order=True)
        assert matrix.get_weight().tolist() == of["weight"].to_list()


def test_a_worker_without_groups_says_what_to_do() -> None:
    rows = training_rows(20)
    with pytest.raises(DataError, match=r"a worker found no held-out group, expected some; use fewer workers"):
        quantile_matrices([rows.filter(held_out=False)])
    with pytest.raises(DataError, match="a worker found no group"):
        quantile_matrices([])


def matrices(given: TrainingSet, rank: int = 0, world: int = 1) -> tuple[xgboost.QuantileDMatrix, xgboost.QuantileDMatrix]:
    return quantile_matrices(given.read(None, rank, world))


def test_what_is_resumed_from_a_checkpoint_equals_what_ran_undisturbed(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows())
    params = parameters(RankConfig(subsample=0.5, colsample=0.5), 3) | {"nthread": 1}
    kept: list[bytes] = []
    whole = fit_rounds(params, *matrices(given), 60, 0, None, lambda model, *_: kept.append(bytes(model.save_raw())))
    assert len(kept) == 3, "after 25, 50 and 60 rounds"
    resumed = fit_rounds(params, *matrices(given), 60, 0, kept[0], lambda *_: None)
    assert resumed.get_dump() == whole.get_dump()
    assert best_rounds(resumed) == best_rounds(whole)


def test_an_unbiased_ranker_goes_on_from_a_checkpoint_with_what_it_learnt_of_the_places(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows())
    params = parameters(RankConfig(groups=GroupKind.exposures, unbiased=True), 3) | {"nthread": 1}
    kept: list[bytes] = []
    whole = fit_rounds(params, *matrices(given), 60, 0, None, lambda model, *_: kept.append(bytes(model.save_raw())))
    resumed = fit_rounds(params, *matrices(given), 60, 0, kept[1], lambda *_: None)
    assert resumed.num_boosted_rounds() == 60
    assert resumed.get_dump() == whole.get_dump()
    assert places(resumed) == places(whole)
    assert len(set(places(whole)[:5])) == 5


def places(model: xgboost.Booster) -> list[float]:
    """How much XGBoost believes each place to be looked at."""
    found: list[float] = json.loads(model.save_raw("json"))["learner"]["objective"]["ti+"]
    return found


def test_training_stops_after_rounds_without_a_better_one_also_when_resumed(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(60))
    params = parameters(RankConfig(learning_rate=0.3, max_depth=6), 3) | {"nthread": 1}
    kept: list[bytes] = []
    model = fit_rounds(params, *matrices(given), 300, 20, None, lambda made, *_: kept.append(bytes(made.save_raw())))
    assert model.num_boosted_rounds() == best_rounds(model) + 20 < 300
    resumed = fit_rounds(params, *matrices(given), 300, 20, kept[0], lambda *_: None)
    assert (resumed.num_boosted_rounds(), best_rounds(resumed)) == (model.num_boosted_rounds(), best_rounds(model))


def test_two_workers_learn_as_well_as_one(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(1000))
    params = parameters(RankConfig(subsample=1, colsample=1), 3) | {"nthread": 1}
    alone = fit_rounds(params, *matrices(given), 40, 0, None, lambda *_: None)
    found = together(
        lambda rank: bytes(fit_rounds(params, *matrices(given, rank, 2), 40, 0, None, lambda *_: None).save_raw()), 2
    )
    assert found[0] == found[1], "both hold the one model"
    shared = xgboost.Booster(params, model_file=bytearray(found[0]))  # files do not hold the metric
    train, valid = matrices(given)
    untrained = xgboost.Booster(params, [train, valid])
    ndcg = [float(model.eval(valid).rsplit(":", 1)[1]) for model in (untrained, alone, shared)]
    assert ndcg[2] == pytest.approx(ndcg[1], abs=0.01)
    assert min(ndcg[1:]) > ndcg[0] + 0.1


def test_a_worker_sees_each_row_as_float_only_within_a_batch(tmp_path: Path, small_batches: None) -> None:
    given = stored(tmp_path, training_rows())
    sizes = [batch.height for batch in given.read(False)]
    buckets: Iterator[int] = iter(training_rows().group_by("user_bucket").len()["len"].to_list())
    assert max(sizes) <= 500 + max(buckets)
