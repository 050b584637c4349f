"""Who is who among the releases, from the traffic record and the last rollout."""

from collections.abc import Sequence
from dataclasses import dataclass

from reco_ray.rollout.decide import State, Status
from reco_ray.store import Traffic

__all__ = ["Roles", "roles_of"]


@dataclass(frozen=True, slots=True)
class Roles:
    """Ids of releases; empty where there is none.

    Attributes:
        champion: has the traffic, or most of it. candidate: is in a rollout. previous: where `reco fallback` goes to.
        live: all with traffic, and both of a rollout that is not over.
    """

    champion: str = ""
    candidate: str = ""
    previous: str = ""
    live: frozenset[str] = frozenset()

    @property
    def in_use(self) -> frozenset[str]:
        """Those that must stay."""
        return self.live | frozenset(filter(None, (self.champion, self.candidate, self.previous)))

    def by_name(self) -> dict[str, str]:
        """Role -> release, of those that somebody has."""
        found = {"champion": self.champion, "candidate": self.candidate, "previous": self.previous}
        return {name: release for name, release in found.items() if release}

    def of(self, release: str) -> str:
        """Role of a release; empty where it has none."""
        return next((name for name, each in self.by_name().items() if each == release), "")


def roles_of(traffic: Traffic, rollout: State | None, published: Sequence[str] = ()) -> Roles:
    """Read the roles.

    Previous is the champion of the rollout that made the present one; else, of those that are loaded without traffic, the one
    published last. A candidate that was rolled back is nobody's way back.

    Args:
        published: ids, oldest first.
    """
    live = {release for release, weight in traffic.weights.items() if weight > 0}
    idle = [release for release in traffic.weights if release not in live]
    order = {release: place for place, release in enumerate(published)}
    champion = max(sorted(live), key=lambda each: traffic.weights[each], default="")
    candidate = ""
    if rollout is not None and not rollout.status.over and {rollout.release, rollout.champion} <= set(traffic.weights):
        champion, candidate = rollout.champion, rollout.release
        live |= {champion, candidate}
    failed = {rollout.release} if rollout is not None and rollout.status in (Status.rolled_back, Status.aborted) else set()
    if rollout is not None and rollout.status is Status.promoted and rollout.release == champion:
        previous = rollout.champion
    else:
        others = [each for each in idle if each not in failed | {champion, candidate}]
        previous = max(others, key=lambda each: (order.get(each, -1), each), default="")
    return Roles(champion, candidate, previous, frozenset(live))
