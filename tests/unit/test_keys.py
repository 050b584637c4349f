"""API keys: who passes, who is refused and how, how fast; the record in a real store, and the commands that change it."""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reco_ray.cli import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.serve.guard.gate import Gate
from reco_ray.serve.guard.keys import KeyRing
from reco_ray.serve.guard.limits import RateLimits
from reco_ray.serve.http.problems import HttpProblem
from reco_ray.store import KeyRecord, OnlineStore, Scope, new_key, rotated

NOW = 1_800_000_000.0
SHOP, KEY = new_key("shop", [Scope.recommend, Scope.events], NOW)
HEADER = f"Bearer {KEY}".encode()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ring(*records: KeyRecord, clock: Clock | None = None, rate: float = 1e6, burst: int = 1_000_000) -> KeyRing:
    return KeyRing(records, RateLimits(clock=clock or Clock()), rate=rate, burst=burst)


def refused(keys: KeyRing, header: bytes | None, scope: Scope = Scope.recommend, now: float = NOW) -> HttpProblem:
    with pytest.raises(HttpProblem) as found:
        keys.admit(header, scope, now)
    return found.value


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


@pytest.mark.parametrize(
    "header", [HEADER, HEADER.replace(b"Bearer ", b"bearer  "), HEADER + b" "], ids=["as sent", "lower case", "space behind"]
)
def test_a_key_passes_for_its_scopes(header: bytes) -> None:
    keys = ring(SHOP)
    for scope in SHOP.scopes:
        assert keys.admit(header, scope, NOW) == SHOP.key_id


def test_a_scope_that_the_key_has_not_is_forbidden_and_named() -> None:
    problem = refused(ring(SHOP), HEADER, Scope.admin)
    assert (problem.status, problem.kind) == (403, "forbidden")
    assert "found a key for recommend, events, expected the scope admin" in problem.detail
    assert problem.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="admin"'


_, OTHER = new_key("other", [Scope.recommend], NOW)
SECRET = KEY.split("_", 2)[2]


@pytest.mark.parametrize(
    ("header", "said", "challenge"),
    [
        (None, "found no key, expected 'Authorization: Bearer <key>'", "Bearer"),
        (bearer(OTHER), "unknown or was replaced", 'Bearer error="invalid_token"'),
        (bearer(f"reco_{SHOP.key_id}_{OTHER.split('_', 2)[2]}"), "unknown or was replaced", 'Bearer error="invalid_token"'),
        (HEADER[:-1], "unknown or was replaced", 'Bearer error="invalid_token"'),
        (HEADER + b"=", "unknown or was replaced", 'Bearer error="invalid_token"'),
        (bearer(f"reco__{SECRET}"), "holds no key", 'Bearer error="invalid_token"'),
        (bearer(f"reco_{SHOP.key_id}_"), "holds no key", 'Bearer error="invalid_token"'),
        (bearer(SECRET), "holds no key", 'Bearer error="invalid_token"'),
        (f"Basic {KEY}".encode(), "holds no key", 'Bearer error="invalid_token"'),
        (KEY.encode(), "holds no key", 'Bearer error="invalid_token"'),
        (b"", "holds no key", 'Bearer error="invalid_token"'),
        (bearer(KEY + "x" * 256), "holds no key", 'Bearer error="invalid_token"'),
    ],
    ids=lambda value: "key" if isinstance(value, bytes) else None,  # keys differ from run to run
)
def test_what_is_no_valid_key_is_unauthorized(header: bytes | None, said: str, challenge: str) -> None:
    problem = refused(ring(SHOP), header)
    assert (problem.status, problem.kind) == (401, "unauthorized")
    assert said in problem.detail
    assert problem.headers["www-authenticate"] == challenge
    assert SECRET not in problem.detail
    assert SHOP.key_id not in problem.detail


@given(st.binary(max_size=300), st.sampled_from(Scope))
def test_no_bytes_pass_but_the_key(tail: bytes, scope: Scope) -> None:
    keys = ring(SHOP)
    for header in (tail, b"Bearer " + tail, b"Bearer reco_" + tail, f"Bearer reco_{SHOP.key_id}_".encode() + tail):
        assert refused(keys, header, scope).kind == "unauthorized"


