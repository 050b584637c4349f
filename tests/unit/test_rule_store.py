"""Rules in the store: versions, decisions on items, who follows them, and the calls about them."""

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from test_contract import World

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import DateUnit
from reco_ray.errors import DataError, NotReadyError
from reco_ray.events.bus import Record
from reco_ray.features import user_row
from reco_ray.feedback.exposures import Decision, encode, encode_slots, rows_to_table
from reco_ray.lake import tables
from reco_ray.release import release_uri, seal
from reco_ray.rules import RulesRefused, Standing
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.http.asgi import HttpApp
from reco_ray.serve.path.rule_calls import RuleCalls
from reco_ray.serve.path.rules import RuleFollower
from reco_ray.slate import Pipeline, recent_requests, try_rules
from reco_ray.store import OnlineStore, RuleRecord, RuleStore, pack_user
from reco_ray.types import Request

BLOCK = {"name": "b", "kind": "block", "where": {"item_id": ["item-1"]}}
CAP = {"name": "c", "kind": "cap", "per": "year", "most": 1}
EMPTYING = {"name": "too-much", "kind": "block", "where": {"category": ["all"]}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with embedded_store(compose_config([f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"])) as url:
        yield url


@pytest.fixture
def store(url: str, request: pytest.FixtureRequest) -> Iterator[OnlineStore]:
    with OnlineStore(url, request.node.name) as store:
        yield store


@pytest.fixture
def rules(store: OnlineStore) -> RuleStore:
    return RuleStore(store)


def test_versions_grow_and_earlier_ones_come_back(rules: RuleStore) -> None:
    assert rules.current() == RuleRecord()
    first = rules.put((BLOCK,), "ana", "spring")
    second = rules.put((CAP,), "ben")
    assert (first.version, second.version) == (1, 2)
    assert rules.current() == second
    assert (rules.at(1), rules.at(1).author, rules.at(1).note) == (first, "ana", "spring")
    third = rules.rollback(1, "cyd")
    assert (third.version, third.rules, third.action) == (3, (BLOCK,), "rollback")
    assert [each.version for each in rules.history()] == [3, 2, 1]
    for missing in (0, 4):
        with pytest.raises(DataError, match=f"found no version {missing}"):
            rules.at(missing)


def test_a_put_that_expects_another_version_changes_nothing(rules: RuleStore) -> None:
    rules.put((BLOCK,), "ana", expected=0)
    with pytest.raises(DataError, match="found version 1 in force, expected 0"):
        rules.put((CAP,), "ben", expected=0)
    assert rules.current().rules == (BLOCK,)


def test_items_are_held_until_somebody_approves_them_whatever_rules_are_put(rules: RuleStore) -> None:
    rules.hold("item-1", "ana", "complaint")
    rules.put((CAP,), "ben")
    held = rules.current().held["item-1"]
    assert (held.author, held.reason) == ("ana", "complaint")
    approved = rules.approve("item-1", "cyd", "looked at it")
    assert (dict(approved.held), approved.approved["item-1"].author) == ({}, "cyd")
    assert rules.hold("item-1", "ana", "again").approved == {}
    assert [each.action for each in rules.history()] == ["hold", "approve", "put", "hold"]


def test_only_so_many_versions_are_kept(rules: RuleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reco_ray.store.rules._KEPT", 3)
    for _ in range(5):
        rules.put((), "ana")
    assert [each.version for each in rules.history()] == [5, 4, 3]


def follower(store: object) -> tuple[RuleFollower, list[Standing]]:
    taken: list[Standing] = []
    return RuleFollower(store, taken.append), taken  # type: ignore[arg-type]


def test_a_follower_takes_each_version_once_and_keeps_what_holds(
    rules: RuleStore, store: OnlineStore, caplog: pytest.LogCaptureFixture
) -> None:
    follows, taken = follower(rules)
    follows.catch_up()
    assert taken == []
    rules.put((BLOCK,), "ana")
    rules.hold("item-9", "ana", "complaint")
    for _ in range(2):
        follows.look()
    assert [(each.version, each.held) for each in taken] == [(2, {"item-9"})]
    rules.put(({"kind": "of the future"},), "a newer version")  # past the checks of who puts
    follows.look()
    assert follows.standing.version == 2
    assert "version 3 of the rules does not come into force" in caplog.text
    store.blocking_calls.flushdb()
    follows.look()
    assert follows.standing.version == 2
    assert "has lost the rules; those of version 2 stay in force" in caplog.text
    for _ in range(3):
        rules.put((CAP,), "ben")
    follows.look()
    assert [rule.name for rule in follows.standing.document.rules] == ["c"]


def test_who_starts_with_a_record_it_cannot_read_takes_the_last_that_it_can(rules: RuleStore) -> None:
    rules.put((BLOCK,), "ana")
    rules.put(({"kind": "of the future"},), "a newer version")
    follows, taken = follower(rules)
    follows.catch_up()
    assert [each.version for each in taken] == [1]


def test_a_store_that_is_away_is_not_ready_and_lifts_no_rule(caplog: pytest.LogCaptureFixture) -> None:
    with OnlineStore("redis://127.0.0.1:1", "none") as away:
        follows, taken = follower(RuleStore(away))
        with pytest.raises(NotReadyError, match="does not answer"):
            follows.catch_up()
        for _ in range(2):
            follows.look()
    assert taken == []
    assert caplog.text.count("rules stay as they are") == 1


@pytest.fixture(scope="module")
def root(folder: Path, users: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A release, and the record of three requests that it answered just now, one of them long ago."""
    root = str(tmp_path_factory.mktemp("root"))
    target = Path(release_uri(root, "rel"))
    shutil.copytree(folder, target)
    seal(target, "rel", "v1", {})
    row = user_row(users.row(0, named=True))
    now_us = time.time_ns() // 1000
    asked = [Request(f"r{i}", f"u{i}", k=5, user=row, at_us=now_us - 10**7 - i * (i == 2) * 3 * 3600 * 10**6) for i in range(3)]
    records = []
    for request, slate in zip(asked, Pipeline.load(target).run(asked), strict=True):
        decision = Decision(
            request_id=request.request_id,
            call="recommend",
            user_id=request.user_id,
            ts_us=request.at_us,
            surface="home",
            context={},
            consent=True,
            release="rel",
            variant="main",
            rung="full",
            degraded=(),
            draw_id=request.request_id,
            age_s=0,
            slots=encode_slots(slate.item_ids, slate.scores, slate.reasons),
            user_view="v1",
            user_row=pack_user(row),
        )
        records.append(Record(1, request.at_us // 1000, encode(decision)))
    tables.replace(root, "exposures", rows_to_table(records, DateUnit.day))
    return root


def test_requests_of_the_last_hour_are_read_from_the_lake(root: str) -> None:
    assert sorted(each.request_id for each in recent_requests(root)) == ["r0", "r1"]
    assert len(recent_requests(root, hours=48)) == 3
    assert len(recent_requests(root, most=1)) == 1
    assert recent_requests(f"{root}/nowhere") == []


def test_a_trial_says_what_would_change_and_refuses_what_empties(root: str) -> None:
    pipeline = Pipeline.load(Path(release_uri(root, "rel")))
    requests = recent_requests(root)
    shown = pipeline.run(requests)[0].item_ids[0]
    block = {"name": "b", "kind": "block", "where": {"item_id": [shown]}}
    trial = try_rules(pipeline, requests, Standing(), Standing.of(RuleRecord(1, rules=(block,))))
    assert (trial.requests, trial.changed, trial.shorter, trial.emptied) == (2, 2, 0, 0)
    assert trial.hits == {"b": {"hidden": 2}}
    assert shown in trial.examples[0].before
    assert shown not in trial.examples[0].after
    trial.check()
    dear = {"name": "d", "kind": "block", "where": {"price_from": 0}}
    trial = try_rules(pipeline, requests, Standing(), Standing.of(RuleRecord(1, rules=(dear,))))
    assert trial.hits["d"]["hidden"] > 0
    assert all(int(item[5:]) % 8 == 7 for each in trial.examples for item in each.after), "those without a price"
    with pytest.raises(
        RulesRefused, match="rule too-much, where: found 2 of 2 recent slates left empty, allowed: at least one"
    ):
        try_rules(pipeline, requests, Standing(), Standing.of(RuleRecord(1, rules=(EMPTYING,)))).check()


class Asking:
    """The calls over a real store."""

    def __init__(self, store: OnlineStore, root: str) -> None:
        self.withdrawn = Withdrawn()
        self.calls = RuleCalls(RuleStore(store), RuleStore(store), root, lambda: "rel", self.withdrawn)
        self.app = HttpApp(World().app._service, deadline_ms=100, max_deadline_ms=100, rules=self.calls)

    def __call__(self, method: str, body: Any = None, path: str = "/v1/rules") -> httpx.Response:
        async def ask() -> httpx.Response:
            self.calls._one = asyncio.Lock()  # of this loop
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://reco") as client:
                content = body if isinstance(body, str) else None if body is None else json.dumps(body)
                return await client.request(method, path, content=content)

        return asyncio.run(ask())


def test_rules_are_put_shown_and_in_force_at_once_in_the_replica_that_answers(store: OnlineStore, root: str) -> None:
    ask = Asking(store, root)
    assert ask("GET").json()["version"] == 0
    tried = ask("POST", {"author": "ana", "rules": [BLOCK], "dry_run": True})
    assert (tried.status_code, tried.json()["version"], tried.json()["trial"]["requests"]) == (200, 0, 2)
    assert ask.calls.state() == (0, 0)
    odd = {"name": "o", "kind": "pin", "item_id": "nobody knows", "position": 1}
    answer = ask("POST", {"author": "ana", "note": "why", "rules": [BLOCK, odd], "expected": 0})
    assert (answer.status_code, answer.json()["version"], answer.json()["unknown_items"]) == (200, 1, ["nobody knows"])
    assert answer.json()["rules"][0] == BLOCK | {
        "note": "",
        "surface": [],
        "segment": {"device": [], "locale": [], "location": []},
    }
    assert ask.calls.state() == (1, 0)
    assert "item-1" in ask.withdrawn
    assert ask("GET").json()["author"] == "ana"
    assert ask("GET", path="/v1/rules?version=1").json()["note"] == "why"
    assert ask("GET", path="/v1/rules?version=2").status_code == 404
    assert ask("POST", {"author": "ben", "rules": [], "expected": 0}).status_code == 409


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"author": "a", "rules": [BLOCK | {"where": {"brand": ["x"]}}]}, "b.where.brand", "allowed: one of item_id"),
        ({"author": "a", "rules": [BLOCK | {"where": {"category": ["x"]}}]}, "b.where.category", "categories of the release"),
        ({"author": "a", "rules": [EMPTYING]}, "too-much.where", "2 of 2 recent slates left empty"),
        ({"rules": [BLOCK]}, "author", "required"),
        ([], "", "an object"),
    ],
)
def test_wrong_rules_are_refused_and_those_in_force_stay(
    store: OnlineStore, root: str, body: Any, field: str, said: str
) -> None:
    ask = Asking(store, root)
    before = ask("POST", {"author": "ana", "rules": [CAP]}).json()["version"]
    refused = ask("POST", body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field
    assert said in refused.json()["errors"][0]["detail"]
    assert (ask("GET").json()["version"], ask.calls.state()[0]) == (before, before)


def test_a_body_that_is_no_json_and_a_store_that_is_away_are_problems(store: OnlineStore, root: str) -> None:
    assert Asking(store, root)("POST", "{").json()["type"] == "/docs#invalid-json"
    with OnlineStore("redis://127.0.0.1:1", "none") as away:
        for method, body in (("GET", None), ("POST", {"author": "a", "rules": []})):
            assert Asking(away, root)(method, body).status_code == 503


def test_rules_of_campaigns_withdraw_only_while_they_run() -> None:
    def of(**more: object) -> frozenset[str]:
        return Standing.of(RuleRecord(1, rules=({**BLOCK, **more},))).hidden_everywhere(1_800_000_000.0)

    assert of() == {"item-1"}
    assert of(ends="2026-01-01T00:00:00Z") == frozenset()
    assert of(starts="2026-01-01T00:00:00Z") == {"item-1"}
    assert of(surface=["kids"]) == frozenset()
    assert of(where={"item_id": ["item-1"], "year": [1999]}) == frozenset()
