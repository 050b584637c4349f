"""Scenario 4: is the heavy ranker worth its cost, and for whom? Cheap, heavy and hybrid side by side.

    python benchmarks/rank_hybrid.py --out FILE [--dataset movielens] [--seeds 7,8,9] [--root FOLDER] [--override KEY=VALUE ...]

Per seed the pipeline runs up to the rankers (``rank=hybrid``); what it made lies under ``FOLDER``, shared with
`rank_quality.py`. Each test user asks once, and the two rankers score the same candidates one request at a time, in turns, by
the very stage that a ranker's replica runs: so a busy machine is busy for both. A request of the hybrid is that of the ranker
that its policy chose, and the policy is asked and timed too. Shares other than the release's are by its criterion, against as
many chosen by lot.

The sequential model alone, as a release without a ranker has it (``recall=alone rank=none``), answers the same requests in
the same turns. Cost is CPU seconds of one core for 1,000 requests: of ranking, and of recall, ranking and rerank together; what
a request costs outside the stages (HTTP, store, the way between processes) is the same for all.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray
from rank_quality import SEQUENTIAL, K, best, source_ids, tested
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from reco_ray.cluster import ray_session
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.evaluation import confidence_interval, ndcg_at_k, paired_difference
from reco_ray.rank import HybridRanker
from reco_ray.recall import Recall
from reco_ray.slate import Pipeline
from reco_ray.workflow.graph import Output, Work, run_all
from reco_ray.workflow.snapshots import assemble_snapshot
from reco_ray.workflow.steps import STEPS

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)

SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
_WARM = 20
Floats = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The test users of one seed, each one request.

    Attributes:
        users: ids of the source. value: by the policy's criterion. chosen: whether they get the heavy ranker.
        ndcg: NDCG@10 by ranker, light and heavy, and ``alone``, of the release without a ranker. wall, cpu: milliseconds of a
            request by ranker, of ``recall``, ``choice`` and ``rerank``, and of all stages of ``alone``.
        policy: what the release holds.
    """

    users: list[str]
    value: Floats
    chosen: NDArray[np.bool_]
    ndcg: dict[str, Floats]
    wall: dict[str, Floats]
    cpu: dict[str, Floats]
    policy: str


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    dataset: str = "movielens",
    seeds: str = "7,8,9",
    root: Annotated[Path | None, typer.Option(help="Keeps what the pipeline makes; without one it is made anew.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="Of the configuration, key=value.")] = None,
) -> None:
    """Measure, compare and write."""
    given = override or ["recall=wide"]
    found = []
    with tempfile.TemporaryDirectory(prefix="rank-hybrid-", ignore_cleanup_errors=True) as scratch:
        for seed in map(int, seeds.split(",")):
            home = (root or Path(scratch)) / f"{dataset}-{seed}"
            fixed = [f"source={dataset}", f"seed={seed}", f"root={home}"]
            config, sequential = compose_config([*fixed, "rank=hybrid", *given]), compose_config([*fixed, *SEQUENTIAL])
            with ray_session(config.cluster):
                outputs = run_all(STEPS, config, upto="train_neural_ranker")
                without = run_all(STEPS, sequential, upto="train_embeddings")
            with threadpool_limits(1):  # as Ray has it in a replica
                found.append(_measure(config, outputs, _pipeline(config, outputs), _pipeline(sequential, without)))
    report = _compared(found)
    checks = [
        {"name": f"{name.replace(' ', '_')}_{of}", "value": row[of], "unit": unit}
        for name, row in report["rankers"].items()
        for of, unit in (("ndcg10", "NDCG@10"), ("stages_p95_ms", "ms"), ("stages_cpu_s", "CPU s per 1,000 requests"))
    ]
    about = {"dataset": dataset, "seeds": seeds, "overrides": given, "load": os.getloadavg()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, **about, **report}, indent=1))
    _show(dataset, report)


