"""The recall stage of a release: its sources under quotas, merged."""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from reco_ray.config import EncoderName, RecallConfig, SourceName
from reco_ray.errors import ConfigError
from reco_ray.features import Catalogue
from reco_ray.recall.merge import line_up, merge
from reco_ray.recall.query import Hits, Live, Query, Source, Watched, make_query
from reco_ray.recall.sources.content import ContentSource
from reco_ray.recall.sources.covisit import CovisitSource
from reco_ray.recall.sources.fresh import FreshSource
from reco_ray.recall.sources.lists import ListSource
from reco_ray.recall.sources.mf import MfSource
from reco_ray.recall.sources.repeat import RepeatSource
from reco_ray.recall.sources.segments import SEGMENTED, Segments
from reco_ray.recall.sources.sequential import SequentialSource
from reco_ray.recall.sources.two_tower import TwoTowerSource
from reco_ray.store import NO_FLAGS, Flags, LiveItem
from reco_ray.types import Candidates, Request

__all__ = ["Recall", "build", "load"]

log = logging.getLogger(__name__)

_FILE = "recall.json"
_WHOLE = 1_000_000  # history of releases that do not say: their sources and models saw all of it


class Recall:
    """Finds candidates for a batch of requests.

    Args:
        sources: by name, in the order of `config.SourceName`; the columns of the candidates' ranks and scores.
        quotas: most items each may bring.
        history: newest items of a user that a source is shown; `RepeatSource` sees all that the user's row holds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        sources: dict[str, Source],
        quotas: dict[str, int],
        candidates: int,
        seen_items_return: bool,
        history: int,
    ) -> None:
        self.catalogue, self.sources, self._quotas = catalogue, sources, quotas
        self._candidates, self._seen_items_return, self._history = candidates, seen_items_return, history
        self._withdrawn = np.flatnonzero(~catalogue.available)
        self._lock = threading.Lock()  # between requests, and changes from another thread
        self._off = NO_FLAGS.sources
        self.unknown = 0

    @property
    def names(self) -> list[str]:
        """Of the sources, in the order of the columns."""
        return list(self.sources)

    def recall(self, requests: Sequence[Request]) -> list[Candidates]:
        """Contract of `slate.RecallStage`: a source that fails is named in the candidates' ``missing`` and passed over.

        A request with items of its own gets exactly those that the catalogue knows, in their order, seen and withdrawn ones
        included. The sources are asked as for any request of this user, so that their evidence means to the ranker what it
        meant in training; of an item that they would not have returned they say nothing.
        """
        with self._lock:
            return self._recall(requests)

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Contract of `slate.LiveStage`. A source that fails at it goes on with what it has."""
        with self._lock:
            self.catalogue, growth = self.catalogue.with_items(changes)
            self._withdrawn = np.flatnonzero(~self.catalogue.available)
            for name, source in self.sources.items():
                if isinstance(source, Live):
                    try:
                        source.remove(growth.removed)
                        source.put(self.catalogue, growth)
                    except Exception:
                        log.exception("source %s did not take %d changes of items", name, len(changes))

    def switch(self, flags: Flags) -> None:
        """Contract of `slate.SwitchedStage`: sources that are off are not asked."""
        self._off = flags.sources

    def _recall(self, requests: Sequence[Request]) -> list[Candidates]:
        queries, newest = self._queries(requests)
        hits: list[list[Hits]] = []
        missing, off = [], self._off
        nothing: Hits = (np.empty(0, np.int64), np.empty(0, np.float32))
        for name, source in self.sources.items():
            if name in off:
                hits.append([nothing] * len(requests))
                continue
            try:
                hits.append(source.recall(queries if isinstance(source, RepeatSource) else newest, self._quotas[name]))
            except Exception:
                log.exception("source %s failed on a batch of %d", name, len(requests))
                missing.append(name)
                hits.append([nothing] * len(requests))
        return [self._candidates_of(r, [h[i] for h in hits], tuple(missing)) for i, r in enumerate(requests)]

    def _queries(self, requests: Sequence[Request]) -> tuple[list[Query], list[Query]]:
        """With all of the history, and with the newest items of it."""
        queries = [make_query(r, self.catalogue, self._seen_items_return, self._withdrawn) for r in requests]
        return queries, [query.newest(self._history) for query in queries]

    def _candidates_of(self, request: Request, hits: list[Hits], missing: tuple[str, ...]) -> Candidates:
        if not request.items:
            return merge(hits, [self._quotas[name] for name in self.sources], self.catalogue.keys, self._candidates, missing)
        rows = self.catalogue.find(request.items)
        return line_up(rows[rows >= 0], hits, missing)

    def watch(self, report: Callable[[str, str, float], None]) -> None:
        """Contract of `slate.RecallStage`."""
        for name, source in self.sources.items():
            if isinstance(source, Watched):
                source.watch(partial(report, name))

    def find(self, text: str, k: int) -> Hits:
        """At most ``k`` available items whose texts are nearest to what somebody typed.

        Raises: ConfigError: the release has no source ``content``.
        """
        source = self.sources.get(SourceName.content.value)
        if not isinstance(source, ContentSource):
            raise ConfigError(
                f"found a release with the sources {self.names}, expected content too; set recall.quotas.content and publish"
            )
        return source.find(text, k, self._withdrawn)

    def alone(self, name: str, requests: Sequence[Request], k: int) -> list[Hits]:
        """What one source would answer on its own, for evaluation."""
        source, (queries, newest) = self.sources[name], self._queries(requests)
        return source.recall(queries if isinstance(source, RepeatSource) else newest, k)


