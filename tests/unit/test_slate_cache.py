"""The slate cache: what is fresh, stale and gone, one computation however many ask, and what may stand in for what."""

import asyncio
import contextvars
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import CacheConfig
from reco_ray.errors import ConfigError
from reco_ray.hashing import user_digest
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.cache_key import SlateKey, cache_key
from reco_ray.serve.caching.finished import precomputed_of
from reco_ray.serve.caching.refresh import Refresher
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.caching.writeback import Writeback
from reco_ray.serve.http.answers import Answer, finish
from reco_ray.serve.http.contract import RecommendationsBody
from reco_ray.store import FinishedSlate, Item, LiveItem
from reco_ray.types import Slate

CONFIG = CacheConfig(ttl_s=60, jitter=0.1, stale_s=240, fallback_s=3600)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Maker:
    """Makes slates of the items it is given, and counts; waits for ``gate`` when there is one."""

    def __init__(self, clock: Clock, ids: list[str], degraded: tuple[str, ...] = (), release: str = "r1") -> None:
        self.clock, self.ids, self.degraded, self.release = clock, ids, degraded, release
        self.calls, self.gate = 0, asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self) -> FinishedSlate:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return finished(self.ids, self.clock.now, self.degraded, self.release)


def finished(
    ids: list[str], made: float, degraded: tuple[str, ...] = (), release: str = "r1", *, explain: bool = False
) -> FinishedSlate:
    n = len(ids)
    scores, ones = np.linspace(1, 0.1, n).astype(np.float32), np.ones(n, np.float32)
    slate = Slate("", tuple(ids), tuple(i.title() for i in ids), scores, ones, (("popular",),) * n, degraded)
    return finish(slate, release, "main", "full", (), made, explain=explain)


def key(release: str = "r1", rules: str = "1", **body: Any) -> SlateKey:
    return cache_key(RecommendationsBody(**{"user_id": "u", "k": 3, **body}), release, rules)


def items_of(slate: FinishedSlate) -> list[str]:
    return [item["item_id"] for item in json.loads(b"{" + slate.tail)["items"]]


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await story()

    asyncio.run(bounded())


ABC = ["a", "b", "c"]


def test_a_slate_is_made_anew_where_rules_may_judge_an_item_otherwise() -> None:
    async def story() -> None:
        withdrawn, made = Withdrawn(), list[float]()
        cache = SlateCache(CONFIG, clock=lambda: 100.0, withdrawn=withdrawn)

        async def make() -> FinishedSlate:
            made.append(90.0 + 10 * len(made))
            return finished(ABC, made[-1])

        withdrawn.rule_out((), narrows=True)
        for _ in range(2):
            assert (await cache.answer(key(), make, 1.0)).slate.made == 90.0
        withdrawn.follow([LiveItem("b", 1, 0, 91.0, Item("B", price=3.0))])
        for _ in range(2):
            assert (await cache.answer(key(), make, 1.0)).slate.made == 100.0

    run(story)


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": "v"},
        {"k": 4},
        {"surface": "email"},
        {"context": {"device": "tv"}},
        {"context": {"locale": "tv"}},
        {"context": {"surface": "tv"}},
        {"context": {"location": "DE"}},
        {"session": ("a",)},
        {"exclude": ("a",)},
        {"filters": {"category": ("a",)}},
        {"filters": {"year": ("1999",)}},
        {"explain": True},
        {"release": "r2"},
        {"rules": "2"},
    ],
)
def test_whatever_may_change_the_answer_is_in_the_key(other: dict[str, Any]) -> None:
    assert key(**other).name != key().name
    assert (key(**other).field != key().field) == (other.keys() != {"user_id"})


def test_what_cannot_change_the_answer_is_not_in_the_key() -> None:
    one = key(exclude=("a", "b"), filters={"category": ("x", "y"), "year": ("1",)})
    other = key(exclude=("b", "a"), filters={"year": ("1",), "category": ("y", "x")})
    assert one.name == other.name
    one, other, nowhere = (key(context={"location": place}) for place in ("48.137,11.575", "48.141,11.582", "Main Street 5"))
    assert one.name == other.name, "a location counts as far as it is coarse"
    assert nowhere.name == key().name
    assert key(session=("a", "b")).name != key(session=("b", "a")).name


words = st.lists(st.sampled_from(["a", "b", "ab", "a|b", ""]), max_size=3).map(tuple)


