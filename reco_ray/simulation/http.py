"""The driver's API over HTTP: a gateway's ``/v1``."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from urllib.parse import quote

import httpx
import orjson

from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.simulation.driver import Shown
from reco_ray.simulation.world import WorldItem

__all__ = ["HttpApi"]

_REFUSED = (400, 401, 403, 404, 413, 422)  # no retry changes these
_TRIES = 60


class HttpApi:
    """Speaks to a gateway.

    Args:
        url: ``http://host:port``.
        key: with the scopes recommend, events and admin; empty where the gateway asks for none.
        budget_ms: of a slate; 0 leaves it to the gateway.
        pause_s: before a call that was put off is made again, unless the gateway says how long.
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        budget_ms: int = 0,
        timeout_s: float = 30.0,
        pause_s: float = 0.5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self._budget = {"x-request-timeout-ms": str(budget_ms)} if budget_ms else {}
        self._pause_s = pause_s

    async def __aenter__(self) -> "HttpApi":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self._http.aclose()

    async def recommend(self, user_id: str, k: int, context: Mapping[str, str]) -> Shown:
        """Contract of `driver.Api`."""
        body = orjson.dumps({"user_id": user_id, "k": k, "context": context})
        began = time.perf_counter()
        try:
            response = await self._http.post("/v1/recommendations", content=body, headers=self._budget)
            ms = 1e3 * (time.perf_counter() - began)
            if response.status_code != 200:
                return Shown(response.status_code, ms=ms)
            found = orjson.loads(response.content)
            items = tuple(item["item_id"] for item in found["items"])
            return Shown(200, found["request_id"], items, found["release"], found["variant"], found["rung"], ms)
        except (httpx.HTTPError, orjson.JSONDecodeError):
            return Shown(0, ms=1e3 * (time.perf_counter() - began))

    async def send(self, events: Sequence[Mapping[str, object]]) -> int:
        """Contract of `driver.Api`.

        Raises: ConfigError: the gateway refuses such calls. NotReadyError: it does not answer for too long.
        """
        response = await self._until_taken("POST", "/v1/events", {"events": list(events)})
        return sum(each["status"] != "rejected" for each in orjson.loads(response.content)["results"])

    async def put_item(self, item: WorldItem) -> None:
        """Contract of `driver.Api`; raises as `send`."""
        body = {"title": item.title, "categories": list(item.categories)}
        await self._until_taken("PUT", f"/v1/items/{quote(item.item_id, safe='')}", body)

    async def _until_taken(self, method: str, path: str, body: object) -> httpx.Response:
        last = "nothing"
        for _ in range(_TRIES):
            pause_s = self._pause_s
            try:
                response = await self._http.request(method, path, content=orjson.dumps(body))
            except httpx.HTTPError as exc:
                last = type(exc).__name__
            else:
                if response.is_success:
                    return response
                last = f"{response.status_code}: {response.text[:300]}"
                if response.status_code in _REFUSED:
                    raise ConfigError(
                        f"{method} {path}: found {last}, expected 2xx; see the key's scopes and the gateway's /docs"
                    )
                pause_s = min(float(response.headers.get("retry-after", pause_s)), 5.0)
            await asyncio.sleep(pause_s)
        raise NotReadyError(f"{method} {path}: found {last} {_TRIES} times, expected 2xx; see whether the gateway is up")