def build(
    folder: Path,
    catalogue: Catalogue,
    items: pl.DataFrame,
    users: pl.DataFrame,
    pairs: pl.DataFrame,
    models: Path | None,
    config: RecallConfig,
    seen_items_return: bool,
) -> None:
    """Write the recall stage into a release's folder, where `load` finds it.

    Args:
        items: rows of `schema.ITEMS`, those of the catalogue.
        users: columns seen and features of the user view of the snapshot, of all users or a sample.
        pairs: neighbours (a, b, score) of the snapshot.
        models: folder with the trained embedding models; None when no source that needs one has a quota.
    """
    catalogue.save(folder)
    quotas = {name.value: quota for name, quota in config.quotas.items() if quota > 0}
    if SourceName.covisit.value in quotas:
        CovisitSource.build(pairs, catalogue).save(folder)
    if models is not None:
        if SourceName.two_tower.value in quotas:
            TwoTowerSource.build(models, catalogue, config).save(folder)
        if SourceName.sequential.value in quotas:
            SequentialSource.build(models, catalogue, config).save(folder)
        if SourceName.mf.value in quotas:
            MfSource.build(models, catalogue, config).save(folder)
    if SourceName.content.value in quotas:
        ContentSource.build(items, catalogue, config).save(folder)
    if quotas.keys() & SEGMENTED.keys():
        Segments.build(users, catalogue).save(folder)
    settings = {
        "quotas": {name.value: quotas[name.value] for name in SourceName if name.value in quotas},
        "candidates": config.candidates,
        "fresh_pool": config.fresh_pool,
        "encoder": config.content.encoder.value,
        "seen_items_return": seen_items_return,
        "history": config.history,
    }
    (folder / _FILE).write_text(json.dumps(settings, indent=1))


def load(folder: Path) -> Recall:
    """Load the recall stage from a release's local folder."""
    settings = json.loads((folder / _FILE).read_text())
    catalogue = Catalogue.load(folder)
    sources: dict[str, Source] = {}
    segments = Segments.load(folder) if settings["quotas"].keys() & SEGMENTED.keys() else None
    for name in settings["quotas"]:
        match SourceName(name):
            case SourceName.two_tower:
                sources[name] = TwoTowerSource.load(folder)
            case SourceName.sequential:
                sources[name] = SequentialSource.load(folder)
            case SourceName.mf:
                sources[name] = MfSource.load(folder)
            case SourceName.covisit:
                sources[name] = CovisitSource.load(folder, catalogue)
            case SourceName.content:
                sources[name] = ContentSource.load(folder, EncoderName(settings["encoder"]))
            case SourceName.repeat:
                sources[name] = RepeatSource(catalogue)
            case SourceName.fresh:
                sources[name] = FreshSource.of(catalogue, settings["fresh_pool"])
            case list_name:
                sources[name] = ListSource.of(list_name, catalogue, segments)
    history = settings.get("history", _WHOLE)
    return Recall(catalogue, sources, settings["quotas"], settings["candidates"], settings["seen_items_return"], history)
