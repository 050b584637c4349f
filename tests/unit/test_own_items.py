"""A request with items of the caller's own: what recall, rank and rerank make of it, alone and among ordinary requests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import RerankConfig
from reco_ray.features import Catalogue, user_row
from reco_ray.rank import XGBoostRanker
from reco_ray.rank.features import RankFeatures
from reco_ray.rank.stage import rank_features
from reco_ray.recall import load as load_recall
from reco_ray.recall.merge import line_up
from reco_ray.recall.stage import Recall
from reco_ray.rerank import Rerank
from reco_ray.serve.http.answers import caller_order
from reco_ray.serve.path import wire
from reco_ray.slate import Pipeline
from reco_ray.types import MAX_OWN_ITEMS, Candidates, Request, Slate, UserRow

OWN = ("item-31", "nowhere-1", "item-2", "item-8", "nowhere-0", "item-17", "item-40")  # there are 40, from item-0


def own(items: tuple[str, ...] = OWN, **more: object) -> Request:
    scores = np.full(len(items), np.nan, np.float32)
    return Request(request_id="own", items=items, item_scores=scores, **{"k": len(items) or 10, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stage(folder: Path) -> Recall:
    return load_recall(folder)


@pytest.fixture(scope="module")
def row(users: pl.DataFrame) -> UserRow:
    return user_row(users.filter(user_id="user-4").row(0, named=True))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    """With a small model that was trained on noise: enough to give an order that is not the caller's."""
    features = rank_features(folder)
    rng = np.random.default_rng(0)
    x = rng.random((60, len(features.columns)), np.float32)
    matrix = xgboost.DMatrix(x, label=rng.integers(0, 2, 60), qid=np.repeat([0, 1, 2], 20))
    whole = Pipeline.load(folder)
    whole.rank = XGBoostRanker(xgboost.train({"objective": "rank:ndcg", "max_depth": 2}, matrix, 5), features)
    return whole


def rank_features_of(pipeline: Pipeline) -> RankFeatures:
    assert isinstance(pipeline.rank, XGBoostRanker)
    return pipeline.rank.features


def ids(catalogue: Catalogue, found: Candidates) -> list[str]:
    return [catalogue.item_ids[i] for i in found.item_idx]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"items": ("a", "b", "a"), "item_scores": np.zeros(3)},
            "3 items, 2 of them distinct; expected 1 to 1000",
        ),
        ({"items": tuple(map(str, range(MAX_OWN_ITEMS + 1))), "item_scores": np.zeros(MAX_OWN_ITEMS + 1)}, "found 1001 items"),
        ({"items": ("a",)}, r"item_scores has shape \(0,\), expected \(1,\)"),
        ({"items": ("a",), "item_scores": np.zeros(1), "similar_to": "b"}, "both items and similar_to"),
        ({"items": ("a",), "item_scores": np.zeros(1), "k": 201}, "k is 201, expected 1 to 200"),
        ({"k": 201}, "k is 201, expected 1 to 200"),
    ],
)
def test_a_request_checks_its_items(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Request(request_id="r", **fields)  # type: ignore[arg-type]


def test_recall_returns_exactly_the_known_items_in_the_callers_order(stage: Recall, row: UserRow) -> None:
    (found,) = stage.recall([own(user=row)])
    assert ids(stage.catalogue, found) == ["item-31", "item-2", "item-8", "item-17"]
    assert (np.diff(found.scores) < 0).all(), "recall's order without a ranker is the caller's"


def test_an_item_has_the_evidence_that_an_ordinary_request_gives_it(stage: Recall, row: UserRow) -> None:
    (ordinary,) = stage.recall([Request(request_id="own", user=row)])  # of the same turn
    (found,) = stage.recall([own(tuple(reversed(ids(stage.catalogue, ordinary))), user=row)])
    for name in ("item_idx", "sources", "source_ranks", "source_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(ordinary, name)[::-1])
    (elsewhere,) = stage.recall([own(("item-3", "item-5"))])  # of a stranger: no history, no covisit
    covisit = stage.names.index("covisit")
    assert (elsewhere.source_ranks[:, covisit] == -1).all()
    assert np.isnan(elsewhere.source_scores[:, covisit]).all()


def test_the_ranker_sees_a_list_as_merged_with_the_sources(pipeline: Pipeline, stage: Recall, row: UserRow) -> None:
    (ordinary,) = stage.recall([Request(request_id="own", user=row)])
    request = own(tuple(ids(stage.catalogue, ordinary)[::-1]), user=row)
    (found,) = stage.recall([request])
    features = rank_features_of(pipeline)
    matrix = features.matrix(request, found)
    plain = features.matrix(Request(request_id="own", user=row), ordinary)[::-1]
    np.testing.assert_allclose(matrix[:, 0], plain[:, 0] + found.scores, rtol=1e-6)
    assert matrix[:, 1].argsort(kind="stable").tolist() == (-matrix[:, 0]).argsort(kind="stable").tolist()
    np.testing.assert_allclose(matrix[:, 2:], plain[:, 2:], rtol=1e-6)  # BLAS adds in another order where cores are busy


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.lists(st.integers(0, 30), unique=True, max_size=20), max_size=4))
def test_lining_up_keeps_the_rows_and_looks_each_up_in_every_list(rows: list[int], lists: list[list[int]]) -> None:
    hits = [(np.array(x, np.int64), np.arange(len(x), 0, -1).astype(np.float32)) for x in lists]
    found = line_up(np.array(rows, np.int64), hits, ("gone",))
    assert found.item_idx.tolist() == rows
    assert found.missing == ("gone",)
    for place, item in enumerate(rows):
        for column, items in enumerate(lists):
            expected = items.index(item) if item in items else -1
            assert found.source_ranks[place, column] == expected
            assert np.isnan(found.source_scores[place, column]) == (expected < 0)
            assert bool(found.sources[place] >> column & 1) == (expected >= 0)


