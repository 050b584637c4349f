"""The vector index: what it finds, what changes in it, filters, and many threads at once."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.errors import ArtifactError, NotReadyError
from reco_ray.hashing import item_keys
from reco_ray.recall.index import Probe, VectorIndex, index_facts, nearest
from reco_ray.recall.index.exact import best_of
from reco_ray.recall.index.locks import SharedLock
from reco_ray.recall.index.probe import selectivity
from reco_ray.recall.index.searcher import check_cpu
from reco_ray.recall.index.shards import merge_shards, shard_of
from reco_ray.recall.index.tuning import Reach, Tuning, recall_at
from reco_ray.recall.query import Query

NOTHING = np.empty(0, np.int64)
TREE, EXACT = 0, 10**9  # as ``exact_below``


def unit(x: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32)


def world(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Items around 30 tastes, the same for all seeds; item i belongs to taste i % 30."""
    tastes = np.random.default_rng(0).standard_normal((30, 16))
    return unit(tastes[np.arange(n) % 30] + 0.5 * np.random.default_rng([seed, 1]).standard_normal((n, 16)))


def query(hidden: NDArray[np.int64] = NOTHING, allowed: NDArray[np.bool_] | None = None) -> Query:
    return Query(NOTHING, np.empty(0, np.float32), hidden, None, allowed)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return world(6000)


@pytest.fixture(scope="module")
def saved(vectors: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    VectorIndex.build(vectors, TREE).save(folder, "tree")
    return folder


@pytest.fixture
def tree(saved: Path) -> VectorIndex:
    return VectorIndex.load(saved, "tree")


def recall(index: VectorIndex, queries: NDArray[np.float32], k: int) -> float:
    exact = np.stack([index.exact(each, k) for each in queries])
    return float(recall_at(index.search(queries, k)[0], exact, index.vectors, queries).mean())


class TestTuning:
    """How far a tree is searched."""

    @pytest.mark.parametrize("target", [0.8, 0.98])
    def test_the_build_searches_as_far_as_the_target_needs(self, vectors: NDArray[np.float32], target: float) -> None:
        index = VectorIndex.build(vectors, TREE, target)
        for reach in index.tuning.reaches:
            points = [p for p in index.tuning.curve if p["k"] == reach.k]
            assert reach.recall >= target
            assert all(p["recall"] < target for p in points if p["leaves"] < reach.leaves)
        assert recall(index, world(300, seed=1), 100) >= target - 0.02

    def test_a_higher_target_searches_more(self) -> None:
        vectors = world(3000)
        low, high = (VectorIndex.build(vectors, TREE, target).tuning.reaches[0] for target in (0.6, 0.99))
        assert (low.leaves, low.rescored) < (high.leaves, high.rescored)

    def test_more_wanted_searches_more(self) -> None:
        tuning = Tuning(10_000, 100, 0.98, 0, (Reach(100, 10, 3, 0.98), Reach(500, 40, 2, 0.98)))
        assert tuning.reach(10) == (10, 300)
        assert tuning.reach(100) == (10, 300)
        assert tuning.reach(500) == (40, 1000)
        leaves = [tuning.reach(k)[0] for k in (100, 150, 300, 500, 900, 10_000)]
        assert leaves == sorted(leaves)
        assert leaves[-1] == 100

    def test_the_bundle_holds_the_curve_and_the_manifest_its_sum(self, tree: VectorIndex, tmp_path: Path) -> None:
        tree.save(tmp_path, "towers")
        loaded = VectorIndex.load(tmp_path, "towers")
        assert loaded.tuning.to_json() == tree.tuning.to_json()
        assert {"leaves", "recall", "queries_per_s"} <= loaded.tuning.curve[0].keys()
        assert index_facts(tmp_path).keys() == {"towers"}
        assert index_facts(tmp_path)["towers"]["reaches"][0]["recall"] == tree.tuning.reaches[0].recall

    def test_an_index_without_its_tuning_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"found no towers_index.json.*publish the release again"):
            VectorIndex.load(tmp_path, "towers")


