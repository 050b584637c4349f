"""A root with everything that may hold a user: lake, files of steps, bus, store; and a search that knows nothing of ours."""

import asyncio
import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from deltalake import write_deltalake

from reco_ray.compose import compose_config
from reco_ray.config import DateUnit, PipelineConfig
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, EXPOSURES, Outgoing, partition_of
from reco_ray.events.open import open_producer
from reco_ray.hashing import user_bucket, user_digest
from reco_ray.lake import append_events, tables
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.compact import compact
from reco_ray.release import seal
from reco_ray.schema import EVENTS as EVENTS_SCHEMA
from reco_ray.schema import EXPOSURES as EXPOSURES_SCHEMA
from reco_ray.schema import check
from reco_ray.store import FinishedSlate, Interests, OnlineStore, Precomputed, Profile, SlateStore, pack_profile
from reco_ray.types import UserRow

GONE = "kim/ü 7-gone"
OTHERS = [f"user-{n}" for n in range(12)]
USERS = [GONE, *OTHERS]
START = datetime(2026, 3, 1, tzinfo=UTC)


def config_of(root: Path, url: str = "", port: int = 0, *more: str) -> PipelineConfig:
    store = [f"store.url={url}"] if url else [f"store.port={port}"]
    return compose_config([f"root={root}", *store, *more], "run_pipeline")


def event(user_id: str, number: int, ts: datetime) -> dict[str, object]:
    return {
        "event_id": f"{user_digest(user_id)[:6]}-{number}",
        "schema_version": "1.1",
        "received_ts": ts,
        "type": "view",
        "user_id": user_id,
        "item_id": f"item-{number % 5}",
        "ts": ts,
        "consent": True,
        "session_id": f"session-{number % 3}",
        "context": {"device": "phone", "locale": None, "surface": None, "location": None},
        "extra": json.dumps({"number": number}),
        "date": f"{ts:%Y-%m-%d}",
        "user_bucket": user_bucket(user_id),
    }


