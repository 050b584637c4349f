"""The calls about rules: show them, put others in their place; and how this gateway replica follows them."""

import asyncio
import bisect
import functools
import logging
import time
from collections.abc import Callable

from reco_ray.errors import ArtifactError, DataError, NotReadyError
from reco_ray.features import Catalogue
from reco_ray.release import open_release
from reco_ray.rules import Document, RulesRefused, Standing, check_document, unknown_items
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.http import problems
from reco_ray.serve.http.rule_bodies import RulesAnswer, RulesBody
from reco_ray.serve.path.rules import INTERVAL_S, RuleFollower
from reco_ray.slate import Pipeline, Trial, recent_requests, try_rules
from reco_ray.store import RuleRecord, RuleStore

__all__ = ["RuleCalls"]

log = logging.getLogger(__name__)


class RuleCalls:
    """Answers them, off the event loop.

    Args:
        root: where the lake and the releases lie.
        main: the release with most traffic; empty where none is loaded.
        withdrawn: told which items rules hide from everybody.
        store: of a store that is given the time to write. follows: reads the rules in force.
    """

    def __init__(self, store: RuleStore, follows: RuleStore, root: str, main: Callable[[], str], withdrawn: Withdrawn) -> None:
        self._store, self._root, self._main, self._withdrawn = store, root, main, withdrawn
        self._follower = RuleFollower(follows, self._take)
        self._times: list[float] = []
        self._ruled: tuple[int, int] = (0, 0)
        self._one = asyncio.Lock()  # loading a release takes memory: one at a time

    @property
    def standing(self) -> Standing:
        """The rules in force here."""
        return self._follower.standing

    def state(self) -> tuple[int, int]:
        """Version in force here, and how many starts and ends of campaigns lie behind."""
        return self._follower.standing.version, bisect.bisect_right(self._times, time.time()) if self._times else 0

    async def show(self, version: int = 0) -> RulesAnswer:
        """Answer ``GET /v1/rules``.

        Raises: HttpProblem: the version is not kept, or the store is away.
        """
        read = functools.partial(self._store.at, version) if version else self._store.current
        try:
            return RulesAnswer.of(await asyncio.to_thread(read))
        except NotReadyError as exc:
            raise problems.not_ready("the online store does not answer; ask again") from exc
        except DataError as exc:
            raise problems.unknown_rules(version) from exc

    async def put(self, document: Document, body: RulesBody) -> RulesAnswer:
        """Answer ``POST /v1/rules``: durable, and in force in all replicas within a second or so.

        Raises: HttpProblem: the document is refused, another version is in force than was expected, or the store is away.
        """
        async with self._one:
            try:
                answer = await asyncio.to_thread(self._put, document, body)
            except RulesRefused as exc:
                raise problems.rules_refused(exc) from exc
            except NotReadyError as exc:
                raise problems.not_ready("the online store does not answer; ask again") from exc
            except DataError as exc:
                raise problems.rules_changed(str(exc)) from exc
        await self.refresh()
        return answer

    async def refresh(self) -> None:
        """Look once for rules that others put."""
        await asyncio.to_thread(self._follower.look)
        if self.state() != self._ruled:  # a campaign has begun or ended
            self._rule_out()

    async def run(self) -> None:
        """Follow until cancelled; no error ends it."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL_S)

    def _put(self, document: Document, body: RulesBody) -> RulesAnswer:
        release = self._main()
        catalogue = _catalogue(self._root, release)
        check_document(document, catalogue)
        now = self._store.current()
        after = Standing(now.version + 1, document, frozenset(now.held), frozenset(now.approved))
        trial = self._trial(release, now, after)
        if trial is not None:
            trial.check()
        unknown = [] if catalogue is None else sorted({item_id for _, item_id in unknown_items(document, catalogue)})
        if body.dry_run:
            return RulesAnswer.of(now, trial, unknown)
        rules = tuple(document.model_dump(mode="json", exclude_none=True)["rules"])
        return RulesAnswer.of(self._store.put(rules, body.author, body.note, body.expected), trial, unknown)

    def _trial(self, release: str, now: RuleRecord, after: Standing) -> Trial | None:
        try:
            before = Standing.of(now)
        except RulesRefused:
            before = Standing()
        try:
            requests = recent_requests(self._root)
            return try_rules(_pipeline(self._root, release), requests, before, after) if requests and release else None
        except (ArtifactError, OSError, TypeError) as exc:
            log.warning("rules are not tried on recent requests: %s: %s", type(exc).__name__, exc)
            return None

    def _take(self, standing: Standing) -> None:
        self._times = standing.times()
        self._rule_out(standing)

    def _rule_out(self, standing: Standing | None = None) -> None:
        found = self._follower.standing if standing is None else standing
        now = time.time()
        self._withdrawn.rule_out(found.hidden_everywhere(now), found.narrows(now))
        self._ruled = self.state()


@functools.lru_cache(maxsize=1)
def _pipeline(root: str, release: str) -> Pipeline:
    return Pipeline.load(open_release(root, release))


@functools.lru_cache(maxsize=1)
def _catalogue(root: str, release: str) -> Catalogue | None:
    try:
        return Catalogue.load(open_release(root, release)) if release else None
    except (ArtifactError, OSError) as exc:
        log.warning("rules are not held against a release: %s: %s", type(exc).__name__, exc)
        return None
