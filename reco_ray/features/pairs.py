"""Items that people had near each other: sums over some users, and each item's strongest neighbours. Pure.

Pairs are numbers in arrays and not frames with ids: a shop with seventy thousand items has twenty million of them.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import FeaturesConfig

__all__ = ["covisit_partials", "covisit_rows"]

_PAIRS = 4_000_000  # sorted at a time


def covisit_partials(events: pl.DataFrame, item_ids: pl.Series, config: FeaturesConfig) -> pl.DataFrame:
    """Weights of item pairs that some users had near each other: columns a, b, weight; places in ``item_ids``, a < b.

    A pair at distance d in a user's order weighs strength x strength / sqrt(d).

    Args:
        item_ids: of the catalogue; events of other items only keep others apart.
    """
    code = pl.int_range(len(item_ids), dtype=pl.UInt32, eager=True)
    items = events["item_id"].replace_strict(item_ids, code, default=None, return_dtype=pl.UInt32)
    coded = events.select(pl.col("user_id").rle_id().alias("user"), items.alias("item"), "strength")
    frames = []
    for d in range(1, config.covisit_window + 1):
        near, far = coded[: max(0, coded.height - d)], coded[d:].rename({"user": "u", "item": "i", "strength": "s"})
        pairs = pl.concat([near, far], how="horizontal").filter(
            (pl.col("user") == pl.col("u")) & (pl.col("item") != pl.col("i"))
        )
        low, high = pl.min_horizontal("item", "i").alias("a"), pl.max_horizontal("item", "i").alias("b")
        frames.append(pairs.select(low, high, (pl.col("strength") * pl.col("s") / d**0.5).alias("weight")))
    return pl.concat(frames).group_by("a", "b").agg(pl.col("weight").sum().round(6)).sort("a", "b")


def covisit_rows(partials: pl.DataFrame, item_ids: pl.Series, config: FeaturesConfig) -> pl.DataFrame:
    """Keep each item's strongest neighbours: columns a, b, score, with ids; best first per a, ties by id.

    Score = weight / sqrt((w_a + shrinkage) (w_b + shrinkage)), the cosine of co-occurrence with both totals shrunk, so that
    one chance meeting of two rare items does not lead.

    Args:
        partials: of `covisit_partials` of all users, in a fixed order. item_ids: as there, sorted.
    """
    # some items at a time: memory holds the pairs once, and little more
    ends = np.linspace(0, len(item_ids), 1 + max(1, partials.height // _PAIRS), dtype=np.int64)
    ranges = list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    summed = [_sums(partials.filter((pl.col("a") >= low) & (pl.col("a") < high))) for low, high in ranges]
    a, b, weight = (np.concatenate(columns) for columns in zip(*summed, strict=True))
    total = np.bincount(a, weight, len(item_ids)) + np.bincount(b, weight, len(item_ids)) + config.covisit_shrinkage
    score = (weight / np.sqrt(total[a] * total[b])).round(6).astype(np.float32)
    frames = []
    for low, high in ranges:
        left, right = (
            np.flatnonzero((side >= low) & (side < high)) for side in (b, a)
        )  # neighbours with smaller numbers first
        item, other = np.concatenate([b[left], a[right]]), np.concatenate([a[left], b[right]])
        both = np.concatenate([score[left], score[right]])
        best = _best(item, both, config.covisit_neighbours)
        frames.append(pl.DataFrame({"a": item[best], "b": other[best], "score": both[best]}))
    strongest = pl.concat(frames)
    return strongest.with_columns(item_ids.gather(strongest[name]).alias(name) for name in ("a", "b"))


def _sums(pairs: pl.DataFrame) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float64]]:
    """Distinct a, b in order, and the sum of their weights, added in the order of the rows."""
    key = pairs["a"].to_numpy().astype(np.uint64) << np.uint64(32) | pairs["b"].to_numpy()
    order = np.argsort(key, kind="stable")  # a fifth of the time of a group_by and a sort
    key = key[order]
    first = _starts(key)
    weight = np.add.reduceat(pairs["weight"].to_numpy()[order], first) if first.size else np.empty(0)
    return (key[first] >> np.uint64(32)).astype(np.uint32), key[first].astype(np.uint32), weight


def _best(groups: NDArray[np.uint32], scores: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Places of the ``most`` best rows of each group, by group, score descending, and place; scores are not negative."""
    key = groups.astype(np.uint64) << np.uint64(32) | ~scores.view(np.uint32)  # such floats are ordered as their bits are
    order = np.argsort(key, kind="stable")
    first = _starts(groups[order])
    place = np.arange(order.size) - np.repeat(first, np.diff(np.append(first, order.size)))
    return order[place < most]


def _starts(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Where runs of equal values begin."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))[: ordered.size])
