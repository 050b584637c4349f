"""What a load is: where it goes, how often, with which bodies. Everything random is drawn beforehand, from a seed.

Drawn beforehand also because the generator shares its cores with the server: while it runs it only sends and notes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from http1 import write_request

__all__ = ["ARRIVALS", "Load", "arrival_times", "payloads"]

ARRIVALS = ("poisson", "fixed")
_DRAWN = 2**17  # bodies drawn in advance; then the same again


@dataclass(frozen=True, kw_only=True)  # without slots its defaults can be read from the class, as `client.main` does
class Load:
    """One load, as `client.py` runs it.

    Attributes:
        url: of the call, path included.
        bodies: file with one JSON body a line.
        seconds: how long arrivals count, after ``warmup_s`` seconds in which they do not.
        rate: arrivals per second, whatever the server does (open loop); 0 sends the next request when the last is
            answered, over ``connections`` connections (closed loop).
        arrivals: "poisson", as independent users come, or "fixed" spacing.
        max_connections: of an open loop, which opens them as it needs them; an arrival beyond them waits, and its wait counts.
        zipf: exponent of the popularity of bodies, the first line the most popular; 0 takes them in turn.
        header: more request headers, ``Name: value``.
        timeout_s: counted from when the request was meant to be sent.
        timeline_s: length of a timeline entry.
        start_at: Unix time to start at, so that loads of several processes join up; 0 starts at once.
    """

    url: str
    bodies: Path
    seconds: float = 5.0
    warmup_s: float = 0.0
    rate: float = 0.0
    connections: int = 1
    arrivals: str = "poisson"
    max_connections: int = 1024
    zipf: float = 0.0
    seed: int = 0
    header: tuple[str, ...] = ()
    timeout_s: float = 10.0
    timeline_s: float = 1.0
    start_at: float = 0.0

    def __post_init__(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise ValueError(f"arrivals: found {self.arrivals!r}, expected one of {ARRIVALS}")
        for name in ("seconds", "timeout_s", "timeline_s", "connections", "max_connections"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected more than 0")
        for name in ("warmup_s", "rate", "zipf"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected 0 or more")


def arrival_times(load: Load) -> list[float]:
    """Draw when requests of an open loop are meant to leave: seconds from the start, warm-up included, ascending.

    "poisson" draws a Poisson process of a given count (uniform times, sorted): so a rate of 100 is 100, and not what one draw
    of the count happens to be, which is 10% off in a second.
    """
    if load.arrivals == "fixed":
        return [i / load.rate for i in range(int((load.warmup_s + load.seconds) * load.rate))]
    rng = np.random.default_rng(load.seed)
    warm = rng.uniform(0, load.warmup_s, round(load.warmup_s * load.rate))
    counted = rng.uniform(load.warmup_s, load.warmup_s + load.seconds, round(load.seconds * load.rate))
    return list(map(float, np.sort(np.concatenate([warm, counted]))))


def payloads(load: Load) -> Iterator[bytes]:
    """Yield whole requests without end.

    Raises: ValueError: the file has no bodies, or a header cannot be used.
    """
    lines = [line for line in load.bodies.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{load.bodies}: found no line, expected one JSON body a line")
    requests = [write_request(load.url, line, load.header) for line in lines]
    if not load.zipf:
        return cycle(requests)
    weights = np.arange(1, len(lines) + 1) ** -load.zipf
    drawn = np.random.default_rng((load.seed, 1)).choice(len(lines), _DRAWN, p=weights / weights.sum())
    return (requests[i] for i in cycle(drawn.tolist()))