def test_a_source_that_fails_leaves_the_items_and_is_named(stage: Recall, row: UserRow) -> None:
    class Broken:
        def recall(self, queries: list[object], k: int) -> list[object]:
            raise OSError("gone")

    sources = dict.fromkeys(stage.sources, Broken())
    broken = Recall(stage.catalogue, sources, dict.fromkeys(sources, 20), 40, False, 50)  # type: ignore[arg-type]
    (found,) = broken.recall([own(user=row)])
    assert len(found) == 4
    assert found.missing == tuple(sources)


def test_a_whole_slate_loses_nothing_of_the_callers(pipeline: Pipeline, row: UserRow) -> None:
    request = own(user=row)
    (slate,) = pipeline.run([request])
    (found,) = pipeline.recall.recall([request])
    (scores,) = pipeline.rank.score([request], [found])
    assert sorted(slate.item_ids) == sorted(OWN)
    assert slate.item_ids[-3:] == ("nowhere-1", "nowhere-0", "item-40"), "unknown items last, in the caller's order"
    assert slate.scores[:4].tolist() == sorted(scores.tolist(), reverse=True), "the ranker's order"
    assert np.isnan(slate.scores[4:]).all()
    assert slate.reasons[-3:] == (("unknown_item",),) * 3
    assert slate.titles[-1] == ""
    assert all(slate.titles[:4])
    assert slate.degraded == ("unknown_items",)


def test_without_a_history_or_a_ranker_the_callers_order_stays(folder: Path, pipeline: Pipeline, row: UserRow) -> None:
    kept = ("item-31", "item-2", "item-8", "item-17", "nowhere-1", "nowhere-0", "item-40")
    (stranger,) = pipeline.run([own()])
    assert (stranger.item_ids, stranger.degraded) == (kept, ("unknown_user", "unknown_items"))
    (known,) = Pipeline.load(folder).run([own(user=row)])
    assert known.item_ids == kept


def test_k_cuts_the_ranked_list_and_unknown_items_go_first(pipeline: Pipeline, row: UserRow) -> None:
    (whole,) = pipeline.run([own(user=row)])
    for k in (1, 4, 6):
        (slate,) = pipeline.run([own(user=row, k=k)])
        assert slate.item_ids == whole.item_ids[:k]
        assert slate.degraded == ("unknown_items",)


def test_a_list_of_unknown_items_comes_back_as_it_was(pipeline: Pipeline, row: UserRow) -> None:
    (slate,) = pipeline.run([own(("x", "b", "y"), user=row)])
    assert slate.item_ids == ("x", "b", "y")
    assert slate.degraded == ("unknown_items",)


def test_seen_items_stay(pipeline: Pipeline, catalogue: Catalogue, row: UserRow) -> None:
    seen = tuple(catalogue.item_ids[i] for i in catalogue.find_keys(row.seen))
    (slate,) = pipeline.run([own((*seen, "item-1"), user=row, session=("item-1",))])
    assert sorted(slate.item_ids) == sorted((*seen, "item-1"))
    assert slate.degraded == ()


def arrange(catalogue: Catalogue, config: RerankConfig, request: Request, scores: list[float]) -> Slate:
    rows = catalogue.find(request.items)
    found = line_up(rows[rows >= 0], [])
    return Rerank(catalogue, config, []).arrange([request], [found], [np.array(scores, np.float32)])[0]


