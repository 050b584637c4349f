"""Events at the gateway over a bus in memory: what is acknowledged, what is refused, and that nothing is half-answered."""

import asyncio
import json
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import httpx
import orjson
import pytest
from event_fakes import NOW, EventCounts, MemoryBus, MemoryWindow, event
from hypothesis import given
from hypothesis import strategies as st
from test_contract import World, problem

from reco_ray.errors import ConfigError
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, Outgoing, partition_of
from reco_ray.events.contract import admit, event_schema
from reco_ray.events.dead_letters import DeadLetter
from reco_ray.hashing import user_digest
from reco_ray.serve.events.backpressure import EventsRefused, LagWatch
from reco_ray.serve.events.intake import Admit, EventIntake, Fence, Taken
from reco_ray.serve.guard.breaker import Breaker
from reco_ray.serve.http.event_bodies import EventsAnswer

PARTITIONS = 3


class Gateway:
    """An intake over memory, and the gateway's HTTP before it."""

    def __init__(self, *, fence: Fence | None = None, admit: Admit = admit, max_lag: int = 10) -> None:
        self.bus, self.window, self.metrics = MemoryBus(), MemoryWindow(), EventCounts()
        self.now = 0.0
        self.lags = LagWatch(self.bus, max_lag, self.metrics)
        self.intake = EventIntake(
            admit,
            self.bus,
            self.window,
            self.lags,
            self.metrics,
            partitions=PARTITIONS,
            fence=fence,
            breaker=Breaker(clock=lambda: self.now),
            clock=lambda: NOW,
        )
        self.http = World(events=self.intake)

    def post(self, *events: object) -> httpx.Response:
        return self.http.post({"events": events}, "/v1/events")

    def statuses(self, *events: object) -> list[str]:
        response = self.post(*events)
        assert response.status_code == 200, response.text
        return [result["status"] for result in response.json()["results"]]

    def ids(self) -> list[str]:
        return [orjson.loads(record.value)["event_id"] for record in self.bus.topics[EVENTS]]

    def letters(self) -> list[DeadLetter]:
        return [DeadLetter.decode(record.value) for record in self.bus.topics[DEAD_LETTERS]]


def run(story: Coroutine[Any, Any, Taken]) -> Taken:
    return asyncio.run(story)


def test_an_accepted_event_is_on_the_bus_in_the_partition_of_its_user_before_the_answer() -> None:
    gateway = Gateway()
    response = gateway.post(event(1), event(2))
    assert response.json() == {
        "results": [{"event_id": "e1", "status": "accepted"}, {"event_id": "e2", "status": "accepted"}],
        "accepted": 2,
        "duplicates": 0,
        "rejected": 0,
    }
    for number, record in enumerate(gateway.bus.topics[EVENTS], 1):
        row = orjson.loads(record.value)
        assert (row["event_id"], row["received_us"]) == (f"e{number}", int(NOW * 1e6))
        assert record.partition == partition_of(f"u{number}", PARTITIONS)


def test_each_event_has_a_result_of_its_own_and_a_bad_one_keeps_no_other_out() -> None:
    gateway = Gateway()
    response = gateway.post(event(1), event(2, type="dance"), 7, event(1), event(3, ts=int((NOW + 1e6) * 1e6)))
    answer = EventsAnswer.model_validate(response.json())
    assert [(each.event_id, each.status, each.reason) for each in answer.results] == [
        ("e1", "accepted", None),
        ("e2", "rejected", "invalid"),
        (None, "rejected", "malformed"),
        ("e1", "duplicate", None),
        ("e3", "rejected", "future"),
    ]
    assert (answer.accepted, answer.duplicates, answer.rejected) == (1, 1, 3)
    assert gateway.ids() == ["e1"]
    assert gateway.metrics.counts == {
        "accepted": 1,
        "duplicates": 1,
        "dead_letters": 3,
        "rejected invalid": 1,
        "rejected malformed": 1,
        "rejected future": 1,
        "appended to events": 1,
        "appended to dead_letters": 1,
    }


def test_a_dead_letter_keeps_the_event_the_reason_and_who_without_the_id() -> None:
    gateway = Gateway()
    gateway.post(event(2, type="dance"))
    (letter,) = gateway.letters()
    assert (letter.reason, letter.user, letter.received_us) == ("invalid", user_digest("u2"), int(NOW * 1e6))
    assert json.loads(letter.raw) == event(2, type="dance")
    assert b"u2" not in gateway.bus.topics[DEAD_LETTERS][0].value


def test_sent_again_a_batch_brings_nothing_new_to_the_bus() -> None:
    gateway = Gateway()
    batch = [event(1), event(2), event(3, type="dance")]
    assert gateway.statuses(*batch) == ["accepted", "accepted", "rejected"]
    assert gateway.statuses(*batch) == ["duplicate", "duplicate", "rejected"]
    assert gateway.ids() == ["e1", "e2"]
    assert len(gateway.letters()) == 1


