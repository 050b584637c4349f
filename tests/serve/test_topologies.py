"""Both topologies give the same answers; and a gateway that asks for keys."""

import time

import httpx
from serve_world import PATH, USERS, World

from reco_ray.store import Scope

REQUESTS = 1000


def wish(i: int) -> dict[str, object]:
    """One of many wishes: each another mix of user, size, exclusions and session."""
    return {
        "user_id": f"user-{i % USERS}",
        "k": 1 + i % 23,
        "exclude": [f"item-{(300 + i + j) % 500}" for j in range(i % 7)],
        "session": [f"item-{(11 * i + j) % 500}" for j in range(i % 4)],
    }


def test_both_topologies_give_the_same_answers_to_a_thousand_concurrent_requests(world: World) -> None:
    assert world.describe("beginner", {"interests": {"categories": ["item-70"], "items": ["item-9"]}}).status_code == 200
    wishes = [*map(wish, range(REQUESTS)), {"user_id": "beginner", "k": 5}]
    staged = world.ask_all(wishes)
    world.run_gateway("fused", auth="keys")
    fused = world.ask_all(wishes)
    for i, (one, other) in enumerate(zip(staged, fused, strict=True)):
        for status, answer in (one, other):
            assert (status, answer.get("rung"), answer.get("degraded")) == (200, "full", []), answer
            assert (answer["request_id"], answer["release"], len(answer["items"])) == (f"q{i}", "one", wishes[i]["k"])
        assert one[1]["items"] == other[1]["items"]
    assert len({str(answer["items"]) for _, answer in staged}) > REQUESTS / 2, "wishes that differ get answers that differ"


def test_a_key_counts_from_when_it_is_made_until_it_is_revoked(keyed: World) -> None:
    url, body = keyed.url + PATH, {"user_id": "known"}
    without = httpx.post(url, json=body, timeout=30)
    assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.get(f"{keyed.url}/readyz", timeout=30).status_code == 200
    key_id, key = keyed.make_key(Scope.recommend)
    headers = {"authorization": f"Bearer {key}"}

    def statuses() -> set[int]:
        return {httpx.post(url, json=body, headers=headers, timeout=30).status_code for _ in range(10)}

    keyed.until(lambda: statuses() == {200}, seconds=10)
    assert httpx.get(f"{keyed.url}/v1/releases", headers=headers, timeout=30).status_code == 403
    keyed.store.keys.revoke(key_id, time.time())
    keyed.until(lambda: statuses() == {401}, seconds=10)
