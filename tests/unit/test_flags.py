"""Flags: who may switch what off, how everybody hears of it, and what answers then say."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from test_ladder import OLD_S, World
from typer.testing import CliRunner

from reco_ray.cli.main import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig, SourceName
from reco_ray.errors import ConfigError
from reco_ray.recall import load as load_recall
from reco_ray.rerank import Rerank
from reco_ray.serve.path import flags as following
from reco_ray.serve.path.flags import FlagFollower, keep_flags
from reco_ray.store import FLAGS, NO_FLAGS, Flags, FlagStore, OnlineStore
from reco_ray.types import Request

WHY = {"by": "ana", "why": "it hurts", "ts": "2026-01-01T00:00:00+00:00"}


def off(*names: str) -> Flags:
    return Flags(len(names), dict.fromkeys(names, WHY))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = tmp_path_factory.mktemp("root")
    with embedded_store(compose_config([f"root={root}", f"store.port={port}"])) as url:
        yield url, [f"root={root}", f"store.url={url}"]


@pytest.fixture
def flags(server: tuple[str, list[str]], request: pytest.FixtureRequest) -> Iterator[FlagStore]:
    with OnlineStore(server[0], request.node.name) as store:
        yield FlagStore(store)


def test_who_switches_says_why_and_what_is_as_wished_leaves_no_record(flags: FlagStore) -> None:
    assert flags.load() == NO_FLAGS
    now = flags.switch("ranker", off=True, by="ana", why="late")
    assert (now.version, now.off["ranker"]["by"], now.off["ranker"]["why"]) == (1, "ana", "late")
    assert flags.switch("ranker", off=True, by="ben", why="again") == now == flags.load()
    flags.switch("source.covisit", off=True, by="ben", why="stale")
    assert flags.load().sources == {"covisit"}
    assert flags.switch("ranker", off=False, by="ana", why="mended").marks == ["off:source.covisit"]
    told = [(each["version"], each["flag"], each["off"], each["by"], each["why"]) for each in flags.history(9)]
    assert told == [
        (3, "ranker", False, "ana", "mended"),
        (2, "source.covisit", True, "ben", "stale"),
        (1, "ranker", True, "ana", "late"),
    ]


def test_unknown_names_are_refused_with_the_allowed_ones_and_so_is_silence(flags: FlagStore) -> None:
    with pytest.raises(ConfigError, match=r"found 'rankr', expected one of \['explore', 'ranker', 'rung.cached'.*'source.mf'"):
        flags.switch("rankr", off=True, by="ana", why="late")
    with pytest.raises(ConfigError, match="found no reason to switch ranker"):
        flags.switch("ranker", off=True, by="ana", why=" ")
    assert flags.load() == NO_FLAGS
    assert {f"source.{each.value}" for each in SourceName} < FLAGS.keys()


def test_the_commands_switch_and_list(server: tuple[str, list[str]]) -> None:
    _, overrides = server

    def reco(*words: str) -> str:
        found = CliRunner().invoke(app, ["flags", *words, *overrides], env={"COLUMNS": "200"})
        assert found.exit_code == 0, found.output
        return found.stdout

    assert "flags 1: explore off" in reco("set", "explore", "--why", "a quiet day")
    assert "a quiet day" in reco("list")
    assert "all on" in reco("unset", "explore", "--why", "over")
    assert "over" in reco("history")
    assert isinstance(CliRunner().invoke(app, ["flags", "set", "x", "--why", "y", *overrides]).exception, ConfigError)


def test_a_gateway_follows_and_keeps_what_it_read_last_while_the_store_is_away() -> None:
    now, said = [100.0], [off("ranker")]

    async def poll() -> Flags:
        if not said:
            raise redis.ConnectionError
        return said[0]

    follower = FlagFollower(poll, lambda: now[0])
    asyncio.run(follower.refresh())
    assert follower.flags.marks == ["off:ranker", "flags_behind"], "the stages may not have heard yet"
    now[0] += 3.0
    asyncio.run(follower.refresh())
    assert follower.flags == said.pop()
    asyncio.run(follower.refresh())
    assert follower.flags == off("ranker")


def test_stages_follow_without_a_restart(
    server: tuple[str, list[str]], flags: FlagStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, found = [], threading.Event()

    class Stage:
        def switch(self, flags: Flags) -> None:
            heard.append(flags.version)
            if flags.version == 1:
                found.set()

    monkeypatch.setattr(following, "_INTERVAL_S", 0.01)
    stop = keep_flags([Stage(), object()], server[0], request.node.name)
    flags.switch("explore", off=True, by="ana", why="quiet")
    assert found.wait(30)
    stop.set()
    assert heard == [0, 1], "once for each version"


def test_a_source_that_is_off_brings_nothing_and_fails_nothing(folder: Path) -> None:
    stage = load_recall(folder)
    request = Request("r")
    (before,) = stage.recall([request])
    at = stage.names.index("popular")
    assert (before.source_ranks[:, at] >= 0).any()
    stage.switch(off("source.popular"))
    (after,) = stage.recall([request])
    assert not (after.source_ranks[:, at] >= 0).any()
    assert after.missing == ()
    stage.switch(NO_FLAGS)
    assert stage.recall([request])[0].item_idx.tolist() == before.item_idx.tolist()


def test_where_exploration_is_off_nothing_is_left_to_chance(folder: Path) -> None:
    recall = load_recall(folder)
    request = Request("r", "somebody", 5)
    found = recall.recall([request])
    config = RerankConfig(explore=ExploreConfig(kind=ExploreKind.uniform, rate=1.0))
    stage = Rerank(recall.catalogue, config, recall.names)
    (explored,) = stage.arrange([request], found, [found[0].scores])
    assert (explored.propensities < 1).any()
    stage.switch(off("explore"))
    (plain,) = stage.arrange([request], found, [found[0].scores])
    assert plain.propensities.tolist() == [1.0] * 5


def test_answers_say_what_is_off_and_older_ones_do_not_come_back() -> None:
    async def ask() -> list[dict[str, object]]:
        world = await World().start()
        told = []
        for version, names in enumerate(((), ("ranker",), ("source.covisit",), ("explore",), ())):
            world.flags = replace(off(*names), version=version)
            told += [(await world.post(user_id="known", k=3)).json() for _ in range(2)]
        assert world.stages.calls == {"recall": 5, "rank": 4, "rerank": 5}, "kept as always; a ranker that is off is not asked"
        return told

    found = asyncio.run(ask())[::2]
    assert [each["rung"] for each in found] == ["full", "recall_order", "fewer_sources", "full", "full"]
    assert [each["degraded"] for each in found] == [[], ["off:ranker"], ["off:source.covisit"], ["off:explore"], []]


def test_what_is_made_before_all_have_followed_is_not_kept() -> None:
    async def ask() -> None:
        world = await World().start()
        world.flags = replace(off("explore"), settled=False)
        for _ in range(2):
            assert (await world.post(user_id="known", k=3)).json()["degraded"] == ["off:explore", "flags_behind"]
        assert world.stages.calls["recall"] == 2

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("names", "rung"),
    [
        ((), "cached"),
        (("rung.cached",), "precomputed"),
        (("rung.cached", "rung.precomputed"), "popular"),
        (("rung.cached", "rung.precomputed", "rung.popular"), None),
    ],
)
def test_a_rung_that_is_off_is_left_out_of_the_ladder(names: tuple[str, ...], rung: str | None) -> None:
    async def ask() -> None:
        world = await World().start()
        world.flags = replace(off(*names), version=1)
        await world.post(user_id="known", k=3)
        world.shift_s += OLD_S
        world.precompute("p3", "p4", "p5")
        world.stages.trouble["recall"] = "raise"
        response = await world.post(user_id="known", k=3)
        if rung is None:
            assert response.status_code == 503
            return
        assert response.json()["rung"] == rung
        assert set(response.json()["degraded"]) >= {"recall_unavailable", *(f"off:{name}" for name in names)}

    asyncio.run(ask())
