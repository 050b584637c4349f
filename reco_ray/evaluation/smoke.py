"""Requests through the stages of releases, one at a time: what was answered, and how long it took."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reco_ray.slate import Pipeline
from reco_ray.types import Request

__all__ = ["Answers", "ask"]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one release answered.

    Attributes:
        failed: a stage raised. empty: without items. wrong: an item twice, or more than were asked for.
        first_failure: the first error; empty where there was none.
        ms, cpu_ms: time of each request that was answered, and what this process computed meanwhile, shape (n,).
    """

    requests: int
    failed: int
    empty: int
    wrong: int
    first_failure: str
    ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]


def ask(sides: Sequence[tuple[Pipeline, Sequence[Request]]]) -> list[Answers]:
    """Run the requests of each side, in turns, so that what slows the machine down slows all of them.

    Args:
        sides: releases, each with its own requests; the first request is asked once more before, uncounted, to warm up.
    """
    counts = [{"failed": 0, "empty": 0, "wrong": 0} for _ in sides]
    errors, times = [""] * len(sides), [[] for _ in sides]  # type: list[str], list[list[tuple[float, float]]]
    for pipeline, requests in sides:
        _run(pipeline, requests[0]) if requests else None
    for place in range(max((len(requests) for _, requests in sides), default=0)):
        for side, (pipeline, requests) in enumerate(sides):
            if place >= len(requests):
                continue
            found, error, *took = _run(pipeline, requests[place])
            if found is None:
                counts[side]["failed"] += 1
                errors[side] = errors[side] or error
                continue
            times[side].append((took[0], took[1]))
            counts[side]["empty"] += not found
            counts[side]["wrong"] += len(set(found)) < len(found) or len(found) > requests[place].k
    found_by_side = []
    for side, (_, requests) in enumerate(sides):
        ms, cpu_ms = np.array(times[side], np.float64).reshape(-1, 2).T
        found_by_side.append(Answers(len(requests), **counts[side], first_failure=errors[side], ms=ms, cpu_ms=cpu_ms))
    return found_by_side


def _run(pipeline: Pipeline, request: Request) -> tuple[tuple[str, ...] | None, str, float, float]:
    started, computed = time.perf_counter(), time.process_time()
    try:
        (slate,) = pipeline.run([request])
    except Exception as exc:  # whatever a stage raises is what is looked for
        return None, f"{type(exc).__name__}: {exc}", 0.0, 0.0
    return slate.item_ids, "", 1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - computed)