def test_a_key_ends_when_it_expires() -> None:
    record, key = new_key("guest", [Scope.recommend], NOW, expires_ts=NOW + 60)
    assert ring(record).admit(bearer(key), Scope.recommend, NOW + 59.9) == record.key_id
    problem = refused(ring(record), bearer(key), now=NOW + 60)
    assert (problem.kind, f"found key {record.key_id}, which has expired" in problem.detail) == ("unauthorized", True)
    assert [record.state(NOW + s) for s in (59, 60)] == ["active", "expired"]


@given(st.floats(0, 1e6), st.floats(0, 2e6))
def test_the_old_secret_works_within_the_grace_period_only(grace_s: float, passed_s: float) -> None:
    changed, key = rotated(SHOP, NOW, grace_s)
    keys, later = ring(changed), NOW + passed_s
    assert keys.admit(bearer(key), Scope.recommend, later) == SHOP.key_id
    if later < NOW + grace_s:
        assert keys.admit(HEADER, Scope.recommend, later) == SHOP.key_id
    else:
        assert refused(keys, HEADER, now=later).kind == "unauthorized"


def test_a_second_rotation_ends_the_first_secret_and_a_key_that_ended_cannot_be_rotated() -> None:
    once, first = rotated(SHOP, NOW, 600)
    twice, second = rotated(once, NOW, 600)
    assert twice.state(NOW) == "rotating"
    for key in (first, second):
        ring(twice).admit(bearer(key), Scope.recommend, NOW)
    assert refused(ring(twice), HEADER).kind == "unauthorized"
    expired, _ = new_key("guest", [Scope.admin], NOW, expires_ts=NOW + 1)
    with pytest.raises(ConfigError, match=r"found it expired, expected a key that works; create another"):
        rotated(expired, NOW + 2, 60)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"name": ""}, "name: found ''"),
        ({"name": "a\nb"}, "name: found 'a"),
        ({"scopes": []}, "scopes: found none, expected some of"),
        ({"rate": -1.0}, "rate, burst: found -1.0"),
        ({"rate": float("nan")}, "rate, burst: found nan"),
        ({"burst": -1}, "rate, burst: found 0.0, -1"),
    ],
)
def test_a_record_that_cannot_be_is_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        new_key(**{"name": "shop", "scopes": [Scope.admin], "now": NOW, **more})  # type: ignore[arg-type]


def test_no_secret_is_in_what_is_shown_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    changed, key = rotated(SHOP, NOW, 600)
    gate = Gate(keys_of(changed), rate=1, burst=1, clock=Clock(NOW))
    asyncio.run(gate.refresh())
    shown = [repr(changed), str(changed), repr(gate), repr(vars(ring(changed)))]
    for header in (bearer(key), bearer(key), HEADER + b"x"):
        try:
            gate.admit(header, Scope.recommend)
        except HttpProblem as exc:
            shown += [repr(exc), exc.body("r").decode(), *exc.headers.values()]
    text = "".join([*shown, caplog.text])
    assert "API keys" in caplog.text
    for hidden in (SECRET, key.split("_", 2)[2], SHOP.digest, changed.digest):
        assert hidden not in text


def test_beyond_its_rate_a_key_is_told_when_to_come_back() -> None:
    clock = Clock()
    keys = ring(SHOP, clock=clock, rate=0.5, burst=3)
    for _ in range(3):
        keys.admit(HEADER, Scope.recommend, NOW)
    problem = refused(keys, HEADER)
    assert (problem.status, problem.kind, problem.headers["retry-after"]) == (429, "rate-limited", "2")
    assert "at most 0.5 requests per second and 3 at once" in problem.detail
    clock.now = 1.9
    assert refused(keys, HEADER).headers["retry-after"] == "1"
    clock.now = 2.0
    assert keys.admit(HEADER, Scope.events, NOW) == SHOP.key_id


def test_a_keys_own_rate_goes_before_the_default_and_keys_do_not_share_a_bucket() -> None:
    own, key = new_key("own", [Scope.recommend], NOW, rate=2, burst=2)
    keys = ring(SHOP, own, rate=1, burst=1)
    keys.admit(HEADER, Scope.recommend, NOW)
    refused(keys, HEADER)
    for _ in range(2):
        keys.admit(bearer(key), Scope.recommend, NOW)
    assert refused(keys, bearer(key)).kind == "rate-limited"


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60), st.floats(0.1, 20).map(lambda rate: round(rate, 3)), st.integers(1, 8)
)
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(pauses: list[float], rate: float, burst: int) -> None:
    clock = Clock()
    limits, tokens, last = RateLimits(clock=clock), float(burst), 0.0
    for pause in pauses:
        clock.now += pause
        tokens, last = min(burst, tokens + (clock.now - last) * rate), clock.now
        wait_s = limits.take("a", rate, burst)
        if abs(tokens - 1) > 1e-6:
            assert (wait_s == 0) == (tokens >= 1)
        if wait_s == 0:
            tokens -= 1
        else:
            assert wait_s == pytest.approx((1 - tokens) / rate, abs=1e-6)


