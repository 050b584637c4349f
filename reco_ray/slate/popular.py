"""The last rung before an error: a release's popular items, past what this request filters, excludes and has seen."""

import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from reco_ray.arrays import lookup
from reco_ray.errors import ArtifactError
from reco_ray.hashing import item_keys
from reco_ray.rerank import POPULAR, mmr
from reco_ray.rules import NO_RULES, RuleBook, Standing
from reco_ray.types import Request, Slate

__all__ = ["LivePrices", "PopularList"]

_FORMAT = 1
_REASONS = ("popular",)


class LivePrices(Protocol):
    """Prices that applications put since the releases were built. ``version`` grows with each change."""

    @property
    def version(self) -> int: ...

    def price(self, item_id: str, released: float) -> float:
        """What an item costs now, NaN where that is not known; ``released`` where nothing was put."""


class PopularList:
    """At most some hundred items, best first, in memory; needs nothing else of the release.

    Args:
        content: of the file `rerank.POPULAR`.
        release: id that its slates name.
    """

    def __init__(self, content: bytes, release: str = "") -> None:
        found = orjson.loads(content)
        if found.get("format") != _FORMAT:
            raise ArtifactError(f"{POPULAR}: found format {found.get('format')}, expected {_FORMAT}; publish the release again")
        items = found["items"]
        self._release, self._seen_items_return = release, bool(found["seen_items_return"])
        self._item_ids: list[str] = [item["item_id"] for item in items]
        self._titles: list[str] = [item["title"] for item in items]
        self._scores = np.array([item["score"] for item in items], np.float32)
        self._keys = item_keys(self._item_ids)
        self.years = np.array([item["year"] for item in items], np.int32)
        self.prices = self._released = np.array([item.get("price") for item in items], np.float64)  # None is NaN
        self._priced = 0
        self.categories: list[str] = sorted({name for item in items for name in item["categories"]})
        columns = [[name in item["categories"] for item in items] for name in self.categories]
        self.in_category = np.array(columns, np.float32).reshape(len(self.categories), len(items)).T
        self._rows = {item_id: row for row, item_id in enumerate(self._item_ids)}
        self._book = RuleBook(NO_RULES, self)

    @classmethod
    def load(cls, folder: Path, release: str = "") -> "PopularList":
        """Load the list from a release's local folder.

        Raises: ArtifactError: the release was published without one.
        """
        try:
            return cls((folder / POPULAR).read_bytes(), release)
        except FileNotFoundError as exc:
            raise ArtifactError(f"{folder}: found no {POPULAR}, expected one; publish the release again") from exc

    def __len__(self) -> int:
        return len(self._item_ids)

    def find(self, item_ids: list[str]) -> NDArray[np.int64]:
        """Contract of `rules.Items`."""
        return np.array([self._rows.get(item_id, -1) for item_id in item_ids], np.int64)

    def pick(
        self,
        request: Request,
        withdrawn: Container[str] = (),
        rules: Standing = NO_RULES,
        live: LivePrices | None = None,
    ) -> Slate:
        """Make a slate of the best items that the request lets through: 0.05 ms.

        Filters and interests mean what they mean to recall; excluded items, those of earlier pages, and
        unless they return those seen and of the session, do not come back. Fewer than k are marked ``short_slate``; there
        may be none.

        Args:
            withdrawn: ids that nobody may be shown any more.
            rules: in force. Boosts move nothing here, and pins only what is in the list.
            live: prices that are newer than the list's.
        """
        if self._repriced(live) or rules is not self._book.standing:
            self._book = RuleBook(rules, self)
        plan = self._book.plan(request, time.time())
        mask = self._passing(request) & ~plan.hidden
        if (past := request.past).size:
            mask &= lookup(past, self._keys) < 0
        hidden = set(request.exclude)
        if not self._seen_items_return:
            hidden.update(request.session)
            if request.user.seen.size:
                mask &= lookup(request.user.seen, self._keys) < 0
        passing = np.flatnonzero(mask)
        if request.interests:
            first = self._of_categories(request.interests)[passing]
            passing = np.concatenate([passing[first], passing[~first]])
        rows: list[int] = []
        for row in passing.tolist():
            if (item_id := self._item_ids[row]) not in hidden and item_id not in withdrawn:
                rows.append(row)
                if len(rows) == request.k and not plan.binds:
                    break
        missed: tuple[str, ...] = ()
        if plan.binds:
            at = np.array(rows, np.int64)
            bounds = plan.bounds(at, request.k, request.shown.size)
            picked = mmr(-np.arange(at.size, dtype=np.float32), np.zeros((at.size, 1), np.float32), request.k, 0.0, 0, bounds)
            rows, missed = at[picked].tolist(), bounds.missed_by(picked.tolist())
        return Slate(
            request_id=request.request_id,
            item_ids=tuple([self._item_ids[row] for row in rows]),
            titles=tuple([self._titles[row] for row in rows]),
            scores=self._scores[rows],
            propensities=np.ones(len(rows), np.float32),
            reasons=(_REASONS,) * len(rows),
            degraded=("short_slate",) if len(rows) < request.k else (),
            release=self._release,
            rules=rules.version,
            missed_rules=missed,
        )

    def _repriced(self, live: LivePrices | None) -> bool:
        if live is None or live.version == self._priced:
            return False
        before, self._priced = self.prices, live.version
        pairs = zip(self._item_ids, self._released.tolist(), strict=True)
        self.prices = np.array([live.price(item_id, price) for item_id, price in pairs], np.float64)
        return not np.array_equal(self.prices, before, equal_nan=True)

    def _passing(self, request: Request) -> NDArray[np.bool_]:
        mask = np.ones(len(self), np.bool_)
        for attribute, values in request.filters.items():
            if attribute == "category":
                mask &= self._of_categories(values)
            elif attribute == "year":
                mask &= np.isin(self.years, [int(value) for value in values])
            else:
                raise ValueError(f"filter attribute is {attribute!r}, expected 'category' or 'year'")
        return mask

    def _of_categories(self, names: Sequence[str]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self), np.bool_)
        for name in names:
            if name in self.categories:
                mask |= self.in_category[:, self.categories.index(name)] > 0
        return mask
