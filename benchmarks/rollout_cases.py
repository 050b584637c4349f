"""Five releases go out one after another under real traffic: a good one, and four that must not get far."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import rollout_releases as releases
from rollout_bad import spoil
from rollout_site import CHAMPION, GOOD, WORSE, Driver, Line, Site, say, until

from reco_ray.rollout import Guards, Policy, State, Status, Step

__all__ = ["CASES", "NAMES", "POLICY", "Case", "Outcome", "checks_of", "run_case", "run_cases"]

POLICY = Policy(
    (
        Step(0.4, min_s=8, min_decisions=800, shadow=True),
        Step(0.01, min_s=8, min_decisions=8),
        Step(0.05, min_s=8, min_decisions=320),
        Step(0.25, min_s=8, min_decisions=320),
        Step(1.0, min_s=8, min_decisions=320),
    ),
    Guards(p95_ratio=2.0),
)
_LONGEST_S = 420.0


@dataclass(frozen=True, slots=True)
class Case:
    """A release, and what is to become of it.

    Attributes:
        prepare: publishes and spoils it.
        harms: whether a visit that the release answered was harmed by it.
        ends: promoted, rolled_back, or refused: it never loads.
    """

    name: str
    release: str
    prepare: Callable[[Site], None]
    harms: Callable[[Line], bool]
    ends: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it.

    Attributes:
        most_share: of the users that it ever had.
        detected_s: from the start of its rollout, or of the first gate, to the last decision.
        asked, harmed: visits that it answered; those that were worse for it.
        clicks_lost: to be expected, against the champion's visits of the same time; negative where it was better.
        visits, failed: of the whole time from its loading on; those without a 200.
        weights: of the releases afterwards. audit: records, oldest first.
    """

    ended: str
    reason: str
    most_share: float
    detected_s: float
    load_s: float
    asked: int
    harmed: int
    clicks_lost: float
    visits: int
    failed: int
    p50_ms: dict[str, float]
    weights: dict[str, float]
    audit: list[dict[str, Any]]


def run_cases(at: Site, seed: int, wanted: Sequence[str], policy: Policy = POLICY) -> dict[str, dict[str, Any]]:
    """Run those that are wanted, in random order."""
    order = [case for case in CASES if case.name in wanted]
    random.Random(seed).shuffle(order)
    found = {}
    for case in order:
        outcome = run_case(at, case, policy)
        found[case.name] = {**asdict(outcome), "release": case.release, "expected": case.ends}
        say(
            f"{case.name}: {outcome.ended} at {outcome.most_share:.0%} after {outcome.detected_s:.1f} s, {outcome.harmed} of "
            f"{outcome.asked} visits harmed, {outcome.failed} of {outcome.visits} failed: {outcome.reason}"
        )
    return found


def run_case(at: Site, case: Case, policy: Policy, meanwhile: Callable[[Site, Driver], None] = lambda _, __: None) -> Outcome:
    """Let one release go out, until its rollout is over.

    Args:
        meanwhile: called when its rollout has begun.
    """
    say(f"{case.name}: release {case.release} is prepared")
    case.prepare(at)
    began = time.time()
    driver = Driver(at, case.release, policy)
    try:
        said = driver.said()
        say(f"{case.name}: {said}")
        if "rollout_id" in said:
            meanwhile(at, driver)
            until(_over(at, case), _LONGEST_S, f"the end of {case.name}")
        until(lambda: bool(at.traffic(time.time() - 0.5)), 10, "traffic")
    finally:
        driver.kill()
    time.sleep(3)  # gateways follow; what they still send to it counts
    return _outcome(at, case, began, said)


def _over(at: Site, case: Case) -> Callable[[], bool]:
    """Whether its rollout is over; says each time that it changes."""
    last: State | None = None

    def over() -> bool:
        nonlocal last
        state = at.state()
        assert state is not None
        if state != last:
            say(f"{case.name}: {state.status} at step {state.step}, share {state.share:.0%}: {state.reason}; {at.pulse()}")
        last = state
        return state.status.over

    return over


def _outcome(at: Site, case: Case, began: float, said: dict[str, Any]) -> Outcome:
    audit = [each for each in reversed(at.rollouts.history(1000)) if each["ts"] >= began]
    if "refused" in said:
        ended, reason, share, seconds = "refused", said["refused"], 0.0, said["seconds"]
    else:
        state = at.state()
        assert state is not None
        started = next(each["ts"] for each in audit if each["action"] == "start")
        ended, reason, seconds = str(state.status), audit[-1]["reason"], audit[-1]["ts"] - started
        share = max(each["share"] for each in audit if "share" in each)
    visits = at.traffic(began)
    theirs, others = ([v for v in visits if v.status == 200 and (v.release == case.release) is mine] for mine in (True, False))
    usual = sum(v.expected for v in others) / max(1, len(others))
    kept = ("ts", "by", "action", "release", "share", "reason")
    return Outcome(
        ended=ended,
        reason=reason,
        most_share=share,
        detected_s=round(seconds, 1),
        load_s=round(said["seconds"], 1),
        asked=len(theirs),
        harmed=sum(case.harms(v) for v in theirs),
        clicks_lost=round(sum(usual - v.expected for v in theirs), 1),
        visits=len(visits),
        failed=sum(v.status != 200 for v in visits),
        p50_ms={name: _median([v.ms for v in of]) for name, of in (("candidate", theirs), ("champion", others))},
        weights=dict(at.store.traffic().weights),
        audit=[{name: each[name] for name in kept if name in each} for each in audit],
    )


def _median(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 1) if values else 0.0


def _nothing(_: Site) -> None:
    return None


def _raising(at: Site) -> None:
    releases.copy_release(at.config.root, CHAMPION, "raising", 3)
    spoil(at.config.root, "raising", raises=0.03)


def _slow(at: Site) -> None:
    """Three times the champion's p95, as it is under this traffic."""
    releases.copy_release(at.config.root, CHAMPION, "slow", 4)
    spoil(at.config.root, "slow", sleep_s=2e-3 * at.stages_ms(0.95))


def _corrupt(at: Site) -> None:
    releases.damage(releases.copy_release(at.config.root, CHAMPION, "corrupt", 5))


CASES = (
    Case("good", GOOD, _nothing, lambda _: False, str(Status.promoted)),
    Case("worse", WORSE, _nothing, lambda _: True, str(Status.rolled_back)),
    Case("raising", "raising", _raising, lambda visit: visit.rung != "full", str(Status.rolled_back)),
    Case("slow", "slow", _slow, lambda _: True, str(Status.rolled_back)),
    Case("corrupt", "corrupt", _corrupt, lambda _: True, "refused"),
)
NAMES = tuple(case.name for case in CASES)


def checks_of(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Summaries for the checks; a bad release that was not stopped counts with the share that it had."""
    bad = [each for each in found.values() if each["expected"] != str(Status.promoted)]
    checks = [{"name": "failed_by_switch", "value": sum(each["failed"] for each in found.values()), "unit": "requests"}]
    if good := found.get("good"):
        checks += [{"name": "good_promoted", "value": int(good["ended"] == str(Status.promoted)), "unit": "bool"}]
    if bad:
        worst = max(1.0 if each["ended"] != each["expected"] else each["most_share"] for each in bad)
        checks += [{"name": "bad_rolled_back_at_pct", "value": 100 * worst, "unit": "%"}]
    return checks
