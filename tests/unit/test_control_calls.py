"""Rollouts, fallback and flags over HTTP, with keys, against a real store: what the commands do, and who did it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port
from test_contract import World, problem

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.rollout import DEFAULT_POLICY
from reco_ray.serve.guard.gate import Gate
from reco_ray.serve.path.control_calls import ControlCalls
from reco_ray.store import FlagStore, Holdout, KeyRecord, OnlineStore, RolloutStore, Scope, new_key

RECORD, KEY = new_key("ops", [Scope.admin], 0.0)
WHO = {"author": "ana", "why": "a reason"}
BY = f"ana (key {RECORD.key_id})"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("root")
    with embedded_store(compose_config([f"root={root}", f"store.port={free_port()}"])) as found:
        yield found


class Admin:
    """A gateway of two releases, "new" of which its gates let in, and a caller with the key of an administrator."""

    def __init__(self, store: OnlineStore, root: Path) -> None:
        self.store, self.rollouts, self.looks = store, RolloutStore(store), 0
        store.set_traffic({"old": 1.0, "new": 0.0, "odd": 0.0}, dict.fromkeys(("old", "new", "odd"), "v1"))
        for release, action in (("new", "gates"), ("odd", "gates_refused")):
            report = root / "reports/gates" / f"{release}.json"
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(json.dumps({"action": action}))

        async def poll() -> tuple[KeyRecord, ...]:
            return (RECORD,)

        async def look() -> None:
            self.looks += 1

        gate = Gate(poll, rate=1000, burst=1000)
        asyncio.run(gate.refresh())
        self.world = World(gate=gate, control=ControlCalls(self.rollouts, FlagStore(store), str(root), look, lambda: 100.0))

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.world.ask("POST", path, json={**WHO, **body}, headers={"authorization": f"Bearer {KEY}"})

    def get(self, path: str) -> dict[str, Any]:
        found = self.world.ask("GET", path, headers={"authorization": f"Bearer {KEY}"})
        assert found.status_code == 200, found.text
        answer: dict[str, Any] = found.json()
        return answer


@pytest.fixture
def admin(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Admin]:
    with OnlineStore(url, request.node.name) as store:
        yield Admin(store, tmp_path)


def test_a_rollout_is_started_paused_resumed_and_aborted_and_the_trail_names_the_author_and_the_key(admin: Admin) -> None:
    assert admin.get("/v1/rollouts") == {"rollout": None, "history": []}
    steps = [{"share": 0.05, "min_s": 60}, {"share": 1.0}]
    policy = {"steps": steps, "holdout": {"share": 0.1, "salt": "q4"}}
    started = admin.post("/v1/rollouts", action="start", release="new", policy=policy)
    assert started.status_code == 200, started.text
    found = started.json()
    assert (found["status"], found["share"], found["champion"], found["by"]) == ("running", 0.05, "old", BY)
    assert found["policy"]["steps"][0] == {"share": 0.05, "min_s": 60, "min_decisions": 1000, "shadow": False}
    assert admin.store.traffic().weights == {"old": 0.95, "new": 0.05, "odd": 0.0}
    assert admin.store.traffic().holdout == Holdout(0.1, "q4", release="old")
    for action, status in (("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        assert admin.post("/v1/rollouts", action=action).json()["status"] == status
    assert admin.looks == 4
    shown = admin.get("/v1/rollouts?n=3")
    assert shown["rollout"]["status"] == "aborted"
    trail = [(each["action"], each["by"], each["reason"]) for each in shown["history"]]
    assert trail == [(action, BY, "a reason") for action in ("abort", "resume", "pause")]
    assert admin.post("/v1/rollouts", action="start", release="new").json()["shadow"] == DEFAULT_POLICY.steps[0].share


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"action": "pause"}, 409, "found none that runs"),
        ({"action": "start", "release": "odd"}, 409, "release odd: found gates_refused of its gates"),
        ({"action": "start", "release": "gone"}, 409, "release gone: found no report of its gates"),
        ({"action": "start"}, 422, "expected a release of a start only"),
        ({"action": "abort", "release": "new"}, 422, "expected a release of a start only"),
        ({"action": "start", "release": "../new"}, 422, "match pattern"),
        ({"action": "start", "release": "new", "policy": {"steps": [{"share": 0.5}]}}, 422, "expected them to grow to 1"),
        ({"action": "start", "release": "new", "policy": {"stages": []}}, 422, "unknown fields"),
        ({"action": "stop"}, 422, "'start', 'pause', 'resume' or 'abort'"),
        ({"action": "pause", "why": " "}, 422, "match pattern"),
    ],
)
def test_what_cannot_be_done_says_what_was_found_and_expected_and_changes_nothing(
    admin: Admin, body: dict[str, Any], status: int, said: str
) -> None:
    refused = admin.post("/v1/rollouts", **body)
    assert (refused.status_code, said in json.dumps(problem(refused))) == (status, True), refused.text
    assert admin.rollouts.load() is None
    assert admin.rollouts.history(1) == []


def test_all_traffic_goes_back_at_once_with_a_reason(admin: Admin) -> None:
    admin.post("/v1/rollouts", action="start", release="new", policy={"steps": [{"share": 0.5}, {"share": 1.0}]})
    assert admin.post("/v1/fallback").json() == {"release": "old"}
    assert admin.store.traffic().weights == {"old": 1.0, "new": 0.0, "odd": 0.0}
    (last,) = admin.rollouts.history(1)
    assert (last["action"], last["by"], last["reason"]) == ("fallback", BY, "all traffic to old: a reason")
    refused = problem(admin.post("/v1/fallback"))
    assert (refused["status"], refused["type"]) == (409, "/docs#change-refused")
    assert "expected one of ['new', 'odd', 'old']; name it" in refused["detail"]


def test_flags_are_switched_and_shown(admin: Admin) -> None:
    assert not any(each["off"] for each in admin.get("/v1/flags")["flags"].values())
    now = admin.post("/v1/flags", name="source.covisit", off=True).json()
    assert (now["version"], now["flags"]["source.covisit"]["off"], now["flags"]["source.covisit"]["by"]) == (1, True, BY)
    assert admin.get("/v1/flags") == now
    assert admin.post("/v1/flags", name="source.covisit", off=False).json()["flags"]["source.covisit"]["off"] is False
    refused = problem(admin.post("/v1/flags", name="rankr", off=True))
    assert (refused["status"], refused["errors"][0]["field"]) == (422, "name")
    assert "expected one of ['explore', 'ranker'" in refused["errors"][0]["detail"]
    assert [each["by"] for each in FlagStore(admin.store).history(9)] == [BY, BY]


def test_without_the_store_each_call_says_so(tmp_path: Path) -> None:
    with OnlineStore(f"redis://127.0.0.1:{free_port()}", "none", timeout_s=0.2) as store:

        async def look() -> None:
            raise AssertionError

        world = World(control=ControlCalls(RolloutStore(store), FlagStore(store), str(tmp_path), look))
        for path, body in (
            ("/v1/rollouts", {"action": "pause"}),
            ("/v1/fallback", {}),
            ("/v1/flags", {"name": "ranker", "off": True}),
        ):
            refused = problem(world.ask("POST", path, json={**WHO, **body}))
            assert (refused["status"], refused["type"]) == (503, "/docs#not-ready")
        assert world.ask("GET", "/v1/rollouts").status_code == world.ask("GET", "/v1/flags").status_code == 503