@given(words, words, words, words)
def test_session_and_exclusions_cannot_be_taken_for_each_other(a: Any, b: Any, c: Any, d: Any) -> None:
    def of(session: tuple[str, ...], exclude: tuple[str, ...]) -> SlateKey:
        return cache_key(RecommendationsBody.model_construct(session=session, exclude=exclude), "r", "1")

    assert (of(a, b).name == of(c, d).name) == (a == c and sorted(b) == sorted(d))


def test_an_answer_goes_out_again_with_another_request_id_and_its_age() -> None:
    slate = finished(["a"], 5.0)
    first, again = (json.loads(Answer(name, slate, "main").body(7.25)) for name in ("first", 'sec"ond'))
    assert again == {**first, "request_id": 'sec"ond'}
    assert first["age_s"] == 2.25


def test_fresh_then_stale_with_one_refresh_then_a_miss() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make, k = SlateCache(CONFIG, clock=clock), Maker(clock, ABC), key()
        assert (await cache.answer(k, make, 1)).how == "made"
        clock.now += 50
        assert (await cache.answer(k, make, 1)).how == "fresh"
        clock.now += 20
        make.gate.clear()
        make.ids = ["d"]
        for _ in range(3):
            found = await cache.answer(k, make, 1)
            assert (found.how, items_of(found.slate)) == ("stale", ABC)
        await asyncio.sleep(0)
        assert make.calls == 2
        make.gate.set()
        await asyncio.sleep(0.01)
        found = await cache.answer(k, make, 1)
        assert (found.how, items_of(found.slate)) == ("fresh", ["d"])
        clock.now += 310
        assert (await cache.answer(k, make, 1)).how == "made"
        assert (cache.stats.misses, cache.stats.fresh, cache.stats.stale, make.calls) == (2, 2, 3, 3)

    run(story)


def test_a_refresh_that_fails_leaves_the_stale_answer() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make, k = SlateCache(CONFIG, clock=clock), Maker(clock, ABC), key()
        await cache.answer(k, make, 1)
        clock.now += 100
        make.error = RuntimeError("down")
        for n in (1, 2):
            assert (await cache.answer(k, make, 1)).how == "stale"
            await asyncio.sleep(0.01)
            assert cache.stats.refresh_failed == n

    run(story)


def test_refreshes_at_one_time_are_bounded() -> None:
    async def story() -> None:
        clock = Clock()
        cache = SlateCache(CacheConfig(ttl_s=60, max_refreshes=2), clock=clock)
        make, keys = Maker(clock, ABC), [key(user_id=f"u{i}") for i in range(5)]
        for k in keys:
            cache.put(k, finished(ABC, clock.now))
        clock.now += 100
        make.gate.clear()
        assert {(await cache.answer(k, make, 1)).how for k in keys} == {"stale"}
        await asyncio.sleep(0)
        assert make.calls == 2
        make.gate.set()
        await asyncio.sleep(0.01)
        assert (await cache.answer(keys[4], make, 1)).how == "stale"
        await asyncio.sleep(0.01)
        assert make.calls == 3

    run(story)


def test_what_was_written_together_does_not_end_together() -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    made, keys = clock.now, [key(user_id=f"u{i}") for i in range(300)]

    def ends(k: SlateKey) -> int:
        for second in range(53, 68):
            clock.now = made + second
            if not cache.fresh(k, made):
                return second
        raise AssertionError("never ends")

    found = [ends(k) for k in keys]
    assert found == [ends(k) for k in keys]
    assert min(found) >= 54
    assert max(found) <= 67
    assert len(set(found)) >= 10


def test_concurrent_misses_are_one_computation() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CONFIG, clock=clock), Maker(clock, ABC)
        make.gate.clear()
        asked = [asyncio.create_task(cache.answer(key(), make, 1)) for _ in range(50)]
        await asyncio.sleep(0)
        make.gate.set()
        found = await asyncio.gather(*asked)
        assert make.calls == 1
        assert [f.how for f in found].count("made") == 1
        assert (cache.stats.misses, cache.stats.joined) == (1, 49)

    run(story)


def test_a_cancelled_leader_does_not_take_the_others_along() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CONFIG, clock=clock), Maker(clock, ABC)
        make.gate.clear()
        leader, follower = (asyncio.create_task(cache.answer(key(), make, 1)) for _ in range(2))
        await asyncio.sleep(0.01)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        make.gate.set()
        assert items_of((await follower).slate) == ABC
        assert make.calls == 1

    run(story)


