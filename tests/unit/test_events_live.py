"""Events over a real Valkey: the dedup window, a whole gateway replica with its bus, and `reco events`."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
import pytest
import redis
from event_fakes import EventCounts
from event_server import EventServer
from item_fakes import ItemCounts
from ports import free_port
from test_ladder import Metrics, Stages, popular_list
from typer.testing import CliRunner, Result

from reco_ray.cli import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import BusConfig, EventsConfig, PipelineConfig
from reco_ray.errors import DataError, NotReadyError
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, LAKE, Outgoing
from reco_ray.events.contract import admit
from reco_ray.events.dead_letters import DeadLetter
from reco_ray.events.open import open_producer, open_reader
from reco_ray.events.window import DedupWindow
from reco_ray.hashing import user_digest
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.path.fleet import Connected
from reco_ray.store import ErasureStore, OnlineStore

T = TypeVar("T")


def config_of(root: Path, port: int) -> PipelineConfig:
    return compose_config([f"root={root}", f"store.port={port}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with embedded_store(config_of(folder, free_port())) as url:
        yield url


@pytest.fixture
def namespace() -> str:
    return f"ns{uuid.uuid4().hex[:8]}"


def click(number: int, **more: Any) -> dict[str, Any]:
    """A click of just now."""
    now = time.time_ns() // 1000
    return {
        "event_id": f"e{number}",
        "schema_version": "1.1",
        "type": "click",
        "user_id": f"u{number}",
        "item_id": "i1",
        "ts": now,
        **more,
    }


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def windowed(url: str, namespace: str, window_s: int, story: Callable[[DedupWindow, Clock], Awaitable[T]]) -> T:
    async def bounded() -> T:
        store, clock = OnlineStore(url, namespace), Clock()
        try:
            return await asyncio.wait_for(story(DedupWindow(store, window_s, clock), clock), 60)
        finally:
            await store.calls.aclose()
            store.blocking_calls.close()

    return asyncio.run(bounded())


def test_the_window_knows_what_was_marked_for_as_long_as_it_says(url: str, namespace: str) -> None:
    async def story(window: DedupWindow, clock: Clock) -> None:
        ids = [f"é{n}" for n in range(1000)]
        assert await window.known(ids) == set()
        await window.mark(ids[:600])
        assert await window.known(ids) == set(ids[:600])
        clock.now += 799
        await window.mark(ids[600:])
        assert await window.known(ids) == set(ids)
        clock.now += 202
        assert await window.known(ids) == set(ids[600:])
        clock.now += 100
        await window.mark(ids[:1])
        clock.now -= 100
        assert ids[0] in await window.known(ids), "a gateway whose clock is behind sees what one ahead of it marked"
        assert await window.known([]) == set()
        await window.mark([])

    windowed(url, namespace, 800, story)


def test_the_window_keeps_no_id_and_every_key_ends(url: str, namespace: str) -> None:
    windowed(url, namespace, 800, lambda window, clock: window.mark(["secret-1", "secret-2"]))
    with redis.Redis.from_url(url) as client:
        (key,) = client.keys(f"{namespace}:*")
        assert key.decode().startswith(f"{namespace}:events:seen:")
        assert 800 <= client.ttl(key) <= 1100
        assert {len(each) for each in client.smembers(key)} == {16}


def test_a_window_without_its_store_says_so(namespace: str) -> None:
    dead = f"redis://127.0.0.1:{free_port()}"

    async def story(window: DedupWindow, clock: Clock) -> None:
        with pytest.raises(NotReadyError):
            await window.known(["a"])
        with pytest.raises(NotReadyError):
            await window.mark(["a"])

    windowed(dead, namespace, 800, story)


class Replica:
    """A whole gateway replica over a real store; the stages are fakes."""

    def __init__(self, url: str, namespace: str, folder: Path, events: EventsConfig) -> None:
        self.counts = EventCounts()

        async def connect(release: str) -> Connected:
            return Stages(), popular_list()

        args = GatewayArgs(
            root="", store_url=url, namespace=namespace, store_timeout_ms=2000, deadline_ms=10_000, events=events
        )
        self.parts = GatewayParts(args, Metrics(), lambda left: connect, dict, "r0", folder, self.counts, ItemCounts())
        transport = httpx.ASGITransport(self.parts.http)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://reco")

    async def post(self, *events: object) -> httpx.Response:
        return await self.client.post("/v1/events", json={"events": events})

    async def recommend(self) -> httpx.Response:
        return await self.client.post("/v1/recommendations", json={"user_id": "known", "k": 1})

    async def ready(self) -> bool:
        return (await self.client.get("/readyz")).status_code == 200


@contextlib.asynccontextmanager
async def replica(url: str, namespace: str, folder: Path, events: EventsConfig) -> AsyncIterator[Replica]:
    with OnlineStore(url, namespace) as store:
        store.set_traffic({"rel": 1.0}, {"rel": "v1"})
    made = Replica(url, namespace, folder, events)
    await made.parts.start()
    try:
        yield made
    finally:
        await made.parts.stop()
        await made.client.aclose()


def values(url: str, namespace: str, topic: str = EVENTS) -> list[dict[str, Any]]:
    """What is on the bus."""
    found: list[dict[str, Any]] = []
    for partition in range(EventsConfig().bus.partitions):
        with contextlib.closing(open_reader(EventsConfig(), namespace, url, topic, partition)) as reader:
            found += [orjson.loads(record.value) for record in reader.read(-1, 10_000, 0.0)]
    return found


def test_a_replica_puts_events_on_the_bus_once_and_letters_beside_them(url: str, namespace: str, tmp_path: Path) -> None:
    batch = [*(click(n) for n in range(300)), click(1, event_id="bad", type="dance")]

    async def story() -> None:
        async with replica(url, namespace, tmp_path, EventsConfig()) as gateway:
            first, again = await gateway.post(*batch), await gateway.post(*batch)
            assert (first.json()["accepted"], first.json()["rejected"]) == (300, 1)
            assert (again.json()["duplicates"], again.json()["rejected"]) == (300, 1)
            gateway.parts.check_health()

    asyncio.run(story())
    assert sorted(row["event_id"] for row in values(url, namespace)) == sorted(each["event_id"] for each in batch[:300])
    (letter,) = values(url, namespace, DEAD_LETTERS)
    assert letter["reason"] == "invalid"
    lines = [json.loads(line) for line in (tmp_path / "requests_r0.jsonl").read_text().splitlines()]
    assert [(line["call"], line["status"]) for line in lines] == [("events", 200)] * 2


def test_without_the_bus_a_replica_is_ready_answers_users_refuses_events_and_takes_them_again_after(
    url: str, namespace: str, folder: Path, tmp_path: Path
) -> None:
    port = free_port()
    events = EventsConfig(bus=BusConfig(url=f"redis://127.0.0.1:{port}"))

    async def story() -> None:
        async with replica(url, namespace, tmp_path, events) as gateway:
            refused = await gateway.post(click(1))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["type"] == "/docs#bus-unavailable"
            assert await gateway.ready()
            assert (await gateway.recommend()).status_code == 200
            gateway.parts.check_health()
            with embedded_store(config_of(tmp_path, port)):
                while (taken := await gateway.post(click(1))).status_code == 503:
                    await asyncio.sleep(0.05)
                assert taken.json()["accepted"] == 1
                assert (await gateway.post(click(1))).json()["duplicates"] == 1
                assert len(values(events.bus.url, namespace)) == 1

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_bus_that_is_not_durable_gets_no_events(
    url: str, namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with replica(url, namespace, tmp_path, EventsConfig()) as gateway:
            assert (await gateway.post(click(1))).status_code == 503

    with redis.Redis.from_url(url) as client:
        client.config_set("appendfsync", "everysec")
        try:
            with caplog.at_level(logging.WARNING):
                asyncio.run(story())
        finally:
            client.config_set("appendfsync", "always")
    assert "found appendfsync everysec, expected always" in caplog.text
    assert values(url, namespace) == []


def test_a_replica_refuses_events_while_the_lake_is_behind(url: str, namespace: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with replica(url, namespace, tmp_path, EventsConfig(max_lag=2)) as gateway:
            assert (await gateway.post(*(click(n, user_id="u") for n in range(5)))).status_code == 200
            while (await gateway.post(click(9))).status_code != 503:
                await asyncio.sleep(0.05)
            partition = max(gateway.counts.lags, key=gateway.counts.lags.__getitem__)
            with contextlib.closing(open_reader(EventsConfig(), namespace, url, EVENTS, partition)) as reader:
                await asyncio.to_thread(reader.commit, LAKE, reader.newest())
            while (await gateway.post(click(10))).status_code != 200:
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(story(), 60))


def fence(url: str, namespace: str, user_id: str) -> None:
    """Ask for a user's erasure, and leave it at that."""
    with OnlineStore(url, namespace) as store:
        ErasureStore(store).request(user_id, "r1", b"{}", time.time_ns() // 1000)


def test_a_replica_refuses_the_events_of_a_user_that_is_erased_while_it_runs(url: str, namespace: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with replica(url, namespace, tmp_path, EventsConfig()) as gateway:
            assert (await gateway.post(click(1))).json()["accepted"] == 1
            await asyncio.to_thread(fence, url, namespace, "u1")
            number = 2
            while (found := await gateway.post(click(number, user_id="u1"))).json()["rejected"] == 0:
                number += 1
                await asyncio.sleep(0.05)
            (result,) = found.json()["results"]
            assert (result["status"], result["reason"]) == ("rejected", "erased")
            assert (await gateway.post(click(0))).json()["accepted"] == 1
        assert f"e{number}" not in {row["event_id"] for row in values(url, namespace)}
        assert values(url, namespace, DEAD_LETTERS) == []

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_replica_ends_though_one_of_its_tasks_takes_a_cancellation_for_something_else(
    url: str, namespace: str, tmp_path: Path
) -> None:
    async def stubborn() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def story() -> None:
        async with replica(url, namespace, tmp_path, EventsConfig()) as gateway:
            gateway.parts._tasks["stubborn"] = asyncio.create_task(stubborn())
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(story(), 30))


class Terminal:
    """`reco events` on the bus of one namespace."""

    def __init__(self, url: str, namespace: str, folder: Path) -> None:
        self.url, self.namespace = url, namespace
        self.settings = [f"root={folder}", f"store.url={url}", f"store.namespace={namespace}"]

    def run(self, *words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["events", *words, *self.settings], input=input)

    def lines(self, *words: str) -> list[dict[str, Any]]:
        found = self.run(*words)
        assert found.exit_code == 0, found.output
        return [json.loads(line) for line in found.stdout.splitlines()]

    def append(self, topic: str, *values: bytes) -> None:
        async def story() -> None:
            producer = open_producer(EventsConfig(), self.namespace, self.url)
            await producer.append(topic, [Outgoing(n % 2, value) for n, value in enumerate(values)])
            await producer.aclose()

        asyncio.run(story())

    def admit(self, *events: dict[str, Any]) -> None:
        now_us = time.time_ns() // 1000
        self.append(EVENTS, *[each.value for each in admit(events, now_us) if not hasattr(each, "reason")])

    def refuse(self, reason: str, event: object, *, user_id: str = "u1", received_us: int = 0) -> None:
        received_us = received_us or time.time_ns() // 1000
        self.append(DEAD_LETTERS, DeadLetter.of(reason, "why", orjson.dumps(event), user_id, received_us).encode())


@pytest.fixture
def terminal(url: str, namespace: str, folder: Path) -> Terminal:
    return Terminal(url, namespace, folder)


def test_tail_prints_records_as_json_lines_without_ids(terminal: Terminal) -> None:
    terminal.admit(click(1, session_id="s-1", note="free text"), click(2))
    first, second = terminal.lines("tail", "--from-start", "--limit", "2")
    assert (first["event_id"], first["partition"], first["user_id"]) == ("e1", 0, user_digest("u1")[:12])
    assert first["session_id"] == user_digest("s-1")[:12]
    assert "extra" not in first
    assert second["event_id"] == "e2"
    shown, _ = terminal.lines("tail", "--from-start", "--limit", "2", "--show-ids")
    assert (shown["user_id"], shown["session_id"]) == ("u1", "s-1")
    assert json.loads(shown["extra"]) == {"note": "free text"}


def test_tail_of_dead_letters_shows_reasons_and_what_they_hold_only_when_asked(terminal: Terminal) -> None:
    terminal.refuse("invalid", click(1, type="dance"))
    terminal.append(DEAD_LETTERS, b"\xff")
    words = ("tail", "--topic", "dead_letters", "--from-start", "--limit", "2")
    letter, strange = terminal.lines(*words)
    assert (letter["reason"], letter["user"]) == ("invalid", user_digest("u1")[:12])
    assert {"raw", "detail"} & set(letter) == set()
    assert strange["unreadable_bytes"] == 1
    assert json.loads(terminal.lines(*words, "--show-ids")[0]["raw"])["type"] == "dance"


def test_stats_show_records_lag_age_and_dead_letters_by_reason(terminal: Terminal) -> None:
    terminal.admit(click(1), click(2), click(3))
    with contextlib.closing(open_reader(EventsConfig(), terminal.namespace, terminal.url, EVENTS, 1)) as reader:
        reader.commit("another", -1)  # keeps what the lake has stored
        reader.commit(LAKE, reader.newest())
    for reason in ("invalid", "future", "invalid"):
        terminal.refuse(reason, click(1))
    found = terminal.run("stats")
    assert found.exit_code == 0, found.output
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in found.stdout.splitlines() if "│" in line]
    assert ["events", "0", "2", "2"] in [row[:4] for row in rows]
    assert ["events", "1", "1", "0"] in [row[:4] for row in rows]
    assert ["exposures", "0", "0", "0", ""] in rows
    assert ["dead_letters", "0", "3", ""] in [row[:4] for row in rows]
    assert ["invalid", "2"] in rows
    assert ["future", "1"] in rows


