"""How cost grows: requests/s and latency against catalogue size, candidates and replicas, one at a time from a common case.

``python benchmarks/growth.py --out FILE``. 16 closed-loop clients, staged topology, nothing cached; on few cores a second
replica shares what the first one had, and shows what splitting batches costs.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from environment import environment
from load_process import Load, run_load
from rich.console import Console
from rich.table import Table

CLIENTS = 16
CASES = [  # items, candidates, replicas of each stage
    (100_000, 500, 1),
    (10_000, 500, 1),
    (1_000_000, 500, 1),
    (100_000, 100, 1),
    (100_000, 1_000, 1),
    (100_000, 2_000, 1),
    (100_000, 500, 2),
]


def main(out: Annotated[Path, typer.Option()], seconds: float = 8.0) -> None:
    """Measure each case and write the table; exits with 1 when answers were not full."""
    rows = [_measure(items, candidates, replicas, seconds) for items, candidates, replicas in CASES]
    base = rows[0]["per_s"]
    checks = [
        {
            "name": f"items_{r['items']}_candidates_{r['candidates']}_replicas_{r['replicas']}",
            "value": round(v, 3),
            "unit": "ratio",
        }
        for r, v in ((row, row["per_s"] / base) for row in rows)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "clients": CLIENTS, "rows": rows}, indent=1))
    table = Table("items", "candidates", "replicas", "requests/s", "p50 ms", "p99 ms", "not full", title=f"{CLIENTS} clients")
    for row in rows:
        found = (row["items"], row["candidates"], row["replicas"], row["per_s"], row["p50_ms"], row["p99_ms"], row["errors"])
        table.add_row(*(f"{value:,.0f}" for value in found))
    Console().print(table)
    if any(row["errors"] for row in rows):
        raise typer.Exit(1)


def _measure(items: int, candidates: int, replicas: int, seconds: float) -> dict[str, float]:
    bounds = [f"serve.{s}.{b}_replicas={replicas}" for s in ("recall", "ranker", "reranker") for b in ("min", "max")]
    whole = ["serve.deadline_ms=5000", "store.timeout_ms=2000", "serve.cache.ttl_s=0", "serve.cache.stale_s=0"]
    with environment(overrides=[*whole, *bounds], items=items, candidates=candidates) as env:
        url = f"{env.url}/v1/recommendations"
        run_load(Load(url=url, bodies=env.bodies, connections=CLIENTS, seconds=4.0))  # warm-up
        found = run_load(Load(url=url, bodies=env.bodies, connections=CLIENTS, seconds=seconds))
    measured = {name: found[name] for name in ("per_s", "p50_ms", "p99_ms", "errors")}
    return {"items": items, "candidates": candidates, "replicas": replicas, **measured}


if __name__ == "__main__":
    typer.run(main)
