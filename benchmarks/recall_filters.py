"""Filtered searches: fetching more from the tree and dropping, or scoring the allowed items exactly."""

import time
from typing import Any

import numpy as np
import recall_world

from reco_ray.recall.index import VectorIndex, live
from reco_ray.recall.index.tuning import recall_at

__all__ = ["measure"]

_SELECTIVITIES, _SIZES, _QUERIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5), (100, 500), 24


def measure(items: int, seed: int) -> dict[str, Any]:
    """Per selectivity, size of answer and kind of filter: milliseconds of each way, and recall of the fetching one.

    Filters of kind ``chance`` allow items by lot; those of kind ``groups`` whole groups until the share is met, as a category
    does, so that many queries are far from all that is allowed. ``chosen`` is what the index does by itself.
    """
    rng = np.random.default_rng([seed, 3])
    vectors, group = recall_world.items(items, seed)
    queries = recall_world.users(vectors, group, _QUERIES, seed)
    index = VectorIndex.build(vectors, exact_below=0, seed=seed)
    rows = []
    for kind in ("chance", "groups"):
        for share in _SELECTIVITIES:
            masks = [_mask(group, share, kind, rng) for _ in range(_QUERIES)]
            for k in _SIZES:
                found = _compare(index, queries, masks, k)
                rows.append({"kind": kind, "share": share, "k": k, **found})
    return {"rows": rows, "scored_per_fetched": _fit(rows, items)}


def _mask(group: np.ndarray, share: float, kind: str, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    if kind == "chance":
        return np.asarray(rng.random(group.size) < share)
    sizes = np.bincount(group)
    order = rng.permutation(sizes.size)
    few = order[np.cumsum(sizes[order]) <= max(share * group.size, sizes[order[0]])]
    return np.isin(group, few)


def _compare(index: VectorIndex, queries: np.ndarray, masks: list[np.ndarray], k: int) -> dict[str, Any]:  # type: ignore[type-arg]
    took: dict[str, list[float]] = {"fetch": [], "score": [], "chosen": []}
    found: dict[str, list[float]] = {"fetch": [], "chosen": []}
    usual = live._SCORED_PER_FETCHED
    for query, mask in zip(queries, masks, strict=True):
        exact = index.exact(query, k, mask)
        for way, cost in (("fetch", 0.0), ("score", np.inf), ("chosen", usual)):
            live._SCORED_PER_FETCHED = cost
            began = time.perf_counter()
            rows, _ = index.search(query[None], k, [mask])
            took[way].append(1e3 * (time.perf_counter() - began))
            if way in found and exact.size:
                found[way].append(float(recall_at(rows[:, : exact.size], exact[None], index.vectors, query[None])[0]))
    live._SCORED_PER_FETCHED = usual
    medians = {f"{way}_ms": round(float(np.median(ms)), 3) for way, ms in took.items()}
    return medians | {f"{way}_recall": round(float(np.mean(values)), 4) for way, values in found.items() if values}


def _fit(rows: list[dict[str, Any]], items: int) -> dict[str, float]:
    """Where the two ways cost the same by chance filters, by k: allowed items per item fetched, interpolated on log scales."""
    found = {}
    for k in _SIZES:
        own = [row for row in rows if row["k"] == k and row["kind"] == "chance"]
        ratio = np.log([row["fetch_ms"] / row["score_ms"] for row in own])
        shares = np.log([row["share"] for row in own])
        if (ratio > 0).any() and ratio[-1] < 0:
            at = int(np.flatnonzero(ratio > 0)[-1])
            share = np.exp(np.interp(0, [ratio[at + 1], ratio[at]], [shares[at + 1], shares[at]]))
            found[str(k)] = round(float(share**2 * items / k / live._MARGIN), 2)
    return found
