"""Training the ranker at scale: rows a second and peak memory, and the time against plain ``xgboost.train`` on the same rows.

    python benchmarks/rank_train.py --out FILE [--rows 1000000 --rows 10000000] [--root FOLDER]

All read the same table of the lake, with as many threads, and make as many rounds. Plain reads all of it into one matrix, in
one process without Ray; ours streams it on a worker of Ray Train, and its time holds the start of the worker, the checks and
the checkpoints; shared is the same on two workers with half the threads each. Ray itself runs before the clock does. They
take turns; the least of each counts. Memory is the peak of a process that trains. Table and runs that lie under ``FOLDER``
are used again, so that a cut loses one run.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow as pa
import typer
from rich.console import Console

from reco_ray.config import ClusterConfig, RankConfig
from reco_ray.hashing import USER_BUCKETS
from reco_ray.rank.training_set import TrainingSet, write_training_set

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)

_GROUP, _COLUMNS, _HELD_OUT = 300, 24, 0.01
_THREADS = 2


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    rows: Annotated[list[int] | None, typer.Option(help="Sizes.")] = None,
    rounds: int = 20,
    turns: int = 1,
    root: Annotated[Path | None, typer.Option(help="Keeps table and runs; without one they are made anew.")] = None,
) -> None:
    """Write the rows, train by each way in turns, and write the result."""
    with tempfile.TemporaryDirectory(prefix="rank-train-") as scratch:
        found = [_size(n, rounds, turns, (root or Path(scratch)) / str(n)) for n in rows or [1_000_000, 10_000_000]]
    checks = [
        {"name": f"train_rows_per_s_{_short(each['rows'])}", "value": each["ours"]["rows_per_s"], "unit": "rows x rounds/s"}
        for each in found
    ]
    checks += [
        {"name": f"train_memory_{_short(each['rows'])}", "value": each["ours"]["memory_mb"], "unit": "MB"} for each in found
    ]
    checks.append({"name": "train_vs_plain_xgboost", "value": found[-1]["ratio"], "unit": f"ratio at {found[-1]['rows']} rows"})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "columns": _COLUMNS, "threads": _THREADS, "sizes": found}, indent=1))
    console.print_json(data=checks)


def _short(rows: int) -> str:
    return f"{rows // 1_000_000}m" if rows >= 1_000_000 else str(rows)


def _size(rows: int, rounds: int, turns: int, root: Path) -> dict[str, Any]:
    given = root / "training_set.json"
    if not given.exists():
        tally = write_training_set(str(root), "made", _rows(rows))
        groups = {"groups": len(tally.useful[False]), "held_out_groups": len(tally.useful[True])}
        columns = [f"c{at}" for at in range(_COLUMNS)]
        said = {"root": str(root), "snapshot": "made", "columns": columns, "vocabulary": {}, "rows": tally.rows, **groups}
        given.write_text(json.dumps(said))
    times: dict[str, list[dict[str, float]]] = {name: [] for name in _WAYS}
    for turn in range(turns):
        for name in sorted(times, reverse=bool(turn % 2)):
            done = root / f"{name}-{rounds}-{turn}.json"
            if not done.exists():
                done.write_text(json.dumps(_apart(name, given, rounds)))
            times[name].append(json.loads(done.read_text()))
            console.print(f"{rows:,} rows, {name}: {times[name][-1]}")
    best = {name: min(each, key=lambda run: run["seconds"]) for name, each in times.items()}
    shown = {name: {**each, "rows_per_s": rows * rounds / each["seconds"]} for name, each in best.items()}
    ratio = best["ours"]["seconds"] / best["plain"]["seconds"]
    return {"rows": rows, "rounds": rounds, "ratio": ratio, **shown, "runs": times}


def _apart(name: str, given: Path, rounds: int) -> dict[str, float]:
    """One run in a process of its own, so that its memory is its own."""
    asked = json.dumps([name, str(given), rounds])
    done = subprocess.run([sys.executable, __file__, "run", asked], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "load": os.getloadavg()[0]}


def run(asked: str) -> None:
    """What the process of one run does; prints its figures as JSON."""
    name, path, rounds = json.loads(asked)
    content = json.loads(Path(path).read_text())
    given = TrainingSet(**content | {"columns": tuple(content["columns"])})
    found = _WAYS[name](given, RankConfig(rounds=rounds, patience=10_000))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def _plain(given: TrainingSet, config: RankConfig) -> dict[str, float]:
    import xgboost

    from reco_ray.lake import tables
    from reco_ray.rank.parameters import parameters
    from reco_ray.rank.training_set import TABLE

    started = time.monotonic()
    frame = tables.read(given.root, TABLE, ["group_id", "held_out", "label", "features"])
    x = frame["features"].list.to_array(_COLUMNS).to_numpy()
    held_out, label, group = frame["held_out"].to_numpy(), frame["label"].to_numpy(), frame["group_id"].rle_id().to_numpy()
    train = xgboost.QuantileDMatrix(x[~held_out], label=label[~held_out], qid=group[~held_out], nthread=_THREADS)
    valid = xgboost.QuantileDMatrix(x[held_out], label=label[held_out], qid=group[held_out], nthread=_THREADS, ref=train)
    history: dict[str, Any] = {}
    params = parameters(config, 7) | {"nthread": _THREADS, "seed_per_iteration": True}  # as `fit_rounds`
    xgboost.train(params, train, config.rounds, evals=[(valid, "valid")], evals_result=history, verbose_eval=False)
    seconds = time.monotonic() - started
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "memory_mb": memory_mb, "ndcg10": history["valid"]["ndcg@10"][-1]}


def _ours(given: TrainingSet, config: RankConfig, workers: int = 1) -> dict[str, float]:
    from reco_ray.cluster import ray_session
    from reco_ray.rank.trainer import fit_model

    cluster = ClusterConfig(
        train_workers=workers,
        train_cpus_per_worker=_THREADS / workers,
        num_cpus=_THREADS,
        dashboard_port=0,
        auth_mode="disabled",
    )
    with tempfile.TemporaryDirectory() as folder, ray_session(cluster):
        started = time.monotonic()
        result = fit_model(given, config, cluster, 7, "bench", f"{folder}/train", Path(folder))
        seconds = time.monotonic() - started
    return {"seconds": seconds, "memory_mb": result.memory_mb, "ndcg10": result.valid_ndcg10}


_WAYS = {"plain": _plain, "ours": _ours, "shared": partial(_ours, workers=2)}


def _rows(n: int) -> Iterator[pa.Table]:
    """Groups of 300 rows, bucket by bucket; one row in forty is a positive, by two of the columns and noise."""
    groups = n // _GROUP
    for bucket, of_bucket in enumerate(np.array_split(np.arange(groups), USER_BUCKETS)):
        rng = np.random.default_rng(bucket)
        size = of_bucket.size * _GROUP
        x = rng.normal(size=(size, _COLUMNS)).astype(np.float32)
        liking = x[:, 0] + 0.5 * np.abs(x[:, 1]) + rng.normal(size=size)
        names = pl.Series([f"u{at:09}" for at in of_bucket]).gather(np.repeat(np.arange(of_bucket.size), _GROUP))
        held_out = np.repeat(rng.random(of_bucket.size) < _HELD_OUT, _GROUP)
        yield pl.DataFrame(
            {
                "group_id": names,
                "user_id": names,
                "user_bucket": np.full(size, bucket, np.int32),
                "held_out": held_out,
                "weight": np.ones(size, np.float32),
                "place": np.tile(np.arange(_GROUP, dtype=np.int32), of_bucket.size),
                "item_id": names,
                "label": np.digitize(liking, [3.0, 3.5, 4.0]).astype(np.int32),
                "features": pl.Series(x, dtype=pl.Array(pl.Float32, _COLUMNS)).arr.to_list(),
            }
        ).to_arrow()


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2])
    else:
        app()
