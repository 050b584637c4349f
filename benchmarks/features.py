"""The features: the batch build against a plain script, and what the online side does for one request and for each event.

    python benchmarks/features.py batch --out FILE --millions 1 --millions 10 --millions 50
    python benchmarks/features.py online --out FILE

The script is one process of polars that computes the same user and item views; that the numbers are equal is checked.
"""

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import typer
from deltalake import write_deltalake
from features_script import compute
from processes import processes
from rich.console import Console
from rich.table import Table

from reco_ray.cluster import ray_session
from reco_ray.config import ClusterConfig, FeaturesConfig, SplitConfig
from reco_ray.features import ITEM_COLUMNS, SNAPSHOTS, Catalogue
from reco_ray.hashing import user_bucket
from reco_ray.lake import tables
from reco_ray.schema import EVENTS

USERS, ITEMS, CATEGORIES, DAYS = 200_000, 20_000, 20, 365
START_US = 1_750_000_000_000_000
app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)


@app.command()
def batch(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    millions: Annotated[list[float], typer.Option(help="Of events; may be repeated.")] = [1, 10, 50],  # noqa: B006
    folder: Annotated[Path | None, typer.Option(help="For the lake; a temporary one by default.")] = None,
) -> None:
    """Build the views by Ray Data and by the script, over the same lakes."""
    rows = []
    for size in millions:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            make_lake(root, int(size * 1e6))
            rows.append({"millions": size, **_pair(root)})
            console.print(json.dumps(rows[-1]), style="dim")
    table = Table("million events", "Ray s", "script s", "ratio", "Ray peak MB", "script peak MB", title="batch build")
    for row in rows:
        table.add_row(*(f"{row[name]:g}" for name in ("millions", "ray_s", "script_s", "ratio", "ray_mb", "script_mb")))
    console.print(table)
    checks = [{"name": f"build_vs_polars_{row['millions']:g}m", "value": row["ratio"], "unit": "ratio"} for row in rows]
    by_size = {row["millions"]: row["ray_mb"] for row in rows}
    if {10, 50} <= set(by_size):
        checks.append({"name": "peak_memory_growth", "value": round(by_size[50] / by_size[10], 3), "unit": "ratio"})
    _write(out, checks, {"users": USERS, "items": ITEMS, "rows": rows})


@app.command()
def online(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    users: int = 100_000,
    items: int = 100_000,
    rate: Annotated[int, typer.Option(help="Events/s while visibility is measured.")] = 1_000,
    seconds: float = 20.0,
) -> None:
    """Measure reads of a request, updates of the stream, and how soon an event is seen."""
    from features_online import measure

    with tempfile.TemporaryDirectory() as root:
        found = measure(root, users, items, rate, seconds)
    _write(out, [{"name": name, "value": value, "unit": unit} for name, (value, unit) in found.items()], {"users": users})


def make_lake(root: str, n: int) -> None:
    """Write the tables events and items: ``n`` views and ratings over a year, Zipf items, every user with about as many."""
    rng = np.random.default_rng(5)
    items = pl.DataFrame(
        {
            "item_id": [f"i{i:05d}" for i in range(ITEMS)],
            "title": [f"Item {i}" for i in range(ITEMS)],
            "categories": [[f"c{c}" for c in rng.choice(CATEGORIES, 2, replace=False)] for _ in range(ITEMS)],
            "year": rng.integers(1960, 2026, ITEMS).astype(np.int32),
            "text": pl.Series([None] * ITEMS, dtype=pl.String),
            "available": [True] * ITEMS,
        }
    ).with_columns(updated_ts=pl.lit(START_US).cast(pl.Datetime("us", "UTC")))
    tables.replace(root, "items", items.to_arrow())
    users = [f"u{i:06d}" for i in range(USERS)]
    buckets = np.array([user_bucket(user) for user in users], np.int32)
    popularity = 1 / np.arange(1, ITEMS + 1) ** 0.8
    cumulative = np.cumsum(popularity / popularity.sum())
    item_ids, user_ids = items["item_id"], pl.Series(users)
    months = 12
    for month in range(months):
        m = n // months
        at, item = rng.integers(0, USERS, m), np.searchsorted(cumulative, rng.random(m)).clip(max=ITEMS - 1)
        rating = rng.random(m) < 0.3
        ts = START_US + ((month + rng.random(m)) / months * DAYS * 86_400e6).astype(np.int64)
        frame = pl.DataFrame(
            {
                "event_id": pl.Series(np.arange(month * m, month * m + m)).cast(pl.String),
                "type": pl.select(pl.when(pl.Series(rating)).then(pl.lit("rating")).otherwise(pl.lit("view"))).to_series(),
                "user_id": user_ids.gather(at),
                "item_id": item_ids.gather(item),
                "ts": pl.Series(ts).cast(pl.Datetime("us", "UTC")),
                "value": pl.select(
                    pl.when(pl.Series(rating)).then(pl.Series(rng.integers(1, 6, m).astype(np.float32)))
                ).to_series(),
                "consent": np.full(m, True),
                "date": f"m{month:02d}",
                "user_bucket": buckets[at],
            }
        ).sort("user_bucket", "user_id", "ts")
        table = frame.to_arrow()
        table = table.append_column(context := EVENTS.field("context"), pa.nulls(table.num_rows, context.type))
        write_deltalake(tables.table_uri(root, "events"), table, mode="append", partition_by=["date"])


