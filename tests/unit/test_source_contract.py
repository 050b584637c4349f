"""What every recall source keeps, whatever it is made of: one class of tests, run for each name that a quota may have."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reco_ray.config import SourceName
from reco_ray.features import user_row
from reco_ray.recall import load
from reco_ray.recall.query import Query, make_query
from reco_ray.recall.stage import Recall
from reco_ray.types import Request, UserRow

NOTHING = np.empty(0, np.int64)
FOR_STRANGERS = {"popular", "trending", "fresh"}  # the others have nothing to go by
OF_AN_ITEM = {"two_tower", "mf", "covisit", "content"}  # the others say nothing of an item's neighbours


@pytest.fixture(scope="module")
def stage(folder: Path) -> Recall:
    return load(folder)


@pytest.fixture(scope="module")
def row(users: pl.DataFrame) -> UserRow:
    return user_row(users.filter(user_id="user-4").row(0, named=True))


def query_of(stage: Recall, row: UserRow, **request: object) -> Query:
    made = Request(request_id="r", user_id="user-4", user=row, **request)  # type: ignore[arg-type]
    return make_query(made, stage.catalogue, False, NOTHING)


def queries_of(stage: Recall, row: UserRow) -> list[Query]:
    """Of all kinds: a user, with filters, with a session, a stranger, one with interests, an item, an unknown item."""
    return [
        query_of(stage, row),
        query_of(stage, row, filters={"category": ("odd",)}),
        query_of(stage, UserRow(), session=("item-3", "item-5", "item-3")),
        query_of(stage, UserRow()),
        query_of(stage, UserRow(), interests=("odd",)),
        query_of(stage, row, similar_to="item-8"),
        query_of(stage, row, similar_to="no such item"),
    ]


def test_a_release_may_hold_every_source(stage: Recall) -> None:
    assert stage.names == [name.value for name in SourceName]


@pytest.mark.parametrize("name", [name.value for name in SourceName])
class TestSourceContract:
    def test_hits_are_distinct_visible_and_best_first(self, stage: Recall, row: UserRow, name: str) -> None:
        for query, (item_idx, scores) in zip(
            queries := queries_of(stage, row), stage.sources[name].recall(queries, 15), strict=True
        ):
            assert item_idx.size <= 15
            assert item_idx.dtype == np.int64
            assert scores.dtype == np.float32
            assert np.unique(item_idx).size == item_idx.size == scores.size
            assert query.visible(item_idx).all()
            assert np.isfinite(scores).all()
            if not query.liked:  # their items come first, and then the rest
                assert (np.diff(scores) <= 1e-6).all()

    def test_a_user_with_a_history_gets_something_and_nothing_seen(self, stage: Recall, row: UserRow, name: str) -> None:
        (item_idx, _) = stage.sources[name].recall([query_of(stage, row)], 15)[0]
        assert bool(item_idx.size) == (name != "repeat")  # which brings nothing else
        assert not set(stage.catalogue.keys[item_idx].tolist()) & set(row.seen.tolist())

    def test_an_unknown_user_gets_the_lists_for_all(self, stage: Recall, name: str) -> None:
        (item_idx, _) = stage.sources[name].recall([query_of(stage, UserRow())], 10)[0]
        assert item_idx.size == (10 if name in FOR_STRANGERS else 0)

    def test_neighbours_of_an_item_do_not_hold_the_item(self, stage: Recall, name: str) -> None:
        known, unknown = (query_of(stage, UserRow(), similar_to=item) for item in ("item-8", "no such item"))
        (found, _), (nothing, _) = stage.sources[name].recall([known, unknown], 10)
        assert bool(found.size) == (name in OF_AN_ITEM)
        assert stage.catalogue.find(["item-8"])[0] not in found
        assert not nothing.size

    def test_a_batch_answers_as_each_alone(self, stage: Recall, row: UserRow, name: str) -> None:
        queries = queries_of(stage, row)
        for query, (item_idx, scores) in zip(queries, stage.sources[name].recall(queries, 10), strict=True):
            alone_idx, alone_scores = stage.sources[name].recall([query], 10)[0]
            assert item_idx.tolist() == alone_idx.tolist()
            np.testing.assert_allclose(scores, alone_scores, rtol=1e-5, atol=1e-6)

    def test_an_empty_batch_has_no_answers(self, stage: Recall, name: str) -> None:
        assert stage.sources[name].recall([], 10) == []

    def test_filters_and_exclusions_hold(self, stage: Recall, row: UserRow, name: str) -> None:
        query = query_of(stage, row, filters={"category": ("even",), "year": ("2000", "2002", "2004")}, exclude=("item-10",))
        (item_idx, _) = stage.sources[name].recall([query], 40)[0]
        assert {stage.catalogue.item_ids[i] for i in item_idx} <= {"item-12", "item-14"}

    def test_what_is_hidden_never_comes_back(self, stage: Recall, row: UserRow, name: str) -> None:
        plain = query_of(stage, row)
        hidden = np.arange(len(stage.catalogue))[3:]
        query = Query(plain.history, plain.weights, hidden, liked=plain.liked, turn=plain.turn)
        (item_idx, _) = stage.sources[name].recall([query], 40)[0]
        assert set(item_idx.tolist()) <= {0, 1, 2}

    def test_more_than_there_are_is_no_error(self, stage: Recall, row: UserRow, name: str) -> None:
        (item_idx, _) = stage.sources[name].recall([query_of(stage, row)], 10_000)[0]
        assert item_idx.size <= len(stage.catalogue) - row.seen.size

    def test_a_shorter_answer_holds_nothing_that_a_longer_one_lacks(self, stage: Recall, row: UserRow, name: str) -> None:
        short, long = (set(stage.sources[name].recall([query_of(stage, row)], k)[0][0].tolist()) for k in (5, 20))
        assert short <= long

    def test_the_same_question_has_the_same_answer_after_another_build_and_in_another_place(
        self,
        stage: Recall,
        row: UserRow,
        name: str,
        folder: Path,
        again: Path,
    ) -> None:
        queries = queries_of(stage, row)
        for other in (stage, load(folder), load(again)):
            for (item_idx, scores), (others, own) in zip(
                stage.sources[name].recall(queries, 12), other.sources[name].recall(queries, 12), strict=True
            ):
                assert item_idx.tolist() == others.tolist()
                np.testing.assert_array_equal(scores, own)


@pytest.fixture(scope="module")
def again(assembled: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second build of the same release, moved after it was made."""
    target = tmp_path_factory.mktemp("again")
    (target / "built").mkdir()
    assembled(target / "built")
    return Path(shutil.move(target / "built", target / "moved"))
