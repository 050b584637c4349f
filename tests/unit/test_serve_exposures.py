"""Every decision of a gateway becomes a record, on whatever rung; and without consent nothing of it is anybody's."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from test_ladder import KNOWN, World, run, slate

from reco_ray.config import DateUnit, ExposuresConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import EXPOSURES, Outgoing, Record, partition_of
from reco_ray.feedback.exposures import rows_to_table
from reco_ray.serve.caching.finished import fit, mark
from reco_ray.serve.http.answers import Answer, Asked, finish
from reco_ray.serve.path.exposures import Exposures
from reco_ray.store import unpack_user
from reco_ray.types import EMPTY_USER, Request, Slate

PARTITIONS = 4


class Bus:
    """Keeps what it is given; may be away, or hang until told to go on."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.calls: list[int] = []
        self.away = False
        self.hangs: asyncio.Event | None = None

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        assert topic == EXPOSURES
        self.calls.append(len(records))
        if self.hangs is not None:
            await self.hangs.wait()
        if self.away:
            raise NotReadyError("the bus is away")
        self.records += records

    def rows(self) -> list[dict[str, Any]]:
        records = [Record(i, 1, record.value) for i, record in enumerate(self.records)]
        found: list[dict[str, Any]] = rows_to_table(records, DateUnit.day).to_pylist()
        return found


class Counts:
    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.waiting = 0

    def exposed(self, sent: int, lost: Mapping[str, int], failures: int, waiting: int) -> None:
        self.totals.update(sent=sent, failures=failures, **lost)
        self.waiting = waiting


class Recorded:
    """A buffer over a bus in memory, and a gateway that notes its decisions in it."""

    def __init__(self, *, share: float = 1.0, buffer: int = 100, interval_s: float = 0.01, **world: Any) -> None:
        self.bus, self.counts = Bus(), Counts()
        config = ExposuresConfig(features_share=share, buffer=buffer, interval_s=interval_s)
        self.exposures = Exposures(config, self.bus, PARTITIONS, self.counts)
        self.world = World(expose=self.exposures.note, **world)

    async def start(self) -> "Recorded":
        await self.world.start()
        return self

    async def rows(self) -> list[dict[str, Any]]:
        await self.exposures.flush()
        return self.bus.rows()


def note(exposures: Exposures, number: int) -> None:
    made = finish(slate(f"r{number}", ["a"], []), "rel", "main", "full", (), time.time())
    answer = Answer(f"r{number}", made, "main", asked=Asked("u"))
    answer.body(time.time())
    exposures.note("recommend", answer)


def test_a_decision_is_recorded_with_all_that_was_decided() -> None:
    async def story() -> None:
        it = await Recorded().start()
        wish = {"user_id": "known", "k": 2, "surface": "email", "context": {"device": "tv"}}
        before = time.time()
        answer = (await it.world.post(**wish)).json()
        (row,) = await it.rows()
        assert before <= row["ts"].timestamp() <= time.time()
        assert row["draw_id"] == row["request_id"] == answer["request_id"]
        assert row["item_ids"] == [item["item_id"] for item in answer["items"]] == ["a0", "a1"]
        assert row["scores"] == [1.0, 1.0]
        assert row["propensities"] == [None, None], "nothing was left to chance"
        assert row["sources"] == [["popular"], ["popular"]]
        assert row["rules"] == [[], []]
        assert (row["call"], row["user_id"], row["surface"], row["consent"]) == ("recommend", "known", "email", True)
        assert (row["release"], row["variant"], row["rung"], row["degraded"]) == ("rel", "main", "full", [])
        assert row["context"]["device"] == "tv"
        assert row["age_s"] < 1
        assert {name for name, _ in row["timings"]} == {"user", "recall", "rank", "rerank", "total"}
        assert row["user_view"] == "v1"
        assert unpack_user(row["user_row"]).seen.tolist() == KNOWN.seen.tolist()
        assert [record.partition for record in it.bus.records] == [partition_of("known", PARTITIONS)]

    run(story)


def test_a_cached_slate_keeps_its_draw_and_carries_no_row_that_it_was_not_made_with() -> None:
    async def story() -> None:
        it = await Recorded().start()
        for i in range(3):
            await it.world.ask("POST", "/v1/recommendations", json={"user_id": "known"}, headers={"x-request-id": f"r{i}"})
        rows = await it.rows()
        assert [row["request_id"] for row in rows] == ["r0", "r1", "r2"]
        assert [row["draw_id"] for row in rows] == ["r0"] * 3
        assert [row["user_row"] is not None for row in rows] == [True, False, False]
        assert [row["user_view"] for row in rows] == ["v1", None, None]
        assert len({tuple(row["item_ids"]) for row in rows}) == 1

    run(story)


