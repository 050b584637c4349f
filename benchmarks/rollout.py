"""Rollouts, measured: `python benchmarks/rollout.py --out FILE [--parts statistics,cases,kills,replay]`.

statistics: false alarms and power of the tests, without a cluster. cases: five releases in random order under simulated traffic
over HTTP, ten minutes on two cores. kills: a good release goes out while its controller, its driver and Serve's controller are
killed. replay: a thousand logged requests through the same release. Each part's results are written as it ends; parts that are
in the file and are not run again stay.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout_cases import NAMES, checks_of, run_cases
from rollout_kills import run_kills
from rollout_replay import SETTINGS, run_replay
from rollout_site import site
from rollout_statistics import statistics

_ORDER = ["good_promoted", "bad_rolled_back_at_pct", "failed_by_switch", "false_positive_rate", "power", "replay_identical"]


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(_PARTS), help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=80.0, help="visits per second")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the releases")
    parser.add_argument("--cases", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    args = parser.parse_args()
    wanted = args.parts.split(",")
    if unknown := set(wanted) - set(_PARTS):
        parser.error(f"parts: found {sorted(unknown)}, expected some of {list(_PARTS)}")
    if unknown := set(args.cases.split(",")) - set(NAMES):
        parser.error(f"cases: found {sorted(unknown)}, expected some of {list(NAMES)}")
    parts: dict[str, Any] = json.loads(args.out.read_text())["parts"] if args.out.exists() else {}
    for name in wanted:
        started = time.monotonic()
        found = _PARTS[name](args)
        parts[name] = {**found, "seconds": round(time.monotonic() - started, 1)}
        checks = _checks(parts)
        args.out.write_text(json.dumps({"checks": checks, "parts": parts}, indent=1))
        print(json.dumps(checks), flush=True)


def _checks(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all parts; failures add up, a good release must have been promoted in each."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts.values():
        for check in part["checks"]:
            last = found.get(check["name"])
            merge = {"failed_by_switch": lambda a, b: a + b, "good_promoted": min}.get(check["name"])
            value = check["value"] if last is None or merge is None else merge(last["value"], check["value"])
            found[check["name"]] = {**check, "value": value}
    return [found[name] for name in _ORDER if name in found]


def _cases(args: argparse.Namespace) -> dict[str, Any]:
    with site(args.rate, seed=7) as at:
        cases = run_cases(at, args.seed, args.cases.split(","))
        return {"checks": checks_of(cases), "rate": args.rate, "true_ctr": at.true, "cases": cases}


def _kills(args: argparse.Namespace) -> dict[str, Any]:
    with site(args.rate, seed=7) as at:
        return run_kills(at)


def _replay(args: argparse.Namespace) -> dict[str, Any]:
    with site(args.rate, seed=7, overrides=SETTINGS) as at:
        return run_replay(at)


_PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "statistics": lambda args: statistics(args.experiments),
    "cases": _cases,
    "kills": _kills,
    "replay": _replay,
}


if __name__ == "__main__":
    main()
