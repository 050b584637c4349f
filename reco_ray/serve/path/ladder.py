"""The ladder's lower rungs: what answers when the stages give nothing in time.

cached slate -> precomputed slate -> popular list. Each is a finished slate that names its rung, and why in ``degraded``.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from reco_ray.rules import NO_RULES, Standing
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.cache_key import SlateKey
from reco_ray.serve.caching.finished import mark
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.http.answers import finish
from reco_ray.serve.path.fleet import Route
from reco_ray.serve.path.pipeline import Run, StageFailed
from reco_ray.store import NO_FLAGS, RANKER, FinishedSlate, Flags, Precomputed
from reco_ray.types import Request, Slate

__all__ = ["Ladder", "PrecomputedSlates", "rung_of"]


class PrecomputedSlates(Protocol):
    """Where slates lie that were made before anybody asked."""

    async def precomputed(self, user_id: str) -> Precomputed | None:
        """Read a user's slate; None when there is none."""


class Ladder:
    """Finds a slate where none can be made, without what was withdrawn.

    While a rule that never gives way narrows more than that, no slate stands in that was not made by the rules in force.

    Args:
        rules: those in force. flags: what is switched off.
    """

    def __init__(
        self,
        cache: SlateCache,
        store: PrecomputedSlates,
        withdrawn: Withdrawn,
        rules: Callable[[], Standing] = lambda: NO_RULES,
        flags: Callable[[], Flags] = lambda: NO_FLAGS,
    ) -> None:
        self._cache, self._store, self._withdrawn, self._rules, self._flags = cache, store, withdrawn, rules, flags

    async def descend(
        self,
        route: Route,
        request: Request,
        run: Run,
        variant: str,
        marks: Sequence[str],
        key: SlateKey | None = None,
        stored: FinishedSlate | None = None,
    ) -> FinishedSlate | None:
        """Find the best there is within the rest of the budget; None when there is nothing.

        Args:
            marks: what went wrong.
            key: of the request in the cache; None for one that is never cached.
            stored: the request's slate in the online store, whatever its age.
        """
        if (found := self.kept(key, stored, marks)) is not None:
            return found
        allowed = self._allows("precomputed") and not self._rules().narrows(time.time())
        if allowed and request.user_id and "store_unavailable" not in marks:
            try:
                precomputed = await run.within("precomputed", lambda: self._store.precomputed(request.user_id))
            except StageFailed:
                precomputed = None
            if precomputed is not None and (slate := self._pick(precomputed, request)) is not None:
                made, draw_id, before = precomputed.made, precomputed.draw_id, request.shown.size
                return finish(slate, precomputed.release, variant, "precomputed", marks, made, draw_id=draw_id, before=before)
        return self.popular(route, request, variant, marks)

    def kept(self, key: SlateKey | None, stored: FinishedSlate | None, marks: Sequence[str]) -> FinishedSlate | None:
        """Find a slate that was made before, here or by another replica; arguments as `descend`."""
        if key is not None and (found := self.cached(key, marks)) is not None:
            return found
        if stored is None or not self._allows("cached") or not self._cache.usable(stored.made):
            return None
        if self._withdrawn.outdated(stored):
            return None
        return mark(self._withdrawn.out_of(stored), marks, "cached")

    def cached(self, key: SlateKey, marks: Sequence[str]) -> FinishedSlate | None:
        """Find a slate of this replica's cache, as `SlateCache.fallback` does."""
        if not self._allows("cached"):
            return None
        return self._cache.fallback(key, marks, only_this=self._rules().narrows(time.time()))

    def at_once(
        self, route: Route, request: Request, variant: str, marks: Sequence[str], key: SlateKey | None
    ) -> FinishedSlate | None:
        """Find the best that needs no waiting."""
        return self.kept(key, None, marks) or self.popular(route, request, variant, marks)

    def _allows(self, rung: str) -> bool:
        return f"rung.{rung}" not in self._flags().off

    def _pick(self, precomputed: Precomputed, request: Request) -> Slate | None:
        return precomputed.pick(request, withdrawn=self._withdrawn)

    def popular(self, route: Route, request: Request, variant: str, marks: Sequence[str]) -> FinishedSlate | None:
        """The release's popular items past what the request filters, excludes and has seen."""
        popular = route.popular if self._allows("popular") else None
        slate = None if popular is None else popular.pick(request, self._withdrawn, self._rules(), self._withdrawn)
        if slate is None or not slate.item_ids:
            return None
        return finish(slate, route.release, variant, "popular", marks, time.time(), before=request.shown.size)


def rung_of(degraded: Sequence[str]) -> str:
    """The rung of a slate that the stages made."""
    if "store_unavailable" in degraded:
        return "anonymous"
    if "ranker_unavailable" in degraded or f"off:{RANKER}" in degraded:
        return "recall_order"
    return "fewer_sources" if any(each.startswith(("source_missing", "off:source.")) for each in degraded) else "full"