def test_blocked_and_unavailable_items_drop_out(catalogue: Catalogue) -> None:
    available = catalogue.available.copy()
    available[catalogue.find(["item-3"])] = False
    without = replace(catalogue, available=available)
    request = own(("item-1", "item-2", "item-3", "item-4"))
    slate = arrange(without, RerankConfig(blocked=["item-2"]), request, [1, 2, 3, 4])
    assert slate.item_ids == ("item-4", "item-1")
    assert slate.degraded == ("unknown_user", "short_slate")


def test_boosts_hold_ties_keep_the_callers_order_and_nothing_else_moves_an_item(catalogue: Catalogue) -> None:
    items = tuple(f"item-{i}" for i in (9, 1, 7, 3, 5, 2, 4))
    spread = RerankConfig(diversity=0.9, diversity_pool=2, category_cap=1)
    assert arrange(catalogue, spread, own(items), [1.0] * 7).item_ids == items
    boosted = arrange(catalogue, RerankConfig(boosts={"even": 9.0}), own(items), [1.0] * 7)
    assert boosted.item_ids == ("item-2", "item-4", *items[:5])
    assert boosted.reasons[0] == ("boost",)
    assert arrange(catalogue, spread, own(items), [1, 2, 3, np.nan, 5, 6, 7]).item_ids[-1] == "item-3", "not finite: last"


def test_a_mixed_batch_answers_as_each_alone(pipeline: Pipeline, row: UserRow) -> None:
    requests = [
        Request(request_id="0", user=row, k=5),
        own(user=row),
        Request(request_id="2", similar_to="item-4", k=5),
        own(("item-5", "item-6", "item-7"), k=2),
        Request(request_id="4", k=5),
    ]
    for request, slate in zip(requests, pipeline.run(requests), strict=True):
        (alone,) = pipeline.run([request])
        assert (slate.item_ids, slate.reasons, slate.degraded) == (alone.item_ids, alone.reasons, alone.degraded)
        np.testing.assert_allclose(slate.scores, alone.scores, rtol=1e-5)


def test_packed_stages_give_the_same_slate(pipeline: Pipeline, row: UserRow) -> None:
    packed = wire.pack_request(own(user=row, query="anything"))
    request = wire.unpack_request(packed)
    found = wire.unpack_candidates(wire.pack_candidates(pipeline.recall.recall([request])[0]))
    scores = wire.unpack_scores(wire.pack_scores(pipeline.rank.score([request], [found])[0]))
    slate = wire.unpack_slate(wire.pack_slate(pipeline.rerank.arrange([request], [found], [scores])[0]))
    (whole,) = pipeline.run([own(user=row)])
    assert (slate.item_ids, slate.reasons, slate.degraded) == (whole.item_ids, whole.reasons, whole.degraded)
    np.testing.assert_array_equal(slate.scores, whole.scores)


def test_the_callers_order_needs_no_stage() -> None:
    request = Request("r", k=2, items=("c", "a", "b"), item_scores=np.array([2, 1, np.nan], np.float32))
    slate = caller_order(request)
    assert (slate.request_id, slate.item_ids, slate.scores.tolist()) == ("r", ("c", "a"), [2, 1])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
own_scores = st.none() | st.floats(width=32, allow_infinity=False, allow_nan=False)


@given(
    st.lists(st.tuples(texts, own_scores), unique_by=lambda pair: pair[0]), texts, st.booleans(), st.lists(texts, max_size=2)
)
def test_items_scores_query_and_interests_survive_the_wire(
    pairs: list[tuple[str, float | None]], query: str, known: bool, interests: list[str]
) -> None:
    scores = np.array([np.nan if score is None else score for _, score in pairs], np.float32)
    keys = np.arange(3, dtype=np.uint64)
    user = UserRow(keys, np.ones(3, np.float32), keys, np.ones(2, np.float32), 5) if known else UserRow()
    own = {"items": tuple(item for item, _ in pairs), "item_scores": scores, "query": query, "at_us": 17}
    sent = Request("r", k=3, user=user, interests=tuple(interests), **own)  # type: ignore[arg-type]
    found = wire.unpack_request(wire.pack_request(sent))
    assert (found.items, found.query, found.k, found.interests, found.at_us) == (sent.items, sent.query, 3, sent.interests, 17)
    np.testing.assert_array_equal(found.item_scores, scores)
    for name in ("history", "weights", "seen", "features", "as_of", "had"):
        assert np.array_equal(getattr(found.user, name), getattr(user, name))


def test_a_request_without_items_and_interests_takes_no_more_bytes_on_the_wire() -> None:
    plain = wire.pack_request(Request("r", "u"))
    assert plain[4:] == b'["r","u",10,"home",{},[],{},[],true,"",0]'
