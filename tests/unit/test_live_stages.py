"""The stages of a loaded release take new items, and drop what was deleted, while requests go on."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xgboost

from reco_ray.config import SourceName
from reco_ray.features import Catalogue, user_row
from reco_ray.rank import XGBoostRanker
from reco_ray.rank.stage import rank_features
from reco_ray.recall import Recall, load
from reco_ray.rerank import Rerank
from reco_ray.rerank import load as load_rerank
from reco_ray.rules import Standing, parse
from reco_ray.slate import LiveStage, Pipeline
from reco_ray.store import NO_SLOT, Item, LiveItem
from reco_ray.types import EMPTY_USER, Candidates, Request, UserRow

N = 40
TWIN = Item("Title 3", ("odd", "all"), 1993)
"""Like item-3 in all that is said of it."""


def live(item_id: str, item: Item | None = TWIN, slot: int = 0) -> LiveItem:
    return LiveItem(item_id, 1, slot if item is not None else NO_SLOT, 1.7e9, item)


def test_a_price_that_was_put_is_what_rules_go_by(rerank: Rerank, catalogue: Catalogue) -> None:
    def shown() -> set[str]:
        found = np.arange(N + 1, dtype=np.int32)
        scores, ones = np.ones(N + 1, np.float32), np.zeros((N + 1, 1), np.float32)
        candidates = Candidates(found, scores, np.ones(N + 1, np.uint16), ones.astype(np.int16), ones)
        return set(rerank.arrange([Request("r", k=N + 1)], [candidates], [scores])[0].item_ids)

    rule = {"name": "dear", "kind": "block", "where": {"price_from": 50}}
    rerank.obey(Standing(1, parse({"rules": [rule]})))
    before = shown()
    assert before == {item for item, price in zip(catalogue.item_ids, catalogue.prices, strict=True) if not price >= 50}
    assert rerank.rule_hits() == {("dear", "hidden"): N - len(before)}
    rerank.follow([live("item-3", replace(TWIN, price=50.0)), live("item-39", replace(TWIN, price=49.99)), live("new")])
    assert shown() == before - {"item-3"} | {"item-39", "new"}
    rerank.follow([live("new", replace(TWIN, price=60.0)), live("item-20")])
    assert shown() == before - {"item-3"} | {"item-39", "item-20"}


@pytest.fixture
def recall(folder: Path) -> Recall:
    return load(folder)


@pytest.fixture
def ranker(folder: Path) -> XGBoostRanker:
    features = rank_features(folder)
    rng = np.random.default_rng(0)
    matrix = xgboost.DMatrix(rng.random((40, len(features.columns))), rng.random(40))
    return XGBoostRanker(xgboost.train({"max_depth": 2}, matrix, 3), features)


@pytest.fixture
def rerank(folder: Path) -> Rerank:
    return load_rerank(folder)


@pytest.fixture
def whole(recall: Recall, ranker: XGBoostRanker, rerank: Rerank) -> Pipeline:
    return Pipeline(recall, ranker, rerank)


@pytest.fixture(scope="module")
def row(users: pl.DataFrame) -> UserRow:
    return user_row(users.filter(user_id="user-5").row(0, named=True))


def follow(whole: Pipeline, *changes: LiveItem) -> None:
    for stage in (whole.recall, whole.rank, whole.rerank):
        assert isinstance(stage, LiveStage)
        stage.follow(changes)


def own(*items: str) -> Request:
    return Request(request_id="r", k=len(items), items=items, item_scores=np.full(len(items), np.nan, np.float32))


def shown(whole: Pipeline, **request: object) -> list[str]:
    return list(whole.run([Request(request_id="r", k=40, **request)])[0].item_ids)  # type: ignore[arg-type]


def found_by(recall: Recall, name: str, request: Request) -> list[str]:
    (rows, _) = recall.alone(name, [request], 40)[0]
    return [recall.catalogue.item_ids[row] for row in rows]


def test_a_new_item_is_near_what_it_is_like_and_has_neighbours(whole: Pipeline, recall: Recall) -> None:
    near_three = shown(whole, similar_to="item-3")
    assert whole.run([Request(request_id="r", k=5, similar_to="new")])[0].degraded[0] == "unknown_item"
    follow(whole, live("new"))
    assert set(shown(whole, similar_to="item-3")) - set(near_three) == {"new"}
    assert "item-3" in shown(whole, similar_to="new")
    assert "new" not in shown(whole, similar_to="new")
    for name in ("two_tower", "content"):
        assert "new" in found_by(recall, name, Request(request_id="r", similar_to="item-3"))
    assert found_by(recall, "content", Request(request_id="r", similar_to="new"))[0] == "item-3"


def test_a_new_item_comes_to_strangers_by_fresh_and_stands_first_there(recall: Recall) -> None:
    recall.follow([live("a", slot=0), live("b", slot=1)])
    for turn in range(10):
        assert found_by(recall, "fresh", Request(request_id=str(turn)))[:2] == ["b", "a"]
    assert found_by(recall, "fresh", Request(request_id="r", filters={"category": ("even",)}))[0] not in ("a", "b")


def test_filters_know_a_new_item(whole: Pipeline, row: UserRow) -> None:
    follow(whole, live("new", replace(TWIN, year=1500)))
    assert shown(whole, filters={"year": ("1500",)}) == ["new"]
    assert shown(whole, user=row, filters={"year": ("1500",)}) == ["new"]
    assert shown(whole, similar_to="item-4", filters={"year": ("1500",)}) == ["new"]


def test_a_history_may_hold_a_new_item(whole: Pipeline, recall: Recall) -> None:
    follow(whole, live("new"), live("soon", replace(TWIN, available=False), slot=1))
    slate = whole.run([Request(request_id="r", k=5, session=("new", "soon"))])[0]
    assert slate.degraded == ()
    assert len(slate.item_ids) == 5
    for name in recall.names:
        recall.alone(name, [Request(request_id="r", session=("new", "item-2", "soon"))], 20)


@pytest.mark.parametrize("item_id", ["item-3", "new"])
def test_what_is_deleted_comes_back_from_no_source_until_it_is_put_again(
    whole: Pipeline, recall: Recall, row: UserRow, item_id: str
) -> None:
    requests = [
        Request(request_id="r", user=replace(row, seen=np.empty(0, np.uint64), had=EMPTY_USER.had)),
        Request(request_id="s"),
        Request(request_id="t", interests=("odd",)),
        Request(request_id="u", similar_to="item-5"),
    ]
    follow(whole, live("new"))
    before = {name for name in recall.names for r in requests if item_id in found_by(recall, name, r)}
    assert {"two_tower", "content"} <= before
    follow(whole, live(item_id, None))
    assert not {name for name in recall.names for r in requests if item_id in found_by(recall, name, r)}
    slates = whole.run([replace(r, k=40) for r in requests] + [own(item_id, "item-4")])
    assert not any(item_id in slate.item_ids for slate in slates)
    follow(whole, live(item_id))
    assert {name for name in recall.names for r in requests if item_id in found_by(recall, name, r)} == before


def test_the_callers_own_items_may_be_new(whole: Pipeline, row: UserRow) -> None:
    asked = replace(own("item-4", "new", "who"), user=row)
    assert "unknown_items" in whole.run([asked])[0].degraded
    follow(whole, live("new"))
    slate = whole.run([asked])[0]
    assert sorted(slate.item_ids) == ["item-4", "new", "who"]
    assert slate.reasons[slate.item_ids.index("new")] != ("unknown_item",)


def test_a_candidate_that_a_later_stage_does_not_know_yet_is_dropped_and_counted(
    recall: Recall, ranker: XGBoostRanker, rerank: Rerank, row: UserRow
) -> None:
    recall.follow([live("new", slot=3)])
    requests = [Request(request_id="r", user=row, k=40, filters={"category": ("odd",)})]
    candidates = recall.recall(requests)
    assert N + 3 in candidates[0].item_idx
    scores = ranker.score(requests, candidates)
    assert scores[0][candidates[0].item_idx == N + 3] == scores[0].min()
    slate = rerank.arrange(requests, candidates, scores)[0]
    assert len(slate.item_ids) == len(candidates[0]) - 1
    assert (recall.unknown, ranker.unknown, rerank.unknown) == (0, 1, 1)
    rerank.follow([live("new", slot=3)])
    assert "new" in rerank.arrange(requests, candidates, scores)[0].item_ids


def test_scores_of_the_other_items_do_not_change_with_a_new_one(ranker: XGBoostRanker, recall: Recall, row: UserRow) -> None:
    requests = [Request(request_id="r", user=row)]
    candidates = recall.recall(requests)
    before = ranker.score(requests, candidates)[0]
    ranker.follow([live("new"), live("item-1", None)])
    np.testing.assert_array_equal(ranker.score(requests, candidates)[0], before)


def test_fresh_features_of_the_release_leave_the_new_items_theirs(ranker: XGBoostRanker) -> None:
    features = ranker.features
    ranker.follow([live("new")])
    own = features.catalogue.features[N].copy()
    features.refresh_items(np.full((N, own.size), 7, np.float32))
    ranker.follow([live("other", slot=1)])
    request = Request(request_id="r", session=("item-1",))
    recall_row = np.array([0, N, N + 1], np.int32)
    one = np.ones(3, np.float32)
    from reco_ray.types import Candidates

    shape = (3, features.n_sources)
    ranks, said = np.full(shape, -1, np.int16), np.full(shape, np.nan, np.float32)
    matrix = features.matrix(request, Candidates(recall_row, one, np.ones(3, np.uint16), ranks, said))
    at = features.columns.index("item_events")
    assert matrix[:, at].tolist() == [7, 0, 0]
    with pytest.raises(ValueError, match="expected at most"):
        features.refresh_items(np.zeros((N + 9, own.size), np.float32))


def test_requests_go_on_while_items_come_and_go(whole: Pipeline, row: UserRow) -> None:
    failed: list[BaseException] = []

    def change() -> None:
        try:
            for i in range(60):
                follow(whole, live(f"new-{i}", replace(TWIN, year=1900 + i), slot=i), live(f"new-{i - 2}", None))
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=change)
    thread.start()
    while thread.is_alive():
        slates = whole.run([Request(request_id="r", user=row, k=20), Request(request_id="s", k=20, similar_to="item-3")])
        assert all(slate.item_ids for slate in slates)
    thread.join()
    assert not failed
    left = {item for item in shown(whole, user=row, filters={"category": ("odd",)}) if item.startswith("new-")}
    assert left == {"new-58", "new-59"}


def test_every_source_can_be_changed_or_has_nothing_to_change(recall: Recall) -> None:
    from reco_ray.recall.query import Live

    fixed = {"covisit", "popular", "trending"}  # they count events: new items have none, and hidden ones are walked past
    assert {name.value for name in SourceName if not isinstance(recall.sources[name.value], Live)} == fixed
