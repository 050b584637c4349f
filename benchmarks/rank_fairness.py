"""What weighing cohorts alike in training does to each of them, and to all: fairness and utility before and after.

    python benchmarks/rank_fairness.py --out FILE [--attribute age] [--seeds 7,8,9] [--root FOLDER]

Per seed the pipeline runs twice up to the evaluation, with ``rank.balance`` empty and naming the attribute; the two share all
that does not hang on it. NDCG@10 of the served lists, of the same users; a user's is the mean over seeds. Intervals (95%) and
paired differences are over users. The gap is between the cohorts that fared best and worst before, of those who told, and the
same two after.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray
from rank_quality import source_ids
from rich.console import Console
from rich.table import Table

from reco_ray.cluster import ray_session
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.evaluation import Interval, confidence_interval, paired_difference, unpaired_difference
from reco_ray.evaluation.per_user import PER_USER
from reco_ray.lake.cohorts import NOT_TOLD, cohorts
from reco_ray.workflow.graph import run_all
from reco_ray.workflow.steps import STEPS

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)

_LEAST = 20
_SEED = 7
Floats = NDArray[np.float64]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    attribute: Annotated[str, typer.Option(help="Of users, that divides them into cohorts.")] = "age",
    source: str = "completejourney",
    seeds: str = "7,8,9",
    root: Annotated[Path | None, typer.Option(help="Keeps what the pipeline makes; without one it is made anew.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="Of the configuration, key=value.")] = None,
) -> None:
    """Run both ways, compare, and write what is done at once."""
    given = override or ["recall=wide"]
    frames = []
    with tempfile.TemporaryDirectory(prefix="rank-fairness-", ignore_cleanup_errors=True) as scratch:
        for seed in map(int, seeds.split(",")):
            home = (root or Path(scratch)) / f"{source}-{seed}"
            fixed = [f"source={source}", f"seed={seed}", f"root={home}", *given]
            both = [_served(compose_config([*fixed, f"rank.balance={name}"]), attribute) for name in ("", attribute)]
            frames.append(both[0].join(both[1].select("user", after="before"), on="user"))
            found = _compared(pl.concat(frames).group_by("user", "cohort").mean().sort("user"))
            checks = [
                {"name": f"fairness_gap_{when}", "value": found["gap"][when]["mean"], "unit": "NDCG@10"} for when in _WHEN
            ]
            checks.append({"name": "balanced_utility", "value": found["ratio"], "unit": "ratio of NDCG@10"})
            about = {"attribute": attribute, "seeds": seeds.split(",")[: len(frames)], "overrides": given}
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({"checks": checks, **about, "load": os.getloadavg(), **found}, indent=1))
    _show(attribute, found)


_WHEN = ("before", "after")


def _served(config: PipelineConfig, attribute: str) -> pl.DataFrame:
    """NDCG of each tested user's list, and what the user told: user, cohort, before."""
    with ray_session(config.cluster):
        outputs = run_all(STEPS, config, upto="evaluate")
    users = pl.read_parquet(outputs["evaluate"].folder() / PER_USER)
    told = cohorts(config.root, attribute, users["user_id"], "--attribute")
    return pl.DataFrame({"user": source_ids(config, users["user_id"]), "cohort": told, "before": users["ndcg"]})


def _compared(frame: pl.DataFrame) -> dict[str, Any]:
    of, names = frame["cohort"].to_numpy(), sorted(frame["cohort"].unique())
    values = {when: frame[when].to_numpy().astype(np.float64) for when in _WHEN}
    shown = [name for name in names if (of == name).sum() >= _LEAST]
    by_mean = sorted((name for name in shown if name != NOT_TOLD), key=lambda name: float(values["before"][of == name].mean()))
    worst, best = by_mean[0], by_mean[-1]
    rows = [_row(name, {when: each[of == name] for when, each in values.items()}) for name in shown]
    gap = {when: _said(unpaired_difference(each[of == best], each[of == worst], _SEED)) for when, each in values.items()}
    return {
        "users": frame.height,
        "ratio": round(float(values["after"].mean() / values["before"].mean()), 4),
        "worst": worst,
        "best": best,
        "gap": gap,
        "cohorts": [_row("all", values), *rows],
    }


def _row(name: str, values: dict[str, Floats]) -> dict[str, Any]:
    means = {when: _said(confidence_interval(each, _SEED)) for when, each in values.items()}
    change = _said(paired_difference(values["after"], values["before"], _SEED))
    return {"cohort": name, "users": len(values["before"]), **means, "change": change}


def _said(found: Interval) -> dict[str, float]:
    return {"mean": round(found.mean, 5), "low": round(found.low, 5), "high": round(found.high, 5)}


def _show(attribute: str, found: dict[str, Any]) -> None:
    table = Table(attribute, "users", *_WHEN, "change", title=f"NDCG@10 of {found['users']} users")
    for row in found["cohorts"]:
        cells = [f"{row[each]['mean']:.4f} ({row[each]['low']:.4f} to {row[each]['high']:.4f})" for each in (*_WHEN, "change")]
        table.add_row(row["cohort"], str(row["users"]), *cells)
    console.print(table)
    gaps = ", ".join(f"{when} {found['gap'][when]['mean']:.4f}" for when in _WHEN)
    console.print(f"gap between {found['best']} and {found['worst']}: {gaps}; all users: ratio {found['ratio']:.4f}")


if __name__ == "__main__":
    app()
