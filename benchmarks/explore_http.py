"""What exploration earns over HTTP once new items come: true clicks with it, against the same shop without it.

The last part of `explore`: ``python benchmarks/explore.py --out FILE --slots 0 --repetitions 0 --bandits 0``. A deployment of
its own (staged, with store, gateway, sinks and streams, no caches) runs one release after another. In each world a shop has a
past and a ranker trained on it; two releases
differ in ``rerank.explore`` alone, and each is driven by the same users, with the same tastes and luck and ids of its own, at a
steady rate. Both learn by the product's own loop: clicks go to ``/v1/events``, from there into the features of users and items
within seconds, and how often an item was met is what Thompson sampling goes by. New items come by ``PUT /v1/items``.

Worlds are kept in FILE as they end, and a run that was cut, or ends after ``--minutes``, goes on from there.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from explore_gain import BASE, draw, gain_of, summary
from explore_shop import K, Shop, make_shop, make_world
from explore_site import NamedApi, Site, seconds_to_follow, site
from rich.console import Console

from reco_ray.config import ExploreConfig, ExploreKind
from reco_ray.simulation import HttpApi, Ledger, World, drive
from reco_ray.workflow.sinks import feature_status

__all__ = ["checks_of", "measure", "plotted"]

_ARM = "thompson"
_ARMS = {BASE: ExploreConfig(), _ARM: ExploreConfig(kind=ExploreKind.thompson, rate=0.1)}
_AT_ONCE = 4


def one_arm(at: Site, name: str, explore: ExploreConfig, world: World, shop: Shop, visits: int, rate: float) -> dict[str, Any]:
    """Open the shop and let all visits come."""
    began = time.perf_counter()
    url = at.open_shop(name, world, shop, explore)
    opened = time.perf_counter()

    async def run() -> tuple[Ledger, int]:
        async with HttpApi(url) as http:
            api, times = NamedApi(http, f"{name}-"), np.arange(visits, dtype=float)
            return await drive(world, api, times, k=K, at_once=_AT_ONCE, speed=rate, name=name), api.foreign

    ledger, foreign = asyncio.run(run())
    seconds = time.perf_counter() - opened
    wrong = [v for v in ledger.visits if (v.status, v.rung, v.slots, v.release) != (200, "full", K, f"shop-{name}")]
    (state,) = feature_status(at.config)
    follow_s, before, after = seconds_to_follow(url, name, world)
    return {
        "visits": len(ledger.visits),
        "not_as_wanted": len(wrong) + foreign,
        "first_not_as_wanted": [list(map(str, v)) for v in wrong[:3]],
        "events": ledger.events,
        "refused": ledger.refused,
        "puts": ledger.puts,
        "opened_s": round(opened - began, 1),
        "visits_per_s": round(visits / seconds, 1),
        "p50_ms": round(ledger.totals().p50_ms, 1),
        "p95_ms": round(ledger.totals().p95_ms, 1),
        "stream_lag_s": round(state.lag_s, 2),
        "follow_s": round(follow_s, 2),
        "score_moved": [round(before, 4), round(after, 4)],
        **summary(ledger, world),
    }


def one_world(at: Site, visits: int, rate: float, seed: int) -> dict[str, Any]:
    """Drive both arms of a world; which one comes first changes from world to world."""
    found: dict[str, Any] = {"arms": {}}
    with tempfile.TemporaryDirectory(prefix="reco-shop-") as folder:
        shop = make_shop(make_world(visits, seed), Path(folder), seed)
        found["ranker_auc"] = round(shop.held_out_auc, 3)
        for arm in list(_ARMS) if seed % 2 else list(_ARMS)[::-1]:
            world = make_world(visits, seed)
            found["arms"][arm] = one_arm(at, f"w{seed}-{arm}", _ARMS[arm], world, shop, visits, rate)
            _say(seed, arm, found["arms"][arm])
    return found


def measure(
    worlds: dict[str, Any], keep: Callable[[], None], number: int, visits: int, rate: float, minutes: float, seed: int
) -> dict[str, Any]:
    """Run the worlds that are missing, as far as time allows, and put all together.

    Args:
        worlds: results by seed; grows. keep: called after each.
    """
    wanted = [str(each) for each in range(seed, seed + number)]
    end = time.monotonic() + 60 * minutes
    if any(each not in worlds for each in wanted):
        with site() as at:
            for each in wanted:
                if each not in worlds and time.monotonic() < end:
                    worlds[each] = one_world(at, visits, rate, int(each))
                    keep()
    done = [worlds[each] for each in wanted if each in worlds]
    arms = [arm for world in done for arm in world["arms"].values()]
    return {
        **gain_of(_ARM, done),
        "answers": sum(arm["visits"] for arm in arms),
        "not_as_wanted": sum(arm["not_as_wanted"] for arm in arms),
        "follow_s": [arm["follow_s"] for arm in arms],
    }


def checks_of(result: dict[str, Any]) -> list[tuple[str, float, str]]:
    """What is judged: name, value, unit."""
    name, answers = "explore_vs_greedy_reward", f"of {result['answers']} answers: not 200, full, whole, of the release"
    return [
        (name, result["gain"], "ratio, thompson at 0.1 less greedy, over HTTP"),
        (f"{name}_low", result["low"], "ratio, lower end of 95%"),
        (f"{name}_high", result["high"], "ratio, upper end of 95%"),
        ("explore_answers_not_as_wanted", result["not_as_wanted"], answers),
    ]


def plotted(path: Path, result: dict[str, Any]) -> None:
    """Draw the curve."""
    draw(path, result, f"thompson at 0.1 over HTTP, mean of {len(result['gains'])} worlds")


def _say(seed: int, arm: str, found: dict[str, Any]) -> None:
    shown = {key: value for key, value in found.items() if key != "expected"}
    Console(stderr=True).print(f"{time.strftime('%H:%M:%S')} world {seed} {arm}: {shown}")