class TestChanges:
    """Rows put and removed."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 29), min_size=1, max_size=8)), max_size=12),
        st.integers(0, 99),
    )
    def test_answers_are_those_of_exact_search_over_what_is_there(
        self, changes: list[tuple[bool, list[int]]], seed: int
    ) -> None:
        vectors = world(20, seed)
        index = VectorIndex.build(vectors.copy(), EXACT)
        live = dict(enumerate(vectors))
        fresh = iter(world(200, seed + 1))
        for put, rows in changes:
            if put:
                new = np.stack([next(fresh) for _ in rows])
                index.put(np.array(rows), new)
                live.update(zip(rows, new, strict=True))
            else:
                index.remove(np.array(rows))
                live = {row: vector for row, vector in live.items() if row not in rows}
        queries = world(5, seed + 2)
        found, scores = index.search(queries, 12)
        rows = np.array(sorted(live))
        assert len(index) == len(live)
        assert found.shape == (5, min(12, len(live)))
        for each, own, said in zip(queries, found, scores, strict=True):
            exact = np.array([live[row] @ each for row in rows]) if live else np.empty(0)
            np.testing.assert_allclose(said, np.sort(exact)[::-1][: own.size], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(said, exact[np.searchsorted(rows, own)], rtol=1e-5, atol=1e-6)
            assert set(index.exact(each, 12).tolist()) <= set(live)

    def test_a_tree_finds_what_was_put_and_never_what_was_removed(self, tree: VectorIndex) -> None:
        gone, moved, new = np.arange(0, 900, 3), np.arange(1, 900, 3), np.arange(6000, 6300)
        fresh = world(700, seed=5)
        tree.remove(gone)
        tree.put(moved, fresh[:300])
        tree.put(new, fresh[300:600])
        assert len(tree) == 6000
        assert tree.search(fresh[:600], 1)[0][:, 0].tolist() == [*moved.tolist(), *new.tolist()]
        found, _ = tree.search(world(200, seed=6), 200)
        assert not np.isin(found, gone).any()
        assert recall(tree, world(200, seed=6), 100) > 0.95

    def test_a_row_named_twice_has_its_last_vector(self) -> None:
        index = VectorIndex.build(world(20), EXACT)
        new = world(2, seed=3)
        index.put(np.array([4, 4]), new)
        np.testing.assert_array_equal(index.vectors[4], new[1])
        assert len(index) == 20

    def test_rows_may_leave_gaps(self) -> None:
        index = VectorIndex.build(world(20), EXACT)
        index.put(np.array([50]), world(1, seed=3))
        assert index.vectors.shape == (51, 16)
        assert set(index.search(world(1), 30)[0][0].tolist()) == {*range(20), 50}

    def test_everything_may_be_removed_and_come_back(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        tree.remove(np.arange(6000))
        assert tree.search(vectors[:3], 10)[0].shape == (3, 0)
        assert tree.exact(vectors[0], 10).size == 0
        tree.rebuild().join()
        assert tree.search(vectors[:3], 10)[0].shape == (3, 0)
        tree.put(np.arange(100), vectors[:100])
        assert tree.search(vectors[:100], 1)[0][:, 0].tolist() == list(range(100))

    @pytest.mark.parametrize(
        ("rows", "shape", "fill"), [([-1], (1, 16), 0.1), ([1], (1, 15), 0.1), ([1, 2], (1, 16), 0.1), ([1], (1, 16), np.nan)]
    )
    def test_what_does_not_fit_changes_nothing(self, rows: list[int], shape: tuple[int, int], fill: float) -> None:
        vectors = world(20)
        index = VectorIndex.build(vectors.copy(), EXACT)
        with pytest.raises(ValueError, match=r"put .* expected rows >= 0"):
            index.put(np.array(rows), np.full(shape, fill, np.float32))
        np.testing.assert_array_equal(index.vectors, vectors)

    def test_a_changed_index_is_not_saved(self, tmp_path: Path) -> None:
        index = VectorIndex.build(world(20), EXACT)
        index.remove(np.array([3]))
        with pytest.raises(RuntimeError, match="towers has changed since it was built"):
            index.save(tmp_path, "towers")

    def test_a_loaded_index_changes_too(self, tree: VectorIndex, tmp_path: Path) -> None:
        tree.save(tmp_path, "towers")
        loaded = VectorIndex.load(tmp_path, "towers")
        new = world(1, seed=9)
        loaded.remove(np.array([5999, 0]))
        loaded.put(np.array([7000]), new)
        found, _ = loaded.search(new, 200)
        assert found[0, 0] == 7000
        assert not {0, 5999} & set(found[0].tolist())


class TestRebuild:
    """A tree built anew."""

    def test_changes_made_meanwhile_are_kept(self, tree: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
        from reco_ray.recall.index.live import LiveSearcher

        tree.remove(np.arange(100))
        build, began, go_on = LiveSearcher.build, threading.Event(), threading.Event()

        def slow(*args: object, **kwargs: object) -> LiveSearcher:
            began.set()
            assert go_on.wait(30)
            return build(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(LiveSearcher, "build", slow)
        new = world(300, seed=4)
        old = tree.tuning
        thread = tree.rebuild()
        assert began.wait(30)
        assert tree.rebuild() is thread
        for row in range(300):  # more than are applied in the last step
            tree.put(np.array([6000 + row]), new[row : row + 1])
        tree.remove(np.array([6000, 3000]))
        assert tree.search(new[1:2], 1)[0][0, 0] == 6001
        go_on.set()
        thread.join()
        assert tree.tuning is not old
        assert tree.search(new[1:], 1)[0][:, 0].tolist() == list(range(6001, 6300))
        assert len(tree) == 6000 - 100 + 300 - 2
        found, _ = tree.search(world(300), 200)
        assert not np.isin(found, [*range(100), 6000, 3000]).any()
        assert recall(tree, world(200, seed=6), 100) > 0.97

    def test_many_changes_start_it(self, tree: VectorIndex) -> None:
        started = queue.Queue[threading.Thread]()
        rebuild = tree.rebuild
        tree.rebuild = lambda: started.put(rebuild()) or rebuild()  # type: ignore[method-assign, func-returns-value]
        tree.put(np.arange(1200), world(1200, seed=4))
        assert started.empty()
        tree.put(np.array([0]), world(1, seed=5))
        started.get_nowait().join()
        assert tree.search(world(1, seed=5), 1)[0][0, 0] == 0

    def test_a_build_that_fails_leaves_the_old_tree(self, tree: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
        from reco_ray.recall.index.live import LiveSearcher

        def fail(*_: object, **__: object) -> LiveSearcher:
            raise MemoryError

        monkeypatch.setattr(LiveSearcher, "build", fail)
        old = tree.tuning
        tree.rebuild().join()
        assert tree.tuning is old
        tree.put(np.array([6000]), world(1, seed=5))
        assert tree.search(world(1, seed=5), 1)[0][0, 0] == 6000


class TestThreads:
    """Searching while others put and remove."""

    @pytest.mark.parametrize("exact_below", [TREE, EXACT])
    def test_what_was_removed_before_a_search_is_not_in_its_answer(self, exact_below: int) -> None:
        vectors = world(3000)
        index = VectorIndex.build(vectors.copy(), exact_below)
        removed: set[int] = set()
        wrong: list[object] = []
        done = threading.Event()

        def search(seed: int) -> None:
            queries = world(20, seed)
            while not done.is_set():
                before = set(removed)
                rows, scores = index.search(queries, 50)
                exact = np.einsum("qd,qkd->qk", queries, index.vectors[rows])
                if before & set(rows.ravel().tolist()) or not np.allclose(exact, scores, atol=1e-4):
                    wrong.append((before & set(rows.ravel().tolist()), np.abs(exact - scores).max()))

        threads = [threading.Thread(target=search, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        fresh = world(400, seed=3)
        for row in range(400):
            index.put(np.array([3000 + row]), fresh[row : row + 1])
            index.remove(np.array([row]))
            removed.add(row)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(index) == 3000

    def test_readers_share_and_a_writer_is_alone(self) -> None:
        lock, both = SharedLock(), threading.Barrier(2, timeout=30)
        pair, torn, done = [0, 0], [], threading.Event()

        def meet() -> None:
            with lock.read():
                both.wait()

        def read() -> None:
            while not done.is_set():
                with lock.read():
                    if pair[0] != pair[1]:
                        torn.append(tuple(pair))

        def write() -> None:
            for _ in range(300):
                with lock.write():
                    for place in (0, 1):
                        pair[place] += 1

        def run(*works: Callable[[], None]) -> list[threading.Thread]:
            threads = [threading.Thread(target=work, daemon=True) for work in works]
            for thread in threads:
                thread.start()
            return threads

        for thread in run(meet, meet):
            thread.join()
        assert not both.broken, "two readers were in at once"
        readers = run(read, read, read)
        for thread in run(write, write):
            thread.join(60)
            assert not thread.is_alive(), "readers that never all leave do not hold a writer up"
        done.set()
        for thread in readers:
            thread.join()
        assert not torn
        assert pair == [600, 600]


class TestFilters:
    """Searching among what is allowed."""

    @pytest.mark.parametrize("exact_below", [TREE, EXACT])
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
    def test_only_allowed_rows_come_and_the_best_of_them(
        self, vectors: NDArray[np.float32], tree: VectorIndex, exact_below: int, share: float
    ) -> None:
        index = tree if exact_below == TREE else VectorIndex.build(vectors, EXACT)
        rng = np.random.default_rng(1)
        queries = world(20, seed=1)
        masks = [rng.random(6000) < share for _ in queries]
        rows, scores = index.search(queries, 50, masks)
        recalls = []
        for each, mask, own, said in zip(queries, masks, rows, scores, strict=True):
            own, said = own[own >= 0], said[own >= 0]
            exact = best_of(vectors[mask], each[None], 50)[0]
            assert mask[own].all()
            assert own.size == exact.size
            assert (np.diff(said) <= 1e-6).all()
            recalls.append(np.isin(np.flatnonzero(mask)[exact], own).mean() if exact.size else 1.0)
        assert np.mean(recalls) >= (1.0 if exact_below == EXACT or share <= 0.01 else 0.95)

    def test_few_allowed_far_from_the_query_are_all_found(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        mask = np.arange(6000) % 30 == 7  # one taste, and a query of another: the tree's best are not of it
        mask |= np.arange(6000) % 30 == 8
        found = tree.search(vectors[3:4], 60, [mask])[0][0]
        np.testing.assert_array_equal(np.sort(found), np.sort(tree.exact(vectors[3], 60, mask)))

    def test_each_query_of_a_batch_has_its_own_mask(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        mask = np.arange(6000) % 2 == 0
        rows, _ = tree.search(vectors[[1, 1]], 10, [None, mask])
        np.testing.assert_array_equal(rows[0], tree.search(vectors[1:2], 10)[0][0])
        assert mask[rows[1]].all()

    def test_new_rows_behind_a_mask_and_removed_rows_do_not_pass(self, tree: VectorIndex) -> None:
        new = world(1, seed=8)
        tree.put(np.array([6000, 6001]), np.repeat(new, 2, axis=0))
        tree.remove(np.array([6001, 5]))
        mask = np.ones(6000, np.bool_)
        assert not np.isin(tree.search(new, 300, [mask])[0], [5, 6000, 6001]).any()
        assert not np.isin(tree.exact(new[0], 6000, mask), [5, 6000, 6001]).any()
        assert tree.search(new, 5, [np.ones(6002, np.bool_)])[0][0, 0] == 6000


class TestNearest:
    """Hits of queries."""

    def test_what_is_hidden_is_searched_past(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        best = tree.exact(vectors[0], 40)
        (rows, scores), (other, _) = nearest(tree, vectors[:2], [query(np.sort(best[:20])), query()], 20)
        assert rows.size == other.size == 20
        assert not np.isin(rows, best[:20]).any()
        assert np.isin(rows, best[20:]).mean() > 0.9
        assert (np.diff(scores) <= 0).all()
        assert other[0] == 1

    def test_a_query_left_short_is_asked_again(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        hidden = np.sort(tree.exact(vectors[0], 3000))
        rows, _ = nearest(tree, vectors[:1], [query(hidden)], 20)[0]
        np.testing.assert_array_equal(np.sort(rows), np.sort(tree.exact(vectors[0], 3020)[3000:]))

    def test_no_queries_no_hits(self, tree: VectorIndex) -> None:
        assert nearest(tree, np.empty((0, 16), np.float32), [], 20) == []


class TestProbe:
    """Recall measured beside live searches."""

    def test_it_reports_the_recall_of_each_kind_of_search(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        for hits, ratio in ((slice(0, 20), 1.0), (slice(10, 20), 0.5)):
            for allowed, bucket in ((None, "all"), (np.arange(6000) % 2 == 0, ">10%"), (np.arange(6000) % 50 == 0, "1-10%")):
                reports = queue.Queue[tuple[str, float]]()
                probe = Probe(tree, lambda *said, reports=reports: reports.put(said), share=1.0)
                hidden = np.sort(tree.exact(vectors[0], 5))
                mask = np.ones(6000, np.bool_) if allowed is None else allowed.copy()
                mask[hidden] = False
                probe.offer(vectors[0], query(hidden, allowed), 20, tree.exact(vectors[0], 20, mask)[hits])
                assert reports.get(timeout=30) == (bucket, ratio)

    def test_searches_are_offered_by_nearest_and_dropped_while_it_is_busy(
        self, tree: VectorIndex, vectors: NDArray[np.float32]
    ) -> None:
        reports, go_on = queue.Queue[tuple[str, float]](), threading.Event()

        def report(*said: object) -> None:
            reports.put(said)  # type: ignore[arg-type]
            assert go_on.wait(30)

        probe = Probe(tree, report, share=1.0)
        nearest(tree, vectors[:50], [query()] * 50, 20, probe)
        bucket, ratio = reports.get(timeout=30)
        nearest(tree, vectors[:50], [query()] * 50, 20, probe)
        assert reports.empty()
        go_on.set()
        assert bucket == "all"
        assert 0.9 <= ratio <= 1

    def test_a_share_is_sampled(self, tree: VectorIndex, vectors: NDArray[np.float32]) -> None:
        taken: list[int] = []
        probe = Probe(tree, lambda *_: None, share=0.1)
        probe._measure = lambda *args: (taken.append(1), probe._busy.release())  # type: ignore[method-assign, assignment, func-returns-value]
        for _ in range(1000):
            probe.offer(vectors[0], query(), 1, np.zeros(1, np.int64))
            with probe._busy:
                pass  # what was taken has been measured
        assert 60 < len(taken) < 140

    @pytest.mark.parametrize(("allowed", "bucket"), [(999, ">10%"), (100, "1-10%"), (10, "1-10%"), (9, "<1%"), (0, "<1%")])
    def test_buckets(self, allowed: int, bucket: str) -> None:
        assert selectivity(allowed, 1000) == bucket


@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 99))
def test_shards_merged_are_the_whole(shards: int, k: int, seed: int) -> None:
    vectors, queries = world(200, seed), world(4, seed + 1)
    part = shard_of(item_keys([f"item-{i}" for i in range(200)]), shards)
    answers = []
    for shard in range(shards):
        own = np.flatnonzero(part == shard)
        rows = best_of(vectors[own], queries, k)
        short = np.full((4, 2), -1, np.int64)  # a tree that has no more pads
        scores = np.take_along_axis(queries @ vectors[own].T, rows, axis=1)
        answers.append((np.hstack([own[rows], short]), np.hstack([scores, np.full((4, 2), np.nan, np.float32)])))
    rows, scores = merge_shards(answers, k)
    np.testing.assert_array_equal(rows, best_of(vectors, queries, k))
    assert (np.diff(scores, axis=1) <= 0).all()


def test_shards_are_even() -> None:
    sizes = np.bincount(shard_of(item_keys([f"item-{i}" for i in range(40_000)]), 4))
    assert abs(sizes - 10_000).max() < 400


class TestCpu:
    """A CPU that would end the process is refused before scann is imported."""

    @pytest.mark.parametrize(
        ("flags", "lacking"), [("fpu sse avx", "fma"), ("fpu fma", "avx"), ("fpu sse2 avxfoo fma4", "avx, fma")]
    )
    def test_an_x86_cpu_without_what_scann_needs_is_refused(self, flags: str, lacking: str) -> None:
        with pytest.raises(NotReadyError, match=rf"lacks {lacking}; scann expects Linux on an x86-64 CPU with AVX and FMA"):
            check_cpu("x86_64", f"processor : 0\nflags\t\t: {flags}\n")

    @pytest.mark.parametrize(
        ("machine", "text"), [("x86_64", "flags : avx2 fma avx\n"), ("aarch64", "Features : fp asimd\n"), ("x86_64", "")]
    )
    def test_others_pass(self, machine: str, text: str) -> None:
        check_cpu(machine, text)


def test_of_equal_items_any_is_found() -> None:
    some = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    vectors = np.repeat(some, 50, axis=0)
    one, other = np.arange(20)[None], np.arange(20, 40)[None]  # of the fifty that are the same
    assert recall_at(other, one, vectors, some[:1]) == 1
    assert recall_at(other + 50, one, vectors, some[:1]) == 0
    assert recall_at(np.where(other < 30, other, -1), one, vectors, some[:1]) == 0.5


@pytest.mark.parametrize("exact_below", [TREE, EXACT])
def test_rows_without_a_vector_are_not_indexed_until_they_get_one(exact_below: int, tmp_path: Path) -> None:
    vectors = world(6000)
    vectors[1::2] = 0
    VectorIndex.build(vectors, exact_below).save(tmp_path, "sparse")
    index = VectorIndex.load(tmp_path, "sparse")
    assert index.tuning.rows == len(index) == 3000
    rows, _ = index.search(vectors[:50], 100)
    assert (rows >= 0).all()
    assert (rows % 2 == 0).all()
    assert recall(index, vectors[:50], 100) > 0.95
    kept = vectors[2:3].copy()
    index.put(np.array([1, 2]), np.stack([vectors[2], np.zeros(16, np.float32)]))
    first, _ = index.search(kept, 1)
    assert first[0, 0] == 1, "it took the vector that row 2 had"
    assert 2 not in index.search(vectors[:50], 3000)[0]
    assert len(index) == 3000


def test_where_no_row_has_a_vector_all_are_indexed(tmp_path: Path) -> None:
    VectorIndex.build(np.zeros((50, 8), np.float32), EXACT).save(tmp_path, "blank")
    assert len(VectorIndex.load(tmp_path, "blank")) == 50
