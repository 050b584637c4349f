"""Rules reach a replica: it follows their version in the online store, and keeps what it has while there is nothing better."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from reco_ray.rules import NO_RULES, Hits, RulesRefused, Standing
from reco_ray.rules.jumps import Jumps
from reco_ray.serve.path.looking import Looks
from reco_ray.slate import RuledStage
from reco_ray.store import OnlineStore, RuleRecord, RuleStore

__all__ = ["INTERVAL_S", "RuleFollower", "RuleMetrics", "keep_rules", "tell"]

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
_TELL_EVERY = 5  # looks between two reports of what the rules did


class RuleMetrics(Protocol):
    """Where it is counted what rules do; `monitoring.metrics.serving.RuleMetrics` in production."""

    def in_force(self, version: int) -> None:
        """These rules hold here from now on."""

    def hits(self, told: Hits) -> None:
        """So often each rule took effect since the last call."""

    def jumped(self, rule: str, effect: str) -> None:
        """A rule takes effect far more, or far less, than it did."""

    def pushed(self, rule: str, share: float, amount: float, cost: float) -> None:
        """How a rule on exposure stands."""


class Reads(Protocol):
    """The part of `store.RuleStore` that is needed."""

    def mark(self) -> tuple[str, int]:
        """What changes with the rules."""

    def current(self) -> RuleRecord:
        """The record in force."""

    def history(self) -> list[RuleRecord]:
        """Records, the newest first."""


class RuleFollower:
    """Hands over rules as their version changes. From one thread at a time; others wait.

    What cannot be read does not replace what holds: a store that is away, one that has lost its rules, a record that this code
    does not know.

    Args:
        take: called with the rules from now on.
    """

    def __init__(self, store: Reads, take: Callable[[Standing], None]) -> None:
        self._store, self._take = store, take
        self._seen, self._lock, self._looks = ("", 0), threading.Lock(), Looks("rules")
        self.standing = NO_RULES

    def catch_up(self) -> None:
        """Take the rules in force, or at the first time the last ones before them that can be read.

        Raises: NotReadyError: the store is away.
        """
        with self._lock:
            mark = self._store.mark()
            if mark == self._seen:
                return
            if not mark[1]:
                version = self.standing.version
                log.error("the online store has lost the rules; those of version %d stay in force, put them again", version)
                self._seen = mark
                return
            record = self._store.current()
            try:
                self._obey(Standing.of(record))
            except RulesRefused as exc:
                log.error("version %d of the rules does not come into force: %s", record.version, exc)
                if not self.standing.version:
                    self._last_readable()
            self._seen = mark

    def look(self) -> None:
        """Catch up where that is possible; what fails is said once, and tried again by the next look."""
        self._looks.once(self.catch_up)

    def _last_readable(self) -> None:
        for record in self._store.history():
            try:
                self._obey(Standing.of(record))
            except RulesRefused:
                continue
            return

    def _obey(self, standing: Standing) -> None:
        self._take(standing)
        self.standing = standing


def tell(stage: RuledStage, metrics: RuleMetrics, jumps: Jumps, version: int) -> None:
    """Report what a stage's rules did since the last time, and name the rules that did far more or less than they used to."""
    told = stage.rule_hits()
    if told:
        metrics.hits(told)
    for each in stage.pushed():
        metrics.pushed(each.rule, each.share, each.amount, each.cost)
    for jump in jumps.add(told, stage.arranged, version):
        metrics.jumped(jump.rule, jump.effect)
        log.warning(
            "rule %s: found %.2g %s for each slate, expected about %.2g as before; see whether rules or items went wrong",
            jump.rule,
            jump.now,
            jump.effect,
            jump.usual,
        )


def keep_rules(stage: object, store_url: str, namespace: str, metrics: RuleMetrics) -> threading.Event:
    """Let a stage keep to the rules in force until the returned event is set; one that is no `slate.RuledStage` stays as it is.

    Raises: NotReadyError: the store is away, so that it is not known what must not be shown.
    """
    stop = threading.Event()
    if not store_url or not isinstance(stage, RuledStage):
        return stop
    store = OnlineStore(store_url, namespace)

    def take(standing: Standing) -> None:
        stage.obey(standing)
        metrics.in_force(standing.version)

    follower = RuleFollower(RuleStore(store), take)
    follower.catch_up()

    jumps = Jumps()

    def run() -> None:
        looks = 0
        while not stop.wait(INTERVAL_S):
            follower.look()
            looks += 1
            if looks % _TELL_EVERY == 0:
                tell(stage, metrics, jumps, follower.standing.version)
        store.blocking_calls.close()

    threading.Thread(target=run, name="rules", daemon=True).start()
    return stop
