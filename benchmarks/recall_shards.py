"""An index in parts by a hash of the item: what a search of all parts and the merge of their answers cost."""

import time
from typing import Any

import numpy as np
import recall_world
from recall_index import median_per_s

from reco_ray.hashing import item_keys
from reco_ray.recall.index import VectorIndex
from reco_ray.recall.index.shards import merge_shards, shard_of
from reco_ray.recall.index.tuning import recall_at

__all__ = ["measure"]

_SHARDS, _QUERIES, _SIZES, _BATCH = (1, 2, 4), 256, (100, 500), 8


def measure(items: int, seed: int) -> dict[str, Any]:
    """Per number of parts: milliseconds of a batch of 8 in the slowest part and of the merge, recall@k and build time.

    The parts are searched one after the other here; on replicas of their own the slowest counts.
    """
    vectors, group = recall_world.items(items, seed)
    queries = recall_world.users(vectors, group, _QUERIES, seed)
    part = item_keys([f"item-{i}" for i in range(items)])
    whole = VectorIndex.build(vectors, exact_below=0, seed=seed)
    exact = np.stack([whole.exact(query, _SIZES[-1]) for query in queries])
    del whole
    return {"rows": [row for shards in _SHARDS for row in _rows(vectors, queries, exact, shard_of(part, shards), shards, seed)]}


def _rows(
    vectors: np.ndarray,  # type: ignore[type-arg]
    queries: np.ndarray,  # type: ignore[type-arg]
    exact: np.ndarray,  # type: ignore[type-arg]
    part: np.ndarray,  # type: ignore[type-arg]
    shards: int,
    seed: int,
) -> list[dict[str, Any]]:
    own = [np.flatnonzero(part == shard) for shard in range(shards)]
    began = time.perf_counter()
    indexes = [VectorIndex.build(vectors[rows], exact_below=0, seed=seed) for rows in own]
    build_s = time.perf_counter() - began
    found = []
    for k in _SIZES:
        answers = [
            (rows[index.search(queries, k)[0]], index.search(queries, k)[1]) for rows, index in zip(own, indexes, strict=True)
        ]
        batch = queries[:_BATCH]
        searches = {str(i): (lambda index=index, batch=batch, k=k: index.search(batch, k)) for i, index in enumerate(indexes)}
        few = [(rows[:_BATCH], scores[:_BATCH]) for rows, scores in answers]
        merges = {"merge": lambda few=few, k=k: merge_shards(few, k)}
        per_s = median_per_s(searches | merges, 1, 21)
        recall = recall_at(merge_shards(answers, k)[0], exact[:, :k]).mean()
        found.append(
            {
                "shards": shards,
                "k": k,
                "slowest_ms": round(1e3 / min(per_s[name] for name in searches), 3),
                "merge_ms": round(1e3 / per_s["merge"], 3),
                "recall": round(float(recall), 4),
                "reach": [index.tuning.reaches[0].leaves for index in indexes],
                "build_s": round(build_s, 1),
            }
        )
    return found
