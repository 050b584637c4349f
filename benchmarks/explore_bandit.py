"""What a bandit over sources earns against choosing among them alike, where the best source depends on the circumstances.

The release's rerank stage draws, the product's evidence learns; bus, store and HTTP are left out. Clicks come to know every so
many visits, as they do through the stream. In the middle of the time two sources change places.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig
from reco_ray.features import ITEM_COLUMNS, Catalogue
from reco_ray.rerank import Rerank
from reco_ray.rerank.bandit import Evidence, circumstances, drawn_source
from reco_ray.types import Candidates, Request, UserRow

__all__ = ["bandit_rewards"]

SOURCES = ("covisit", "popular", "fresh", "content")
_K, _EACH, _RATE = 10, 15, 0.1
_LEARNS = 25  # visits between two looks at the evidence
_DAYS = 28
_KEYS = np.arange(200, dtype=np.uint64)


def bandit_rewards(worlds: int, visits: int, seed: int) -> dict[str, Any]:
    """Click rate of the drawn places, by kind of choice, and the bandit's gain over choosing alike with its 95% interval."""
    rates = {name: np.array([_world(epsilon, visits, seed + w) for w in range(worlds)]) for name, epsilon in _CHOICES.items()}
    gains = rates["linucb"][:, 0] / rates["alike"][:, 0] - 1
    error = gains.std(ddof=1) / np.sqrt(worlds)
    return {
        "worlds": worlds,
        "visits": visits,
        "click_rate": {name: float(each[:, 0].mean()) for name, each in rates.items()},
        "click_rate_of_the_best": float(rates["linucb"][:, 1].mean()),
        "gain": float(gains.mean()),
        "low": float(gains.mean() - 1.96 * error),
        "high": float(gains.mean() + 1.96 * error),
        "worlds_with_gain": int((gains > 0).sum()),
    }


_CHOICES = {"linucb": 0.2, "alike": 1.0}


def _world(epsilon: float, visits: int, seed: int) -> tuple[float, float]:
    """Expected click rate of the places drawn from a source, and of the best source's at the same places."""
    rng, stage = np.random.default_rng(seed), _stage(epsilon)
    evidence, waiting = Evidence(), Evidence()
    earned, best = list[float](), list[float]()
    for visit in range(visits):
        at = visit / visits * _DAYS * 86_400
        request = _request(visit, at, rng)
        scores, coins = rng.standard_normal(len(SOURCES) * _EACH).astype(np.float32), rng.random(_K)
        x, truth = circumstances(request), _rates(request, visit >= visits / 2)
        (slate,) = stage.arrange([request], [_FOUND], [scores])
        for place, reasons in enumerate(slate.reasons):
            if not (source := drawn_source(reasons)):
                continue
            rate = truth[SOURCES.index(source)]
            earned.append(rate)
            best.append(truth.max())
            waiting = waiting.shown(source, x, at)
            if coins[place] < rate:
                waiting = waiting.rewarded(source, x, at)
        if visit % _LEARNS == _LEARNS - 1:
            evidence, waiting = evidence + waiting, Evidence()
            stage.learn([evidence.pack()])
    return float(np.mean(earned)), float(np.mean(best))


def _rates(request: Request, later: bool) -> NDArray[np.float64]:
    """True click rate of a place by source. Neither straight in the circumstances nor the same for ever."""
    known, mobile = request.user.history.size > 20, request.context["device"] == "mobile"
    evening = request.at_us // 3_600_000_000 % 24 >= 18
    rates = np.array([0.15 if known else 0.04, 0.04 if known else 0.12, 0.14 if mobile and evening else 0.05, 0.06])
    return rates[[0, 1, 3, 2]] if later else rates


def _request(number: int, at: float, rng: np.random.Generator) -> Request:
    n = int(rng.choice([0, 3, 40, 150]))
    row = UserRow(history=_KEYS[:n], weights=np.ones(n, np.float32))
    device = "mobile" if rng.random() < 0.5 else "desktop"
    at_us = (int(at // 86_400) * 24 + int(rng.integers(24))) * 3_600_000_000 + 1
    return Request(f"r{number}", "u", k=_K, user=row, context={"device": device}, at_us=at_us)


def _stage(epsilon: float) -> Rerank:
    n = len(SOURCES) * _EACH
    items = pl.DataFrame(
        {
            "item_id": [f"i{at}" for at in range(n)],
            "title": [""] * n,
            "categories": [["all"]] * n,
            "year": np.full(n, 2026, np.int32),
            "available": np.ones(n, bool),
        }
    )
    counts = np.full(n, 1_000)
    rows = pl.DataFrame({"item_id": items["item_id"], "n": counts, "n_positive": counts}).with_columns(
        pl.lit(0.0, pl.Float32).alias(column.name) for column in ITEM_COLUMNS
    )
    explore = ExploreConfig(kind=ExploreKind.linucb, rate=_RATE, epsilon=epsilon, newcomers=0)
    config = RerankConfig(seen_items_return=True, diversity=0.0, diversity_pool=n, explore=explore)
    return Rerank(Catalogue.build(items, rows), config, list(SOURCES))


def _found() -> Candidates:
    """The same items each time; their scores change."""
    n = len(SOURCES) * _EACH
    bits = (1 << (np.arange(n) % len(SOURCES))).astype(np.uint16)
    nothing = np.zeros((n, len(SOURCES)), np.float32)
    return Candidates(np.arange(n, dtype=np.int32), nothing[:, 0], bits, nothing.astype(np.int16), nothing)


_FOUND = _found()
