"""The steps of an erasure over the real places, in their order.

First nobody may write more of the user's, then what is written goes, from where it comes in to where it ends up. Then all is
looked at again, and last the store, which kept the id until then, forgets it and writes its files anew.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from reco_ray.config import BusKind, PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.bus import DEAD_LETTERS, EVENTS, EXPOSURES, Reader, partition_of
from reco_ray.lake import storage
from reco_ray.privacy import bus, files, lake
from reco_ray.privacy.erasure import Person, Step
from reco_ray.privacy.needles import Needle, holders
from reco_ray.privacy.receipts import Place
from reco_ray.privacy.releases import trained_on
from reco_ray.privacy.settle import settle
from reco_ray.store import ErasureStore, FenceStore, OnlineStore, SlateStore
from reco_ray.store.aof import rewrite_aof

__all__ = ["Erasing", "OpenReader"]

log = logging.getLogger(__name__)

OpenReader = Callable[[str, int], Reader]
"""Opens a partition of a topic."""

_LOOKS = 3


class Erasing:
    """The bodies of the steps, in `steps`.

    Args:
        store_url: of the online store.
        wait: until gateways and sinks follow the fence; `settle.settle` in production.
    """

    def __init__(
        self,
        config: PipelineConfig,
        store: OnlineStore,
        store_url: str,
        open_reader: OpenReader,
        wait: Callable[[Callable[[], Sequence[object]], int], int] = settle,  # type: ignore[assignment]
    ) -> None:
        self._config, self._root = config, config.root
        self._store, self._store_url, self._open_reader, self._wait = store, store_url, open_reader, wait
        self._erasures, self._fence = ErasureStore(store), FenceStore(store)
        self.steps: Sequence[tuple[str, Step]] = (
            ("fence", self._settle),
            ("releases", self._releases),
            ("bus", self._bus),
            ("lake", self._lake),
            ("files", self._files),
            ("store", self._keys),
            ("second look", self._second_look),
            ("search", self._search),
            ("id", self._forget),
            ("append-only file", self._aof),
        )

    def _settle(self, people: Sequence[Person]) -> None:
        followers = self._wait(self._fence.readers, self._fence.read().version)
        for person in people:
            person.tell(Place("fence", followers, "gateways and sinks", note="they refuse and drop what is the user's"))

    def _releases(self, people: Sequence[Person]) -> None:
        found = trained_on(self._root, [person.user_id for person in people])
        for person in people:
            person.keep(replace(person.receipt, releases=tuple(found[person.user_id])))

    def _bus(self, people: Sequence[Person]) -> None:
        config = self._config.events
        for topic in (EVENTS, EXPOSURES, DEAD_LETTERS):
            needles = _needles(people)
            if topic != DEAD_LETTERS:  # whose partition is that of nobody where no user can be made out
                partitions = sorted({partition_of(user_id, config.bus.partitions) for user_id in needles})
            else:
                partitions = list(range(config.bus.partitions))
            cleared = bus.Cleared()
            for partition in partitions:
                with contextlib.closing(self._open_reader(topic, partition)) as reader:
                    bus.clear(reader, needles, cleared)
            note = ""
            if config.bus.kind is BusKind.kafka and cleared.found:
                until = datetime.fromtimestamp(cleared.last_ms / 1e3, UTC) + timedelta(hours=config.bus.keep_hours)
                note = f"Kafka removes no single records; its retention removes these by {until:%Y-%m-%d %H:%M} UTC"
            for person in people:
                found, removed = cleared.found[person.user_id], cleared.removed[person.user_id]
                kept = note if found > removed else ""
                person.tell(Place(f"bus {topic}", cleared.looked_at, "records", found, removed, kept))

    def _lake(self, people: Sequence[Person]) -> None:
        files.nobody_at_work(self._root)
        needles = _needles(people)
        for name, uri in lake.tables_of_users(self._root):
            before = lake.count_rows(uri, needles)
            _tell(people, f"lake {name}", "files", before, {})
            removed = lake.remove_rows(uri, needles)
            _tell(people, f"lake {name}", "files", removed, removed.users)
            old = lake.remove_old_files(uri, needles)
            _tell(people, f"lake {name}, files of older versions", "files", old, old.users)
            cleaned = lake.clean_log(uri, needles)
            _tell(people, f"lake {name}, log", "files", cleaned, cleaned.users)

    def _files(self, people: Sequence[Person]) -> None:
        files.nobody_at_work(self._root)
        found = files.remove_from_parquet(self._root, _needles(people))
        _tell(people, "Parquet files of steps and slates, rows", "files", found, found.users)

    def _keys(self, people: Sequence[Person]) -> None:
        slates = SlateStore(self._store)
        for person in people:
            purged = slates.purge_user(person.user_id)
            person.tell(Place("store slates", 1, "users", purged, purged, "gateways drop theirs within a second or so"))
        removed = self._erasures.purge_keys(person.receipt.user for person in people)
        for person in people:
            families = {family: n for (user, family), n in removed.items() if user == person.receipt.user}
            for family, n in families.items():
                person.tell(Place(f"store {family}", n, "keys", n, n))
            if not families:
                person.tell(Place("store keys", 1, "users"))

    def _second_look(self, people: Sequence[Person]) -> None:
        """Go over bus, lake and files until they hold nothing: a job that ended meanwhile may have written what it had read."""
        for _ in range(_LOOKS):
            before = _found(people)
            for step in (self._bus, self._lake, self._files, self._keys):
                step(people)
            if _found(people) == before:
                return
        raise NotReadyError(
            f"erasure: found the users' data again at each of {_LOOKS} looks, expected none; "
            "a job writes what it read before: end it, then run this again"
        )

    def _search(self, people: Sequence[Person]) -> None:
        looked_at, found = files.search(self._root, _needles(people))
        for person in people:
            paths = found.get(person.user_id, [])
            note = f"look at {', '.join(paths[:20])}" if paths else ""
            person.tell(Place("other files, bytes of the id", looked_at, "files", len(paths), 0, note))
            if paths:
                log.warning("erasure %s: the id stands in %s", person.receipt.receipt_id, ", ".join(paths[:20]))

    def _forget(self, people: Sequence[Person]) -> None:
        for person in people:
            self._erasures.forget(person.receipt.receipt_id)

    def _aof(self, people: Sequence[Person]) -> None:
        servers = dict.fromkeys([self._store_url])
        if self._config.events.bus.kind is BusKind.valkey and self._config.events.bus.url:
            servers[self._config.events.bus.url] = None
        notes = [note for url in servers if (note := rewrite_aof(url))]
        where = storage.join(self._root, "store")
        paths = [storage.join(where, path) for path, _ in storage.walk(where)]
        known = {user_id: needle for user_id, needle in _needles(people).items() if user_id}
        theirs = {path: holders(storage.read_parts(path), known) for path in paths} if known else {}
        for person in people:
            found = [path for path, user_ids in theirs.items() if person.user_id in user_ids]
            said = [*notes, *([f"look at {', '.join(found)}"] if found else [])]
            if not person.user_id:
                said.append("not searched: the run before ended when it had forgotten the id")
            person.tell(Place("append-only files, written anew", len(paths), "files", len(found), 0, "; ".join(said)))


def _needles(people: Iterable[Person]) -> dict[str, Needle]:
    return {person.user_id: Needle(person.user_id) for person in people}


def _tell(people: Iterable[Person], name: str, unit: str, found: lake.Found, removed: Mapping[str, int]) -> None:
    for person in people:
        n = found.users.get(person.user_id, 0)
        person.tell(Place(name, found.looked_at, unit, n, removed.get(person.user_id, 0)))


def _found(people: Iterable[Person]) -> list[int]:
    return [sum(place.found for place in person.receipt.places.values()) for person in people]
