"""A small training set with a known taste, as a build leaves it in the lake."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from xgboost.collective import CommunicatorContext
from xgboost.tracker import RabitTracker

from reco_ray.hashing import user_bucket
from reco_ray.rank.training_set import TrainingSet, write_training_set

__all__ = ["stored", "together", "training_rows"]

USERS, COLUMNS = 200, 4


def training_rows(users: int = USERS, seed: int = 0) -> pl.DataFrame:
    """Up to forty rows a user; what a user turns to follows from two of the columns, with noise."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 40, users)
    user = np.repeat(np.arange(users), sizes)
    x = rng.normal(size=(user.size, COLUMNS)).astype(np.float32)
    liking = x[:, 0] + 0.5 * x[:, 1] ** 2 + rng.normal(size=user.size)
    user_ids = [f"u{at}" for at in range(users)]
    frame = pl.DataFrame(
        {
            "group_id": [user_ids[at] for at in user],
            "user_bucket": np.array([user_bucket(user_id) for user_id in user_ids], np.int32)[user],
            "held_out": user % 5 == 0,
            "weight": np.ones(user.size, np.float32),
            "place": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
            "item_id": [f"i{at}" for at in range(user.size)],
            "label": np.digitize(liking, [1.5, 2.5]).astype(np.int32),
            "features": pl.Series(x, dtype=pl.Array(pl.Float32, COLUMNS)).arr.to_list(),
        }
    )
    return frame.with_columns(user_id="group_id").sort("user_bucket", "user_id", "place")


def stored(root: Path, rows: pl.DataFrame, slices: int = 1000) -> TrainingSet:
    tally = write_training_set(str(root), "made", (part.to_arrow() for part in rows.iter_slices(slices)))
    columns = tuple(f"c{at}" for at in range(COLUMNS))
    return TrainingSet(str(root), "made", columns, {}, tally.rows, len(tally.useful[False]), len(tally.useful[True]))


def together(work: Callable[[int], bytes], workers: int) -> list[bytes]:
    """What each of so many workers of XGBoost makes, all at once in threads of this process."""
    tracker = RabitTracker(n_workers=workers, host_ip="127.0.0.1")
    tracker.start()

    def one(rank: int) -> bytes:
        with CommunicatorContext(**tracker.worker_args(), dmlc_task_id=f"{rank:03}"):
            return work(rank)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(workers), timeout=120))