def test_when_all_have_left_the_answer_is_kept_for_who_asks_next() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CONFIG, clock=clock), Maker(clock, ABC)
        make.gate.clear()
        with pytest.raises(TimeoutError, match="was not made within"):
            await cache.answer(key(), make, 0.01)
        make.gate.set()
        await asyncio.sleep(0.01)
        assert (await cache.answer(key(), make, 1)).how == "fresh"

    run(story)


def test_what_is_shared_does_not_run_in_the_context_of_who_asked_first() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="nobody's")

    async def story() -> None:
        clock = Clock()
        seen: list[str] = []

        async def make() -> FinishedSlate:
            seen.append(var.get())
            return finished(ABC, clock.now)

        var.set("the first one's")
        await SlateCache(CONFIG, clock=clock).answer(key(), make, 1)
        assert seen == ["nobody's"]

    run(story)


def test_each_who_waits_has_a_deadline_of_its_own() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CONFIG, clock=clock), Maker(clock, ABC)
        make.gate.clear()
        patient = asyncio.create_task(cache.answer(key(), make, 5))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await cache.answer(key(), make, 0.01)
        with pytest.raises(TimeoutError):
            await cache.answer(key(), make, -1)
        make.gate.set()
        assert (await patient).how == "made"

    run(story)


def test_those_in_a_hurry_share_among_themselves_and_a_purge_reaches_them_too() -> None:
    async def story() -> None:
        clock = Clock()
        cache, hasty, patient = SlateCache(CONFIG, clock=clock), Maker(clock, ["h"]), Maker(clock, ABC)
        hasty.gate.clear()
        asked = [asyncio.create_task(cache.answer(key(), hasty, 1, hasty=True)) for _ in range(3)]
        await asyncio.sleep(0)
        cache.purge_user(user_digest("u"))
        assert items_of((await cache.answer(key(), patient, 1)).slate) == ABC
        hasty.gate.set()
        assert {tuple(items_of(found.slate)) for found in await asyncio.gather(*asked)} == {("h",)}
        assert (hasty.calls, patient.calls) == (1, 1)
        assert items_of((await cache.answer(key(), hasty, 1, hasty=True)).slate) == ABC, "what was purged was not kept"

    run(story)


def test_an_error_goes_to_all_who_wait_and_is_not_kept() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CONFIG, clock=clock), Maker(clock, ABC)
        make.error = RuntimeError("recall is down")
        found = await asyncio.gather(*(cache.answer(key(), make, 1) for _ in range(3)), return_exceptions=True)
        assert [str(f) for f in found] == ["recall is down"] * 3
        make.error = None
        assert (await cache.answer(key(), make, 1)).how == "made"
        assert make.calls == 2

    run(story)


@pytest.mark.parametrize(
    ("degraded", "kept"),
    [((), 1), (("unknown_user",), 1), (("unknown_user", "short_slate"), 1), (("unknown_user", "store_unavailable"), 0)],
)
def test_what_a_failure_made_less_than_full_is_answered_but_not_kept(degraded: tuple[str, ...], kept: int) -> None:
    async def story() -> None:
        clock = Clock()
        told: list[FinishedSlate] = []
        cache = SlateCache(CONFIG, lambda _, slate: told.append(slate), clock)
        found = await cache.answer(key(), Maker(clock, ABC, degraded), 1)
        assert found.slate.degraded == degraded
        assert (len(cache), len(told)) == (kept, kept)

    run(story)


def test_a_purge_also_reaches_what_is_being_made() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CONFIG, clock=clock), Maker(clock, ABC)
        make.gate.clear()
        asked = asyncio.create_task(cache.answer(key(), make, 1))
        await asyncio.sleep(0.01)
        cache.purge_user(user_digest("u"))
        after = asyncio.create_task(cache.answer(key(), make, 1))
        await asyncio.sleep(0.01)
        assert make.calls == 2, "who asks after the purge joins nothing from before it"
        make.gate.set()
        assert (await asked).how == (await after).how == "made"
        assert len(cache) == 1
        cache.purge_release("r1")
        assert (len(cache), cache.bytes) == (0, 0)

    run(story)


