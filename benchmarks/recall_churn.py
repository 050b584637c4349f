"""A tree under changes: recall and speed after items were replaced, added and removed, and after it was built anew."""

import time
from typing import Any

import numpy as np
import recall_world
from recall_index import median_per_s

from reco_ray.recall.index import VectorIndex
from reco_ray.recall.index.tuning import recall_at

__all__ = ["measure"]

_SHARES, _QUERIES, _K, _BATCH = (0.0, 0.05, 0.1, 0.2), 256, 100, 100


def measure(items: int, seed: int) -> dict[str, Any]:
    """Per share of changes recall@100 and queries/s; of the rebuild how long it takes and single searches meanwhile.

    The catalogue is the first part of a world that has half as many items again. Of the changes a third removes items, a third
    adds new ones and a third moves items to the vector of one that the tree has not seen; half of what is new comes from the
    tenth of the groups that the catalogue holds nothing of at first.
    """
    rng = np.random.default_rng([seed, 2])
    world, group = recall_world.items(items + items // 2, seed)
    unseen = np.isin(group, rng.choice(int(group.max()) + 1, int(group.max()) // 10, replace=False))
    old, strange = rng.permutation(np.flatnonzero(~unseen)), rng.permutation(np.flatnonzero(unseen))
    n = min(items, int(0.85 * old.size))
    fresh = rng.permutation(np.concatenate([old[n : n + n // 10], strange[: n // 10]]))
    queries = recall_world.users(world, group, _QUERIES, seed)
    index = VectorIndex.build(world[old[:n]].copy(), exact_below=0, seed=seed)
    index.rebuild = lambda: None  # type: ignore[method-assign, assignment, return-value]  # not before it is asked for
    done, used, rows, put_s, remove_s = 0, 0, [], 0.0, 0.0
    victims = rng.permutation(n)
    for share in _SHARES:
        each = (int(share * n) - done) // 3
        gone, moved = victims[done : done + each], victims[done + each : done + 2 * each]
        added = np.arange(each) + len(index.vectors)
        vectors = world[fresh[used : used + 2 * each]]
        began = time.perf_counter()
        for start in range(0, each, _BATCH):
            index.remove(gone[start : start + _BATCH])
        remove_s += time.perf_counter() - began
        began = time.perf_counter()
        for part, own in ((added, vectors[:each]), (moved, vectors[each:])):
            for start in range(0, each, _BATCH):
                index.put(part[start : start + _BATCH], own[start : start + _BATCH])
        put_s += time.perf_counter() - began
        done, used = int(share * n), used + 2 * each
        rows.append({"changed": share, **_quality(index, queries)})
    del index.rebuild
    began = time.perf_counter()
    thread, waits = index.rebuild(), []
    while thread.is_alive():
        asked = time.perf_counter()
        index.search(queries[:1], _K)
        waits.append(1e3 * (time.perf_counter() - asked))
    rebuild_s = time.perf_counter() - began
    rows.append({"changed": "built anew", **_quality(index, queries)})
    return {
        "rows": rows,
        "put_ms": round(1e3 * put_s / max(1, used), 4),
        "remove_ms": round(1e3 * remove_s / max(1, used // 2), 4),
        "rebuild_s": round(rebuild_s, 1),
        "search_p99_ms_meanwhile": round(float(np.percentile(waits, 99)), 2),
        "search_max_ms_meanwhile": round(max(waits), 2),
    }


def _quality(index: VectorIndex, queries: np.ndarray) -> dict[str, float]:  # type: ignore[type-arg]
    exact = np.stack([index.exact(query, _K) for query in queries])
    found, _ = index.search(queries, _K)
    per_s = median_per_s({"": lambda: index.search(queries, _K)}, len(queries), 5)[""]
    return {"recall100": round(float(recall_at(found, exact, index.vectors, queries).mean()), 4), "per_s": round(per_s)}
