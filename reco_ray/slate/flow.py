"""Slates for many users by Ray Data: the very stages of the request path, loaded once per actor."""

from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import ray

from reco_ray.features import user_row
from reco_ray.release import open_release
from reco_ray.schema import SLATES
from reco_ray.slate.pipeline import Pipeline
from reco_ray.types import Request

__all__ = ["write_slates"]


def write_slates(root: str, release: str, users: pl.DataFrame, k: int, users_per_task: int, target: str) -> int:
    """Write one Parquet row of `schema.SLATES` per user under ``target``, a folder or URI; returns how many.

    Args:
        users: rows of the user view that the release expects.
    """
    dataset = ray.data.from_arrow(users.sort("user_id").to_arrow()).repartition(max(1, users.height // users_per_task))
    slates = dataset.map_batches(
        _Slates,
        fn_constructor_kwargs={"root": root, "release": release, "k": k, "made_ts": datetime.now(UTC)},
        batch_size=users_per_task,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
        num_cpus=0.5,
    )
    slates.write_parquet(target)
    return users.height


class _Slates:
    def __init__(self, root: str, release: str, k: int, made_ts: datetime) -> None:
        self._pipeline = Pipeline.load(open_release(root, release))
        self._release, self._k, self._made_ts = release, k, made_ts

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        slates = self._pipeline.run(
            [Request(request_id="", user_id=row["user_id"], k=self._k, surface="batch", user=user_row(row)) for row in rows]
        )
        return pa.Table.from_pylist(
            [
                {
                    "user_id": row["user_id"],
                    "item_ids": list(slate.item_ids),
                    "titles": list(slate.titles),
                    "scores": slate.scores.tolist(),
                    "degraded": list(slate.degraded),
                    "release": self._release,
                    "made_ts": self._made_ts,
                }
                for row, slate in zip(rows, slates, strict=True)
            ],
            schema=SLATES,
        )
