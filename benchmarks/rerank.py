"""The rerank stage: microseconds for 500 candidates under 0 to 1,000 rules, with each kind of diversity.

``python benchmarks/rerank.py --out FILE --items 100000 --candidates 500 --seed 7``

One request at a time, k=20, in this process. A catalogue of random items in 40 categories; rules of all kinds in the
proportions of ``_MIX``, a third of them for one surface. The first request of a kind makes its plan: reported on its own.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from reco_ray.config import RerankConfig
from reco_ray.features import Catalogue
from reco_ray.features.views import ITEM_COLUMNS
from reco_ray.rerank import Rerank
from reco_ray.rules import Standing, parse
from reco_ray.types import Candidates, Request

RULES = (0, 10, 100, 1_000)
DIVERSITY = {  # name -> how the stage is set
    "none": RerankConfig(diversity=0),
    "mmr": RerankConfig(diversity=0.05),
    "mmr_cap": RerankConfig(diversity=0.05, category_cap=4),
}
_CATEGORIES, _K = 40, 20
_MIX = ("block", "block", "boost", "boost", "boost", "review", "cap", "quota", "exclusive", "pin")
console = Console(width=None if sys.stdout.isatty() else 150)


def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    items: int = 100_000,
    candidates: int = 500,
    requests: Annotated[int, typer.Option(help="Timed in each case.")] = 2_000,
    seed: int = 7,
) -> None:
    """Measure and write."""
    rng = np.random.default_rng(seed)
    catalogue = _catalogue(items, rng)
    found = [_candidates(items, candidates, rng) for _ in range(200)]
    rows = [
        {"diversity": name, "rules": n, **_measure(catalogue, config, n, found, requests, seed)}
        for name, config in DIVERSITY.items()
        for n in RULES
    ]
    masks = _measure(catalogue, DIVERSITY["mmr"], 100, found, requests, seed, kinds=("block", "boost", "review"))
    result = {
        "items": items,
        "candidates": candidates,
        "k": _K,
        "rows": rows,
        "masks_only_100": masks,
        "checks": [
            {"name": "rerank_500x100_us", "value": _of(rows, "mmr", 100)["p50_us"], "unit": "us"},
            {"name": "rerank_500x100_masks_us", "value": masks["p50_us"], "unit": "us"},
            {
                "name": "rules_500x100_us",
                "value": round(masks["p50_us"] - _of(rows, "mmr", 0)["p50_us"], 1),
                "unit": "us",
            },
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    table = Table("diversity", "rules", "p50 us", "p99 us", "compile ms", "first request ms", title=f"{candidates} candidates")
    for row in rows:
        table.add_row(
            row["diversity"], str(row["rules"]), *(str(row[n]) for n in ("p50_us", "p99_us", "compile_ms", "first_ms"))
        )
    console.print(table)
    console.print(result["checks"])


def _of(rows: list[dict[str, Any]], diversity: str, rules: int) -> dict[str, Any]:
    return next(row for row in rows if (row["diversity"], row["rules"]) == (diversity, rules))


def _measure(
    catalogue: Catalogue,
    config: RerankConfig,
    n: int,
    found: list[tuple[Candidates, NDArray[np.float32]]],
    requests: int,
    seed: int,
    kinds: tuple[str, ...] = _MIX,
) -> dict[str, float]:
    stage = Rerank(catalogue, config, ["popular"])
    standing = Standing(1, parse({"rules": list(_rules(catalogue, n, np.random.default_rng([seed, n]), kinds))}))
    began = time.perf_counter()
    stage.obey(standing)
    compiled = time.perf_counter()
    _arrange(stage, found[0])
    first = time.perf_counter()
    took = np.array([_timed(stage, found[i % len(found)]) for i in range(requests)])
    return {
        "p50_us": round(float(np.percentile(took, 50)), 1),
        "p99_us": round(float(np.percentile(took, 99)), 1),
        "compile_ms": round(1e3 * (compiled - began), 2),
        "first_ms": round(1e3 * (first - compiled), 2),
    }


def _timed(stage: Rerank, found: tuple[Candidates, NDArray[np.float32]]) -> float:
    began = time.perf_counter()
    _arrange(stage, found)
    return 1e6 * (time.perf_counter() - began)


def _arrange(stage: Rerank, found: tuple[Candidates, NDArray[np.float32]]) -> None:
    stage.arrange([Request("r", k=_K)], [found[0]], [found[1]])


def _rules(catalogue: Catalogue, n: int, rng: np.random.Generator, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rules over a few ids, a category or a year; pins stand at places of their own, one place in each surface."""
    for i in range(n):
        kind = kinds[i % len(kinds)]
        rule: dict[str, Any] = {"name": f"r{i}", "kind": kind}
        if i % 3 == 0:
            rule["surface"] = [f"s{i}"]
        match kind:
            case "block" | "review":
                rule["where"] = _ids(catalogue, rng, 20)
            case "boost":
                rule |= {"where": _some(catalogue, rng), "amount": round(float(rng.normal()), 3)}
            case "cap":
                rule |= {"where": _some(catalogue, rng), "most": int(rng.integers(2, 6)), "window": 10}
            case "quota":
                rule |= {"where": _some(catalogue, rng), "least": 1, "window": 10}
            case "exclusive":
                rule["sets"] = [_ids(catalogue, rng, 5), _ids(catalogue, rng, 5)]
            case "pin":
                item_id = catalogue.item_ids[int(rng.integers(len(catalogue)))]
                rule |= {"item_id": item_id, "position": 1 + i // 10 % 20, "surface": [f"p{i // 200}"] if i >= 30 else []}
        yield rule


def _ids(catalogue: Catalogue, rng: np.random.Generator, n: int) -> dict[str, Any]:
    return {"item_id": [catalogue.item_ids[row] for row in rng.choice(len(catalogue), n, replace=False)]}


def _some(catalogue: Catalogue, rng: np.random.Generator) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"category": [catalogue.categories[int(rng.integers(len(catalogue.categories)))]]}
    return {"year": [int(rng.integers(1980, 2026))]}


def _catalogue(n: int, rng: np.random.Generator) -> Catalogue:
    ids = [f"item-{i}" for i in range(n)]
    names = [f"category-{c:02d}" for c in range(_CATEGORIES)]
    first, second = rng.integers(0, _CATEGORIES, (2, n))
    frame = pl.DataFrame(
        {
            "item_id": ids,
            "title": ids,
            "categories": [sorted({names[a], names[b]}) for a, b in zip(first, second, strict=True)],
            "year": rng.integers(1980, 2026, n).astype(np.int32),
            "available": np.ones(n, np.bool_),
        }
    )
    counts = {"n": np.full(n, 5), "n_positive": np.full(n, 3)}
    columns = {column.name: np.zeros(n, np.float32) for column in ITEM_COLUMNS}
    return Catalogue.build(frame, pl.DataFrame({"item_id": ids, **counts, **columns}))


def _candidates(items: int, n: int, rng: np.random.Generator) -> tuple[Candidates, NDArray[np.float32]]:
    rows = rng.choice(items, n, replace=False).astype(np.int32)
    scores = rng.normal(size=n).astype(np.float32)
    ones = np.ones(n, np.uint16)
    return Candidates(rows, scores, ones, np.zeros((n, 1), np.int16), np.zeros((n, 1), np.float32)), scores


if __name__ == "__main__":
    typer.run(main)
