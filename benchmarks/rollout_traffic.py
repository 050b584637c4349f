"""Traffic of simulated users, as a process of its own: ``python benchmarks/rollout_traffic.py URL --out FILE``.

Writes a line for each visit: unix time of the answer, release, variant, rung, status, milliseconds, whether it was clicked, and
the clicks to be expected. Comes until it is terminated.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from rollout_world import K, make_world

from reco_ray.simulation import HttpApi, Pattern, arrival_times, drive
from reco_ray.simulation.ledger import Visit

_AT_ONCE = 16  # what a busy machine cannot answer does not come, rather than to wait for longer than answers may take
_STRETCH_S = 600.0


def main() -> None:
    """Come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=100.0, help="visits per second")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with args.out.open("a", buffering=1) as file:
        asyncio.run(_come(args.url, file.write, args.rate, args.seed))


async def _come(url: str, write: Callable[[str], object], rate: float, seed: int) -> None:
    world, turn = make_world(seed), 0

    def watch(visit: Visit) -> None:
        line = [time.time(), visit.release, visit.variant, visit.rung, visit.status, visit.ms, visit.clicks, visit.expected]
        write(json.dumps(line) + "\n")

    async with HttpApi(url) as api:
        while True:
            times = arrival_times(Pattern.steady, rate, _STRETCH_S, seed + turn)
            name = f"rollout-{time.time_ns()}"
            await drive(world, api, times, k=K, at_once=_AT_ONCE, speed=1.0, name=name, first_turn=turn, watch=watch)
            turn += times.size


if __name__ == "__main__":
    main()
