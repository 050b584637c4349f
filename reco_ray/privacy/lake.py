"""Removing users from the lake's tables, and from what tables leave behind: old files, and their log.

Not by a DELETE of Delta, whose predicate and statistics would keep the ids in the log: each file that holds the users is
written anew without them, and takes the old one's place. The commit is the very next version after the one that was looked at,
or is tried again: delta-rs sees no conflict where a compaction has replaced the same file meanwhile, and would store its rows
twice (tried).

Instead of a vacuum, which also removes the files that a writer has not committed yet, each file that the table does not name
is read, and goes when it holds the users. Writers behind the fence write no such file any more, so that none of theirs is lost.
"""

import contextlib
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from reco_ray.errors import NotReadyError
from reco_ray.lake import storage
from reco_ray.privacy.needles import Needle, holders
from reco_ray.privacy.rows import USER_COLUMN, count_users, without_users

__all__ = ["Found", "clean_log", "count_rows", "remove_old_files", "remove_rows", "tables_of_users"]

log = logging.getLogger(__name__)

_ATTEMPTS = 100
_UNFINISHED_S = 10.0
_LOG = "_delta_log/"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found and removed. ``users``: rows or files by user id."""

    looked_at: int
    users: Mapping[str, int]


def tables_of_users(root: str) -> Iterator[tuple[str, str]]:
    """Name and URI of each table of the lake that has a column of users."""
    folder = storage.join(root, "lake")
    for name in storage.listing(folder):
        uri = storage.join(folder, name)
        if DeltaTable.is_deltatable(uri) and USER_COLUMN in [field.name for field in DeltaTable(uri).schema().fields]:
            yield name, uri


def count_rows(uri: str, user_ids: Collection[str]) -> Found:
    """Count the users' rows in a table."""
    files = _Files(uri, user_ids)
    for _ in range(_ATTEMPTS):
        actions = _actions(DeltaTable(uri))
        try:
            return Found(len(actions), sum((files.users(path) for path in actions), Counter()))
        except FileNotFoundError:  # compacted and vacuumed meanwhile
            continue
    raise _busy(uri)


