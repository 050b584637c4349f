"""One request through the stages: order, deadline, fallback, counts and timing; and what travels between them."""

import asyncio
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest

from reco_ray.errors import NotReadyError, SchemaError
from reco_ray.hashing import item_keys
from reco_ray.serve.guard.breaker import Breaker
from reco_ray.serve.path import wire
from reco_ray.serve.path.pipeline import Deadline, LoggingObserver, Run, StageFailed, run_stages
from reco_ray.serve.path.stages import InProcess, Remote
from reco_ray.slate import Pipeline
from reco_ray.types import EMPTY_USER, Candidates, Request, Slate, UserRow

REQUEST = Request(request_id="r1", user_id="u", k=2)


class Counted:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.failures: list[tuple[str, str]] = []

    def stage(self, release: str, stage: str, ms: float) -> None:
        self.stages.append(stage)

    def failed(self, release: str, stage: str, reason: str, error: BaseException | None) -> None:
        self.failures.append((stage, reason))


class Stages:
    """Stages that fail or hang on demand; candidates are a list of names, scores their order."""

    def __init__(self, **trouble: str) -> None:
        self._trouble = trouble

    def prepare(self, request: Request) -> Request:
        return request

    async def recall(self, query: Request) -> list[str]:
        await self._maybe("recall")
        return ["a", "b"]

    async def score(self, query: Request, found: list[str]) -> list[float]:
        await self._maybe("rank")
        return [0.0, 1.0]

    async def arrange(self, query: Request, found: list[str], scored: list[float]) -> Slate:
        await self._maybe("rerank")
        items = tuple(item for _, item in sorted(zip(scored, found, strict=True), reverse=True))
        ones = np.ones(len(items), np.float32)
        return Slate(query.request_id, items, items, ones, ones, tuple(("x",) for _ in items))

    def recall_order(self, found: list[str]) -> list[float]:
        return [-float(i) for i in range(len(found))]

    async def _maybe(self, stage: str) -> None:
        match self._trouble.get(stage):
            case "raise":
                raise RuntimeError(f"{stage} is broken")
            case "hang":
                await asyncio.sleep(60)


def test_the_stages_run_in_order_and_are_timed() -> None:
    counted = Counted()
    outcome = asyncio.run(run_stages(Stages(), REQUEST, run := Run("r", Deadline(1.0), counted)))
    assert outcome.slate.item_ids == ("b", "a")
    assert outcome.degraded == []
    assert list(run.timings) == counted.stages == ["recall", "rank", "rerank"]
    assert counted.failures == []


@pytest.mark.parametrize(("trouble", "reason"), [("raise", "failed"), ("hang", "late")])
def test_without_its_ranker_a_slate_keeps_recalls_order_and_says_so(trouble: str, reason: str) -> None:
    counted = Counted()
    outcome = asyncio.run(run_stages(Stages(rank=trouble), REQUEST, Run("r", Deadline(0.1), counted)))
    assert outcome.slate.item_ids == ("a", "b")
    assert outcome.degraded == ["ranker_unavailable"]
    assert counted.failures == [("rank", reason)]


@pytest.mark.parametrize("stage", ["recall", "rerank"])
@pytest.mark.parametrize(("trouble", "reason"), [("raise", "failed"), ("hang", "late")])
def test_recall_and_rerank_have_no_substitute(stage: str, trouble: str, reason: str) -> None:
    with pytest.raises(StageFailed, match=f"{stage} {reason}"):
        asyncio.run(run_stages(Stages(**{stage: trouble}), REQUEST, Run("r", Deadline(0.1), Counted())))


def test_a_hanging_ranker_leaves_rerank_its_share_of_the_deadline() -> None:
    deadline = Deadline(1.0)
    asyncio.run(run_stages(Stages(rank="hang"), REQUEST, Run("r", deadline, Counted())))
    assert 765 <= deadline.elapsed_ms() < 1000


