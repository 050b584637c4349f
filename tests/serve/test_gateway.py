"""The gateway on a real cluster, with a real store, over real HTTP: answers, problems, and releases that come and go."""

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
from serve_world import FAST, PATH, Load, World

from reco_ray.compose import compose_config
from reco_ray.privacy.run import erase_users

SLOW_RANKER = "fake:0,1000,0"


def test_a_known_user_gets_a_full_slate(world: World) -> None:
    response = world.post({"user_id": "known", "k": 5, "exclude": ["item-304"]}, **{"x-request-id": "abc"})
    answer = response.json()
    assert response.status_code == 200
    assert [item["item_id"] for item in answer["items"]] == [f"item-{i}" for i in (303, 302, 301, 300, 299)]
    assert (answer["request_id"], answer["release"], answer["degraded"]) == ("abc", "one", [])
    assert "rank;dur=" in response.headers["server-timing"]


def test_an_unknown_user_gets_a_slate_that_says_so(world: World) -> None:
    assert world.post({"user_id": "nobody"}).json()["degraded"] == ["unknown_user"]


def test_what_is_said_of_a_newcomer_makes_their_first_slate(world: World) -> None:
    wish = {"user_id": "newcomer", "k": 3}
    assert [item["item_id"] for item in world.post(wish).json()["items"]] == ["item-307", "item-306", "item-305"]
    assert world.get("/v1/users/newcomer").status_code == 404
    kept = world.describe("newcomer", {"interests": {"categories": ["item-70"]}})
    assert (kept.status_code, kept.json()["interests"]) == (200, {"categories": ["item-70"], "items": []})
    for _ in range(8):  # whichever of the two replicas answers
        answer = world.post(wish).json()
        assert [item["item_id"] for item in answer["items"]] == ["item-377", "item-376", "item-375"]
        assert answer["degraded"] == []
        assert world.get("/v1/users/newcomer").json() == kept.json()
    assert world.describe("newcomer", {}).status_code == 422


def test_problems_pass_the_proxy(world: World) -> None:
    assert world.post({"k": 0}).status_code == 422
    response = world.post({"item_id": "item-none"}, "/v1/similar-items")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert world.post({"item_id": "item-7"}, "/v1/similar-items").status_code == 200


def test_a_second_get_has_the_same_etag_and_is_answered_304_with_it(world: World) -> None:
    path = f"{PATH}/known?k=3"
    first, second = world.get(path), world.get(path)
    assert (first.status_code, second.status_code, len(first.json()["items"])) == (200, 200, 3)
    assert first.headers["etag"] == second.headers["etag"] != world.get(f"{PATH}/known?k=4").headers["etag"]
    for _ in range(4):  # whichever of the two replicas answers
        unchanged = world.get(path, **{"if-none-match": first.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_a_late_ranker_leaves_recalls_order_and_says_so(world: World) -> None:
    world.run_release("slow", SLOW_RANKER)
    world.send_traffic(slow=1.0, one=0.0)
    world.await_release("slow")
    response = world.post({"user_id": "known", "k": 3}, **{"x-request-timeout-ms": "600"})
    answer = response.json()
    assert response.status_code == 200
    assert answer["degraded"] == ["ranker_unavailable"]
    assert [item["item_id"] for item in answer["items"]] == ["item-5", "item-6", "item-7"]
    world.send_traffic(one=1.0)
    world.await_release("one")
    world.drop_releases("slow")


def test_no_request_fails_while_the_traffic_moves_to_a_new_release(world: World) -> None:
    world.run_release("two", FAST)
    with Load(world, ms=3000) as load:
        load.clients(1)
        world.send_traffic(two=1.0, one=0.0)
        world.await_release("two")
        world.until(lambda: load.full_in_a_row >= 10)
    assert {status for status, _, _ in load.answers} == {200}, load.answers
    found = world.get("/v1/releases").json()
    assert [(r["release"], r["weight"]) for r in found["releases"] if r["loaded"]] == [("one", 0.0), ("two", 1.0)]


def test_what_serve_binds_is_the_loopback_interface_only(world: World) -> None:
    """HAProxy's port and the replicas' own HTTP ports; Ray's replica gRPC ports listen everywhere (see ray-2.60.md F)."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    port = int(world.url.rsplit(":", 1)[1])
    addresses = {address.split(":")[0] for address in listening if int(address.split(":")[1], 16) == port}
    first, last = (int(os.environ[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    direct = {a.split(":")[0] for a in listening if first <= int(a.split(":")[1], 16) <= last}
    assert addresses == direct == {"0100007F"}


def test_an_erasure_reaches_every_replica_and_ends(world: World, tmp_path: Path) -> None:
    def sent() -> dict[str, str]:
        ts = datetime.now(UTC).isoformat()
        event = {"event_id": uuid.uuid4().hex, "type": "view", "user_id": "leaver", "item_id": "item-1", "ts": ts}
        answer = world.post({"events": [event]}, "/v1/events")
        result: dict[str, str] = answer.json()["results"][0] if answer.status_code == 200 else answer.json()
        return result

    (tmp_path / "lake").mkdir()
    world.until(lambda: sent()["status"] == "accepted")
    response = httpx.delete(f"{world.url}/v1/users/leaver", timeout=30)
    assert response.status_code == 202
    receipt_id = response.json()["receipt_id"]
    world.until(lambda: all(sent().get("reason") == "erased" for _ in range(8)))
    config = compose_config([f"root={tmp_path}", f"store.url={world.store_url}"])
    (receipt,) = erase_users(config, world.store_url)
    assert receipt.receipt_id == receipt_id
    assert receipt.places["fence"].looked_at >= 2
    assert receipt.places["bus events"].removed >= 1
    assert world.get(f"/v1/erasures/{receipt_id}").json()["state"] == "done"
    world.until(lambda: all(sent()["status"] == "accepted" for _ in range(8)))
