"""The ranker: how fast it scores by each method, and what the faster ones lose.

    python benchmarks/rank.py --out FILE [--root ROOT [--plot FILE.svg]]

Speed on the synthetic release of the other benchmarks (200 trees of depth 6), one thread but where said. The methods take
turns, request by request, so that a busy machine is busy for all; CPU time, of the calling thread, says what a method costs
where the clock cannot: the second of two threads waits busily into the turn of the next method.
``ROOT`` is where `jobs/run_pipeline.py` left its data: what is lost is measured there, on users that the model has not seen.
Compiled trees want ``pip install tl2cgen treelite`` and a C compiler; without them that line is left out.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import synthetic
import typer
import xgboost
from numpy.typing import NDArray
from rank_loss import losses, two_phase
from rich.console import Console
from rich.table import Table

from reco_ray.rank.stage import MODEL_FILE
from reco_ray.slate import Pipeline
from reco_ray.types import Candidates, Request

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 150)

SIZES = (100, 500, 1_000)
_USERS = 50
Floats = NDArray[np.float32]
Score = Callable[[Floats], Floats]


@dataclass(slots=True)
class Timed:
    """What a method took, seconds per call."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """The figures of the report: by the clock, and per core by CPU time."""
        wall, cpu = np.array(self.wall) * 1e3, np.array(self.cpu) * 1e3
        return {
            "requests_s": round(1e3 / float(np.mean(wall)), 1),
            "p50_ms": round(float(np.median(wall)), 3),
            "p99_ms": round(float(np.quantile(wall, 0.99)), 3),
            "least_ms": round(float(wall.min()), 3),
            "cpu_p50_ms": round(float(np.median(cpu)), 3),
            "requests_s_per_core": round(1e3 / float(np.median(cpu)), 1),
        }


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The result as JSON.")],
    root: Annotated[Path | None, typer.Option(help="Of a pipeline that ran; without one no loss is measured.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Of chances before and after calibration, as SVG.")] = None,
    calls: Annotated[int, typer.Option(help="Of each method and size.")] = 200,
) -> None:
    """Measure, and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        speed, differences = _speed(synthetic.publish(folder, "bench", candidates=max(SIZES)), calls)
    table = Table("method", "candidates", *next(iter(speed.values()))[SIZES[0]], "largest difference", title="scoring")
    for method, by_size in speed.items():
        for n, row in by_size.items():
            table.add_row(method, str(n), *(f"{value:g}" for value in row.values()), f"{differences[method]:.1e}")
    console.print(table)
    lost = losses(str(root)) if root is not None else None
    if lost is not None:
        table = Table(
            "form", "NDCG@10", "loss", "low", "high", "top-10 overlap", title=f"users unseen in training: {lost['users']}"
        )
        for row in lost["forms"]:
            table.add_row(row["form"], *(f"{row[name]:.4f}" for name in ("ndcg10", "loss", "low", "high", "overlap10")))
        console.print(table)
    whole = speed["whole stage"][500]
    checks = [
        {"name": "score_500_ms", "value": whole["p50_ms"], "unit": "ms"},
        {"name": "score_500_cpu_ms", "value": whole["cpu_p50_ms"], "unit": "ms"},
    ]
    if lost is not None:
        found = lost["calibration"]
        console.print(f"calibration error {found['ece_before']:.4f} before, {found['ece_after']:.4f} after")
        checks += [{"name": name, "value": found[name], "unit": "ece"} for name in ("ece_before", "ece_after")]
        if plot is not None:
            _draw(plot, found)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "speed": speed, "differences": differences, "loss": lost}, indent=1))