def test_purges_take_a_user_or_a_release_and_leave_the_rest() -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    for user in ("u", "v"):
        for release in ("r1", "r2"):
            cache.put(key(release, user_id=user), finished(ABC, clock.now, release=release))
    cache.purge_user(user_digest("u"))
    assert len(cache) == 2
    cache.purge_release("r2")
    assert len(cache) == 1
    assert cache.fallback(key(user_id="v"), ["late"]) is not None
    cache.purge()
    assert (len(cache), cache.bytes, cache.stats.purged) == (0, 0, 4)


steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 40), st.booleans()), max_size=60)


@given(steps)
def test_it_stays_within_its_bounds_and_counts_its_bytes(found: list[tuple[int, int, int, bool]]) -> None:
    clock = Clock()
    cache = SlateCache(CacheConfig(max_entries=4, max_mb=1), clock=clock)
    for user, release, n, purge in found:
        k = key(f"r{release}", user_id=f"u{user}")
        cache.put(k, finished([f"i{j}" for j in range(n)], clock.now))
        assert cache.fallback(k, []) is not None, "what was put last is there"
        assert len(cache) <= 4
        assert cache.bytes > 0
        if purge:
            cache.purge_user(k.user)
    cache.purge()
    assert (cache.bytes, cache._by_user) == (0, {})


def test_the_least_used_leave_first_by_number_and_by_bytes() -> None:
    async def story() -> None:
        clock = Clock()
        cache, make = SlateCache(CacheConfig(max_entries=2), clock=clock), Maker(clock, ABC)
        one, two, three = (key(user_id=u) for u in "abc")
        await cache.answer(one, make, 1)
        await cache.answer(two, make, 1)
        await cache.answer(one, make, 1)
        await cache.answer(three, make, 1)
        assert [(await cache.answer(k, make, 1)).how for k in (one, three, two)] == ["fresh", "fresh", "made"]
        small = SlateCache(CacheConfig(max_mb=1), clock=clock)
        for i in range(5):
            small.put(key(user_id=f"u{i}"), FinishedSlate(b"x" * 300_000, "", "r1", clock.now))
        small.put(key(user_id="huge"), FinishedSlate(b"x" * 2**21, "", "r1", clock.now))
        assert (len(small), small.stats.evicted) == (3, 2)

    run(story)


def test_the_fallback_is_the_same_answer_at_any_age_and_says_so() -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    full = finished(ABC, clock.now)
    cache.put(key(), full)
    clock.now += 3599
    found = cache.fallback(key(), ("recall_unavailable",))
    assert found is not None
    assert found.degraded == ("recall_unavailable",)
    fields = json.loads(b"{" + found.tail)
    assert (fields["degraded"], fields["rung"]) == (["recall_unavailable"], "cached")
    assert items_of(found) == ABC
    assert found.etag != full.etag
    clock.now += 2
    assert cache.fallback(key(), ["late"]) is None


@pytest.mark.parametrize(
    "other",
    [{"k": 4}, {"surface": "email"}, {"user_id": "v"}, {"filters": {"category": ("x",)}}, {"explain": True}],
)
def test_no_answer_stands_in_for_one_it_cannot_be(other: dict[str, Any]) -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    cache.put(key(), finished(ABC, clock.now))
    assert cache.fallback(key(**other), ["late"]) is None
    assert cache.fallback(key("r2", context={"device": "tv"}), ["late"]) is not None


def test_a_longer_answer_of_another_release_is_cut_and_loses_what_is_excluded() -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    cache.put(key(k=5, explain=True), finished(["a", "b", "c", "d", "e"], clock.now, explain=True))
    found = cache.fallback(key("r2", k=2, exclude=("a",), session=("c",)), ["late"])
    assert found is not None
    assert found.release == "r1"
    items = json.loads(b"{" + found.tail)["items"]
    assert [(item["item_id"], item["position"], "propensity" in item) for item in items] == [("b", 1, False), ("d", 2, False)]


def test_one_that_fills_k_is_preferred_to_a_newer_one_that_does_not() -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    cache.put(key(k=5), finished(["a", "b", "c", "d", "e"], clock.now))
    cache.put(key(), finished(ABC, clock.now))
    found = cache.fallback(key(exclude=("a",)), ["late"])
    assert found is not None
    assert items_of(found) == ["b", "c", "d"]
    short = cache.fallback(key(exclude=("a", "b", "c", "d")), ["late"])
    assert short is not None
    assert (items_of(short), short.degraded) == (["e"], ("late", "short_slate"))


