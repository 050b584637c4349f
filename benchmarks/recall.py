"""Recall's indexes: how fast, how right and how large they are, and what changes, filters and shards cost.

``python benchmarks/recall.py --out FILE --parts index,churn,filters,shards --sizes 100000,1000000,4000000 --seed 7``

Each part runs at each size in a process of its own, so that peak memory is its own; opponents are timed in turns in one run.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import recall_churn
import recall_filters
import recall_index
import recall_items
import recall_shards
import typer
from rich.console import Console

PARTS: dict[str, Callable[[int, int], dict[str, Any]]] = {  # name -> measure(items, seed)
    "index": recall_index.measure,
    "churn": recall_churn.measure,
    "filters": recall_filters.measure,
    "shards": recall_shards.measure,
    "items": recall_items.measure,  # serves: at 10^6 items it takes as long as building their index
}
CHECKED = {"scann_recall100": ("index", "recall100", "ratio"), "scann_vs_exact_qps": ("index", "vs_exact", "ratio")}
console = Console(width=None if sys.stdout.isatty() else 150)


def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    parts: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}.")] = "index,churn,filters,shards",
    sizes: Annotated[str, typer.Option(help="Items.")] = "100000,1000000",
    seed: int = 7,
) -> None:
    """Measure and write; what is done is written at once."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts.split(","):
        for size in map(int, sizes.split(",")):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.setdefault(part, {})[str(size)] = pool.apply(PARTS[part], (size, seed))
            console.print(f"{part} {size:,}: {json.dumps(found[part][str(size)])}", style="dim")
            _write(out, {"seed": seed, "parts": found})


def _write(out: Path, found: dict[str, Any]) -> None:
    checks = [
        {"name": f"{name}_{label}", "value": found["parts"][part][size][field], "unit": unit}
        for name, (part, field, unit) in CHECKED.items()
        for size, label in (("100000", "100k"), ("1000000", "1m"), ("4000000", "4m"))
        if size in found["parts"].get(part, {})
    ]
    for served in found["parts"].get("items", {}).values():  # of several sizes the last
        checks = [check for check in checks if check["name"] not in served] + recall_items.checks_of(served)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, **found}, indent=1))


if __name__ == "__main__":
    typer.run(main)