def test_a_changed_rate_counts_at_once() -> None:
    clock = Clock()
    limits = RateLimits(clock=clock)
    for _ in range(5):
        limits.take("a", 0.001, 5)
    assert limits.take("a", 0.001, 5) == pytest.approx(1000)
    assert limits.take("a", 10, 5) == pytest.approx(0.1)


def test_buckets_are_bounded_and_the_one_used_last_is_kept() -> None:
    limits = RateLimits(max_buckets=3, clock=Clock())
    for key_id in ("a", "b", "c", "a", "d"):
        limits.take(key_id, 1, 2)
    assert len(limits) == 3
    assert limits.take("a", 1, 2) == 1.0, "its bucket was kept, and is empty"
    with pytest.raises(ValueError, match="found max_buckets=0, expected at least 1"):
        RateLimits(max_buckets=0)


class Rejections:
    """Counts."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def rejected(self, reason: str) -> None:
        self.reasons.append(reason)


def keys_of(*records: KeyRecord) -> Callable[[], Awaitable[tuple[KeyRecord, ...]]]:
    async def poll() -> tuple[KeyRecord, ...]:
        return records

    return poll


def test_before_the_keys_were_read_nobody_passes_and_while_the_store_is_away_the_last_ones_stay() -> None:
    held: list[tuple[KeyRecord, ...]] = []

    async def poll() -> tuple[KeyRecord, ...]:
        if not held:
            raise OSError("away")
        return held[0]

    gate = Gate(poll, rate=1e6, burst=10, clock=Clock(NOW))
    asyncio.run(gate.refresh())
    with pytest.raises(HttpProblem, match="have not been read") as found:
        gate.admit(HEADER, Scope.recommend)
    assert (found.value.status, gate.ready) == (503, False)
    held.append((SHOP,))
    asyncio.run(gate.refresh())
    assert gate.admit(HEADER, Scope.recommend) == SHOP.key_id
    held.clear()
    asyncio.run(gate.refresh())
    assert (gate.ready, gate.admit(HEADER, Scope.recommend)) == (True, SHOP.key_id)


def test_an_empty_store_lets_nobody_pass() -> None:
    gate = Gate(keys_of(), rate=1, burst=1)
    asyncio.run(gate.refresh())
    with pytest.raises(HttpProblem, match="unknown"):
        gate.admit(HEADER, Scope.recommend)


def test_a_change_of_keys_fills_no_bucket_and_refusals_are_counted_by_reason() -> None:
    held, counts = [(SHOP,)], Rejections()

    async def poll() -> tuple[KeyRecord, ...]:
        return held[0]

    gate = Gate(poll, rate=1, burst=1, metrics=counts, limits=RateLimits(clock=Clock()), clock=Clock(NOW))
    asyncio.run(gate.refresh())
    gate.admit(HEADER, Scope.recommend)
    held[0] = (SHOP, new_key("other", [Scope.admin], NOW)[0])
    asyncio.run(gate.refresh())
    for header, scope in ((HEADER, Scope.recommend), (HEADER, Scope.admin), (None, Scope.admin)):
        with pytest.raises(HttpProblem):
            gate.admit(header, scope)
    assert counts.reasons == ["rate_limited", "forbidden", "unauthorized"]


def test_the_gate_follows_in_the_background_and_survives_errors() -> None:
    answers: list[Exception | tuple[KeyRecord, ...]] = [OSError(), RuntimeError(), (SHOP,)]

    async def poll() -> tuple[KeyRecord, ...]:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def run() -> bool:
        gate = Gate(poll, rate=1, burst=1, interval_s=0)
        task = asyncio.create_task(gate.run())
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        return gate.ready

    assert asyncio.run(run())


@pytest.fixture(scope="module")
def store_overrides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides = [f"root={tmp_path_factory.mktemp('root')}", f"store.port={port}"]
    with embedded_store(compose_config(overrides)):
        yield overrides


@pytest.fixture
def store(store_overrides: list[str]) -> Iterator[OnlineStore]:
    port = store_overrides[1].removeprefix("store.port=")
    with OnlineStore(f"redis://127.0.0.1:{port}", f"test-{os.urandom(4).hex()}") as store:
        yield store


def test_the_store_holds_digests_and_a_gateway_sees_each_change_at_its_next_poll(store: OnlineStore) -> None:
    record, key = new_key("shop", [Scope.recommend], NOW, rate=5, burst=7)
    gate = Gate(store.keys.poll, rate=1e6, burst=1_000_000, clock=Clock(NOW), limits=RateLimits(clock=Clock()))

    async def story() -> None:
        async def passes(header: bytes) -> bool:
            await gate.refresh()
            try:
                return gate.admit(header, Scope.recommend) == record.key_id
            except HttpProblem as exc:
                return exc.kind != "unauthorized"

        assert not await passes(bearer(key))
        store.keys.add(record)
        assert await passes(bearer(key))
        assert await store.keys.poll() is await store.keys.poll()
        changed, new = store.keys.rotate(record.key_id, NOW, 0)
        assert changed.state(NOW) == "active"
        assert (await passes(bearer(key)), await passes(bearer(new))) == (False, True)
        store.keys.revoke(record.key_id, NOW)
        assert not await passes(bearer(new))
        await store.calls.aclose()

    asyncio.run(story())
    raw = store.blocking_calls.hget(store.key("api_keys"), record.key_id)
    assert isinstance(raw, bytes)
    assert key.split("_", 2)[2].encode() not in raw
    assert store.keys.revoke(record.key_id, NOW + 9).revoked_ts == NOW, "once is for good"
    with pytest.raises(ConfigError, match="found it revoked"):
        store.keys.rotate(record.key_id, NOW, 60)
    with pytest.raises(ConfigError, match="found a key with this id"):
        store.keys.add(record)
    with pytest.raises(ConfigError, match=r"key none: found no such id.*reco keys list"):
        store.keys.revoke("none", NOW)


@pytest.mark.parametrize("damage", [{"digest": "short"}, {"scopes": ["root"]}, {"rate": "fast"}, {"more": 1}, None])
def test_a_damaged_record_is_a_key_that_does_not_work_and_harms_no_other(
    store: OnlineStore, damage: dict[str, object] | None, caplog: pytest.LogCaptureFixture
) -> None:
    store.keys.add(SHOP)
    good = json.loads(store.blocking_calls.hget(store.key("api_keys"), SHOP.key_id) or b"")  # type: ignore[arg-type]
    store.blocking_calls.hset(store.key("api_keys"), "bad", json.dumps({**good, **damage} if damage else None))
    assert store.keys.all() == [SHOP]
    assert "b'bad': found a record that cannot be read" in caplog.text


def test_without_a_store_the_error_says_what_to_do() -> None:
    with OnlineStore("redis://127.0.0.1:1", "t") as away, pytest.raises(NotReadyError, match=r"start it, or check store\.url"):
        away.keys.all()


def test_the_commands_print_a_key_alone_on_stdout_and_never_again(store_overrides: list[str]) -> None:
    def reco(*args: str) -> tuple[str, str]:
        result = CliRunner().invoke(app, ["keys", *args, *store_overrides], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    out, said = reco("create", "the [shop]", "--scope", "recommend", "--scope", "events", "--expires-days", "2")
    prefix, key_id, secret = out.removesuffix("\n").split("_", 2)
    assert (prefix, len(key_id), len(secret), "\n" in secret) == ("reco", 12, 43, False)
    assert secret not in said
    assert "serve.auth is off" in said
    table, _ = reco("list")
    for shown in (key_id, "the [shop]", "recommend, events", "active"):
        assert shown in table
    new, said = reco("rotate", key_id)
    assert new.startswith(f"reco_{key_id}_")
    assert "works until" in said
    assert "rotating" in reco("list")[0]
    assert "has ended" in reco("rotate", key_id, "--grace-minutes", "0")[1]
    assert reco("revoke", key_id)[0] == ""
    table, _ = reco("list")
    assert "revoked" in table
    assert secret not in table
    assert CliRunner().invoke(app, ["keys", "create", "shop", *store_overrides]).exit_code == 2