def test_a_stale_answer_is_the_draw_of_the_request_that_made_it() -> None:
    async def story() -> None:
        it = await Recorded().start()
        headers = {name: {"x-request-id": name} for name in ("first", "second", "third")}
        await it.world.ask("POST", "/v1/recommendations", json={"user_id": "known"}, headers=headers["first"])
        it.world.shift_s += 100  # stale
        await it.world.ask("POST", "/v1/recommendations", json={"user_id": "known"}, headers=headers["second"])
        while it.world.stages.calls["rerank"] < 2:
            await asyncio.sleep(0)
        first, second = await it.rows()
        assert (first["draw_id"], second["draw_id"]) == ("first", "first")
        assert second["user_row"] is None

    run(story)


def test_a_slate_from_another_replica_keeps_its_draw() -> None:
    async def story() -> None:
        it = await Recorded().start()
        it.world.share(age_s=5)
        await it.world.get()
        (row,) = await it.rows()
        assert row["draw_id"] == "other"
        assert row["item_ids"] == ["s1", "s2", "s3"]
        assert 4 < row["age_s"] < 20
        assert (row["user_row"], row["user_view"]) == (None, None)

    run(story)


@pytest.mark.parametrize(
    ("trouble", "rung", "reason"),
    [
        ({"rank": "raise"}, "recall_order", "ranker_unavailable"),
        ({"recall": "raise"}, "popular", "recall_unavailable"),
        ({"rerank": "raise"}, "popular", "rerank_unavailable"),
    ],
)
def test_every_rung_is_recorded(trouble: dict[str, str], rung: str, reason: str) -> None:
    async def story() -> None:
        it = await Recorded().start()
        it.world.stages.trouble = trouble
        await it.world.get()
        (row,) = await it.rows()
        assert (row["rung"], row["degraded"]) == (rung, [reason])
        assert row["draw_id"] == row["request_id"]
        assert (row["user_row"] is None) == (rung == "popular")

    run(story)


def test_the_lower_rungs_that_were_made_before_are_recorded_as_drawn_then() -> None:
    async def story() -> None:
        it = await Recorded().start()
        await it.world.remember()
        it.world.stages.trouble = {"recall": "raise"}
        await it.world.get()
        it.world.cache.purge()
        it.world.precompute("p1", "p3")
        await it.world.get()
        made, cached, precomputed = await it.rows()
        assert (cached["rung"], cached["draw_id"], cached["item_ids"]) == ("cached", made["request_id"], made["item_ids"])
        assert (precomputed["rung"], precomputed["draw_id"], precomputed["item_ids"]) == ("precomputed", "", ["p1", "p3"])
        assert precomputed["age_s"] > 50

    run(story)


def test_similar_items_and_rank_are_recorded_and_problems_are_not() -> None:
    async def story() -> None:
        it = await Recorded(popular=False).start()
        await it.world.post("/v1/similar-items", item_id="a", k=2)
        await it.world.post("/v1/rank", user_id="known", items=[{"item_id": "x"}, {"item_id": "y"}])
        await it.world.ask("GET", "/v1/recommendations/known")
        await it.world.ask("HEAD", "/v1/recommendations/known")
        it.world.stages.trouble = {"recall": "raise"}
        await it.world.post("/v1/rank", user_id="known", items=[{"item_id": "x"}, {"item_id": "y"}])
        assert (await it.world.post(user_id="other")).status_code == 503
        rows = await it.rows()
        calls = [(row["call"], row["user_id"], row["surface"], row["rung"]) for row in rows]
        assert calls == [
            ("similar_items", "", None, "full"),
            ("rank", "known", "home", "full"),
            ("recommend_user", "known", "home", "full"),
            ("rank", "known", "home", "caller_order"),
        ]
        assert [row["user_row"] is not None for row in rows] == [False, True, True, False]
        assert rows[3]["item_ids"] == ["x", "y"]
        assert rows[3]["scores"] == [None, None]

    run(story)


NO_CONSENT: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/recommendations", {"json": {"user_id": "known", "session": ["s"], "consent": False}}),
    ("GET", "/v1/recommendations/known?consent=false", {}),
    ("POST", "/v1/rank", {"json": {"user_id": "known", "session": ["s"], "items": [{"item_id": "a0"}], "consent": False}}),
]