def test_replay_turns_letters_that_pass_now_into_events_with_their_ids_and_keeps_the_others(terminal: Terminal) -> None:
    terminal.refuse("unsupported_version", click(1))
    terminal.refuse("invalid", click(2, type="dance"))
    terminal.refuse("personal_data", click(3, user_id="[email]"))
    terminal.append(DEAD_LETTERS, b"\xff")
    found = terminal.run("replay")
    assert found.exit_code == 0, found.output
    for said in ("1 dead letters are events now", "1 stay: invalid", "1 stay: personal_data", "1 stay: unreadable"):
        assert said in found.stderr
    assert [row["event_id"] for row in values(terminal.url, terminal.namespace)] == ["e1"]
    left = terminal.lines("tail", "--topic", "dead_letters", "--from-start", "--limit", "3")
    assert sorted(each.get("reason", "unreadable") for each in left) == ["invalid", "personal_data", "unreadable"]
    assert "0 dead letters are events now" in terminal.run("replay").stderr
    assert len(values(terminal.url, terminal.namespace)) == 1


def test_replay_lets_an_erased_users_letters_go_without_replaying_them(terminal: Terminal) -> None:
    terminal.refuse("future", click(1))
    terminal.refuse("future", click(2, user_id="u2"), user_id="u2")
    fence(terminal.url, terminal.namespace, "u1")
    found = terminal.run("replay")
    assert "1 dead letters are events now" in found.stderr
    assert "1 were of erased users and are gone" in found.stderr
    assert [row["event_id"] for row in values(terminal.url, terminal.namespace)] == ["e2"]
    assert values(terminal.url, terminal.namespace, DEAD_LETTERS) == []