def _speed(release: Path, calls: int) -> tuple[dict[str, dict[int, dict[str, float]]], dict[str, float]]:
    pipeline = Pipeline.load(release)
    ranker = pipeline.rank
    requests = [Request(request_id="bench", user_id=user, k=20, user=row) for user, row in synthetic.users(_USERS, 100_000)]
    found = pipeline.recall.recall(requests)
    matrices = [ranker.features.matrix(r, c) for r, c in zip(requests, found, strict=True)]  # type: ignore[attr-defined]
    methods = _methods(release / MODEL_FILE)
    exact = methods["inplace_predict"](matrices[0])
    differences = {name: float(np.abs(score(matrices[0]) - exact).max()) for name, score in methods.items()}
    timed = {name: {n: Timed() for n in SIZES} for name in ("matrix", "whole stage", *methods)}
    for call in range(calls):
        at = call % _USERS
        for n in SIZES:
            candidates = _first(found[at], n)
            asked: Mapping[str, Callable[[], Any]] = {
                "matrix": lambda at=at, c=candidates: ranker.features.matrix(requests[at], c),  # type: ignore[misc]
                "whole stage": lambda at=at, c=candidates: ranker.score([requests[at]], [c]),  # type: ignore[misc]
                **{name: lambda s=s, m=matrices[at][:n]: s(m) for name, s in methods.items()},  # type: ignore[misc]
            }
            for name, ask in asked.items():
                wall, cpu = time.perf_counter(), time.thread_time()
                ask()
                timed[name][n].cpu.append(time.thread_time() - cpu)
                timed[name][n].wall.append(time.perf_counter() - wall)
    rows = {name: {n: one.row() for n, one in by_size.items()} for name, by_size in timed.items()}
    return rows, {"matrix": 0.0, "whole stage": 0.0, **differences}


def _methods(model: Path) -> dict[str, Score]:
    def booster(threads: int) -> xgboost.Booster:
        found = xgboost.Booster()
        found.load_model(str(model))
        found.set_param({"nthread": threads})
        return found

    one, two = booster(1), booster(2)
    rounds = one.num_boosted_rounds()
    return {
        "inplace_predict": lambda m: one.inplace_predict(m, validate_features=False),
        "two threads": lambda m: two.inplace_predict(m, validate_features=False),
        "predict(DMatrix)": lambda m: one.predict(xgboost.DMatrix(m, nthread=1), validate_features=False),
        "two phases, 100 of all": lambda m: two_phase(one, m, [m.shape[0]], rounds // 4, 100),
        "two phases, 200 of all": lambda m: two_phase(one, m, [m.shape[0]], rounds // 4, 200),
        **_compiled(model),
    }


def _compiled(model: Path) -> dict[str, Score]:
    try:
        import tl2cgen
        import treelite
    except ImportError:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        as_json, library = Path(folder) / "model.json", Path(folder) / "model.so"
        booster = xgboost.Booster()
        booster.load_model(str(model))
        booster.save_model(str(as_json))
        started = time.monotonic()
        tl2cgen.export_lib(
            treelite.frontend.load_xgboost_model(str(as_json)), toolchain="gcc", libpath=library, params={"parallel_comp": 8}
        )
        console.print(f"compiled the trees in {time.monotonic() - started:.0f} s, {library.stat().st_size / 1e6:.1f} MB")
        predictor = tl2cgen.Predictor(str(library), nthread=1)
    return {"compiled by tl2cgen": lambda m: predictor.predict(tl2cgen.DMatrix(m)).ravel()}


def _draw(path: Path, found: Mapping[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 4), layout="constrained")
    axes.plot([1e-3, 1], [1e-3, 1], color="grey", linestyle=":", label="what is said comes true")
    for name in ("before", "after"):
        axes.plot(found[name]["said"], found[name]["came"], marker="o", label=f"{name}: {found[f'ece_{name}']:.4f} off")
    axes.set(xscale="log", yscale="log", xlabel="chance that is said", ylabel="share that came, of unseen users")
    axes.legend()
    figure.savefig(path)


def _first(found: Candidates, n: int) -> Candidates:
    names: Sequence[str] = ("item_idx", "scores", "sources", "source_ranks", "source_scores")
    return replace(found, **{name: getattr(found, name)[:n] for name in names})


if __name__ == "__main__":
    app()