@pytest.mark.parametrize(("method", "path", "more"), NO_CONSENT)
@pytest.mark.parametrize("trouble", [{}, {"recall": "raise"}])
def test_without_consent_the_slate_is_nobody_s_and_so_is_its_record(
    method: str, path: str, more: dict[str, Any], trouble: dict[str, str]
) -> None:
    async def story() -> None:
        it = await Recorded().start()
        it.world.stages.trouble = trouble
        read: list[str] = []
        sent: list[Any] = []
        user_and_slate, prepare = it.world.store.user_and_slate, it.world.stages.prepare

        async def reading(user_id: str, view: str, field: str) -> Any:
            read.append(user_id)
            return await user_and_slate(user_id, view, field)

        def preparing(request: Any) -> Any:
            sent.append(request)
            return prepare(request)

        it.world.store.user_and_slate, it.world.stages.prepare = reading, preparing  # type: ignore[method-assign]
        it.world.share(age_s=1)
        it.world.precompute("p1")
        for _ in range(2):
            answer = (await it.world.ask(method, path, **more)).json()
            assert answer["degraded"].count("no_consent") == 1
            assert "unknown_user" not in answer["degraded"]
        assert not [user_id for user_id in read if user_id]
        assert {(request.user_id, request.session, request.consent) for request in sent} == {("", (), False)}
        assert all(request.user is EMPTY_USER for request in sent)
        for row in await it.rows():
            assert (row["user_id"], row["consent"], row["user_row"], row["user_view"]) == ("", False, None, None)
            assert "no_consent" in row["degraded"]
        assert not [served for served in it.world.served if "known" in repr(served)]

    run(story)


def test_an_answer_without_consent_is_cached_for_all_who_give_none_and_for_nobody_else() -> None:
    async def story() -> None:
        it = await Recorded().start()
        await it.world.post(user_id="known", consent=False)
        await it.world.post(user_id="other", consent=False)
        assert it.world.stages.calls["recall"] == 1
        anonymous = (await it.world.post()).json()
        assert anonymous["degraded"] == ["unknown_user"]
        assert it.world.stages.calls["recall"] == 2
        assert (await it.world.get())["degraded"] == []

    run(story)


def test_a_slate_that_was_drawn_keeps_its_propensities_until_it_is_changed() -> None:
    from reco_ray.serve.caching.cache_key import cache_key
    from reco_ray.serve.http.contract import RecommendationsBody

    ones = np.ones(2, np.float32)
    drawn = Slate("r", ("a", "b"), ("", ""), ones, np.array([0.25, 1], np.float32), (("popular",), ("fresh", "explore")))
    made = finish(drawn, "rel", "main", "full", (), time.time())
    key = cache_key(RecommendationsBody(k=1), "rel", "main")
    cut = fit(made, key, set())
    assert cut is not None

    async def story() -> None:
        bus = Bus()
        exposures = Exposures(ExposuresConfig(), bus, PARTITIONS, Counts())
        for each in (made, mark(made, ["late"], "cached"), cut):
            exposures.note("recommend", Answer("x", each, "main"))
        await exposures.flush()
        assert [row["propensities"] for row in bus.rows()] == [[0.25, 1.0], [0.25, 1.0], [None]]
        assert [row["draw_id"] for row in bus.rows()] == ["r"] * 3
        assert bus.rows()[0]["rules"] == [[], ["explore"]]

    asyncio.run(story())


def test_only_the_decision_that_places_were_drawn_for_says_in_which_circumstances() -> None:
    async def story() -> None:
        it = await Recorded().start()
        ones = np.ones(2, np.float32)

        async def arrange(query: Request, found: list[int], scored: list[int]) -> Slate:
            drawn = np.array([1, 0.1], np.float32)
            return Slate(
                query.request_id, ("a", "b"), ("", ""), ones, drawn, (("popular",), ("fresh", "explore", "explore:fresh"))
            )

        it.world.stages.arrange = arrange  # type: ignore[method-assign]
        for session in (["s"], ["s"]):
            await it.world.post(user_id="known", k=2, session=session, context={"device": "mobile"})
        first, again = await it.rows()
        assert again["draw_id"] == first["request_id"], "from the cache"
        assert first["circumstances"][:5] == [1, 0, 1, 1, 1]
        assert again["circumstances"] is None
        assert first["rules"] == [[], ["explore", "explore:fresh"]]
        assert first["sources"] == [["popular"], ["fresh"]]

    run(story)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 40, 80), (1.0, 200, 200)])
def test_a_share_of_the_decisions_carries_the_row_and_always_the_same_ones(share: float, least: int, most: int) -> None:
    async def sampled() -> list[str]:
        it = await Recorded(share=share, buffer=1000, caches=False).start()
        for i in range(200):
            await it.world.ask("POST", "/v1/recommendations", json={"user_id": "known"}, headers={"x-request-id": f"r{i}"})
        return [row["request_id"] for row in await it.rows() if row["user_row"] is not None]

    first, second = asyncio.run(sampled()), asyncio.run(sampled())
    assert least <= len(first) <= most
    assert first == second