def test_replay_takes_only_the_letters_that_are_wanted(terminal: Terminal) -> None:
    day_us = 86_400_000_000
    start = 1_780_000_000_000_000 // day_us * day_us
    for number, reason in enumerate(("future", "invalid", "future", "future")):
        terminal.refuse(reason, click(number), received_us=start + number * day_us)
    day = time.strftime("%Y-%m-%d", time.gmtime(start / 1e6))
    third = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime((start + 2 * day_us) / 1e6))
    assert "2 dead" in terminal.run("replay", "--reason", "future", "--since", third).stderr
    assert "0 dead" in terminal.run("replay", "--until", day).stderr
    assert "1 dead" in terminal.run("replay", "--reason", "future", "--reason", "malformed").stderr
    assert sorted(row["event_id"] for row in values(terminal.url, terminal.namespace)) == ["e0", "e2", "e3"]


def test_replay_names_the_reasons_that_there_are(terminal: Terminal) -> None:
    refused = terminal.run("replay", "--reason", "futur")
    assert refused.exit_code == 2
    assert "'future'" in refused.output


def sent(terminal: Terminal, server: EventServer, text: str, *more: str) -> Result:
    return terminal.run("send", "-", "--url", server.url, *more, input=text)


def test_send_delivers_a_file_and_sent_again_it_is_known(terminal: Terminal) -> None:
    same = json.dumps({"type": "view", "user_id": "u"})
    text = "\n".join([same, same, "", json.dumps(click(7))])
    with EventServer() as server:
        first, again = sent(terminal, server, text, "--key", "reco_a_b"), sent(terminal, server, text)
        assert "3 accepted, 0 known already, 0 rejected" in first.stderr
        assert "0 accepted, 3 known already, 0 rejected" in again.stderr
        assert "e7" in server.kept
        assert server.keys == {"Bearer reco_a_b", None}


