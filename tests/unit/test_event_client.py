"""The client of events against a real server that fails, cuts connections in its answers, and comes back."""

import json
import logging
import random
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from event_server import EventServer, Plan
from hypothesis import given, settings
from hypothesis import strategies as st

from reco_ray.errors import ConfigError, DataError, NotReadyError
from reco_ray.events.client import EventClient, QueueFull, Rejection, Undelivered
from reco_ray.events.delivery import new_event_id, pause_s

BUSY: Plan = (503, {"retry-after": "0"}, b'{"detail": "the bus is away"}')
FAILURES: list[Plan] = ["refuse", "cut", "garble", BUSY, (429, {}, b""), (500, {}, b"x"), (502, {}, b"")]


@pytest.fixture
def server() -> Iterator[EventServer]:
    with EventServer() as server:
        yield server


def client(server: EventServer, **more: Any) -> EventClient:
    return EventClient(server.url, **{"backoff_s": 0.001, "interval_s": 0.01, "timeout_s": 5.0, **more})


def click(number: int) -> dict[str, object]:
    return {"type": "click", "user_id": f"u{number}", "item_id": "i", "ts": 1}


def test_events_arrive_in_order_in_batches_with_the_ids_that_send_returned(server: EventServer) -> None:
    with client(server, key="reco_a_b", batch=7, interval_s=60) as events:
        ids = [events.send(click(n)) for n in range(50)]
        own = events.send({**click(50), "event_id": "mine"})
    assert [each for request in server.requests for each in request] == [*ids, "mine"]
    assert own == "mine"
    assert max(len(request) for request in server.requests) == 7
    assert server.keys == {"Bearer reco_a_b"}
    assert (events.stats.accepted, events.stats.waiting) == (51, 0)


def test_a_batch_that_is_not_full_leaves_when_its_oldest_event_has_waited(server: EventServer) -> None:
    events = client(server, batch=1000, interval_s=0.01)
    event_id = events.send(click(1))
    until(lambda: server.kept[event_id] == 1)
    events.close()


@pytest.mark.parametrize("failure", FAILURES)
def test_after_a_failure_the_same_ids_are_sent_until_they_are_acknowledged(server: EventServer, failure: Plan) -> None:
    server.plan.extend([failure] * 3)
    with client(server, batch=5, interval_s=60) as events:
        ids = [events.send(click(n)) for n in range(5)]
    assert server.kept == dict.fromkeys(ids, 1)
    assert {tuple(request) for request in server.requests} == {tuple(ids)}
    assert events.stats.retries == 3
    assert events.stats.accepted + events.stats.duplicates == 5
    assert (events.stats.duplicates == 5) == (failure == "cut"), "what was kept before the cut is known"


@settings(max_examples=25)
@given(st.lists(st.sampled_from([*FAILURES, "ok"]), max_size=12), st.integers(1, 40), st.integers(1, 10))
def test_whatever_the_server_does_every_event_is_kept_once_and_acknowledged(plan: list[Plan], n: int, batch: int) -> None:
    with EventServer() as server:
        server.plan.extend(plan)
        with client(server, batch=batch, queue=max(batch, 12)) as events:
            ids = [events.send(click(number)) for number in range(n)]
        assert server.kept == dict.fromkeys(ids, 1)
        assert events.stats.accepted + events.stats.duplicates == n


def test_a_server_that_was_away_and_comes_back_gets_everything() -> None:
    with EventServer() as first:
        port = first.port
        events = client(first, batch=3)
        ids = [events.send(click(n)) for n in range(3)]
        events.flush()
    ids += [events.send(click(n)) for n in range(3, 6)]
    with pytest.raises(NotReadyError, match=r"found 3 events not acknowledged after 0.05 s.*stay queued \(Connect"):
        events.flush(0.05)
    with EventServer(port) as second:
        events.close()
        assert first.kept | second.kept == dict.fromkeys(ids, 1)


def test_rejections_are_handed_over_with_their_event_before_flush_returns(server: EventServer) -> None:
    rejected: list[Rejection] = []
    server.reject = lambda event: event["user_id"] == "u1"
    with client(server, batch=3, on_rejected=rejected.append) as events:
        ids = [events.send(click(n)) for n in range(3)]
        events.flush()
        assert [(each.event_id, each.reason, each.detail) for each in rejected] == [(ids[1], "invalid", "type: found another")]
    assert json.loads(rejected[0].event)["user_id"] == "u1"
    assert (events.stats.accepted, events.stats.rejected) == (2, 1)


def test_a_callback_that_fails_is_logged_and_stops_nothing(server: EventServer, caplog: pytest.LogCaptureFixture) -> None:
    def broken(rejection: Rejection) -> None:
        raise RuntimeError("broken callback")

    server.reject = lambda event: event["user_id"] == "u0"
    with client(server, on_rejected=broken) as events:
        events.send(click(0))
        good = events.send(click(1))
    assert server.kept == {good: 1}
    assert "broken callback" in caplog.text