def _pipeline(config: PipelineConfig, outputs: dict[str, Output]) -> Pipeline:
    with tempfile.TemporaryDirectory(prefix="stages-") as name:
        assemble_snapshot(Work(config, outputs, "", Path(name)), "eval", Path(name))
        return Pipeline.load(Path(name))


def _measure(config: PipelineConfig, outputs: dict[str, Output], pipeline: Pipeline, alone: Pipeline) -> Measured:
    recall, ranker = pipeline.recall, pipeline.rank
    assert isinstance(recall, Recall)
    assert isinstance(ranker, HybridRanker)
    names = ("recall", "choice", "light", "heavy", "rerank", "alone")
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    lists: dict[str, list[NDArray[np.int32]]] = {"light": [], "heavy": [], "alone": []}
    relevant, users, value, chosen = [], [], [], []

    def timed(name: str, call: Callable[[], T]) -> T:
        clock, busy = time.perf_counter(), time.process_time()
        result = call()
        cpu[name].append(1e3 * (time.process_time() - busy))
        wall[name].append(1e3 * (time.perf_counter() - clock))
        return result

    for part in tested(config, outputs, recall):
        users.append(part.users)
        relevant.extend(part.relevant)
        for at, request in enumerate(part.requests):
            asked = [request]
            candidates = timed("recall", partial(recall.recall, asked))
            chosen.append(timed("choice", partial(ranker.policy.heavy, request)))
            value.append(ranker.policy.value(request))
            turns = (("light", ranker.light), ("heavy", ranker.heavy))
            for name, each in turns if at % 2 else turns[::-1]:
                scores = timed(name, partial(each.score, asked, candidates))
                lists[name].append(best(candidates[0].item_idx, scores[0]))
            timed("rerank", partial(pipeline.rerank.arrange, asked, candidates, scores))
            timed("alone", partial(alone.run, asked))
            lists["alone"].append(alone.recall.recall(asked)[0].item_idx[:K])
    return Measured(
        [user for series in users for user in source_ids(config, series)],
        np.array(value),
        np.array(chosen),
        {name: ndcg_at_k(each, relevant, K) for name, each in lists.items()},
        *({name: np.array(each) for name, each in times.items()} for times in (wall, cpu)),
        f"{ranker.policy.by} >= {ranker.policy.threshold:.4g}, {ranker.policy.share:.1%} of {ranker.policy.users} users",
    )