def test_send_prints_rejected_events_and_fails(terminal: Terminal) -> None:
    with EventServer() as server:
        server.reject = lambda event: event["type"] == "dance"
        found = sent(terminal, server, f"{json.dumps(click(1))}\n{json.dumps(click(2, type='dance'))}\n")
    assert found.exit_code == 1
    assert [json.loads(line)["event_id"] for line in found.stdout.splitlines()] == ["e2"]
    assert "1 rejected, invalid: type: found another" in found.stderr


@pytest.mark.parametrize(("line", "said"), [("{", "line 2: found no JSON"), ("[]", "line 2: found no object")])
def test_send_names_a_line_that_is_no_event(terminal: Terminal, line: str, said: str) -> None:
    with EventServer() as server:
        found = sent(terminal, server, f"{json.dumps(click(1))}\n{line}\n")
        assert server.kept == {"e1": 1}, "what stood before it was sent"
    assert isinstance(found.exception, DataError)
    assert said in str(found.exception)


@pytest.mark.parametrize("command", ["tail", "stats", "replay"])
def test_without_the_bus_commands_say_so(command: str, folder: Path, namespace: str) -> None:
    found = Terminal(f"redis://127.0.0.1:{free_port()}", namespace, folder).run(command)
    assert isinstance(found.exception, NotReadyError)
    assert "does not answer" in str(found.exception)
