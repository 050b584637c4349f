"""Rank and rerank: what each stage may do, and what it may not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import RerankConfig
from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue, user_row
from reco_ray.rank import RecallOrder, XGBoostRanker
from reco_ray.rank import load as load_rank
from reco_ray.rank.stage import rank_features
from reco_ray.recall import load as load_recall
from reco_ray.rerank import Rerank
from reco_ray.rerank.diversity import mmr
from reco_ray.slate import Pipeline
from reco_ray.types import EMPTY_USER, Candidates, Request


@pytest.fixture
def requests(users: pl.DataFrame) -> list[Request]:
    rows = [user_row(row) for row in users.head(4).iter_rows(named=True)]
    known = [Request(request_id=str(i), user_id=f"u{i}", k=5, user=row) for i, row in enumerate(rows)]
    return [*known, Request(request_id="new", user_id="stranger", k=5), Request(request_id="sim", similar_to="item-4", k=5)]


@pytest.fixture(scope="module")
def ranker(folder: Path) -> XGBoostRanker:
    """A small model that was trained on noise: enough to score."""
    features = rank_features(folder)
    rng = np.random.default_rng(0)
    x = rng.random((60, len(features.columns)), np.float32)
    matrix = xgboost.DMatrix(x, label=rng.integers(0, 2, 60), qid=np.repeat([0, 1, 2], 20))
    return XGBoostRanker(xgboost.train({"objective": "rank:ndcg", "max_depth": 2}, matrix, 5), features)


def test_a_batch_is_scored_as_each_alone_and_strangers_and_neighbours_keep_recalls_order(
    folder: Path, ranker: XGBoostRanker, requests: list[Request]
) -> None:
    candidates = load_recall(folder).recall(requests)
    together = ranker.score(requests, candidates)
    for request, found, scores in zip(requests, candidates, together, strict=True):
        assert scores.shape == (len(found),)
        np.testing.assert_allclose(scores, ranker.score([request], [found])[0], rtol=1e-6)
    for place in (-2, -1):
        np.testing.assert_array_equal(together[place], candidates[place].scores)


def test_the_matrix_has_the_named_columns_and_marks_absent_sources(folder: Path, requests: list[Request]) -> None:
    features, recall = rank_features(folder), load_recall(folder)
    candidates = recall.recall(requests)[0]
    matrix = features.matrix(requests[0], candidates)
    assert matrix.shape == (len(candidates), len(features.columns))
    assert matrix.dtype == np.float32
    score = matrix[:, features.columns.index("covisit_score")]
    np.testing.assert_array_equal(np.isnan(score), candidates.source_ranks[:, recall.names.index("covisit")] < 0)


def test_the_matrix_knows_what_the_user_has_had(folder: Path, requests: list[Request]) -> None:
    features, recall = rank_features(folder), load_recall(folder)
    keys = recall.catalogue.keys
    seen = np.sort(keys[[1, 2, 3, 4]])
    had = np.array([[1, 10, 1], [2, 20, 2], [3, 30, 3], [4, 40, 4]], np.uint16)[np.argsort(keys[[1, 2, 3, 4]])]
    row = replace(requests[0].user, history=keys[[3, 1, 3, 2]], weights=np.ones(4, np.float32), seen=seen, had=had)
    items = tuple(recall.catalogue.item_ids[:6])
    request = replace(requests[0], user=row, k=6, items=items, item_scores=np.full(6, np.nan, np.float32))
    at = [features.columns.index(name) for name in ("had_before", "had_times", "had_ago")]
    found = features.matrix(request, recall.recall([request])[0])[:, at]
    nan, one, two = np.nan, np.log(2), np.log(3)
    expected = [[0, 0, nan], [1, one, two], [1, one, 0], [1, two, one], [1, 0, nan], [0, 0, nan]]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6)

    at = [features.columns.index(name) for name in ("had_days", "had_first", "had_last")]
    days = np.expm1(features.matrix(request, recall.recall([request])[0])[:, at])
    expected = [[nan] * 3, [1, 10, 1], [2, 20, 2], [3, 30, 3], [4, 40, 4], [nan] * 3]
    np.testing.assert_allclose(days, np.array(expected), rtol=1e-6)
    untold = replace(request, user=replace(row, had=EMPTY_USER.had))
    assert np.isnan(features.matrix(untold, recall.recall([untold])[0])[:, at]).all()


def test_a_ranker_of_other_columns_is_refused(folder: Path, ranker: XGBoostRanker, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    ranker._model.save_model(str(tmp_path / "ranker.ubj"))
    (tmp_path / "ranker_context.json").write_text("{}")
    (tmp_path / "ranker_columns.json").write_text(json.dumps([*ranker.features.columns[:-1], "other"]))
    with pytest.raises(ArtifactError, match=r"disagree on columns: \['other', 'similar_last'\]"):
        load_rank(tmp_path)
    (tmp_path / "ranker_columns.json").write_text(json.dumps(ranker.features.columns))
    assert isinstance(load_rank(tmp_path), XGBoostRanker)


def test_a_release_without_a_ranker_keeps_recalls_order(folder: Path, requests: list[Request]) -> None:
    rank = load_rank(folder)
    assert isinstance(rank, RecallOrder)
    slates = Pipeline.load(folder).run(requests)
    assert [len(s.item_ids) for s in slates] == [5] * 6


def test_slates_hold_only_candidates_and_nothing_seen(folder: Path, requests: list[Request]) -> None:
    pipeline = Pipeline.load(folder)
    catalogue = Catalogue.load(folder)
    for request, found, slate in zip(requests, pipeline.recall.recall(requests), pipeline.run(requests), strict=True):
        rows = catalogue.find(slate.item_ids)
        assert set(rows.tolist()) <= set(found.item_idx.tolist())
        assert not set(catalogue.keys[rows].tolist()) & set(request.user.seen.tolist())
        assert all(slate.titles)
        assert all(slate.reasons)
        assert (slate.propensities == 1).all()


def test_what_is_less_than_full_is_said(folder: Path, requests: list[Request]) -> None:
    pipeline = Pipeline.load(folder)
    known, stranger = pipeline.run([requests[0], requests[4]])
    assert known.degraded == ()
    assert stranger.degraded == ("unknown_user",)
    nowhere, narrow = pipeline.run(
        [Request(request_id="r", similar_to="nothing"), Request(request_id="r", k=20, filters={"year": ("2000",)})]
    )
    assert nowhere.degraded == ("unknown_item", "short_slate")
    assert narrow.degraded == ("unknown_user", "short_slate")


def arrange(catalogue: Catalogue, config: RerankConfig, request: Request, n: int = 20) -> list[str]:
    rows = np.arange(n, dtype=np.int32)
    scores = np.linspace(1, 0, n).astype(np.float32)
    candidates = Candidates(rows, scores, np.ones(n, np.uint16), np.zeros((n, 1), np.int16), np.zeros((n, 1), np.float32))
    return list(Rerank(catalogue, config, ["popular"]).arrange([request], [candidates], [scores])[0].item_ids)


def test_rules_block_boost_and_cap(catalogue: Catalogue) -> None:
    request = Request(request_id="r", k=6)
    plain = arrange(catalogue, RerankConfig(diversity=0), request)
    assert plain == catalogue.item_ids[:6]
    assert plain[0] not in arrange(catalogue, RerankConfig(diversity=0, blocked=[plain[0]]), request)
    boosted = arrange(catalogue, RerankConfig(diversity=0, boosts={"odd": 9.0}), request)
    assert all(int(item[5:]) % 2 for item in boosted)


def test_seen_items_return_only_where_the_data_set_says_so(catalogue: Catalogue, users: pl.DataFrame) -> None:
    row = user_row(users.row(0, named=True))
    request = Request(request_id="r", k=40, user=row)
    seen = set(users["seen"][0])
    assert not seen & set(arrange(catalogue, RerankConfig(), request, 40))
    assert seen <= set(arrange(catalogue, RerankConfig(seen_items_return=True), request, 40))


scores_lists = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=25)


def test_a_catalogue_without_categories_keeps_its_order() -> None:
    assert mmr(np.array([3, 2, 1], np.float32), np.empty((3, 0), np.float32), 3, 0.5, cap=1).tolist() == [0, 1, 2]


@given(scores_lists, st.integers(1, 30), st.floats(0, 1), st.integers(0, 3))
def test_mmr_picks_distinct_positions_and_starts_with_the_best(values: list[float], k: int, diversity: float, cap: int) -> None:
    scores = np.sort(np.array(values, np.float32))[::-1]
    vectors = np.eye(3, dtype=np.float32)[np.arange(scores.size) % 3]
    picked = mmr(scores, vectors, k, diversity, cap)
    assert len(set(picked.tolist())) == picked.size == min(k, scores.size)
    assert scores[picked[0]] == scores[0]
    if diversity == 0 and cap == 0:
        assert picked.tolist() == list(range(picked.size))


def test_mmr_prefers_another_category_and_the_cap_holds_while_it_can() -> None:
    scores = np.array([1.0, 0.99, 0.5], np.float32)
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert mmr(scores, vectors, 3, 0.5).tolist() == [0, 2, 1]
    assert mmr(scores, vectors, 3, 0.0, cap=1).tolist() == [0, 2, 1]
