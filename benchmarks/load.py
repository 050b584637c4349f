"""How much load serving takes: where the knee is, what 3x of it does, and whether hours of load change anything.

``python benchmarks/load.py sweep --out FILE`` and ``soak --out FILE`` run against a synthetic release on a local cluster of
their own, or against ``--url``. The generator is `client.py`, open loop; see `knee.py` for what the knee is.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import httpx
import numpy as np
import typer
from environment import environment, write_bodies
from knee import Sweep, find_knee, plot
from load_process import Load, run_load, start_load
from memory import replica_memory
from overload import Check, check, overload, recovery
from rich.console import Console
from rich.table import Table

from reco_ray.config import Topology

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
console = Console()

Out = Annotated[Path, typer.Option(help="The result as JSON; a plot goes beside it.")]
Url = Annotated[str, typer.Option(help="Of a service that runs, http://HOST:PORT; by default one is started.")]
Bodies = Annotated[Path | None, typer.Option(help="With --url: a file with one JSON body a line.")]
Topo = Annotated[Topology, typer.Option(help="Of the service that is started.")]
Override = Annotated[list[str], typer.Option(help="Of its configuration, as in serve.deadline_ms=200; may be repeated.")]
Deadline = Annotated[float, typer.Option(help="ms to hold answers to; by default what the configuration says.")]
Header = Annotated[list[str], typer.Option(help="'Name: value', may be repeated.")]
Zipf = Annotated[float, typer.Option(help="Exponent of the users' popularity; 0 takes them in turn.")]
StepS = Annotated[float, typer.Option(help="Seconds at each rate.")]
Start = Annotated[float, typer.Option(help="First rate, requests/s.")]


@app.command()
def sweep(
    out: Out,
    url: Url = "",
    bodies: Bodies = None,
    topology: Topo = Topology.staged,
    override: Override = [],  # noqa: B006
    deadline_ms: Deadline = 0.0,
    header: Header = [],  # noqa: B006
    zipf: Zipf = 0.0,
    items: int = 100_000,
    candidates: int = 500,
    step_s: StepS = 10.0,
    start: Start = 20.0,
    factor: Annotated[float, typer.Option(help="Between one rate and the next.")] = 1.35,
    max_rate: float = 5_000.0,
    refine: int = 2,
    half_s: float = 20.0,
    overload_factor: float = 3.0,
    overload_s: float = 20.0,
    recovery_s: float = 20.0,
    seed: int = 0,
) -> None:
    """Find the knee, measure at half of it, then at three times of it and after that. Exits with 1 where there is no knee."""
    settings = _plain(locals())
    with _target(url, bodies, topology, override, deadline_ms, header, zipf, seed, items, candidates) as (base, limit_ms):
        found = _sweep(base, limit_ms, step_s=step_s, start=start, factor=factor, limit=max_rate, refine=refine)
        out.parent.mkdir(parents=True, exist_ok=True)
        plot(found, out.with_suffix(".png"), f"{url or topology.value}: latency under load")
        checks: list[Check] = [check("knee_per_s", found.knee or 0.0, "1/s")]
        reports: dict[str, Any] = {}
        if found.knee is not None:
            reports["half_knee"] = half = run_load(replace(base, rate=found.knee / 2, seconds=half_s))
            checks.append(check("p99_half_knee_ms", half["p99_ms"], "ms"))
            more, under = overload(base, overload_factor * found.knee, overload_s, found.knee / 2, recovery_s, own=not url)
            checks += [*more, recovery(under["recovery"], limit_ms)]
            reports |= under
    _write(out, checks, settings | {"deadline_ms": limit_ms}, {"steps": found.steps, **reports})
    if found.knee is None:
        Console(stderr=True).print(f"{start:.0f} requests/s did not hold ({found.steps[0]['fails']}); give a lower --start")
        raise typer.Exit(1)


@app.command()
def soak(
    out: Out,
    minutes: float = 20.0,
    rate: Annotated[float, typer.Option(help="Requests/s; by default 70% of a quickly found knee.")] = 0.0,
    url: Url = "",
    bodies: Bodies = None,
    topology: Topo = Topology.staged,
    override: Override = [],  # noqa: B006
    deadline_ms: Deadline = 0.0,
    header: Header = [],  # noqa: B006
    zipf: Zipf = 1.1,
    items: int = 100_000,
    candidates: int = 500,
    step_s: StepS = 5.0,
    start: Start = 20.0,
    seed: int = 0,
) -> None:
    """Keep up a load and see whether latency or memory drift. Exits with 1 where no rate to keep up was found."""
    settings = _plain(locals())
    with _target(url, bodies, topology, override, deadline_ms, header, zipf, seed, items, candidates) as (base, limit_ms):
        if not rate:
            quick = _sweep(base, limit_ms, step_s=step_s, start=start, factor=1.5, limit=5_000.0, refine=1)
            rate = 0.7 * (quick.knee or 0.0)
        if not rate:
            Console(stderr=True).print(f"{start:.0f} requests/s did not hold; give --rate or a lower --start")
            raise typer.Exit(1)
        seconds = 60 * minutes
        every_s = min(60.0, seconds / 8)
        memory: list[tuple[float, float]] = []
        with start_load(replace(base, rate=rate, seconds=seconds, timeline_s=every_s)) as running:
            ended = False
            while not ended:
                if (now := replica_memory(own=not url)).replicas:
                    memory.append((len(memory) * every_s, now.mb))
                ended = running.wait(every_s)
            report = running.result()
    first, *_, last = report["quarters_p99_ms"]
    checks = [
        check("soak_rate_per_s", rate, "1/s"),
        check("soak_p99_ms", report["p99_ms"], "ms"),
        check("soak_p99_drift", last / first if first and last else None, "ratio"),
        check("soak_full_share", report["full"] / max(1, report["sent"]), "share"),
        check("soak_errors", sum(report["errors_by_kind"].values()), "requests"),
    ]
    if (growth := _growth_mb_per_h(memory)) is not None:
        checks.append(check("soak_memory_growth_mb_per_h", growth, "MB/h"))
    _show_soak(report, memory)
    _write(out, checks, settings | {"rate": rate, "deadline_ms": limit_ms}, {"soak": report, "memory_mb": memory})


@contextlib.contextmanager
def _target(
    url: str,
    bodies: Path | None,
    topology: Topology,
    override: list[str],
    deadline_ms: float,
    header: list[str],
    zipf: float,
    seed: int,
    items: int,
    candidates: int,
) -> Iterator[tuple[Load, float]]:
    """Yield the load that all others are variations of, warmed up, and the deadline."""
    with contextlib.ExitStack() as stack:
        if url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reco-load-")))
            bodies, limit_ms = bodies or write_bodies(folder / "bodies.jsonl", 1_000), 150.0
        else:
            env = stack.enter_context(environment(topology, override, items=items, candidates=candidates))
            url, bodies, limit_ms = env.url, bodies or env.bodies, float(env.config.serve.deadline_ms)
        call = f"{url.rstrip('/')}/v1/recommendations"
        httpx.get(f"{url.rstrip('/')}/readyz", timeout=10).raise_for_status()
        base = Load(url=call, bodies=bodies, warmup_s=1.0, zipf=zipf, header=tuple(header), seed=seed)
        run_load(replace(base, connections=8, seconds=3.0))  # replicas load code and connect on their first requests
        yield base, deadline_ms or limit_ms


def _sweep(base: Load, deadline_ms: float, *, step_s: float, start: float, factor: float, limit: float, refine: int) -> Sweep:
    def measure(rate: float) -> dict[str, Any]:
        report = run_load(replace(base, rate=rate, seconds=step_s))
        console.print(f"{rate:8.1f}/s offered: {report['per_s']:.1f}/s, p99 {_ms(report['p99_ms'])} ms", highlight=False)
        return report

    found = find_knee(measure, deadline_ms, start=start, factor=factor, limit=limit, refine=refine)
    columns = ("offered", "200s/s", "p50 ms", "p95 ms", "p99 ms", "full", "not 200", "lag ms", "fails")
    table = Table(*columns, title=f"open loop, deadline {deadline_ms:.0f} ms, knee {found.knee or 0:.0f}/s")
    for step in found.steps:
        table.add_row(
            f"{step['rate']:.0f}",
            f"{step['per_s']:.0f}",
            *(_ms(step["latency_ms"][q]) for q in ("p50", "p95", "p99")),
            f"{step['full'] / max(1, step['sent']):.1%}",
            str(sum(step["errors_by_kind"].values())),
            _ms(step["lag_p99_ms"]),
            step["fails"],
        )
    console.print(table)
    return found


def _growth_mb_per_h(memory: list[tuple[float, float]]) -> float | None:
    """Slope of a straight line through the last three quarters: in the first, caches fill."""
    rest = memory[len(memory) // 4 :]
    if len(rest) < 3:
        return None
    seconds, mb = zip(*rest, strict=True)
    return float(np.polyfit(seconds, mb, 1)[0]) * 3600


def _show_soak(report: dict[str, Any], memory: list[tuple[float, float]]) -> None:
    table = Table("from s", "sent", "p50 ms", "p99 ms", "full", "errors", "replicas MB", title="soak")
    for at, entry in enumerate(report["timeline"]):
        table.add_row(
            f"{entry['t']:.0f}",
            str(entry["sent"]),
            _ms(entry["p50"]),
            _ms(entry["p99"]),
            str(entry["full"]),
            str(entry["sent"] - entry["ok"]),
            f"{memory[at][1]:.0f}" if at < len(memory) else "",
        )
    console.print(table)


def _write(out: Path, checks: list[Check], settings: dict[str, Any], measured: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks, "settings": settings, "measured": measured}, indent=1))
    for each in checks:
        console.print(f"{each['name']} = {each['value']} {each['unit']}  {each.get('note', '')}", highlight=False)


def _plain(options: dict[str, object]) -> dict[str, object]:
    """Options as the result records them: of headers the names only, as their values may be keys."""
    plain = {name: value for name, value in options.items() if name != "out"}
    plain["header"] = [str(line).partition(":")[0] for line in cast(list[str], options["header"])]
    plain["topology"] = cast(Topology, options["topology"]).value
    plain["bodies"] = str(options["bodies"] or "")
    return plain


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    app()
