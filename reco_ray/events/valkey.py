"""The bus on Valkey or Redis Streams: ``{namespace}:bus:{topic}:{partition}``, one field ``v``, ids of the server's clock.

The server writes and syncs its append-only file before it answers (``appendfsync always``), which makes an answer a promise.
Records stay until every registered reader has committed a position behind them; dead letters go by age. Streams have no TTL.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.events.bus import DEAD_LETTERS, LAKE, Outgoing, Record

__all__ = ["ValkeyProducer", "ValkeyReader", "check_durable", "position_of", "stream_id"]

_TIMEOUT_S = 5.0
_SEQ_BITS = 22
_REMOVE_AT_ONCE = 1_000

# KEYS: a stream. ARGV: oldest id to keep, or an empty text; then the values. One call for a batch, applied as a whole.
_APPEND = """for i=2,#ARGV do redis.call('XADD',KEYS[1],'*','v',ARGV[i]) end
if ARGV[1]~='' then redis.call('XTRIM',KEYS[1],'MINID','~',ARGV[1]) end
return #ARGV-1"""

# KEYS: a stream and its readers' positions. ARGV: reader, position as `_padded`, the
# reader without whose word nothing is trimmed, or "". Returns nothing.
_COMMIT = """local had=redis.call('HGET',KEYS[2],ARGV[1])
if not had or had<ARGV[2] then redis.call('HSET',KEYS[2],ARGV[1],ARGV[2]) end
local least
for _,p in ipairs(redis.call('HVALS',KEYS[2])) do if not least or p<least then least=p end end
if ARGV[3]~='' and least~='' and redis.call('HEXISTS',KEYS[2],ARGV[3])==1 then
  local ms,seq=string.match(least,'(%d+)-(%d+)')
  redis.call('XTRIM',KEYS[1],'MINID','=',string.format('%.0f-%.0f',tonumber(ms),tonumber(seq)+1))
end"""


class ValkeyProducer:
    """The writing side; see `bus.Producer`.

    Args:
        dead_letters_days: age at which dead letters may go.
        everysec: take a server that syncs once a second, and may lose what it promised in the last one.
    """

    def __init__(
        self, url: str, namespace: str, partitions: int, *, dead_letters_days: float = 14, everysec: bool = False
    ) -> None:
        self._url, self._namespace, self._partitions, self._everysec = url, namespace, partitions, everysec
        self._dead_letters_ms = int(dead_letters_days * 86_400_000)
        self._checked = False
        retry = AsyncRetry(NoBackoff(), 0)  # a batch is never sent twice behind the caller's back
        self._redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=1.0, retry=retry, health_check_interval=0
        )

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        """As `bus.Producer.append`; the records of one partition are appended all or none."""
        if not records:
            return
        by_partition: dict[int, list[bytes]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record.value)
        oldest = str(int(time.time() * 1e3) - self._dead_letters_ms) if topic == DEAD_LETTERS else ""
        with _translated():
            await self._check()
            pipe = self._redis.pipeline(transaction=False)
            for partition, values in by_partition.items():
                pipe.eval(_APPEND, 1, stream_key(self._namespace, topic, partition), oldest, *values)
            await pipe.execute()

    async def lags(self, topic: str, reader: str) -> Mapping[int, int]:
        """As `bus.Producer.lags`. What is kept for a slower reader counts too: it takes the same memory."""
        keys = [stream_key(self._namespace, topic, partition) for partition in range(self._partitions)]
        with _translated():
            pipe = self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.xlen(key)
                pipe.hget(f"{key}:readers", reader)
                pipe.xrevrange(key, count=1)
            found = await pipe.execute()
        lags = {}
        for partition in range(self._partitions):
            length, committed, last = found[3 * partition : 3 * partition + 3]
            read_all = not last or (committed and position_of(last[0][0]) <= position_of(committed))
            lags[partition] = 0 if read_all else int(length)
        return lags

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _check(self) -> None:
        if not self._checked:
            settings, info = await _settings(self._redis), await self._redis.info("persistence")
            check_durable(settings, info, self._url, everysec=self._everysec)
            self._checked = True


