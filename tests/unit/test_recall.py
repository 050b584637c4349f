"""Recall: lists, the laws of merging, and two forms of one model; `test_source_contract` is for all sources."""

import json
import queue
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import TwoTowerConfig
from reco_ray.features import Catalogue, user_row
from reco_ray.hashing import item_keys
from reco_ray.recall import load
from reco_ray.recall.index import VectorIndex
from reco_ray.recall.merge import merge
from reco_ray.recall.query import Hits, Query, make_query
from reco_ray.recall.sources.lists import ListSource
from reco_ray.recall.sources.repeat import RepeatSource
from reco_ray.recall.sources.two_tower import embed_items, embed_users, item_inputs
from reco_ray.recall.stage import Recall
from reco_ray.recall.training.chunks import pack
from reco_ray.recall.training.examples import gather_history, targets_of
from reco_ray.recall.training.tower import TwoTower, sampled_softmax_loss
from reco_ray.types import Request, UserRow

NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def stage(folder: Path) -> Recall:
    return load(folder)


@pytest.fixture(scope="module")
def row(users: pl.DataFrame) -> UserRow:
    return user_row(users.filter(user_id="user-4").row(0, named=True))


LISTS = ["popular", "trending", "fresh"]  # the pool of fresh items is larger than this world


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("liked", ["even", "odd"])
def test_items_of_liked_categories_come_first_and_then_the_rest_each_by_score(stage: Recall, name: str, liked: str) -> None:
    asked = {"interests": (liked, "of no release"), "exclude": ("item-4", "item-7")}
    query = make_query(Request(request_id="r", **asked), stage.catalogue, False, NOTHING)  # type: ignore[arg-type]
    (rows, scores), (plain, _) = (stage.sources[name].recall([each], 40)[0] for each in (query, _stranger(stage)))
    ids = [stage.catalogue.item_ids[row] for row in rows]
    first = [int(item[5:]) % 2 == (liked == "odd") for item in ids]
    assert first == [True] * 19 + [False] * 19
    assert (np.diff(scores[:19]) <= 0).all()
    assert (np.diff(scores[19:]) <= 0).all()
    assert sorted(rows.tolist()) == sorted(set(plain.tolist()) - set(stage.catalogue.find(["item-4", "item-7"]).tolist()))
    (few, _) = stage.sources[name].recall([query], 5)[0]
    assert set(few.tolist()) <= set(rows[:19].tolist())
    assert name == "fresh" or few.tolist() == rows[:5].tolist()


@pytest.mark.parametrize("name", LISTS)
def test_interests_and_filters_go_together(stage: Recall, name: str) -> None:
    asked = {"interests": ("odd",), "filters": {"year": ("2000", "2001", "2002", "2003")}}
    query = make_query(Request(request_id="r", **asked), stage.catalogue, False, NOTHING)  # type: ignore[arg-type]
    ids = [stage.catalogue.item_ids[row] for row in stage.sources[name].recall([query], 40)[0][0]]
    assert set(ids[:2]) == {"item-11", "item-13"}
    assert set(ids[2:]) == {"item-10", "item-12"}


def test_categories_that_a_release_does_not_know_change_nothing(stage: Recall) -> None:
    query = make_query(Request(request_id="r", interests=("of no release",)), stage.catalogue, False, NOTHING)
    assert query.liked == ()
    for name in LISTS:
        found, plain = (stage.sources[name].recall([each], 40)[0][0] for each in (query, _stranger(stage)))
        assert found.tolist() == plain.tolist()