def _compared(found: list[Measured]) -> dict[str, Any]:
    """Over seeds: a user's NDCG is the mean over those that tested it, times are taken together."""
    ids = [user for one in found for user in one.users]
    _, at = np.unique(ids, return_inverse=True)
    counts = np.bincount(at)

    def by_user(values: list[Floats]) -> Floats:
        return np.asarray(np.bincount(at, np.concatenate(values)) / counts, np.float64)

    def ndcg(chosen: list[NDArray[np.bool_]]) -> Floats:
        return by_user([np.where(c, one.ndcg["heavy"], one.ndcg["light"]) for c, one in zip(chosen, found, strict=True)])

    def quality(mine: Floats) -> dict[str, float]:
        each, gain = confidence_interval(mine, 7), paired_difference(mine, light, 7)
        said = {"ndcg10": each.mean, "low": each.low, "high": each.high}
        said |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        return {name: round(value, 5) for name, value in said.items()}

    def cost(ranking: tuple[Floats, Floats], stages: tuple[Floats, Floats]) -> dict[str, float]:
        said = {f"rank_p{q}_ms": float(np.quantile(ranking[0], q / 100)) for q in (50, 95, 99)}
        said |= {f"stages_p{q}_ms": float(np.quantile(stages[0], q / 100)) for q in (50, 95, 99)}
        said |= {"rank_cpu_s": float(np.mean(ranking[1])), "stages_cpu_s": float(np.mean(stages[1]))}  # ms for one: s for 1,000
        return {name: round(value, 3) for name, value in said.items()}

    def taken(kind: str, name: str) -> list[Floats]:
        return [getattr(one, kind)[name] for one in found]

    def warm(kind: str, *names: str) -> Floats:
        return np.sum([np.concatenate([each[_WARM:] for each in taken(kind, name)]) for name in names], axis=0)

    def row(chosen: list[NDArray[np.bool_]], choice: bool) -> dict[str, float]:
        def ranking(kind: str) -> Floats:
            light, heavy, asked = (taken(kind, name) for name in ("light", "heavy", "choice"))
            times = [np.where(c, h, li) + choice * a for c, h, li, a in zip(chosen, heavy, light, asked, strict=True)]
            return np.concatenate([each[_WARM:] for each in times])

        rank = ranking("wall"), ranking("cpu")
        stages = rank[0] + warm("wall", "recall", "rerank"), rank[1] + warm("cpu", "recall", "rerank")
        share = round(float(np.mean(np.concatenate(chosen))), 4)
        return {"heavy_share": share, **quality(ndcg(chosen)), **cost(rank, stages)}

    def row_alone() -> dict[str, float]:
        none, stages = np.zeros(1), (warm("wall", "alone"), warm("cpu", "alone"))
        return {"heavy_share": 0.0, **quality(by_user([one.ndcg["alone"] for one in found])), **cost((none, none), stages)}

    light = ndcg([np.zeros(one.value.size, np.bool_) for one in found])
    lot = np.random.default_rng(7)
    everyone = {name: [np.full(one.value.size, name == "heavy") for one in found] for name in ("cheap", "heavy")}
    rankers = {name: row(chosen, False) for name, chosen in everyone.items()}
    rankers["hybrid"] = row([one.chosen for one in found], True)
    rankers["sequential alone"] = row_alone()
    shares = []
    for share in SHARES:
        ways = {}
        for way in ("policy", "lot"):
            values = [one.value if way == "policy" else lot.random(one.value.size) for one in found]
            ways[way] = row([_top(each, share) for each in values], True)
        shares.append({"share": share, **ways})
    gain = np.concatenate([one.ndcg["heavy"] - one.ndcg["light"] for one in found])
    of = np.concatenate([one.chosen for one in found])
    parts = {name: confidence_interval(by, 7) for name, by in (("chosen", gain[of]), ("others", gain[~of])) if by.size}
    return {
        "users": int(counts.size),
        "policies": [one.policy for one in found],
        "rankers": rankers,
        "shares": shares,
        "heavy_less_light": {
            name: {"ndcg10": round(each.mean, 5), "low": round(each.low, 5), "high": round(each.high, 5)}
            for name, each in parts.items()
        },
    }


def _top(values: Floats, share: float) -> NDArray[np.bool_]:
    """The given share of the users with the most."""
    chosen = np.zeros(values.size, np.bool_)
    chosen[np.argsort(-values, kind="stable")[: round(share * values.size)]] = True
    return chosen


def _show(dataset: str, report: dict[str, Any]) -> None:
    names = ["heavy_share", "ndcg10", "low", "high", "gain", "gain_low", "gain_high", "rank_p50_ms", "rank_p95_ms"]
    names += ["stages_p50_ms", "stages_p95_ms", "rank_cpu_s", "stages_cpu_s"]
    table = Table("ranker", *names, title=f"{dataset}, {report['users']} users; {report['policies'][0]}")
    for name, row in report["rankers"].items():
        table.add_row(name, *(f"{row[each]:.4g}" for each in names))
    for one in report["shares"]:
        for way in ("policy", "lot"):
            table.add_row(f"{one['share']:.0%} by {way}", *(f"{one[way][each]:.4g}" for each in names))
    console.print(table)
    console.print(f"heavy less light: {report['heavy_less_light']}")


if __name__ == "__main__":
    app()