class ValkeyReader:
    """The reading side; see `bus.Reader`."""

    def __init__(self, url: str, namespace: str, topic: str, partition: int) -> None:
        self._key = stream_key(namespace, topic, partition)
        self._by_age = topic == DEAD_LETTERS
        self._redis = redis.Redis.from_url(
            url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
        )
        self._redis.set_response_callback("XREAD", _plain)

    def read(self, after: int, limit: int, wait_s: float) -> list[Record]:
        """As `bus.Reader.read`."""
        block = max(1, int(min(wait_s, _TIMEOUT_S / 2) * 1e3)) if wait_s > 0 else None
        with _translated():
            found: Any = self._redis.xread({self._key: stream_id(after)}, count=limit, block=block)
        return [_record(entry_id, fields[1]) for entry_id, fields in found if fields]

    def oldest(self) -> int:
        """As `bus.Reader.oldest`."""
        with _translated():
            found: Any = self._redis.xrange(self._key, count=1)
        return position_of(found[0][0]) if found else -1

    def newest(self) -> int:
        """As `bus.Reader.newest`."""
        with _translated():
            if not self._redis.exists(self._key):
                return -1
            last = self._redis.xinfo_stream(self._key)["last-generated-id"]
        return position_of(last)

    def commit(self, reader: str, position: int) -> None:
        """As `bus.Reader.commit`; -1 registers a reader, for whom everything from the oldest record on is kept."""
        with _translated():
            trim = "" if self._by_age else LAKE
            self._redis.eval(_COMMIT, 2, self._key, f"{self._key}:readers", reader, _padded(position), trim)

    def forget(self, reader: str) -> None:
        """As `bus.Reader.forget`."""
        with _translated():
            self._redis.hdel(f"{self._key}:readers", reader)

    def remove(self, positions: Sequence[int]) -> int:
        """As `bus.Reader.remove`. What is removed leaves the append-only file with its next rewrite."""
        n = 0
        with _translated():
            for at in range(0, len(positions), _REMOVE_AT_ONCE):
                n += int(self._redis.xdel(self._key, *map(stream_id, positions[at : at + _REMOVE_AT_ONCE])))
        return n

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def stream_key(namespace: str, topic: str, partition: int) -> str:
    """Name the key of a partition's stream."""
    return f"{namespace}:bus:{topic}:{partition}"


def stream_id(position: int) -> str:
    """Turn a position into a stream id; -1 is before all."""
    return "0-0" if position < 0 else f"{position >> _SEQ_BITS}-{position & ((1 << _SEQ_BITS) - 1)}"


def position_of(entry_id: bytes | str) -> int:
    """Turn a stream id into a position."""
    ms, _, seq = (entry_id.decode() if isinstance(entry_id, bytes) else entry_id).partition("-")
    return int(ms) << _SEQ_BITS | int(seq)


def check_durable(settings: Mapping[str, str], info: Mapping[str, object], url: str, *, everysec: bool = False) -> None:
    """Refuse a server that can lose what it has acknowledged.

    Args:
        settings: of CONFIG GET; empty where the service does not allow it. info: of INFO persistence.
    Raises: ConfigError: names the settings. NotReadyError: it still loads its data, and does not show them.
    """
    if info.get("loading"):
        raise NotReadyError(f"events.bus.url={url.rpartition('@')[2]}: found a server that loads its data; try again")
    wanted = {
        "appendfsync": ("always", "everysec") if everysec else ("always",),
        "maxmemory-policy": ("noeviction",),
        "aof-use-rdb-preamble": ("no",),
    }
    wrong = [
        f"{name} {settings[name]}, expected {values[0]}"
        for name, values in wanted.items()
        if settings.get(name, values[0]) not in values
    ]
    if not info.get("aof_enabled"):
        wrong.insert(0, "appendonly no, expected yes")
    if wrong:
        where = url.rpartition("@")[2]
        raise ConfigError(f"events.bus.url={where}: found {'; '.join(wrong)}; set them in the server's configuration")


async def _settings(client: redis.asyncio.Redis) -> dict[str, str]:
    try:
        found = await client.config_get("appendfsync", "maxmemory-policy", "aof-use-rdb-preamble")
        return {str(name): str(value) for name, value in found.items()}
    except redis.ResponseError:  # a managed service keeps its settings to itself
        return {}


def _padded(position: int) -> str:
    """Write a position so that texts sort as positions do; empty for -1."""
    return "" if position < 0 else f"{position >> _SEQ_BITS:016d}-{position & ((1 << _SEQ_BITS) - 1):07d}"


def _plain(answer: Any, **_: Any) -> Any:
    """Take the entries of one stream from an answer as it came; the client's own way costs more than all else here."""
    if not answer:
        return []
    return next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]


def _record(entry_id: bytes, value: bytes) -> Record:
    ms, seq = entry_id.split(b"-")
    ts_ms = int(ms)
    return Record(ts_ms << _SEQ_BITS | int(seq), ts_ms, value)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError, TimeoutError) as exc:
        said = f"{type(exc).__name__}: {exc}"
        raise NotReadyError(f"the event bus does not answer ({said}); start it, or check events.bus.url") from exc