def make_lake(root: Path) -> None:
    """Several dates and files, a compaction, a killed writer's files, and a table made when ids still got statistics."""
    for number in range(6):
        rows = [event(user, number, START + timedelta(days=number // 2, minutes=n)) for n, user in enumerate(USERS)]
        if number == 3:
            rows = [row for row in rows if row["user_id"] != GONE]  # a file without the user is left alone
        append_events(str(root), check(pa.Table.from_pylist(rows), EVENTS_SCHEMA, "world"), "w", number, DateUnit.day)
        if number == 1:
            compact(str(root), "events")
    shown = [
        {
            "request_id": f"request-{n}", "received_ts": START, "call": "recommend", "user_id": user, "ts": START, "age_s": 0.0,
            "consent": True, "release": "r1", "variant": "main", "rung": "full", "degraded": [], "draw_id": f"request-{n}",
            "item_ids": ["item-1"], "scores": [1.0], "propensities": [None], "sources": [["popular"]], "rules": [[]],
            "timings": [("recall", 1.5)], "date": f"{START:%Y-%m-%d}", "user_bucket": user_bucket(user),
        }
        for n, user in enumerate([*USERS, ""])
    ]  # fmt: skip
    exposures = check(pa.Table.from_pylist(shown, schema=EXPOSURES_SCHEMA), EXPOSURES_SCHEMA, "world")
    TableAppender(str(root), "exposures", "w", DateUnit.day).append(exposures, 0, 1)
    users = pl.DataFrame({"user_id": USERS, "user_bucket": [user_bucket(user) for user in USERS]})
    tables.replace(str(root), "users", users.to_arrow())
    for key, who in (("aaa", USERS), ("bbb", OTHERS)):
        for snapshot in ("fit", "live"):
            views = pl.DataFrame({"user_id": who, "as_of": 1, "snapshot": f"{key}-{snapshot}", "n": [len(u) / 2 for u in who]})
            tables.replace(str(root), "features_users", views.to_arrow(), f"snapshot = '{key}-{snapshot}'")
    labels = pl.DataFrame({"user_id": USERS, "item_ids": [["item-1"]] * len(USERS), "part": "aaa-rank"})
    write_deltalake(tables.table_uri(str(root), "labels"), labels.to_arrow(), partition_by=["part"])  # ids among the statistics
    tables.replace(str(root), "items", pl.DataFrame({"item_id": ["item-1"], "title": [GONE[:3]]}).to_arrow())
    dead = root / "lake" / "events" / f"date={START:%Y-%m-%d}"
    pq.write_table(pa.table({"user_id": [GONE], "item_id": ["item-1"]}), dead / "killed.parquet")
    pq.write_table(pa.table({"user_id": ["user-1"], "item_id": ["item-1"]}), dead / "at-work.parquet")
    whole = (dead / "killed.parquet").read_bytes()
    (dead / "half.parquet").write_bytes(whole[: len(whole) // 2])
    old = time.time() - 60
    os.utime(dead / "half.parquet", (old, old))


def make_files(root: Path) -> None:
    """What steps leave: an output with its manifest, slates, releases."""
    step = root / "steps" / "build_features" / "aaa"
    step.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": USERS, "items": [["item-1"]] * len(USERS)}), step / "sequences.parquet")
    sha = hashlib.sha256((step / "sequences.parquet").read_bytes()).hexdigest()
    manifest = {"step": "build_features", "content": "abc", "facts": {}, "files": {"sequences.parquet": sha}, "seconds": 1.0}
    (step / "manifest.json").write_text(json.dumps(manifest))
    slates = root / "slates" / "k1"
    slates.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": USERS, "item_ids": [["item-1"]] * len(USERS)}), slates / "0.parquet")
    later = (START + timedelta(days=30)).isoformat()
    for release, key, made in (("r1", "aaa", later), ("r2", "bbb", later), ("r0", "zzz", "2020-01-01T00:00:00+00:00")):
        bundle = root / "releases" / release
        bundle.mkdir(parents=True)
        (bundle / "popular.json").write_text("[1]")
        seal(bundle, release, "v1", {"features_key": key, "made_ts": made})


def fill_bus(config: PipelineConfig, url: str) -> None:
    """Events, exposures and dead letters of all users, and a dead letter that only its raw bytes tell of."""

    def outgoing(user: str, value: dict[str, object]) -> Outgoing:
        return Outgoing(partition_of(user, config.events.bus.partitions), orjson.dumps(value))

    def letter(user: str, known: bool) -> dict[str, object]:
        raw = json.dumps({"user_id": user, "type": "nonsense"}).encode()
        return {
            "reason": "invalid",
            "raw_b64": base64.b64encode(raw).decode(),
            "user_digest": user_digest(user) if known else "",
        }

    async def fill() -> None:
        producer = open_producer(config.events, config.store.namespace, url)
        await producer.append(
            EVENTS, [outgoing(user, {"event_id": f"e-{n}", "user_id": user}) for n, user in enumerate(USERS * 3)]
        )
        await producer.append(EXPOSURES, [outgoing(user, {"request_id": "r", "user_id": user}) for user in USERS])
        await producer.append(DEAD_LETTERS, [outgoing(user, letter(user, True)) for user in USERS])
        other = "user-1" if partition_of("user-1", 2) != partition_of(GONE, 2) else "user-2"
        await producer.append(DEAD_LETTERS, [outgoing(other, letter(GONE, False)), outgoing(other, letter("user-3", False))])
        await producer.aclose()

    asyncio.run(fill())


def fill_store(config: PipelineConfig, url: str) -> None:
    """Rows of two views, finished answers, precomputed slates and profiles of all users; a profile holds the user's id."""
    row = UserRow(as_of=1)
    precomputed = Precomputed(time.time(), "r1", ("item-1",), ("One",), (1.0,), (("popular",),))

    async def write() -> None:
        with OnlineStore(url, config.store.namespace) as store:
            slate = FinishedSlate(b'"x":1}', '"tag"', "r1", 12.5)
            await SlateStore(store).write(
                [(user_digest(user), "r1:x", slate) for user in USERS], [(user_digest(user), precomputed) for user in USERS]
            )
            await store.calls.aclose()

    with OnlineStore(url, config.store.namespace) as store:
        for view in ("v1", "v2"):
            store.write_users([(user, row) for user in USERS], view)
        for user in USERS:
            profile = Profile({"called": user}, Interests(("Comedy",), ("item-1",)), 12.5)
            store.blocking_calls.set(store.key("profile", user_digest(user)), pack_profile(profile))
        store.set_traffic({"r1": 1.0}, {"r1": "v1"})
    asyncio.run(write())


def rows_of(root: Path, user_id: str | None) -> dict[str, pl.DataFrame]:
    """Rows of every table, sorted: of one user, or with None of all but `GONE`."""
    found = {}
    for folder in sorted((root / "lake").iterdir()):
        frame = pl.read_delta(str(folder))
        if "user_id" in frame.columns:
            frame = frame.filter(pl.col("user_id") == user_id if user_id else pl.col("user_id") != GONE)
        keys = [name for name in ("event_id", "request_id", "user_id", "snapshot") if name in frame.columns]
        found[folder.name] = frame.sort(keys) if keys else frame
    return found


def traces(root: Path, user_id: str = GONE) -> list[str]:
    """Files under root whose bytes hold an id, plain, escaped or in base64, or whose Parquet rows do."""
    texts = [user_id.encode(), json.dumps(user_id)[1:-1].encode()]
    cores = [base64.b64encode(b"x" * before + text)[-(-8 * before // 6) : -4] for text in texts for before in range(3)]
    forms = [*texts, quote(user_id).encode(), quote(user_id, safe="").encode(), *cores]
    found = []
    for path in sorted(each for each in root.rglob("*") if each.is_file()):
        raw = path.read_bytes()
        text = b"" if path.suffix != ".parquet" else _rows(path)
        if any(form in raw or form in text for form in forms):
            found.append(str(path.relative_to(root)))
    return found


def kept_values(url: str) -> Iterator[tuple[bytes, bytes]]:
    """Every key of a server with all that it holds."""
    with redis.Redis.from_url(url) as calls:
        for key in calls.scan_iter():
            kind = calls.type(key)
            if kind == b"stream":
                yield key, repr(calls.xrange(key)).encode() + b"".join(b"".join(f.values()) for _, f in calls.xrange(key))
            else:
                yield key, calls.dump(key) or b""
                if kind == b"hash":
                    yield key, b" ".join(each for pair in calls.hgetall(key).items() for each in pair)


def _rows(path: Path) -> bytes:
    try:
        return json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str, ensure_ascii=False).encode()
    except pa.ArrowInvalid:
        return b""
