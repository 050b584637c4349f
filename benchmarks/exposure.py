"""What a least share of the exposure costs in relevance: by rules on exposure, and by a quota in each slate.

``python benchmarks/exposure.py --out FILE --slates 6000 --seed 7``

A shop of 2,000 items whose users' tastes are known: a user likes an item by the product of their vectors, and a tenth of the
items, those of small providers, are liked less by everybody. The ranker sees a taste with noise; the stage is the product's,
in one process, without Ray. Over the second half of the slates, with the same users and noise each time, places weighed by
1 / log2(1 + place): the mean of the true taste, in deviations of the noisy scores, and of its exponential, of which the best
items have far more than the next ones.
"""

import json
import sys
import time
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
from reco_ray.rules.exposure import weights
from reco_ray.types import Candidates, Request

_ITEMS, _SMALL, _CANDIDATES, _K, _WIDTH = 2_000, 0.1, 300, 10, 16
_WHERE = {"category": ["small"]}
console = Console(width=None if sys.stdout.isatty() else 150)

CASES: dict[str, list[dict[str, Any]]] = {
    "no rule": [],
    **{
        f"exposure, least {least}": [{"name": "small", "kind": "exposure", "where": _WHERE, "least": least}]
        for least in (0.05, 0.1, 0.2)
    },
    "quota of 1 in 10": [{"name": "small", "kind": "quota", "where": _WHERE, "least": 1}],
    "quota of 2 in 10": [{"name": "small", "kind": "quota", "where": _WHERE, "least": 2}],
}


def main(out: Annotated[Path, typer.Option(help="The result as JSON.")], slates: int = 6_000, seed: int = 7) -> None:
    """Measure and write."""
    rows = {name: _run(rules, slates, seed) for name, rules in CASES.items()}
    base = dict(rows["no rule"])
    for row in rows.values():
        row["relevance_lost"] = 1 - row["relevance"] / base["relevance"]
        row["taste_lost"] = base["taste"] - row["taste"]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"slates": slates, "seed": seed, "cases": rows}, indent=1))
    table = Table("rule", "share of the small", "taste lost", "cost told", "exp(taste) lost", "push", "p50 us")
    for name, row in rows.items():
        push, cost = (f"{row[each]:.3f}" if row[each] is not None else "" for each in ("push", "cost"))
        lost = f"{row['taste_lost']:.3f}", cost, f"{row['relevance_lost']:.1%}"
        table.add_row(name, f"{row['share']:.1%}", *lost, push, f"{row['p50_us']:.0f}")
    console.print(table)


def _run(rules: list[dict[str, Any]], slates: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    catalogue, vectors, small = _catalogue(rng)
    stage = Rerank(catalogue, RerankConfig(diversity=0), ["popular"], clock=lambda: 0.0)
    stage.obey(Standing(1, parse({"rules": rules})))
    seen, relevance, liked, share, took = weights(_K), [], [], [], []
    for at in range(slates):
        taste = vectors @ rng.normal(size=_WIDTH) / np.sqrt(_WIDTH) - 1.0 * small
        noisy = taste + rng.normal(0, 0.5, _ITEMS)
        rows = np.argsort(-noisy)[:_CANDIDATES].astype(np.int32)
        scores = noisy[rows].astype(np.float32)
        none = np.zeros((_CANDIDATES, 1), np.int16)
        found = Candidates(rows, scores, np.ones(_CANDIDATES, np.uint16), none, none.astype(np.float32))
        started = time.perf_counter()
        (slate,) = stage.arrange([Request(f"r{at}", k=_K)], [found], [scores])
        took.append(time.perf_counter() - started)
        shown = catalogue.find(list(slate.item_ids))
        relevance.append(seen @ np.exp(taste[shown]) / seen.sum())
        liked.append(seen @ taste[shown] / seen.sum() / scores.std())
        share.append(seen @ small[shown] / seen.sum())
    late = slice(slates // 2, None)
    stands = stage.pushed()
    return {
        "share": float(np.mean(share[late])),
        "relevance": float(np.mean(relevance[late])),
        "taste": float(np.mean(liked[late])),
        "push": stands[0].amount if stands else None,
        "cost": stands[0].cost if stands else None,
        "p50_us": 1e6 * float(np.median(took[late])),
    }


def _catalogue(rng: np.random.Generator) -> tuple[Catalogue, NDArray[np.float64], NDArray[np.bool_]]:
    small = rng.random(_ITEMS) < _SMALL
    items = pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(_ITEMS)],
            "title": [""] * _ITEMS,
            "categories": [["small"] if each else ["large"] for each in small],
            "year": np.full(_ITEMS, 2020, np.int32),
            "available": np.ones(_ITEMS, np.bool_),
        }
    )
    counts = {"n": np.full(_ITEMS, 5), "n_positive": np.full(_ITEMS, 3)}
    columns = {column.name: np.zeros(_ITEMS, np.float32) for column in ITEM_COLUMNS}
    features = pl.DataFrame({"item_id": items["item_id"], **counts, **columns})
    catalogue = Catalogue.build(items, features)  # in an order of its own
    small = catalogue.in_category[:, catalogue.categories.index("small")] > 0
    return catalogue, rng.normal(size=(_ITEMS, _WIDTH)), small


if __name__ == "__main__":
    typer.run(main)
