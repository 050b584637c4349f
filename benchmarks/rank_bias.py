"""Position bias by simulation: clicks with a known bias, and how well it is found and undone.

    python benchmarks/rank_bias.py --out FILE [--plot FILE.svg]

Requests have ten candidates with features of which the liking is a known function. A logging policy that knows it only roughly
orders them, and moves some about; a place is looked at with a known chance; a click is a look at an item that is liked. Rankers
learn from these clicks and are judged by the true likings of new requests: the naive one takes clicks as they are, one weighs
them by the propensities estimated from the same log, one is XGBoost's ``lambdarank_unbiased``, and one knows the likings.
XGBoost takes no weight per row when it ranks: a click's weight becomes its grade.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xgboost
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from reco_ray.evaluation import confidence_interval, ndcg_at_k
from reco_ray.rank.propensity import Propensities, estimate_propensities

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)

K, FEATURES, ITEMS = 10, 8, 400
_ROUNDS = 80
_GRADES = 31  # XGBoost's exponential gain stays exact up to this; here gains are linear


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    plot: Annotated[Path | None, typer.Option(help="The looks, true and estimated, as SVG.")] = None,
    requests: int = 20_000,
    seeds: int = 5,
    power: Annotated[float, typer.Option(help="A place is looked at with chance 1 / place ^ power.")] = 1.0,
) -> None:
    """Simulate, learn, and write the result."""
    truth = 1 / np.arange(1, K + 1) ** power
    runs = [_run(requests, truth, seed) for seed in range(seeds)]
    names = list(runs[0]["ndcg5"])
    quality = {name: confidence_interval(np.array([run["ndcg5"][name] for run in runs]), 0) for name in names}
    looks = np.array([run["looks"] for run in runs])
    error = float(np.abs(looks - truth).mean())
    table = Table("ranker", "true NDCG@5", "low", "high", title=f"{requests:,} requests, {seeds} seeds")
    for name, found in quality.items():
        table.add_row(name, *(f"{value:.4f}" for value in (found.mean, found.low, found.high)))
    console.print(
        table, f"looks: true {np.round(truth, 3)}, estimated {np.round(looks.mean(axis=0), 3)}, mean error {error:.4f}"
    )
    gaps = {name: quality["knows the likings"].mean - found.mean for name, found in quality.items()}
    checks = [
        {"name": "debiased_vs_naive_ndcg5", "value": quality["weighed"].mean - quality["naive"].mean, "unit": "ndcg"},
        {"name": "bias_gap_closed", "value": 1 - gaps["weighed"] / gaps["naive"], "unit": "share"},
        {"name": "propensity_error", "value": error, "unit": "absolute"},
    ]
    found = {"requests": requests, "seeds": seeds, "power": power, "truth": truth.tolist(), "looks": looks.tolist()}
    result = {"checks": checks, **found, "ndcg5": {name: [run["ndcg5"][name] for run in runs] for name in names}}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    if plot is not None:
        _draw(plot, truth, looks)


def _run(requests: int, truth: NDArray[np.float64], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(ITEMS, FEATURES)).astype(np.float32)
    taste = rng.normal(size=FEATURES)
    items = np.array([rng.choice(ITEMS, K, replace=False) for _ in range(2 * requests)])
    liked = _liking(pool, taste)[items]
    learn, judge = slice(0, requests), slice(requests, None)
    # the logging policy sees half of the features, and a little chance
    rough = pool[items[learn]][..., : FEATURES // 2] @ taste[: FEATURES // 2] + rng.gumbel(size=(requests, K))
    order = np.argsort(-rough, axis=1)
    shown, chance = np.take_along_axis(items[learn], order, 1), np.take_along_axis(liked[learn], order, 1)
    clicks = (rng.random(shown.shape) < truth) & (rng.random(shown.shape) < chance)
    places = np.broadcast_to(np.arange(K), shown.shape)
    found = estimate_propensities(shown.ravel(), places.ravel(), clicks.ravel(), K)
    x, qid = pool[shown].reshape(-1, FEATURES), np.repeat(np.arange(requests), K)
    labels = {
        "naive": clicks.astype(np.int32),
        "weighed": _graded(clicks, places, found),
        "lambdarank_unbiased": clicks.astype(np.int32),
        "knows the likings": np.round(chance * _GRADES).astype(np.int32),
    }
    best = [np.argsort(-row).astype(np.int32) for row in liked[judge]]
    gains = [row[order].astype(np.float32) for row, order in zip(liked[judge], best, strict=True)]
    ndcg = {}
    for name, label in labels.items():
        unbiased = {"lambdarank_unbiased": True} if name == "lambdarank_unbiased" else {}
        model = xgboost.train(
            {"objective": "rank:ndcg", "ndcg_exp_gain": False, "max_depth": 4, "learning_rate": 0.1, "seed": seed, "nthread": 1}
            | {"lambdarank_pair_method": "topk", "lambdarank_num_pair_per_sample": K, **unbiased},
            xgboost.DMatrix(x, label=label.ravel(), qid=qid),
            _ROUNDS,
        )
        scores = model.inplace_predict(pool[items[judge]].reshape(-1, FEATURES)).reshape(-1, K)
        lists = [np.argsort(-row, kind="stable").astype(np.int32) for row in scores]
        ndcg[name] = float(ndcg_at_k(lists, best, 5, gains).mean())
    return {"ndcg5": ndcg, "looks": found.looks.tolist()}


def _liking(pool: NDArray[np.float32], taste: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance that an item is liked: a bent function of its features, 0.02 to 0.9."""
    value = pool @ taste + np.abs(pool[:, 0]) - pool[:, 1] * pool[:, 2]
    return 0.02 + 0.88 / (1 + np.exp(-(value - np.quantile(value, 0.7))))


def _graded(clicks: NDArray[np.bool_], places: NDArray[np.int64], found: Propensities) -> NDArray[np.int32]:
    weights = found.weights(places.ravel()).reshape(clicks.shape)
    return np.where(clicks, np.clip(np.round(weights), 1, _GRADES), 0).astype(np.int32)


def _draw(path: Path, truth: NDArray[np.float64], looks: NDArray[np.float64]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    place = np.arange(1, truth.size + 1)
    axes.plot(place, truth, color="black", label="true")
    axes.errorbar(place, looks.mean(axis=0), looks.std(axis=0), fmt="o", label="estimated from clicks, deviation over seeds")
    axes.set(xlabel="place", ylabel="chance of a look, against the first place", ylim=(0, 1.05))
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    app()