def remove_rows(uri: str, user_ids: Collection[str]) -> Found:
    """Remove the users' rows from a table, in one commit.

    Raises: NotReadyError: others committed between at each attempt.
    """
    files = _Files(uri, user_ids)
    for attempt in range(_ATTEMPTS):
        table = DeltaTable(uri)
        actions = _actions(table)
        try:
            doomed = {path: found for path in actions if (found := files.users(path))}
            if not doomed:
                return Found(len(actions), {})
            wanted = table.metadata().configuration.get("delta.dataSkippingStatsColumns")
            changes = []
            for path in doomed:
                described = (actions[path].get("min") or {}) if wanted is None else wanted.split(",")
                changes += files.replaced(actions[path], described)
            table.create_write_transaction(
                changes,
                "append",
                table.schema(),
                table.metadata().partition_columns,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except (CommitFailedError, FileNotFoundError) as exc:
            log.debug("%s: %s", uri, exc)
            time.sleep(0.002 * attempt)
            continue
        storage.make_durable(storage.join(uri, _LOG + f"{table.version() + 1:020d}.json"))
        return Found(len(actions), sum(doomed.values(), Counter()))
    raise _busy(uri)


def remove_old_files(uri: str, user_ids: Collection[str]) -> Found:
    """Remove the files with the users' rows that the table does not name: of older versions, and of killed writers.

    A file that cannot be read was not finished; it goes when nobody has written to it for some seconds.
    """
    files = [(path, changed) for path, changed in storage.walk(uri) if path.endswith(".parquet") and not path.startswith(_LOG)]
    named = {unquote(path) for path in _actions(DeltaTable(uri))}  # read after the walk: a file committed meanwhile is named
    old = [(path, changed) for path, changed in files if path not in named]
    found: Counter[str] = Counter()
    for path, changed in old:
        where = storage.join(uri, path)
        try:
            users = count_users(where, user_ids)
        except FileNotFoundError:
            continue
        except pa.ArrowInvalid:
            users = Counter(user_ids if time.time() - changed > _UNFINISHED_S else ())
        if users:
            storage.remove(where)
            found.update(dict.fromkeys(users, 1))
    return Found(len(old), found)


def clean_log(uri: str, needles: Mapping[str, Needle]) -> Found:
    """Remove the commits and checkpoints of a table that name the users, as older versions of this code have left them.

    A commit that keeps statistics of ids out of the log, and a checkpoint behind it, take their place.
    """
    folder = storage.join(uri, _LOG.rstrip("/"))
    names = [name for name, _ in storage.walk(folder)]
    found: Counter[str] = Counter()
    last = -1
    for name in names:
        theirs = holders(_parts(storage.join(folder, name)), needles)
        found.update(theirs)
        last = max(last, _version(name)) if theirs else last
    if last >= 0:
        table = DeltaTable(uri)
        columns = [field.name for field in pa.schema(table.schema().to_arrow()) if _described(field)]
        table.alter.set_table_properties({"delta.dataSkippingStatsColumns": ",".join(columns)})
        table = DeltaTable(uri)
        table.create_checkpoint()
        for name in names:
            if 0 <= _version(name) <= min(last, table.version() - 1):
                storage.remove(storage.join(folder, name))
    return Found(len(names), found)


class _Files:
    """The files of a table: looked into once, written anew once."""

    def __init__(self, uri: str, user_ids: Collection[str]) -> None:
        self._uri, self._user_ids = uri, user_ids
        self._users: dict[str, Counter[str]] = {}
        self._replaced: dict[str, list[AddAction | RemoveAction]] = {}

    def users(self, path: str) -> Counter[str]:
        """Rows by user of a file; ``path`` as the log spells it."""
        if path not in self._users:
            self._users[path] = count_users(storage.join(self._uri, unquote(path)), self._user_ids)
        return self._users[path]

    def replaced(self, action: Mapping[str, Any], described: Iterable[str]) -> list[AddAction | RemoveAction]:
        """The changes that put a file without the users in the place of one; ``described``: columns to give statistics of."""
        path = unquote(action["path"])  # delta-rs escapes the paths of changes, and gives out escaped ones
        if path not in self._replaced:
            now = int(time.time() * 1000)
            partition = action.get("partition") or {}
            gone = RemoveAction(path, True, now, size=action["size_bytes"], partition_values=partition)
            self._replaced[path] = [gone]
            rest = without_users(storage.join(self._uri, path), self._user_ids)
            if rest.num_rows:
                folder, _, _ = path.rpartition("/")
                new = "/".join((*([folder] if folder else []), f"{uuid.uuid4().hex}.parquet"))
                columns = [name for name in described if name in rest.schema.names and _described(rest.schema.field(name))]
                size = storage.write_parquet(
                    storage.join(self._uri, new), rest, compression="zstd", write_statistics=columns or False
                )
                self._replaced[path].append(AddAction(new, size, partition, now, True, _statistics(rest, columns)))
        return self._replaced[path]


def _actions(table: DeltaTable) -> dict[str, dict[str, Any]]:
    return {action["path"]: action for action in pa.table(table.get_add_actions()).to_pylist()}


def _described(field: pa.Field) -> bool:
    """Whether a column may have statistics: no id, and of a kind that Delta has them for."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp)
    return any(of_kind(field.type) for of_kind in kinds)


def _statistics(rows: pa.Table, columns: Iterable[str]) -> str:
    least, most, nulls = {}, {}, {}
    for name in columns:
        column = rows.column(name)
        extremes = pc.min_max(column).as_py()
        nulls[name] = column.null_count
        if extremes["min"] is not None and extremes["min"] == extremes["min"]:
            least[name], most[name] = _plain(extremes["min"]), _plain(extremes["max"])
    return json.dumps({"numRecords": rows.num_rows, "minValues": least, "maxValues": most, "nullCount": nulls})


def _plain(value: object) -> object:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value


def _version(name: str) -> int:
    """The version that a file of the log belongs to; -1 of those without."""
    number = name.partition(".")[0]
    return int(number) if number.isdigit() else -1


def _parts(uri: str) -> Iterator[bytes]:
    """What a file of the log says: commits as they are, checkpoints as JSON."""
    if not uri.endswith(".parquet"):
        yield from storage.read_parts(uri)
        return
    with contextlib.suppress(FileNotFoundError):
        for batch in storage.read_parquet(uri).to_batches(max_chunksize=10_000):
            yield json.dumps(batch.to_pylist(), default=str).encode()


def _busy(uri: str) -> NotReadyError:
    return NotReadyError(f"{uri}: found other commits between at each of {_ATTEMPTS} attempts, expected a gap; run it again")
