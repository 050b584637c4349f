"""Test users who are sent somewhere by name, users who are held out, and what a change of the shares leaves as it is."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from ports import free_port
from test_ladder import World as Gateway
from test_ladder import outcome, run
from typer.testing import CliRunner

from reco_ray.cli.main import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.errors import ConfigError
from reco_ray.events.bus import Record
from reco_ray.hashing import user_digest
from reco_ray.rollout import DEFAULT_POLICY, Evidence, Policy, Step, commands, decide, first_state
from reco_ray.rollout.collecting import Collector
from reco_ray.serve.path.fleet import Fleet
from reco_ray.store import ErasureStore, Holdout, OnlineStore, RolloutStore, Shadow, Traffic
from reco_ray.store.online import read_traffic, write_traffic

VIEWS = {"old": "v1", "new": "v1"}
TESTER = user_digest("tester")
RUNNING = Traffic(
    7,
    {"old": 0.75, "new": 0.25},
    VIEWS,
    Shadow("new", 0.5, "r1"),
    salt="traffic r1",
    holdout=Holdout(0.1, "2026", release="old"),
    overrides={TESTER: "new"},
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    root = tmp_path_factory.mktemp("root")
    with embedded_store(compose_config([f"root={root}", f"store.port={free_port()}"])) as url:
        yield url, [f"root={root}", f"store.url={url}"]


@pytest.fixture
def store(server: tuple[str, list[str]], request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
    with OnlineStore(server[0], request.node.name) as found:
        yield found


def test_a_record_is_read_as_it_was_written_and_so_is_one_of_before() -> None:
    assert read_traffic(write_traffic(RUNNING).encode()) == RUNNING
    before = read_traffic(json.dumps({"version": 1, "weights": {"a": 1.0}, "user_views": {"a": "v"}}).encode())
    assert before == Traffic(1, {"a": 1.0}, {"a": "v"})


def test_a_deployment_beside_a_rollout_deals_nobody_anew_and_one_in_its_place_ends_what_belonged_to_it(
    store: OnlineStore,
) -> None:
    store.blocking_calls.set(store.key("traffic"), write_traffic(RUNNING))
    beside = store.set_traffic({"old": 0.75, "new": 0.25, "next": 0.0}, {**VIEWS, "next": "v2"})
    assert beside == replace(RUNNING, version=8, weights=beside.weights, user_views=beside.user_views)
    instead = store.set_traffic({"next": 1.0, "old": 0.0}, {"next": "v2", "old": "v1"})
    assert (instead.salt, instead.shadow, instead.overrides) == (RUNNING.salt, None, RUNNING.overrides)
    assert instead.holdout == Holdout(0.1, "2026", release="next"), "who is held out has the champion, whoever that is"
    assert instead.version == 9


def fleet(traffic: Traffic) -> Fleet:
    async def poll() -> Traffic:
        return traffic

    async def connect(release: str) -> tuple[object, None]:
        return object(), None

    found = Fleet(poll, connect)
    asyncio.run(found.load_now(1))
    return found


def assigned(of: Fleet, user_id: str, other: str = "") -> tuple[str, str]:
    found = of.assign(user_id, other)
    return found.route.release, found.variant


def test_an_override_comes_before_the_share_and_counts_only_for_what_is_loaded() -> None:
    def of(to: str, **changed: object) -> tuple[str, str]:
        return assigned(fleet(replace(RUNNING, holdout=None, overrides={TESTER: to}, **changed)), "tester")  # type: ignore[arg-type]

    shadowed = {"weights": {"old": 1.0, "new": 0.0}}
    assert (of("new"), of("old")) == (("new", "override"), ("old", "override"))
    assert (of("canary"), of("main")) == (("new", "override"), ("old", "override"))
    assert of("canary", **shadowed) == ("new", "override"), "the one in the shadow"
    assert of("canary", **shadowed, shadow=None) == ("old", "main"), "there is none"
    assert of("gone")[1] in ("main", "canary")
    assert assigned(fleet(replace(RUNNING, holdout=None)), "", "tester")[1] != "override", "an item or a request is no user"


def test_held_out_users_are_a_share_by_their_own_salt_and_have_the_champion_at_every_step() -> None:
    users = [f"u{i}" for i in range(4000)]

    def held(traffic: Traffic) -> dict[str, str]:
        of = fleet(traffic)
        both = {user: assigned(of, user) for user in users}
        return {user: release for user, (release, variant) in both.items() if variant == "holdout"}

    first, last = held(RUNNING), held(replace(RUNNING, weights={"old": 0.0, "new": 1.0}, salt="traffic r2"))
    assert first == last
    assert set(first.values()) == {"old"}
    assert 330 < len(first) < 470
    other = held(replace(RUNNING, holdout=Holdout(0.1, "2027", release="old")))
    assert len(first.keys() & other.keys()) < 80, "about 10% of 10%"
    rest = [assigned(fleet(RUNNING), user)[0] for user in users if user not in first]
    assert rest.count("new") / len(rest) == pytest.approx(0.25, abs=0.03), "the shares are those of the others"


def test_held_out_users_may_have_the_popular_list_and_nothing_that_was_trained() -> None:
    async def story() -> None:
        world = await Gateway().start()
        kept = Holdout(0.999999, "all", popular=True)
        world.fleet.traffic = replace(world.fleet.traffic, holdout=kept)
        answer = await world.get_any(user_id="known", k=3)
        assert outcome(answer) == ("popular", ["holdout"], ["hit-0", "hit-1", "hit-3"]), "without what they have had"
        assert answer["variant"] == "holdout"
        assert (await world.get_any(user_id="known", k=3))["request_id"] != answer["request_id"]
        assert world.served[-1].cache == "fresh"
        own = {"items": [{"item_id": "b"}, {"item_id": "a"}]}
        ranked = await world.get_any("/v1/rank", user_id="known", **own)
        assert outcome(ranked) == ("caller_order", ["holdout"], ["b", "a"])
        assert outcome(await world.get_any(user_id="", k=2)) == ("full", ["unknown_user"], ["a0", "a1"]), "nobody"
        assert world.stages.calls == {"recall": 1, "rank": 1, "rerank": 1}

    run(story)


def test_a_policy_declares_a_holdout_that_goes_on_until_it_is_ended(store: OnlineStore) -> None:
    rollouts, now = RolloutStore(store), time.time()
    store.set_traffic({"old": 1.0, "new": 0.0}, VIEWS)
    policy = Policy.from_json({"steps": [{"share": 0.05}, {"share": 1.0}], "holdout": {"share": 0.02, "salt": "q4"}})
    assert Policy.from_json(policy.to_json()) == policy
    commands.start(rollouts, "new", policy, now, "ann")
    held = Holdout(0.02, "q4", release="old")
    assert store.traffic().holdout == held
    commands.abort(rollouts, now, "ann", "no")
    assert store.traffic().holdout == held
    assert commands.fall_back(rollouts, "new", now, "ann") == "new"
    assert store.traffic().holdout == replace(held, release="new")
    commands.start(rollouts, "old", DEFAULT_POLICY, now, "ann")
    assert store.traffic().holdout == replace(held, release="new"), "a policy without one leaves it"
    commands.end_holdout(rollouts, now, "ann", "enough")
    assert store.traffic().holdout is None
    assert store.traffic().shadow is not None, "the rollout goes on"
    with pytest.raises(ConfigError, match="holdout: found none"):
        commands.end_holdout(rollouts, now, "ann", "again")
    assert [each["action"] for each in rollouts.history(2)] == ["holdout_off", "start"]


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"share": 0.1, "salt": ""}, {"share": 0.1, "release": "x"}])
def test_a_holdout_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="holdout: found"):
        Policy.from_json({"steps": [{"share": 1.0}], "holdout": wrong})


def decision(request_id: str, variant: str, release: str, at_s: float, *, user: str = "u") -> Record:
    fields = {
        "request_id": request_id,
        "call": "recommend",
        "user_id": user,
        "ts": int(at_s * 1e6),
        "release": release,
        "variant": variant,
        "degraded": [],
        "draw_id": request_id,
        "rung": "full",
        "item_ids": ["i"],
        "timings": {"recall": 5.0},
    }
    return Record(1, 1, json.dumps(fields).encode())


def test_a_rollout_is_judged_without_those_apart_and_the_held_out_are_reported() -> None:
    state = first_state("r1", "new", "old", Policy((Step(0.5), Step(1.0))), 100.0, "ann")
    collector = Collector(Evidence())
    ways = {"canary": "new", "main": "old", "holdout": "old", "override": "new"}
    rows = [decision(f"{way}{i}", way, to, 110.0, user=f"{way}{i}") for way, to in ways.items() for i in range(400)]
    collector.decisions(rows, state)
    clicks = [
        {"event_id": f"{way}{i}", "type": "click", "request_id": f"{way}{i}"}
        for way in ways
        for i in range(200 if way == "canary" else 100)
    ]
    collector.events([Record(1, 1, json.dumps(each).encode()) for each in clicks])
    evidence = Evidence.from_json(collector.evidence.to_json())
    assert [arm.decisions for arm in (*evidence.now, evidence.held[-1])] == [400, 400, 400]
    assert (evidence.total, [len(users) for users in collector.users]) == (1200, [400, 400])
    numbers = decide(state, evidence, 120.0).numbers
    assert numbers["holdout_decisions"] == 400
    assert numbers["holdout_ctr_mean"] == pytest.approx(0.25)
    assert numbers["holdout_ctr_low"] < 0.25 < numbers["holdout_ctr_high"]
    collector.next_step()
    collector.decisions([decision("late", "holdout", "old", 110.0)], state)
    assert [arm.decisions for arm in collector.evidence.held] == [400, 1]
    before = collector.evidence.to_json()
    assert [each.decisions for each in Evidence.from_json({k: v for k, v in before.items() if k != "held"}).held] == [0, 0]


def test_the_commands_name_nobody_and_an_erasure_takes_an_override_with_it(
    server: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    url, settings = server

    def reco(*words: str) -> str:
        with caplog.at_level(logging.DEBUG):
            found = CliRunner().invoke(app, ["overrides", *words, *settings], env={"COLUMNS": "200"})
        if found.exception is not None:
            raise found.exception
        return found.stdout

    with OnlineStore(url, "reco") as store:
        store.set_traffic({"old": 1.0, "new": 0.0}, VIEWS)
        assert reco("set", "tester", "--to", "canary", "--why", "looking").strip() == "overrides: 1"
        assert reco("set", "other-tester", "--to", "new", "--why", "looking").strip() == "overrides: 2"
        assert store.traffic().overrides == {TESTER: "canary", user_digest("other-tester"): "new"}
        assert TESTER[:12] in reco("list")
        assert reco("unset", "other-tester", "--why", "done").strip() == "overrides: 1"
        for words, found in (
            (
                ("set", "tester", "--to", "nope", "--why", "x"),
                r"found 'nope', expected one of \['main', 'canary', 'new', 'old'\]",
            ),
            (("set", "tester", "--to", "new", "--why", " "), "found no reason"),
            (("unset", "nobody", "--why", "x"), "found none of this user"),
        ):
            with pytest.raises(ConfigError, match=found):
                reco(*words)
        audit = RolloutStore(store).history(9)
        assert [(each["action"], each["reason"], each["overrides"]) for each in audit] == [
            ("override_off", "done", 1),
            ("override", "looking", 2),
            ("override", "looking", 1),
        ]
        said = json.dumps(audit) + caplog.text
        assert "tester" not in said
        assert TESTER not in said
        assert ErasureStore(store).purge_keys([TESTER, user_digest("u")]) == {(TESTER, "overrides"): 1}
        assert store.traffic().overrides == {}
        version = store.traffic().version
        assert store.drop_overrides([TESTER]) == set()
        assert store.traffic().version == version
