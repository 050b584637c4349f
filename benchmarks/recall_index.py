"""The tree against exact search, in turns: ScaNN's brute force, and NumPy's product with argpartition."""

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import recall_world

from reco_ray.recall.index import VectorIndex
from reco_ray.recall.index.searcher import exact_searcher
from reco_ray.recall.index.tuning import recall_at

__all__ = ["measure", "median_per_s"]

_QUERIES, _K, _ROUNDS = 512, 100, 5
_NUMPY_BATCH = 32  # of queries: with 4 x 10^6 items 0.5 GB of scores


def measure(items: int, seed: int) -> dict[str, Any]:
    """Queries/s of each way (median of rounds that take turns), recall@100, build time and memory."""
    vectors, group = recall_world.items(items, seed)
    queries = recall_world.users(vectors, group, _QUERIES, seed)
    before = _peak_mb()
    began = time.perf_counter()
    index = VectorIndex.build(vectors, exact_below=0, seed=seed)
    build_s = time.perf_counter() - began
    peak = _peak_mb()
    brute = exact_searcher(vectors)

    def partition() -> None:
        for start in range(0, _QUERIES, _NUMPY_BATCH):
            scores = queries[start : start + _NUMPY_BATCH] @ vectors.T
            top = np.argpartition(scores, items - _K, axis=1)[:, -_K:]
            np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)

    ways: dict[str, Callable[[], Any]] = {
        "scann": lambda: index.search(queries, _K),
        "scann_one_by_one": lambda: [index.search(queries[i : i + 1], _K) for i in range(_QUERIES)],
        "scann_brute_force": lambda: brute.search_batched(queries, _K),
        "numpy": partition,
    }
    per_s = median_per_s(ways, _QUERIES, _ROUNDS)
    exact = brute.search_batched(queries, 500)[0].astype(np.int64)
    found = {k: index.search(queries, k)[0] for k in (10, 100, 200, 500)}
    return {
        **{f"{name}_per_s": round(value) for name, value in per_s.items()},
        "vs_exact": round(per_s["scann"] / max(per_s["scann_brute_force"], per_s["numpy"]), 2),
        **{
            f"recall{k}": round(float(recall_at(rows, exact[:, :k], index.vectors, queries).mean()), 4)
            for k, rows in found.items()
        },
        "build_s": round(build_s, 1),
        "vectors_mb": round(vectors.nbytes / 1e6),
        "build_peak_mb": round(peak - before),
        "tree": index.tuning.leaves,
        "reach": [[r.k, r.leaves, r.rescored, r.recall] for r in index.tuning.reaches],
        "curve": [p for p in index.tuning.curve if p["k"] == _K],
    }


def median_per_s(ways: dict[str, Callable[[], Any]], work: int, rounds: int) -> dict[str, float]:
    """Units of work per second of each way: the median of rounds in which all take turns; the first call does not count."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if round_:
                took[name].append(time.perf_counter() - began)
    return {name: work / float(np.median(seconds)) for name, seconds in took.items()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
