"""Slates for many users by Ray Data: the very stages of the request path, loaded once per actor; and their way to the store."""

import math
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from reco_ray.features import user_row
from reco_ray.release import open_release
from reco_ray.schema import SLATES
from reco_ray.slate.pipeline import Pipeline
from reco_ray.store import OnlineStore, Precomputed, SlateStore
from reco_ray.types import Request

__all__ = ["load_slates", "write_slates"]


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


def load_slates(source: str, store_url: str, namespace: str, ttl_s: float) -> int:
    """Load a folder that `write_slates` left into the online store, as precomputed slates; returns how many it took.

    Slates that a failure made less than full are left out, and the store keeps younger ones than these. They live for ``ttl_s``
    from when they were made, so that loading them again prolongs nothing.
    """
    loaded = ray.data.read_parquet(source).map_batches(
        load_batch, fn_args=(store_url, namespace, ttl_s), batch_size=1000, batch_format="pyarrow", num_cpus=0.25
    )
    return int(loaded.sum("taken") or 0)


def load_batch(batch: pa.Table, store_url: str, namespace: str, ttl_s: float) -> pa.Table:
    """Load rows of `schema.SLATES`; contract of `load_slates`. Returns one row, ``taken``."""
    oldest = datetime.now(UTC).timestamp() - ttl_s
    rows = [row for row in batch.to_pylist() if set(row["degraded"]) <= {"short_slate"} and row["item_ids"]]
    slates = [(row["user_id"], _precomputed(row)) for row in rows if row["made_ts"].timestamp() > oldest]
    with OnlineStore(store_url, namespace) as store:
        return pa.table({"taken": [SlateStore(store, precomputed_s=ttl_s).write_precomputed(slates)]})


def _precomputed(row: dict[str, Any]) -> Precomputed:
    return Precomputed(
        made=row["made_ts"].timestamp(),
        release=row["release"],
        item_ids=tuple(row["item_ids"]),
        titles=tuple(row["titles"]),
        scores=tuple([score if math.isfinite(score) else None for score in row["scores"]]),
        reasons=tuple([tuple(each) for each in row["reasons"]]),
    )


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
                    "reasons": [list(each) for each in slate.reasons],
                    "degraded": list(slate.degraded),
                    "release": self._release,
                    "made_ts": self._made_ts,
                }
                for row, slate in zip(rows, slates, strict=True)
            ],
            schema=SLATES,
        )