@pytest.mark.parametrize("topic", [EVENTS, DEAD_LETTERS])
def test_while_the_bus_is_away_a_batch_is_refused_as_a_whole_and_sent_again_it_is_complete(topic: str) -> None:
    gateway = Gateway()
    batch = [event(1), event(2, type="dance")]
    gateway.bus.away = {topic}
    response = gateway.post(*batch)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert problem(response)["type"] == "/docs#bus-unavailable"
    assert gateway.metrics.counts["refused bus"] == 1
    assert gateway.metrics.counts["accepted"] == 0
    gateway.bus.away = set()
    assert gateway.statuses(*batch)[1] == "rejected"
    assert gateway.ids() == ["e1"]
    assert len(gateway.letters()) == 1


def test_a_bus_that_is_not_durable_takes_no_events_and_is_no_error_of_the_gateways() -> None:
    async def append(topic: str, records: Sequence[Outgoing]) -> None:
        raise ConfigError("found appendonly no, expected yes")

    gateway = Gateway()
    gateway.bus.append = append  # type: ignore[method-assign]
    assert problem(gateway.post(event(1)))["type"] == "/docs#bus-unavailable"


def test_a_bus_that_hangs_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    async def append(topic: str, records: Sequence[Outgoing]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("reco_ray.serve.events.intake._APPEND_TIMEOUT_S", 0.01)
    gateway = Gateway()
    gateway.bus.append = append  # type: ignore[method-assign]
    assert gateway.post(event(1)).status_code == 503


def test_a_bus_that_keeps_failing_is_left_alone_until_a_probe() -> None:
    gateway = Gateway()
    gateway.bus.away = {EVENTS}
    for number in range(20):
        gateway.now += 0.1
        assert gateway.post(event(number)).status_code == 503
    assert 5 <= len(gateway.bus.appends) < 10
    gateway.bus.away = set()
    gateway.now += 10
    assert gateway.statuses(event(1)) == ["accepted"]


def test_without_the_window_events_are_taken_and_none_counts_as_known(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway()
    gateway.window.away = True
    with caplog.at_level(logging.WARNING):
        assert gateway.statuses(event(1), event(1)) == ["accepted", "duplicate"]
        assert gateway.statuses(event(1)) == ["accepted"]
    assert gateway.ids() == ["e1", "e1"], "the sink removes the second"
    assert gateway.metrics.counts["window failed"] == 4
    assert len(caplog.records) == 1


def test_events_are_refused_while_the_sink_is_too_far_behind() -> None:
    gateway = Gateway(max_lag=10)
    gateway.bus.lag = 11
    assert gateway.post(event(1)).status_code == 200, "before the first look"
    asyncio.run(gateway.lags.refresh())
    response = gateway.post(event(2))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "found 11 events waiting for the lake, expected at most 10" in problem(response)["detail"]
    assert problem(response)["type"] == "/docs#overloaded"
    assert gateway.metrics.lags == {0: 11, 1: 0}
    gateway.bus.lag = 10
    asyncio.run(gateway.lags.refresh())
    assert gateway.statuses(event(2)) == ["accepted"]


def test_the_last_lag_stands_while_the_bus_does_not_say_it(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(max_lag=10)
    gateway.bus.lag = 11
    asyncio.run(gateway.lags.refresh())
    gateway.bus.away = {EVENTS}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            asyncio.run(gateway.lags.refresh())
    assert len(caplog.records) == 1
    with pytest.raises(EventsRefused, match="found 11 events"):
        gateway.lags.check()


class Erased:
    """A fence around one user."""

    def __init__(self, user_id: str) -> None:
        self.user = user_digest(user_id)

    def drops(self, user: str, ts_us: int, received_us: int, /) -> bool:
        return user == self.user


def test_an_erased_users_events_leave_nothing_behind() -> None:
    gateway = Gateway(fence=Erased("u1"))
    response = gateway.post(event(1), event(2), event(8, type="dance"))
    assert [(each["status"], each.get("reason")) for each in response.json()["results"]] == [
        ("rejected", "erased"),
        ("accepted", None),
        ("rejected", "invalid"),
    ]
    assert gateway.ids() == ["e2"]
    assert gateway.letters() == []
    assert gateway.window.ids == {"e2"}


def test_a_batch_is_admitted_in_slices_and_others_have_their_turn_between_them() -> None:
    sizes: list[int] = []
    order: list[str] = []

    def slow(raw: Sequence[object], now_us: int) -> Any:
        sizes.append(len(raw))
        order.append("slice")
        return admit(raw, now_us)

    async def beat(stop: asyncio.Event) -> None:
        while not stop.is_set():
            order.append("beat")
            await asyncio.sleep(0)

    async def story() -> Taken:
        gateway, stop = Gateway(admit=slow), asyncio.Event()
        task = asyncio.create_task(beat(stop))
        batches = [gateway.intake.take([event(1000 * b + n) for n in range(1000)]) for b in range(3)]
        taken = await asyncio.gather(*batches)
        stop.set()
        await task
        return taken[0]

    assert run(story()).accepted == 1000
    assert sum(sizes) == 3000
    assert max(sizes) <= 100
    assert ["slice", "slice"] not in [order[i : i + 2] for i in range(len(order))], "two slices within one turn of the loop"


def test_too_many_batches_at_once_are_refused() -> None:
    async def story() -> list[Taken | BaseException]:
        gateway = Gateway()
        go = asyncio.Event()
        append = gateway.bus.append

        async def waits(topic: str, records: Sequence[Outgoing]) -> None:
            await go.wait()
            await append(topic, records)

        gateway.bus.append = waits  # type: ignore[method-assign]
        tasks = [asyncio.create_task(gateway.intake.take([event(n)])) for n in range(70)]
        while sum(task.done() for task in tasks) < 6:
            await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert gateway.metrics.counts["refused busy"] == 6
        return list(found)

    found = asyncio.run(story())
    assert [type(each) for each in found] == [Taken] * 64 + [EventsRefused] * 6


def test_a_caller_that_leaves_gives_its_place_back() -> None:
    async def story() -> None:
        gateway = Gateway()

        async def hangs(topic: str, records: Sequence[Outgoing]) -> None:
            await asyncio.Event().wait()

        append, gateway.bus.append = gateway.bus.append, hangs  # type: ignore[method-assign]
        for _ in range(100):
            task = asyncio.create_task(gateway.intake.take([event(1)]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        gateway.bus.append = append  # type: ignore[method-assign]
        assert (await gateway.intake.take([event(1)])).accepted == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"{", 400, "invalid-json"),
        (b'{"events": [NaN]}', 400, "invalid-json"),
        (b"[]", 422, "invalid-request"),
        (b'{"events": []}', 422, "invalid-request"),
        (b'{"events": {}}', 422, "invalid-request"),
        (b'{"events": [1], "more": 1}', 422, "invalid-request"),
        (b'{"events": [' + b",".join([b"1"] * 1001) + b"]}", 422, "invalid-request"),
        (b'{"events": ["' + b"x" * 2**20 + b'"]}', 413, "too-large"),
    ],
)
def test_an_envelope_that_does_not_fit_is_refused_unread(content: bytes, status: int, kind: str) -> None:
    gateway = Gateway()
    response = gateway.http.ask("POST", "/v1/events", content=content)
    assert (response.status_code, problem(response)["type"]) == (status, f"/docs#{kind}")
    assert gateway.bus.topics == {}


def test_a_full_batch_of_a_thousand_is_taken() -> None:
    assert Gateway().post(*[event(n) for n in range(1000)]).json()["accepted"] == 1000


def test_the_schema_of_an_event_is_public() -> None:
    response = World().ask("GET", "/v1/events/schema")
    assert response.headers["content-type"] == "application/schema+json"
    assert response.json() == event_schema()


def test_without_a_bus_the_call_says_so() -> None:
    response = World().post({"events": [event()]}, "/v1/events")
    assert (response.status_code, problem(response)["detail"]) == (503, "this gateway has no event bus")


def test_logs_name_no_user_item_or_event(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway()
    mine = {"event_id": "secret-event", "user_id": "secret-user", "item_id": "secret-item"}
    with caplog.at_level(logging.DEBUG):
        gateway.post({**event(), **mine}, {**event(), **mine, "type": "dance"})
        gateway.bus.away, gateway.window.away = {EVENTS, DEAD_LETTERS}, True
        gateway.post({**event(), **mine, "event_id": "secret-other"})
    assert caplog.records
    assert "secret" not in caplog.text


_sent = st.lists(
    st.one_of(
        st.integers(0, 5).map(event),
        st.integers(0, 5).map(lambda n: event(n, type="dance")),
        st.integers(0, 5).map(lambda n: event(n, schema_version="2.0")),
        st.integers(0, 5).map(lambda n: event(n, ts=int((NOW + 1e7) * 1e6))),
        st.sampled_from([None, 7, "x", [], {}]),
    ),
    min_size=1,
    max_size=20,
)


@given(_sent, st.lists(st.sampled_from(["ok", "events away", "letters away", "window away"]), max_size=6), st.randoms())
def test_however_batches_fail_and_are_sent_again_the_bus_ends_with_each_event_and_each_letter(
    sent: list[object], weather: list[str], rng: Any
) -> None:
    """Once each, unless the window was away; acknowledged is what is there."""
    gateway, clear = Gateway(), "window away" not in weather
    for state in [*weather, "ok"]:
        gateway.bus.away = {EVENTS} if state == "events away" else {DEAD_LETTERS} if state == "letters away" else set()
        gateway.window.away = state == "window away"
        batch = list(sent)
        rng.shuffle(batch)
        response = gateway.post(*batch)
        if response.status_code == 200:
            accepted = [each["event_id"] for each in response.json()["results"] if each["status"] != "rejected"]
            assert set(accepted) <= set(gateway.ids())
    verdicts = admit(sent, int(NOW * 1e6))
    events = {each.event_id for each in verdicts if not hasattr(each, "reason")}
    letters = {each.raw for each in verdicts if hasattr(each, "reason")}
    assert set(gateway.ids()) == events
    assert {letter.raw for letter in gateway.letters()} == letters
    if clear:
        assert len(gateway.ids()) == len(events)
        assert len(gateway.letters()) == len(letters)