def test_while_the_bus_is_away_the_oldest_wait_and_what_overflows_is_counted() -> None:
    async def story() -> None:
        it = Recorded(buffer=5)
        it.bus.away = True
        for i in range(8):
            note(it.exposures, i)
        await it.exposures.flush()
        note(it.exposures, 8)
        await it.exposures.flush()
        assert (len(it.exposures), it.bus.records) == (5, [])
        it.bus.away = False
        await it.exposures.stop()
        assert [row["request_id"] for row in it.bus.rows()] == ["r0", "r1", "r2", "r3", "r4"]
        assert it.counts.totals == {"sent": 5, "overflow": 4, "failures": 2}
        assert it.counts.waiting == len(it.exposures) == 0

    asyncio.run(story())


def test_a_call_that_may_have_reached_the_bus_is_sent_again_as_it_was() -> None:
    async def story() -> None:
        it = Recorded()
        it.bus.away = True
        note(it.exposures, 0)
        await it.exposures.flush()
        note(it.exposures, 1)
        it.bus.away = False
        await it.exposures.flush()
        assert it.bus.calls == [1, 1, 1]
        assert [row["request_id"] for row in it.bus.rows()] == ["r0", "r1"]

    asyncio.run(story())


def test_a_replica_that_stops_in_the_middle_of_a_call_writes_what_waits() -> None:
    async def story() -> None:
        it = Recorded(interval_s=0.01)
        it.bus.hangs = asyncio.Event()
        for i in range(3):
            note(it.exposures, i)
        task = asyncio.create_task(it.exposures.run())
        while not it.bus.calls:
            await asyncio.sleep(0)
        note(it.exposures, 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        it.bus.hangs = None
        await it.exposures.stop()
        assert [row["request_id"] for row in it.bus.rows()] == ["r0", "r1", "r2", "r3"]

    asyncio.run(story())


def test_what_a_replica_cannot_write_before_it_ends_is_counted_as_lost() -> None:
    async def story() -> None:
        it = Recorded()
        it.bus.away = True
        for i in range(3):
            note(it.exposures, i)
        await it.exposures.stop()
        assert it.counts.totals == {"sent": 0, "stopped": 3, "failures": 1}
        assert it.counts.waiting == len(it.exposures) == 0

    asyncio.run(story())


def test_whatever_goes_wrong_on_the_bus_is_counted_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        it = Recorded(interval_s=0.01)
        append, errors = it.bus.append, [RuntimeError("strange")]

        async def strange(topic: str, records: Sequence[Outgoing]) -> None:
            if errors:
                raise errors.pop()
            await append(topic, records)

        it.bus.append = strange  # type: ignore[method-assign]
        note(it.exposures, 0)
        task = asyncio.create_task(it.exposures.run())
        while not it.bus.records:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await it.exposures.stop()
        assert it.counts.totals["failures"] == 1
        assert [row["request_id"] for row in it.bus.rows()] == ["r0"]

    asyncio.run(story())
    assert "trying again" in caplog.text


def test_what_waits_is_written_in_the_background_in_bounded_calls(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        it = Recorded(buffer=2000, interval_s=0.01)
        for i in range(1201):
            note(it.exposures, i)
        task = asyncio.create_task(it.exposures.run())
        while len(it.bus.records) < 1201:
            await asyncio.sleep(0)
        note(it.exposures, 1201)
        while len(it.bus.records) < 1202:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert it.bus.calls == [500, 500, 201, 1]

    asyncio.run(story())
    assert not caplog.records


def test_a_record_that_cannot_be_written_holds_up_no_other_and_the_log_names_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        it = Recorded()
        note(it.exposures, 0)
        broken = finish(slate("r1", ["a"], []), "rel", "main", "full", (), time.time())
        it.exposures.note("recommend", Answer("r1", broken, "main", asked=Asked("somebody\ud800")))
        note(it.exposures, 2)
        await it.exposures.stop()
        assert [row["request_id"] for row in it.bus.rows()] == ["r0", "r2"]
        assert it.counts.totals["unwritable"] == 1

    asyncio.run(story())
    assert "the record of a decision cannot be written" in caplog.text
    assert "somebody" not in caplog.text


def test_the_records_of_nobody_are_spread_over_the_partitions() -> None:
    async def story() -> None:
        it = await Recorded(buffer=200).start()
        for _ in range(40):
            await it.world.post()
        await it.exposures.flush()
        assert {record.partition for record in it.bus.records} == set(range(PARTITIONS))

    run(story)