def _pair(root: str) -> dict[str, Any]:
    """Run both, and check that they agree."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_script, args=(root, queue))
    process.start()
    script = queue.get()
    process.join()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with ray_session(ClusterConfig(num_cpus=2, auth_mode="disabled")):
        from reco_ray.features import flow

        items = tables.read(root, "items")
        facts = items.select("item_id", "year", "categories").sort("item_id")
        plan = flow.BuildPlan(root, FeaturesConfig(seen_limit=SEEN), facts, True, Catalogue.vocabulary(items))
        with _peak() as peak:
            started = time.perf_counter()
            plan = flow.survey(plan, SplitConfig(min_test_users=1))
            views = flow.build_views(plan, f"{root}/scratch")
            seconds = time.perf_counter() - started
        _agree(views, f"{root}/script")
    return {
        "ray_s": round(seconds, 1),
        "script_s": round(script["s"], 1),
        "ratio": round(seconds / script["s"], 3),
        "ray_mb": round(peak["mb"]),
        "script_mb": round(script["mb"]),
    }


SEEN = 200


def _script(root: str, queue: Any) -> None:
    started = time.perf_counter()
    compute(f"{root}/lake", f"{root}/script", SEEN)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queue.put({"s": time.perf_counter() - started, "mb": peak})


def _agree(views: Any, folder: str) -> None:
    """Compare all numbers of both."""
    mine = pl.concat([pl.DataFrame(batch) for batch in views.users.batches()]).sort("snapshot", "user_id")
    other = pl.read_parquet(f"{folder}/users.parquet").sort("snapshot", "user_id")
    assert mine.select("snapshot", "user_id").equals(other.select("snapshot", "user_id")), "users differ"
    for name, tolerance in (("features", 3e-5), ("weights", 0)):
        a, b = (frame[name].explode().to_numpy() for frame in (mine, other))
        assert np.allclose(a, b, rtol=0, atol=tolerance), f"{name} differ by {np.abs(a - b).max()}"
    for name in ("history", "seen"):
        assert mine[name].list.len().equals(other[name].list.len()), f"{name} differ"
    columns = [c.name for c in ITEM_COLUMNS]
    mine, other = (
        views.items.sort("snapshot", "item_id"),
        pl.read_parquet(f"{folder}/items.parquet").sort("snapshot", "item_id"),
    )
    a, b = (frame.select(columns).to_numpy() for frame in (mine, other))
    assert np.allclose(a, b, rtol=0, atol=3e-5), f"items differ by {np.abs(a - b).max()}"
    assert set(mine["snapshot"].unique()) == set(SNAPSHOTS)


@contextlib.contextmanager
def _peak() -> Iterator[dict[str, float]]:
    """Largest private memory of this process and of Ray's workers, summed, in a run of code; looked at every 50 ms."""
    found, stop = {"mb": 0.0}, threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            pids = [os.getpid(), *processes("ray::", own=True)]
            found["mb"] = max(found["mb"], sum(map(_private_mb, pids)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _private_mb(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def _write(out: Path, checks: list[dict[str, Any]], detail: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, **detail}, indent=1))
    for check in checks:
        console.print(f"{check['name']} = {check['value']} {check['unit']}")


if __name__ == "__main__":
    app()
