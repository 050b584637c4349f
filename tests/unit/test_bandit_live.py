"""The bandit from end to end over HTTP: slates draw, clicks come back, the stream learns, and the next slates follow."""

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from event_fakes import EventCounts
from item_fakes import ItemCounts
from ports import free_port
from test_ladder import Metrics

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import ExploreConfig, ExploreKind, PipelineConfig, RerankConfig
from reco_ray.events.bus import EXPOSURES
from reco_ray.events.open import open_reader
from reco_ray.rerank import Rerank, build
from reco_ray.rerank.bandit import Evidence, drawn_source
from reco_ray.serve.args import GatewayArgs
from reco_ray.serve.assembly import GatewayParts
from reco_ray.serve.path.bandit import LearningFollower
from reco_ray.serve.path.fleet import Connected
from reco_ray.serve.path.stages import InProcess
from reco_ray.slate import Pipeline, PopularList
from reco_ray.store import BanditStore, OnlineStore
from reco_ray.streaming.bandit import open_bandit

SLATES = 60
EXPLORE = ExploreConfig(kind=ExploreKind.linucb, rate=0.6, epsilon=0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, str]]:
    config = compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={free_port()}", "store.namespace=bandit"])
    with embedded_store(config) as url:
        yield config, url


class Drawn:
    """Counts as `monitoring.metrics.serving.ExploreMetrics` does."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()

    def drawn(self, places: Mapping[str, int]) -> None:
        self.places.update(places)


@asynccontextmanager
async def gateway(url: str, folder: Path, pipeline: Pipeline, popular: PopularList) -> AsyncIterator[httpx.AsyncClient]:
    """A whole gateway replica over a real store and bus, behind a socket."""

    async def connect(release_id: str) -> Connected:
        return InProcess(pipeline), popular

    args = GatewayArgs(root=str(folder), store_url=url, namespace="bandit", store_timeout_ms=2000, deadline_ms=10_000)
    parts = GatewayParts(args, Metrics(), lambda left: connect, dict, "one", folder, EventCounts(), ItemCounts())
    await parts.start()
    server = uvicorn.Server(uvicorn.Config(parts.http, port=0, log_config=None, access_log=False, ws="none", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as calls:
            yield calls
    finally:
        server.should_exit = True
        await task
        await parts.stop()


async def slates(calls: httpx.AsyncClient, name: str) -> list[dict[str, Any]]:
    answers = []
    for number in range(SLATES):
        body = {"user_id": f"{name}{number}", "k": 5, "explain": True, "context": {"device": "mobile"}}
        response = await calls.post("/v1/recommendations", json=body, headers={"x-request-id": f"{name}-{number}"})
        answers.append(response.raise_for_status().json())
    return answers


def sources_of(answers: list[dict[str, Any]]) -> Counter[str]:
    found = Counter(drawn_source(item["reasons"]) for answer in answers for item in answer["items"])
    del found[""]
    return found


def test_clicks_on_what_a_source_brought_move_the_next_slates_to_it(
    world: tuple[PipelineConfig, str], tmp_path: Path, folder: Path
) -> None:
    config, url = world
    release = tmp_path / "rel"
    shutil.copytree(folder, release)
    build(release, RerankConfig(seen_items_return=True, explore=EXPLORE))
    pipeline = Pipeline.load(release)
    stage = pipeline.rerank
    assert isinstance(stage, Rerank)

    async def story(store: OnlineStore, stack: contextlib.ExitStack) -> None:
        bandit, counts = BanditStore(store), Drawn()
        follower = LearningFollower(bandit, stage, counts)
        follower.look()
        streams = [stack.enter_context(open_bandit(config, url, n)) for n in range(config.events.bus.partitions)]
        for stream in streams:
            stream.run_once()
            stream._clock = lambda: time.time() + 60  # events need not wait for decisions that may be on their way
        async with gateway(url, tmp_path, pipeline, PopularList.load(release, "rel")) as calls:
            before = await slates(calls, "before")
            drawn = sources_of(before)
            favourite = min(drawn, key=lambda name: drawn[name])
            places = 0
            while places < drawn.total():
                places += sum(stream.run_once().places for stream in streams)
                await asyncio.sleep(0.01)
            now = int(time.time() * 1e6)
            events = [
                {
                    "event_id": f"{answer['request_id']}-{item['item_id']}",
                    "type": "click",
                    "user_id": f"before{number}",
                    "item_id": item["item_id"],
                    "ts": now,
                    "request_id": answer["request_id"],
                }
                for number, answer in enumerate(before)
                for item in answer["items"]
                if drawn_source(item["reasons"]) == favourite
            ]
            for _ in range(2):  # the second time they are known
                sent = await calls.post("/v1/events", json={"events": events})
                assert sent.status_code == 200, sent.text
            rewards = sum(stream.run_once().rewards for stream in streams)
            assert (places, rewards) == (drawn.total(), drawn[favourite])
            evidence = sum(map(Evidence.unpack, bandit.read().parts), Evidence())
            for name, found in evidence.sums.items():  # of a constant: how many places, and how many of them were clicked
                assert found[0, 0] == pytest.approx(drawn[name], rel=1e-3)
                assert found[-1, 0] == pytest.approx(drawn[name] if name == favourite else 0, rel=1e-3)
            follower.look()
            assert counts.places == drawn
            after = sources_of(await slates(calls, "after"))
            assert drawn[favourite] / drawn.total() < 0.5 < 0.7 < after[favourite] / after.total()

    with OnlineStore(url, "bandit") as store, contextlib.ExitStack() as stack:
        store.set_traffic({"rel": 1.0}, {"rel": "v1"})
        asyncio.run(story(store, stack))
        kept = 0
        for partition in range(config.events.bus.partitions):
            reader = stack.enter_context(contextlib.closing(open_reader(config.events, "bandit", url, EXPOSURES, partition)))
            kept += sum(b'"circumstances":[1.0,' in record.value for record in reader.read(-1, 1_000, 0))
        assert kept > SLATES, "before and after"