worlds = st.tuples(
    st.lists(st.tuples(st.sets(st.integers(0, 3)), st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=25),
    st.sets(st.integers(0, 3)).map(tuple),
    st.booleans(),
    st.integers(1, 30),
)


@given(worlds)
def test_a_list_is_what_sorting_everything_gives(
    world: tuple[list[tuple[set[int], int, bool, bool]], tuple[int, ...], bool, int],
) -> None:
    items, liked, filters, k = world
    n = len(items)
    in_category = np.array([[c in categories for c in range(4)] for categories, *_ in items], np.float32)
    scores = np.array([score for _, score, *_ in items], np.float32)
    passing = np.array([each for *_, each, _ in items])
    hidden = np.flatnonzero([each for *_, each in items])
    keys = item_keys([str(i) for i in range(n)])
    query = Query(NOTHING, np.empty(0, np.float32), hidden, None, passing if filters else None, liked)
    (found, own) = ListSource(scores, keys, in_category).recall([query], k)[0]
    visible = [i for i in range(n) if i not in hidden and (passing[i] or not filters)]
    expected = sorted(visible, key=lambda i: (not in_category[i, list(liked)].any(), -scores[i], keys[i]))
    assert found.tolist() == expected[:k]
    assert own.tolist() == scores[found].tolist()


def _stranger(stage: Recall) -> Query:
    return make_query(Request(request_id="r"), stage.catalogue, False, NOTHING)


lists_and_quotas = st.lists(
    st.tuples(st.lists(st.integers(0, 30), unique=True, max_size=20), st.integers(1, 50)), min_size=1, max_size=5
)


@given(lists_and_quotas, st.integers(1, 40))
def test_merging_keeps_distinct_items_and_at_most_k_and_some_of_every_source(
    given_: list[tuple[list[int], int]], k: int
) -> None:
    keys = item_keys([str(i) for i in range(31)])
    lists, quotas = [items for items, _ in given_], [quota for _, quota in given_]
    hits = [(np.array(x, np.int64), np.arange(len(x), 0, -1).astype(np.float32)) for x in lists]
    merged = merge(hits, quotas, keys, k)
    union = set().union(*lists)
    found = merged.item_idx.tolist()
    assert len(merged) == min(k, len(union))
    assert len(set(found)) == len(merged)
    assert (np.diff(merged.scores) <= 0).all()
    for items, quota in given_:
        assert set(items[: quota * k // sum(quotas)]) <= set(found)
    for place, item in enumerate(found):
        score = 0.0
        for column, items in enumerate(lists):
            expected = items.index(item) if item in items else -1
            assert merged.source_ranks[place, column] == expected
            assert bool(merged.sources[place] >> column & 1) == (expected >= 0)
            score += quotas[column] / max(quotas) / (61 + expected) if expected >= 0 else 0
        assert merged.scores[place] == pytest.approx(score, rel=1e-5)
    if len(union) <= k:  # nobody has to be kept in spite of its score
        assert found == sorted(union, key=lambda i: (-merged.scores[found.index(i)], keys[i]))


def test_a_source_that_fails_is_named_and_passed_over(stage: Recall, row: UserRow) -> None:
    class Broken:
        def recall(self, queries: list[Query], k: int) -> list[object]:
            raise OSError("gone")

    sources = {**stage.sources, "covisit": Broken()}
    broken = Recall(stage.catalogue, sources, dict.fromkeys(sources, 20), 40, False, 50)  # type: ignore[arg-type]
    (found,) = broken.recall([Request(request_id="r", user=row)])
    assert found.missing == ("covisit",)
    assert len(found) > 0


def test_sources_are_shown_the_newest_items_and_repeat_all_of_them(stage: Recall, row: UserRow) -> None:
    sizes = dict[str, int]()

    class Asked(RepeatSource):
        def recall(self, queries: list[Query], k: int) -> list[Hits]:
            sizes["repeat"] = queries[0].history.size
            return super().recall(queries, k)

    class Other:
        def recall(self, queries: list[Query], k: int) -> list[Hits]:
            sizes["mf"] = queries[0].history.size
            assert np.array_equal(queries[0].history, stage.catalogue.find_keys(row.history)[-3:])
            assert queries[0].weights.size == 3
            return stage.sources["mf"].recall(queries, k)

    asked = Recall(stage.catalogue, {"mf": Other(), "repeat": Asked(stage.catalogue)}, {"mf": 20, "repeat": 20}, 40, True, 3)
    (found,) = asked.recall([Request(request_id="r", user=row)])
    assert not found.missing
    assert sizes == {"mf": 3, "repeat": row.history.size}


def test_a_release_from_before_the_setting_shows_its_sources_the_whole_history(
    folder: Path, tmp_path: Path, row: UserRow
) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    settings = json.loads((old / "recall.json").read_text())
    del settings["history"]
    (old / "recall.json").write_text(json.dumps(settings))
    request = Request(request_id="r", user=UserRow(history=np.tile(row.history, 20), weights=np.tile(row.weights, 20)))
    seen = list[int]()

    class Asked:
        def recall(self, queries: list[Query], k: int) -> list[Hits]:
            seen.extend(query.history.size for query in queries)
            return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]

    for each in (old, folder):
        loaded = load(each)
        loaded.sources["mf"] = Asked()
        loaded.recall([request])
    assert request.user.history.size > 50
    assert seen == [request.user.history.size, 50]


def test_neighbours_of_an_item_are_of_its_taste(stage: Recall) -> None:
    (found,) = stage.recall([Request(request_id="r", similar_to="item-8")])
    by_covisit = [
        stage.catalogue.item_ids[i]
        for i, r in zip(found.item_idx, found.source_ranks[:, stage.names.index("covisit")], strict=True)
        if r >= 0
    ]
    assert by_covisit
    assert all(int(item[5:]) % 2 == 0 for item in by_covisit)
    assert "item-8" not in by_covisit


def test_withdrawn_items_are_not_recalled(catalogue: Catalogue, row: UserRow) -> None:
    withdrawn = catalogue.find(["item-2", "item-6"])
    query = make_query(Request(request_id="r", user=row), catalogue, False, np.sort(withdrawn))
    assert not query.visible(withdrawn).any()


def test_numpy_and_torch_towers_give_the_same_vectors(catalogue: Catalogue) -> None:
    torch.manual_seed(3)
    id_rows, content = item_inputs(catalogue, catalogue.keys[:30])
    assert (id_rows == 0).sum() == len(catalogue) - 30
    model = TwoTower(TwoTowerConfig(embedding_size=8, hidden_size=12), 30, content.shape[1], 6).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        ours = embed_items(weights, id_rows, content)
        theirs = model.items(torch.from_numpy(id_rows), torch.from_numpy(content))
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
        histories = [np.array([3]), np.array([5, 1, 9]), np.arange(10)]
        strengths = [np.linspace(0.2, 1, h.size).astype(np.float32) for h in histories]
        users = embed_users(weights, [ours[h] for h in histories], strengths)
        for history, strength, user in zip(histories, strengths, users, strict=True):
            newest = history[::-1][:6].copy()
            vectors = theirs[torch.from_numpy(newest)][None]
            mask = torch.ones(1, newest.size, dtype=torch.bool)
            expected = model.users(vectors, torch.from_numpy(strength[::-1][:6].copy())[None], mask)
            np.testing.assert_allclose(user, expected[0].numpy(), atol=1e-5)


def test_equal_targets_in_a_batch_are_no_negatives_of_each_other() -> None:
    users, items = torch.eye(4)[:3], torch.eye(4)[[0, 1, 1]]
    alone = sampled_softmax_loss(users, items, torch.tensor([0, 1, 1]), torch.zeros(3), 1.0)
    as_negatives = sampled_softmax_loss(users, items, torch.tensor([0, 1, 2]), torch.zeros(3), 1.0)
    assert alone < as_negatives


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_a_training_history_never_holds_its_target_or_another_user(lengths: list[int]) -> None:
    first = np.cumsum([0, *lengths])
    ids = [f"item-{i}" for i in range(first[-1])]
    names = [[ids[i] for i in range(start, end)] for start, end in pairwise(first)]
    frame = pl.DataFrame(
        {
            "user_id": [f"user-{u}" for u in range(len(lengths))],
            "item_ids": names,
            "strengths": [[1.0] * n for n in lengths],
        }
    )
    keys = np.sort(item_keys(ids))
    order = np.argsort(keys.searchsorted(item_keys(ids)))  # place in the user's sequences, by catalogue row
    chunk = pack(frame, keys, 1.0, 7)
    targets = targets_of(chunk)
    if targets.size:
        rows, _, mask = gather_history(chunk, targets, 5)
        for place, position in enumerate(targets):
            history, target = order[rows[place][mask[place]]], order[chunk.rows[position]]
            assert (history < target).all()
            assert (np.searchsorted(first, history, side="right") == np.searchsorted(first, target, side="right")).all()
            assert history[0] == target - 1
    learnt = set(chunk.rows.tolist())
    for held in chunk.held:
        assert (order[held.targets] > order[held.rows].max()).all()
        assert not set(held.targets.tolist()) & learnt


def test_the_index_finds_what_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:50] + 0.1 * rng.standard_normal((50, 16)).astype(np.float32)
    exact, _ = VectorIndex.build(vectors, 10_000).search(queries, 20)
    rows, scores = VectorIndex.build(vectors, 1_000).search(queries, 20)
    shared = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact.tolist(), rows.tolist(), strict=True)])
    assert shared > 0.7
    assert (np.diff(scores, axis=1) <= 1e-5).all()


def test_the_recall_of_searches_is_reported_under_the_source(folder: Path, row: UserRow) -> None:
    stage, reports = load(folder), queue.Queue[tuple[str, str, float]]()
    stage.watch(lambda *said: reports.put(said))
    for _ in range(2_000):  # one in a hundred is sampled
        stage.recall([Request(request_id="r", user_id="user-4", user=row)])
        if not reports.empty():
            break
    source, selectivity, recall = reports.get(timeout=30)
    assert source in ("two_tower", "sequential", "mf", "content")
    assert (selectivity, recall) == ("all", 1.0)


def test_an_index_loads_from_another_place(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (tmp_path / "a").mkdir()
    index = VectorIndex.build(vectors, 100)
    index.save(tmp_path / "a", "two_tower")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = VectorIndex.load(tmp_path / "b", "two_tower")
    np.testing.assert_array_equal(moved.search(vectors[:9], 5)[0], index.search(vectors[:9], 5)[0])
