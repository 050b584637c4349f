"""A good release goes out, while those who carry it out are killed: its controller, its driver, Serve's controller."""

import time
from dataclasses import asdict
from typing import Any

from rollout_cases import CASES, POLICY, run_case
from rollout_site import GOOD, Driver, Site, say, until

from reco_ray.rollout import Status

__all__ = ["run_kills"]

_WATCH_S = 5.0


def run_kills(at: Site) -> dict[str, Any]:
    """Kill one after another at 5% and 25%; says what the shares were afterwards, and how it ended."""
    killed: list[dict[str, Any]] = []

    def gone(what: str) -> None:
        found = {"what": what, **_watch(at)}
        say(f"{what} killed at {found['share']:.0%}: shares {found['weights']}, {found['failed']} failed")
        killed.append(found)

    def meanwhile(at: Site, driver: Driver) -> None:
        _await_step(at, 2)
        at.kill("ray::ServeReplica:rollouts:Rollouts")
        gone("controller")
        driver.kill()
        gone("driver")
        _await_step(at, 3)
        at.kill("ray::ServeController")
        gone("serve_controller")

    good = next(case for case in CASES if case.release == GOOD)
    outcome = run_case(at, good, POLICY, meanwhile)
    say(f"good: {outcome.ended} after {outcome.detected_s:.1f} s, {outcome.failed} of {outcome.visits} failed")
    checks = [
        {"name": "good_promoted", "value": int(outcome.ended == str(Status.promoted)), "unit": "bool"},
        {"name": "failed_by_switch", "value": outcome.failed, "unit": "requests"},
    ]
    return {"checks": checks, "killed": killed, "outcome": asdict(outcome)}


def _await_step(at: Site, step: int) -> None:
    def there() -> bool:
        state = at.state()
        if state is None or state.status.over:
            raise RuntimeError(f"the rollout ended before step {step}: {state}")
        return state.step >= step

    until(there, 300, f"step {step}")


def _watch(at: Site) -> dict[str, Any]:
    """The shares and the answers of the next seconds."""
    state, since = at.state(), time.time()
    assert state is not None
    time.sleep(_WATCH_S)
    seen = [line for line in at.traffic(since) if line.status == 200]
    return {
        "share": state.share,
        "weights": dict(at.store.traffic().weights),
        "answered": len(seen),
        "by_candidate": sum(line.release == state.release for line in seen) / max(1, len(seen)),
        "failed": sum(line.status != 200 for line in at.traffic(since)),
    }