def test_without_a_callback_rejections_are_logged_without_ids(server: EventServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reject = lambda event: True
    with caplog.at_level(logging.WARNING), client(server) as events:
        event_id = events.send(click(0))
    assert "rejected an event: invalid" in caplog.text
    assert event_id not in caplog.text


def test_a_full_queue_holds_up_who_sends_until_there_is_room(server: EventServer) -> None:
    server.plan.append("hold")
    events = client(server, batch=2, queue=4)
    for n in range(4):
        events.send(click(n))
    assert server.held.wait(10)
    with pytest.raises(QueueFull, match="found 4 events waiting"):
        events.send(click(4), wait_s=0.01)
    sent = threading.Event()

    def send() -> None:
        events.send(click(5))
        sent.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert not sent.is_set()
    server.go.set()
    assert sent.wait(10)
    thread.join()
    events.close()
    assert len(server.kept) == 5


def test_a_full_queue_refuses_at_once_where_that_was_asked_for(server: EventServer) -> None:
    server.plan.append("hold")
    with client(server, batch=1, queue=1, block=False) as events:
        events.send(click(0))
        assert server.held.wait(10)
        with pytest.raises(QueueFull):
            events.send(click(1))
        server.go.set()
        events.flush()
        events.send(click(2))
    assert len(server.kept) == 2


def test_many_threads_may_send_and_nothing_is_lost(server: EventServer) -> None:
    server.plan.extend(FAILURES)
    ids: list[str] = []

    def send(first: int) -> None:
        for n in range(first, first + 200):
            ids.append(events.send(click(n)))
            if n % 50 == 0:
                events.flush()

    with client(server, batch=50, queue=100) as events:
        threads = [threading.Thread(target=send, args=(1000 * t,)) for t in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.kept == dict.fromkeys(ids, 1)
    assert len(ids) == 1000


def test_close_says_what_is_undelivered_and_keeps_it_in_a_file(server: EventServer, tmp_path: Path) -> None:
    server.plan.extend([BUSY] * 10_000)
    events = client(server, batch=2, spool=tmp_path / "spool.jsonl")
    ids = [events.send(click(n)) for n in range(3)]
    with pytest.raises(Undelivered, match=r"found 3 events not acknowledged \(503 the bus is away\).*spool.jsonl") as found:
        events.close(0.05)
    assert found.value.count == 3
    kept = [json.loads(line) for line in (tmp_path / "spool.jsonl").read_text().splitlines()]
    assert [each["event_id"] for each in kept] == ids
    found.value.spool(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "spool.jsonl").read_text()
    events.close()
    with pytest.raises(NotReadyError, match="found the event client closed"):
        events.send(click(4))


def test_an_error_within_the_block_is_not_hidden_by_what_is_undelivered(
    server: EventServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.plan.append((404, {}, b'{"detail": "no such call"}'))

    def fails() -> None:
        with client(server) as events:
            events.send(click(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert "found 1 events not acknowledged" in caplog.text


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422])
def test_an_answer_that_no_retry_changes_ends_sending_and_every_call_says_why(server: EventServer, status: int) -> None:
    server.plan.append((status, {}, b'{"detail": "found no key"}'))
    events = client(server, batch=1, queue=1)
    events.send(click(0))
    for call in (events.flush, lambda: events.send(click(1))):
        with pytest.raises(ConfigError, match=f"{status} found no key; no retry can change that"):
            call()
    with pytest.raises(Undelivered, match="found no key") as found:
        events.close()
    assert found.value.count == 1


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"event_id": 7}, "event_id: found int, expected text"),
        ({"value": object()}, "found an event that is no JSON"),
        ({"note": "x" * 2**20}, "expected at most 1048512; send less in it"),
    ],
)
def test_an_event_that_cannot_be_sent_is_refused_at_once(server: EventServer, event: dict[str, object], said: str) -> None:
    with client(server) as events, pytest.raises(DataError, match=said):
        events.send(event)
    assert server.requests == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": 0}, "batch, queue: found 0"),
        ({"batch": 1001}, "found 1001"),
        ({"queue": 3, "batch": 4}, "a queue that holds a batch"),
    ],
)
def test_settings_that_cannot_be_are_refused(server: EventServer, given: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        client(server, **given)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="url: found 'localhost:8000', expected http"):
        EventClient("localhost:8000")


def test_batches_stay_below_the_gateways_limit_for_a_body(server: EventServer) -> None:
    with client(server, batch=100, interval_s=60) as events:
        for n in range(5):
            events.send({**click(n), "note": "x" * 300_000})
    assert [len(request) for request in server.requests] == [3, 2]


def test_a_process_that_ends_without_closing_sends_what_waits_or_says_what_is_lost(server: EventServer) -> None:
    server.plan.append((404, {}, b""))
    code = (
        "from reco_ray.events.client import EventClient\n"
        f"EventClient({server.url!r}, interval_s=60).send({{'type': 'click'}})\n"
    )
    lost = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "the process ends without EventClient.close: found 1 events not acknowledged" in lost.stderr
    saved = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (saved.stderr, len(server.kept)) == ("", 1)


@given(st.integers(0, 40), st.floats(0.001, 1), st.integers(0, 300), st.integers())
def test_a_pause_honours_retry_after_and_is_spread_below_a_bound_that_doubles(
    attempt: int, backoff_s: float, after_s: int, seed: int
) -> None:
    found = pause_s(attempt, backoff_s, after_s, random.Random(seed))
    assert after_s <= found <= after_s + min(30.0, backoff_s * 2**attempt)


def test_made_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    ids = [new_event_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(uuid.UUID(each).version, uuid.UUID(each).variant) for each in ids} == {(7, uuid.RFC_4122)}
    stamps = [int(each.replace("-", "")[:12], 16) for each in ids]
    assert stamps == sorted(stamps)


def until(check: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if check():
            return
        pause.wait(0.01)
    pytest.fail("not within ten seconds")
