"""The load generator of the benchmarks against a server whose answers, stalls and resets are known."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package; last, as one is named `serve`

import client
import http1
from knee import find_knee, plot
from load_process import LoadFailed, run_load, start_load
from overload import recovery
from plan import Load, arrival_times, payloads

FULL = b'{"items":[],"degraded":[],"rung":"full"}'
STALL_S = 0.3


class Server:
    """Answers by a script: ``script(n)`` returns the whole answer to the n-th request, or None to reset the connection.

    At request ``stall_at`` it stands still for `STALL_S`, for everyone.
    """

    def __init__(self, script: Callable[[int], bytes | None], stall_at: int = -1) -> None:
        self._script, self._stall_at = script, stall_at
        self._go = asyncio.Event()
        self._go.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/recommendations"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks)  # they end when the load closes its connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                number = len(self.heads)
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(int(http1.header(head.lower(), b"content-length") or 0)))
                if number == self._stall_at:
                    self._go.clear()
                    asyncio.get_running_loop().call_later(STALL_S, self._go.set)
                await self._go.wait()
                answer = self._script(number)
                if answer is None:
                    writer.transport.abort()
                    return
                writer.write(answer)
                if b"Connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def answer(body: bytes = FULL, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    path = tmp_path / "bodies.jsonl"
    path.write_text("\n".join(json.dumps({"user_id": f"user-{i}"}) for i in range(10)))
    return path


def report(server: Callable[[], Server], load: Callable[[str], Load]) -> dict[str, Any]:
    async def bounded() -> dict[str, Any]:
        async with asyncio.timeout(20), server() as url:
            return await client.run(load(url))

    return asyncio.run(bounded())


def test_every_arrival_of_an_open_loop_ends_once(bodies: Path) -> None:
    def script(number: int) -> bytes | None:
        return [
            answer(),
            answer(b'{"degraded":["recall:late","unknown_user"]}'),
            answer(b'{"items":[]}'),
            answer(b"{}", "503 Service Unavailable", "Retry-After: 1"),
            answer(b"{}", "429 Too Many Requests"),
            answer(b"{}", "404 Not Found"),
            b"HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\r\n",
            b"SSH-2.0-what\r\n",
            None,
            answer(),
        ][number % 10]

    found = report(
        lambda: Server(script), lambda url: Load(url=url, bodies=bodies, rate=100, arrivals="fixed", seconds=1, warmup_s=0)
    )
    assert found["sent"] == 100
    assert found["by_status"] == {"200": 40, "404": 10, "429": 10, "503": 20}
    errors = found["errors_by_kind"]
    assert errors["malformed"] == 10
    assert errors["reset"] == 10
    assert errors["503"] == 20
    assert found["by_status"]["200"] + sum(errors.values()) == 100
    assert (found["full"], found["undeclared"], found["retry_after"]) == (20, 10, 10)
    assert found["degraded"] == {"recall:late": 10, "unknown_user": 10}
    assert found["rungs"] == {"full": 20}
    (second,) = found["timeline"]
    assert second["sent"] == second["ok"] + second["errors_5xx"] + second["errors_other"] == 100
    assert (second["full"], second["rejected"], second["errors_5xx"]) == (20, 30, 20)


@pytest.mark.parametrize("limit", [64, 1])
def test_a_stall_is_charged_to_all_who_would_have_come_meanwhile(bodies: Path, limit: int) -> None:
    found = report(
        lambda: Server(lambda _: answer(), stall_at=30),
        lambda url: Load(url=url, bodies=bodies, rate=100, arrivals="fixed", seconds=1, max_connections=limit),
    )
    assert found["by_status"] == {"200": 100}
    # 30 of 100 arrivals fall into the stall and wait 300, 290, ... ms: the tenth worst waits 210
    assert found["latency_ms"]["max"] >= 1e3 * STALL_S
    assert found["latency_ms"]["p90"] >= 200
    assert found["waited"] > 0
    assert found["connections"] == 1 or limit > 1


def test_a_closed_loop_sees_a_stall_once_per_connection(bodies: Path) -> None:
    found = report(
        lambda: Server(lambda _: answer(), stall_at=30), lambda url: Load(url=url, bodies=bodies, connections=1, seconds=1)
    )
    assert found["requests"] > 100
    assert found["latency_ms"]["max"] >= 1e3 * STALL_S
    assert found["p99_ms"] < 1e3 * STALL_S  # which is why the closed loop measures no deadline


def test_a_server_that_never_answers_is_a_timeout(bodies: Path) -> None:
    found = report(
        lambda: Server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", stall_at=0),
        lambda url: Load(url=url, bodies=bodies, rate=20, arrivals="fixed", seconds=0.5, timeout_s=0.2, max_connections=2),
    )
    assert found["errors_by_kind"] == {"timeout": 10}
    assert found["p99_ms"] is None


def test_nobody_at_the_port_is_refused(bodies: Path) -> None:
    async def free() -> str:
        async with Server(lambda _: None) as url:
            return url

    url = asyncio.run(free())
    for load in (
        Load(url=url, bodies=bodies, rate=50, seconds=0.4, arrivals="fixed"),
        Load(url=url, bodies=bodies, seconds=0.4),
    ):
        found = asyncio.run(client.run(load))
        assert set(found["errors_by_kind"]) == {"refused"}
        assert found["sent"] == found["errors_by_kind"]["refused"] > 1


def test_warm_up_does_not_count_and_headers_are_sent(bodies: Path) -> None:
    server: list[Server] = []

    def started() -> Server:
        server.append(Server(lambda n: answer() if n >= 20 else answer(b"{}", "503 Service Unavailable")))
        return server[0]

    found = report(
        started,
        lambda url: Load(
            url=url, bodies=bodies, rate=50, arrivals="fixed", warmup_s=0.4, seconds=0.4, header=("X-Request-Timeout-Ms: 150",)
        ),
    )
    assert found["sent"] in (19, 20), "the last one may be due when time is up"
    assert found["by_status"] == {"200": found["sent"]}
    assert all(b"X-Request-Timeout-Ms: 150\r\n" in head for head in server[0].heads)
    assert len(set(server[0].bodies)) == 10


def test_arrivals_and_bodies_come_from_the_seed(bodies: Path) -> None:
    load = Load(url="http://localhost/x", bodies=bodies, rate=200, seconds=50, zipf=1.1, seed=3)
    times = arrival_times(load)
    assert times == arrival_times(load) == sorted(times)
    assert len(times) == 10_000
    assert np.diff(times).std() == pytest.approx(1 / 200, rel=0.1)  # exponential gaps
    users = payloads(load)
    drawn = [next(users) for _ in range(2_000)]
    again = payloads(load)
    assert drawn == [next(again) for _ in range(2_000)]
    counts = [sum(b'"user-%d"' % i in each for each in drawn) for i in (0, 1, 9)]
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_answer_is_cut_out_of_pieces(cut: int) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n2;x\r\nef\r\n0\r\n\r\n"
    assert http1.parse(chunked[:cut]) is None
    whole = http1.parse(chunked)
    assert whole is not None
    assert (whole.status, whole.body, whole.reusable) == (200, b"abcdef", True)


def test_a_load_runs_as_a_process_with_marks(bodies: Path, server_url: str) -> None:
    with start_load(Load(url=server_url, bodies=bodies, rate=50, seconds=30, arrivals="fixed")) as running:
        assert not running.wait(0.5)
        running.mark("now")
        running.stop()
        found = running.result()
    assert found["by_status"] == {"200": found["sent"]}, found["errors_by_kind"]
    assert 0 < found["seconds"] < 30
    assert [mark["name"] for mark in found["marks"]] == ["now"]
    assert found["marks"][0]["t"] > 0


def test_a_load_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(LoadFailed, match="expected one JSON body a line"):
        run_load(Load(url="http://127.0.0.1:9/x", bodies=tmp_path / "empty"))


def test_the_knee_is_the_highest_rate_that_holds(tmp_path: Path) -> None:
    def service(capacity: float, hiccup_at: float = -1) -> Callable[[float], dict[str, Any]]:
        def measure(rate: float) -> dict[str, Any]:
            sent, ok = round(10 * rate), min(rate, capacity)
            late = rate == hiccup_at
            ms = {"p50": 5.0, "p95": 9.0, "p99": 200.0 if late else 20.0}
            return {"sent": sent, "seconds": 10, "per_s": ok, "full": sent, "p99_ms": ms["p99"], "latency_ms": ms}

        return measure

    found = find_knee(service(100), 150, start=10, factor=2, refine=3)
    assert found.knee is not None
    assert 97 <= found.knee <= 100 / 0.97
    assert [bool(step["fails"]) for step in found.steps] == [step["rate"] > found.knee for step in found.steps]
    assert find_knee(service(100, hiccup_at=20), 150, start=10, factor=2, refine=0).knee == 80
    assert find_knee(service(1), 150, start=10).knee is None
    assert find_knee(service(1e9), 150, start=10, factor=2, limit=100).knee == 80
    plot(found, tmp_path / "knee.png", "a service")
    assert (tmp_path / "knee.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("bad", "seconds"), [([], 0), ([0, 1], 2), ([0, 3], 4), ([4], 5)])
def test_recovered_is_the_first_second_after_which_all_is_well(bad: list[int], seconds: int) -> None:
    timeline = [{"t": t, "sent": 9, "ok": 9, "p99": 500.0 if t in bad else 20.0} for t in range(5)]
    found = recovery({"timeline": timeline}, 150)
    assert found["value"] == seconds
    assert ("note" in found) == (seconds == 5)


@pytest.fixture
def server_url() -> Iterator[str]:
    """A server in a thread, for loads in other processes."""
    up, urls = threading.Event(), list[str]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with Server(lambda _: answer()) as url:
            urls.append(url)
            up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert up.wait(5)
    yield urls[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    loop.close()
