"""The gateway's side of an erasure over a real store: the wish, the fence, the receipt."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from privacy_world import GONE, config_of
from typer.testing import CliRunner

from reco_ray.cli import app
from reco_ray.cluster import embedded_store
from reco_ray.hashing import user_digest
from reco_ray.privacy.run import erase_users
from reco_ray.serve.http.problems import HttpProblem
from reco_ray.serve.privacy.erasures import ErasureCalls
from reco_ray.serve.privacy.following import FenceFollower
from reco_ray.store import ErasureStore, Fence, FenceStore, OnlineStore


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(config_of(tmp_path_factory.mktemp("server"), port=port)) as url:
        yield url


class Replica:
    """What one gateway replica has of privacy."""

    def __init__(self, url: str, namespace: str, name: str) -> None:
        self.store = OnlineStore(url, namespace)
        self.fence = FenceFollower(FenceStore(self.store, f"gateway:{name}").poll)
        self.calls = ErasureCalls(ErasureStore(self.store), self.fence)


def play(story: Callable[[Replica, Replica], Awaitable[None]], url: str, namespace: str) -> None:
    async def run() -> None:
        replicas = Replica(url, namespace, "a"), Replica(url, namespace, "b")
        try:
            await story(*replicas)
        finally:
            for each in replicas:
                await each.store.calls.aclose()
                each.store.blocking_calls.close()

    asyncio.run(run())


def test_the_fence_is_up_when_the_wish_is_answered_and_everywhere_a_poll_later(url: str) -> None:
    user = user_digest(GONE)

    async def story(one: Replica, other: Replica) -> None:
        await other.fence.refresh()
        receipt = await one.calls.erase(GONE)
        assert one.fence.hides(GONE)
        assert one.fence.drops(user, 1, 2)
        assert not one.fence.hides("user-1")
        assert not other.fence.hides(GONE)
        await other.fence.refresh()
        assert other.fence.hides(GONE)
        assert await other.calls.erase(GONE) == receipt
        assert await other.calls.receipt(receipt.receipt_id) == receipt
        readers = {each.name: each.version for each in FenceStore(one.store).readers()}
        assert set(readers) == {"gateway:a", "gateway:b"}
        await one.fence.refresh()
        await other.fence.refresh()
        version = FenceStore(one.store).read().version
        assert {each.version for each in FenceStore(one.store).readers()} == {version}

    play(story, url, "up")


def test_a_job_takes_up_what_was_wished_for_and_the_command_line_shows_it(url: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, url, 0, "store.namespace=job")
    (Path(config.root) / "lake").mkdir(parents=True)
    found: list[str] = []

    async def story(one: Replica, other: Replica) -> None:
        await other.fence.refresh()
        found.append((await one.calls.erase(GONE)).receipt_id)

        async def follow() -> None:
            while True:
                await one.fence.refresh()
                await other.fence.refresh()
                await asyncio.sleep(0.01)

        following = asyncio.create_task(follow())
        (receipt,) = await asyncio.to_thread(erase_users, config, url)
        following.cancel()
        assert receipt.receipt_id == found[0]
        assert receipt.places["fence"].looked_at == 2, "both replicas were waited for"
        await one.fence.refresh()
        assert not one.fence.hides(GONE)
        assert (await one.calls.receipt(found[0])).state == "done"

    play(story, url, "job")
    overrides = [f"root={config.root}", f"store.url={url}", "store.namespace=job"]
    listed = CliRunner().invoke(app, ["erasures", "list", *overrides])
    assert found[0] in listed.output
    shown = CliRunner().invoke(app, ["erasures", "show", found[0], *overrides])
    assert '"state": "done"' in shown.output
    assert CliRunner().invoke(app, ["erasures", "show", "none", *overrides]).exit_code != 0


def test_an_absent_store_is_a_503_and_keeps_the_fence_up(url: str) -> None:
    async def story(one: Replica, other: Replica) -> None:
        with pytest.raises(HttpProblem, match="not-ready") as caught:
            await Replica("redis://127.0.0.1:1", "x", "c").calls.erase(GONE)
        assert caught.value.status == 503
        with pytest.raises(HttpProblem) as missing:
            await one.calls.receipt("none")
        assert missing.value.status == 404

        answers: list[Fence | Exception] = [Fence(1, {}), OSError("away")]

        async def poll() -> Fence:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        follower = FenceFollower(poll)
        await follower.refresh()
        await follower.refresh()
        assert not answers

    play(story, url, "away")