def test_a_hanging_ranker_is_not_blamed_on_rerank_which_has_no_time_left_after_it() -> None:
    clock = 0.0
    breakers = {stage: Breaker(clock=lambda: clock) for stage in ("rank", "rerank")}
    stages = Stages(rank="hang", rerank="hang")
    for _ in range(5):
        clock += 0.1
        with pytest.raises(StageFailed, match="rerank late"):
            asyncio.run(run_stages(stages, REQUEST, Run("r", Deadline(0.05), Counted(), breakers)))
    assert breakers["rank"].open
    assert not breakers["rerank"].open


def test_being_cancelled_is_not_a_failure_of_a_stage() -> None:
    counted = Counted()

    async def check() -> None:
        task = asyncio.create_task(run_stages(Stages(rank="hang"), REQUEST, Run("r", Deadline(5.0), counted)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(check())
    assert counted.failures == []


def test_failures_are_logged_once_a_second_per_stage_without_the_user(caplog: pytest.LogCaptureFixture) -> None:
    observer = LoggingObserver(counted := Counted())
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            observer.failed("r", "rank", "late", TimeoutError("too late"))
        observer.failed("r", "user", "failed", OSError("gone"))
    assert len(caplog.records) == 2
    assert len(counted.failures) == 51


def user() -> UserRow:
    keys = item_keys(["a", "b"])
    had = np.arange(6, dtype=np.uint16).reshape(2, 3)
    return UserRow(keys, np.ones(2, np.float32), np.sort(keys), np.arange(3, dtype=np.float32), 17, had=had)


def candidates(n: int = 3) -> Candidates:
    return Candidates(
        item_idx=np.arange(n, dtype=np.int32),
        scores=np.linspace(1, 0, n, dtype=np.float32),
        sources=np.full(n, 5, np.uint16),
        source_ranks=np.arange(2 * n, dtype=np.int16).reshape(n, 2),
        source_scores=np.full((n, 2), np.nan, np.float32),
        missing=("covisit",) if n else (),
    )


@pytest.mark.parametrize("row", [EMPTY_USER, user()])
def test_a_request_survives_the_wire(row: UserRow) -> None:
    sent = Request(
        "r", "ü", 3, "email", {"device": "tv"}, ("s",), {"category": ("a", "b")}, ("x",), False, row, "like-this", at_us=17
    )
    for each in (sent, replace(sent, interests=("Comedy", "ü"))):
        found = wire.unpack_request(wire.pack_request(each))
        names = "request_id user_id k surface context session filters exclude consent similar_to items query interests at_us"
        for name in names.split():
            assert getattr(found, name) == getattr(each, name)
    for name in ("history", "weights", "seen", "features", "as_of", "had"):
        assert np.array_equal(getattr(found.user, name), getattr(row, name))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_candidates_survive_the_wire_and_their_scores_can_be_cut_out(n: int) -> None:
    sent = candidates(n)
    block = wire.pack_candidates(sent)
    found = wire.unpack_candidates(block)
    for name in ("item_idx", "scores", "sources", "source_ranks", "source_scores"):
        assert np.array_equal(getattr(found, name), getattr(sent, name), equal_nan=name == "source_scores")
        assert getattr(found, name).dtype == getattr(sent, name).dtype
    assert found.missing == sent.missing
    assert np.array_equal(wire.unpack_scores(wire.recall_scores(block)), sent.scores)
    assert wire.ranked_by(wire.recall_scores(block)) == ""


def test_a_slate_survives_the_wire() -> None:
    half = np.full(2, 0.5, np.float32)
    sent = Slate("r", ("a", "b"), ("A", ""), np.array([2, 1], np.float32), half, (("popular",), ()), ("unknown_user",), "rel")
    found = wire.unpack_slate(wire.pack_slate(sent))
    for name in ("request_id", "item_ids", "titles", "reasons", "degraded", "release"):
        assert getattr(found, name) == getattr(sent, name)
    assert found.scores.tolist() == [2, 1]
    assert found.propensities.tolist() == [0.5, 0.5]


class Toy:
    """All three stages: recalls three rows, scores them by the user's features, keeps the best k."""

    def recall(self, requests):  # type: ignore[no-untyped-def]
        return [candidates() for _ in requests]

    def ranker_of(self, request):  # type: ignore[no-untyped-def]
        return "heavy" if request.k == 2 else "light"

    def score(self, requests, found):  # type: ignore[no-untyped-def]
        return [request.user.features for request in requests]

    def arrange(self, requests, found, scores):  # type: ignore[no-untyped-def]
        slates = []
        for request, each, score in zip(requests, found, scores, strict=True):
            order = np.argsort(-score)[: request.k]
            ids = tuple(str(i) for i in each.item_idx[order])
            ones = np.ones(len(ids), np.float32)
            slates.append(Slate(request.request_id, ids, ids, score[order], ones, tuple(() for _ in ids)))
        return slates


def test_both_topologies_give_the_same_slates() -> None:
    toy = Toy()

    async def recall(requests: list[bytes], queued: int, waited_ms: float) -> list[bytes]:
        return [wire.pack_candidates(c) for c in toy.recall([wire.unpack_request(r) for r in requests])]

    async def score(requests: list[bytes], found: list[bytes], queued: int, waited_ms: float) -> list[bytes]:
        asked = [wire.unpack_request(r) for r in requests]
        return [wire.pack_scores(s, toy.ranker_of(r)) for r, s in zip(asked, toy.score(asked, found), strict=True)]

    async def arrange(
        requests: list[bytes], found: list[bytes], scores: list[bytes], queued: int, waited_ms: float
    ) -> list[bytes]:
        unpacked = [wire.unpack_request(r) for r in requests], [wire.unpack_candidates(c) for c in found]
        return [wire.pack_slate(s) for s in toy.arrange(*unpacked, [wire.unpack_scores(s) for s in scores])]

    async def check() -> None:
        staged, fused = Remote(recall, score, arrange), InProcess(Pipeline(toy, toy, toy))
        requests = [Request(f"r{i}", "u", 1 + i % 3, user=user()) for i in range(40)]
        calls = [run_stages(stages, r, Run("r", Deadline(5.0), Counted())) for stages in (staged, fused) for r in requests]
        found = [outcome.slate for outcome in await asyncio.gather(*calls)]
        assert [(s.item_ids, s.ranker) for s in found[:40]] == [(s.item_ids, s.ranker) for s in found[40:]]
        assert {(len(s.item_ids), s.ranker) for s in found} == {(1, "light"), (2, "heavy"), (3, "light")}
        assert [s.request_id for s in found[:40]] == [r.request_id for r in requests]
        fused.close()

    asyncio.run(check())


def test_a_stage_that_hangs_in_its_thread_leaves_the_loop_alone_and_is_found_by_the_health_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reco_ray.serve.path.stages._HANGS_S", 0.05)
    toy, go = Toy(), threading.Event()

    class Hanging(Toy):
        def score(self, requests, found):  # type: ignore[no-untyped-def]
            go.wait(10)
            return super().score(requests, found)

    async def check() -> None:
        stages = InProcess(Pipeline(toy, Hanging(), toy))
        stages.check_health()
        outcome = await run_stages(stages, REQUEST, Run("r", Deadline(1.0), Counted()))
        assert (outcome.degraded, outcome.slate.ranker) == (["ranker_unavailable"], "")
        with pytest.raises(NotReadyError, match="rank: found one batch at work"):
            stages.check_health()
        go.set()
        stages.close()

    asyncio.run(check())


def test_a_value_that_cannot_be_read_does_not_open_the_stores_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reco_ray.serve.guard.breaker._LASTING_S", 0.0)

    async def read() -> None:
        raise SchemaError("found 3 bytes")

    async def check() -> None:
        breaker = Breaker()
        for _ in range(50):
            with pytest.raises(StageFailed, match="user failed"):
                await Run("r", Deadline(1.0), Counted(), {"user": breaker}).within("user", read)
        assert not breaker.open

    asyncio.run(check())
