"""Live items over HTTP under load: how long until a new item is shown, and a deleted one no more.

``python benchmarks/recall_items.py --out FILE`` serves a synthetic release (staged, two gateway replicas, caches on), sends a
steady load, and puts items one after another. An item has a year of its own, so that a request with that filter shows it and
nothing else. Each answer is over a new connection, which reaches either gateway.

- visible: from sending the PUT to the first of six answers in a row that show it, of each kind: similar-items, and a new slate
  (never the same request twice, so that no cache answers). The later of the two counts.
- gone: from sending the DELETE to the last answer that showed it, asked until 20 in a row do not; a third of them for a slate
  that the caches hold with the item.
- shown after 5 s: answers of any kind with a deleted item, asked 5 s and more after its DELETE was answered.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from environment import case, deploy_release
from load_process import Load, start_load
from rich.console import Console

from reco_ray.cluster import ray_session
from reco_ray.config import SourceName

_QUOTAS = {SourceName.two_tower: 480, SourceName.fresh: 20}
_FIRST_YEAR = 1_000  # no item of the release has one of these
_IN_A_ROW = {"visible": 6, "gone": 20}
_GIVE_UP_S = 30.0
_MOST_SECONDS = 3_600.0


class Client:
    """Asks for one item in all ways, each time over a new connection."""

    def __init__(self, url: str, items: int, seed: int) -> None:
        self._rng, self._items = np.random.default_rng(seed), items
        self._http = httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
        self.degraded = 0

    def put(self, number: int) -> None:
        """Put the item of a number."""
        categories = [f"c{c}" for c in self._rng.choice(10, 2, replace=False)]
        body = {"title": f"Live {number}", "categories": categories, "year": _FIRST_YEAR + number}
        self._answer("PUT", f"/v1/items/live-{number}", body)

    def delete(self, number: int) -> None:
        """Delete it."""
        self._answer("DELETE", f"/v1/items/live-{number}", None)

    def similar(self, number: int) -> bool:
        """Whether it is shown among the neighbours of an item of the release, any other time."""
        anchor = f"item-{self._rng.integers(self._items)}"
        return self._shows("/v1/similar-items", number, {"item_id": anchor})

    def new_slate(self, number: int) -> bool:
        """Whether it is shown in a slate that was never asked for before."""
        return self._shows("/v1/recommendations", number, {"exclude": [f"none-{self._rng.integers(2**62)}"]})

    def kept_slate(self, number: int) -> bool:
        """Whether it is shown in a slate that may be cached."""
        return self._shows("/v1/recommendations", number, {})

    def _shows(self, path: str, number: int, body: dict[str, Any]) -> bool:
        answer = self._answer("POST", path, {**body, "k": 5, "filters": {"year": [str(_FIRST_YEAR + number)]}})
        self.degraded += answer["rung"] != "full"
        return f"live-{number}" in [item["item_id"] for item in answer["items"]]

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        deadline = time.perf_counter() + _GIVE_UP_S
        while (response := self._http.request(method, path, json=body)).status_code == 503:  # shed; the wait counts
            if time.perf_counter() > deadline:
                break
            time.sleep(0.05)
        found: dict[str, Any] = response.raise_for_status().json()
        return found


def first_of_a_row(ways: list[Callable[[int], bool]], number: int) -> list[float]:
    """Per way of asking, in turns, the time of the first of six answers in a row that show the item."""
    deadline, first, row = time.perf_counter() + _GIVE_UP_S, [0.0] * len(ways), [0] * len(ways)
    while min(row) < _IN_A_ROW["visible"]:
        for way, shows in enumerate(ways):
            row[way] = row[way] + 1 if shows(number) else 0
            first[way] = time.perf_counter() if row[way] == 1 else first[way]
        if time.perf_counter() > deadline:
            raise TimeoutError(f"item live-{number} is not shown after {_GIVE_UP_S:.0f} s")
    return first


def last_shown(ways: list[Callable[[int], bool]], number: int, since: float) -> float:
    """Time of the last answer that shows the item, ``since`` where none does."""
    last, row = since, 0
    while row < _IN_A_ROW["gone"]:
        shown = ways[row % len(ways)](number)
        row = 0 if shown else row + 1
        last = time.perf_counter() if shown else last
        if last - since > _GIVE_UP_S:
            raise TimeoutError(f"item live-{number} is shown {_GIVE_UP_S:.0f} s after its end")
    return last


def measure(items: int, seed: int, puts: int = 200, rate: float = 30.0, pause_s: float = 0.1) -> dict[str, Any]:
    """Serve, load, put, delete and check.

    Args:
        items: of the release. puts: items put and deleted. rate: of the load beside, requests per second.
    """
    found: dict[str, list[float]] = {"similar_s": [], "slate_s": [], "gone_s": []}
    with case(items=items, quotas=_QUOTAS) as given, ray_session(given.config.cluster) as board:
        url = deploy_release(given, board)
        client = Client(url, items, seed)
        load = Load(url=f"{url}/v1/recommendations", bodies=given.bodies, rate=rate, seconds=_MOST_SECONDS, seed=seed)
        with start_load(load) as running:
            time.sleep(5)  # until it is steady
            ends: list[float] = []
            for number in range(puts):
                began = time.perf_counter()
                client.put(number)
                similar, slate = first_of_a_row([client.similar, client.new_slate], number)
                found["similar_s"].append(similar - began)
                found["slate_s"].append(slate - began)
                _say("put", number, puts, found["slate_s"])
                time.sleep(pause_s)
            for number in range(puts):
                first_of_a_row([client.kept_slate], number)  # in both caches then
                began = time.perf_counter()
                client.delete(number)
                ends.append(time.perf_counter())
                ways = [client.kept_slate, client.similar, client.new_slate]
                found["gone_s"].append(last_shown(ways, number, began) - began)
                _say("deleted", number, puts, found["gone_s"])
            time.sleep(max(0.0, 5.0 - (time.perf_counter() - ends[-1])))
            late = [way(number) for number in range(puts) for way in (client.kept_slate, client.similar, client.new_slate)]
            running.stop()
            report = running.result()
    visible = np.maximum(found["similar_s"], found["slate_s"])
    return {
        "items": items,
        "puts": puts,
        "item_visible_p99_s": _at(visible, 0.99),
        "item_gone_p99_s": _at(np.array(found["gone_s"]), 0.99),
        "deleted_shown_after_5s": int(sum(late)),
        "asked_after_5s": len(late),
        **{f"{name}_p{round(100 * q)}": _at(np.array(each), q) for name, each in found.items() for q in (0.5, 0.99, 1.0)},
        "load_per_s": round(report["per_s"], 1),
        "load_requests": report["requests"],
        "load_less_than_full": report["errors"],
        "load_errors_by_kind": report["errors_by_kind"],
        "load_p50_ms": report["p50_ms"],
        "load_p99_ms": report["p99_ms"],
        "answers_less_than_full": client.degraded,
    }


def _say(what: str, number: int, puts: int, seconds: list[float]) -> None:
    if number % 20 == 19:
        Console(stderr=True).print(f"{what} {number + 1} of {puts}, median {np.median(seconds):.2f} s")


def checks_of(found: dict[str, Any]) -> list[dict[str, object]]:
    """What is judged."""
    units = {"item_visible_p99_s": "s", "item_gone_p99_s": "s", "deleted_shown_after_5s": "answers"}
    return [{"name": name, "value": found[name], "unit": unit} for name, unit in units.items()]


def _at(values: np.ndarray, q: float) -> float:
    return round(float(np.quantile(values, q, method="higher")), 3)


def main(
    out: Annotated[Path, typer.Option()], items: int = 100_000, puts: int = 200, rate: float = 30.0, seed: int = 7
) -> None:
    """Measure and write the result."""
    found = measure(items, seed, puts, rate)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"checks": checks_of(found), "seed": seed, "items": found}, indent=1))
    Console().print_json(data=found)


if __name__ == "__main__":
    typer.run(main)