def test_what_was_made_for_one_visitor_without_an_id_is_nothing_for_another() -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    cache.put(key(user_id="", session=("x",)), finished(ABC, clock.now))
    assert cache.fallback(key(user_id=""), ["late"]) is None
    assert cache.fallback(key(user_id="", session=("x",)), ["late"]) is not None


ids = st.lists(st.sampled_from([f"i{n}" for n in range(8)]), max_size=8, unique=True)


@given(ids, ids, ids, st.integers(1, 8), st.integers(1, 8))
def test_a_fallback_never_shows_what_must_not_come_back(
    made: list[str], exclude: list[str], session: list[str], k: int, asked: int
) -> None:
    clock = Clock()
    cache = SlateCache(CONFIG, clock=clock)
    cache.put(key(k=k), finished(made[:k], clock.now))
    found = cache.fallback(key(k=asked, exclude=tuple(exclude), session=tuple(session)), ["late"])
    left = [i for i in made[:k] if i not in {*exclude, *session}][:asked]
    if found is None:
        assert asked > k or not left
    elif exclude or session or asked != k:
        assert items_of(found) == left
        assert (found.degraded[0], found.rung) == ("late", "cached")


def test_a_configuration_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fallback_s: found 100.*expected at least"):
        CacheConfig(ttl_s=60, stale_s=240, fallback_s=100)


def test_a_full_answer_replaces_the_precomputed_slate_once_in_a_time() -> None:
    clock = Clock()
    refresher = Refresher(100, min_k=3, clock=clock)
    full = finished(ABC, clock.now)
    assert refresher.due(key(), full)
    clock.now += 99
    assert not refresher.due(key("r2"), full)
    clock.now += 1
    assert refresher.due(key(session=("x",)), full)
    refresher.forget(user_digest("u"))
    assert refresher.due(key(), full)


@pytest.mark.parametrize(
    "body", [{"k": 2}, {"user_id": ""}, {"exclude": ("x",)}, {"filters": {"year": ("1999",)}}, {"degraded": ("unknown_user",)}]
)
def test_an_answer_that_is_not_the_users_whole_list_replaces_nothing(body: dict[str, Any]) -> None:
    degraded = body.pop("degraded", ())
    assert not Refresher(100, min_k=3).due(key(**body), finished(ABC, 1.0, degraded))


def test_replacing_is_bounded_in_writes_and_in_memory() -> None:
    clock = Clock()
    refresher = Refresher(1e6, min_k=3, writes_per_s=10, max_users=15, clock=clock)
    full, users = finished(ABC, clock.now), [f"u{i}" for i in range(40)]
    assert sum(refresher.due(key(user_id=u), full) for u in users) == 10
    clock.now += 0.5
    assert sum(refresher.due(key(user_id=u), full) for u in users) == 5, "who had to wait comes next"
    clock.now += 60
    assert sum(refresher.due(key(user_id=u), full) for u in users) == 10
    assert len(refresher) == 15


def test_an_answer_becomes_a_precomputed_slate() -> None:
    found = precomputed_of(finished(ABC, 5.0, release="r9"))
    assert (found.made, found.release, found.item_ids, found.titles) == (5.0, "r9", ("a", "b", "c"), ("A", "B", "C"))
    assert found.reasons == (("popular",),) * 3
    assert found.scores[0] == pytest.approx(1.0)


def test_writes_are_gathered_and_what_the_store_does_not_take_is_dropped() -> None:
    async def story() -> None:
        calls: list[tuple[int, int]] = []

        async def write(slates: Any, precomputed: Any, served: Any) -> int:
            calls.append((len(slates), len(precomputed)))
            if len(calls) == 2:
                raise ConnectionError("away")
            return len(slates) + len(precomputed)

        back = Writeback(write, pause_s=0.01, most=3)
        running = asyncio.create_task(back.run())
        for user in ("u", "u", "v"):
            back.slate(user, "f", finished(ABC, 1.0))
        back.precomputed("u", precomputed_of(finished(ABC, 1.0)))
        back.slate("w", "f", finished(ABC, 1.0))
        await asyncio.sleep(0.05)
        assert (calls, back.written, back.dropped) == ([(2, 1)], 3, 1)
        back.slate("u", "f", finished(ABC, 1.0))
        await asyncio.sleep(0.05)
        assert (back.written, back.dropped) == (3, 2)
        running.cancel()

    run(story)
