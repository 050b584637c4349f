"""Gates: what a release must show before it may take traffic. Each is a function from facts to a result with its numbers.

Where no release has traffic there is nothing to compare with, and the gates that compare pass.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reco_ray.config import GateName, GatesConfig
from reco_ray.evaluation import paired_difference
from reco_ray.rollout import fitness
from reco_ray.rollout.facts import Facts, GateResult

__all__ = ["Facts", "GateResult", "check", "refusal"]

_LEAST_USERS = 30  # of fewer a bootstrap knows too little of what it has not drawn


def check(facts: Facts, config: GatesConfig, seed: int) -> list[GateResult]:
    """Judge by all wanted gates, in their order; a damaged bundle is judged by its integrity alone, wanted or not."""
    if facts.damage:
        return [_integrity(facts, config, seed)]
    return [_GATES[name](facts, config, seed) for name in config.wanted]


def refusal(release: str, results: Sequence[GateResult]) -> str:
    """Say which gates did not pass: found, expected, remedy; empty where all did."""
    failed = [each for each in results if not each.passed]
    said = "; ".join(f"gate {each.name}: found {each.found}, expected {each.expected}; {each.remedy}" for each in failed)
    return f"release {release} may not take traffic: {said}. force=true lets it in, with an audit record" if failed else ""


def _integrity(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    expected = "every file as published"
    if facts.damage:
        return GateResult("integrity", False, facts.damage, expected, remedy="`reco releases verify` names all of them")
    return GateResult("integrity", True, expected, expected)


def _smoke(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    found = facts.answers[0]
    expected = "items for each of them, and no stage that fails"
    if found is None or not found.requests:
        return GateResult("smoke", False, "no request to ask", "at least one", remedy="run jobs/build_features.py")
    numbers = {"requests": found.requests, "failed": found.failed, "empty": found.empty, "wrong": found.wrong}
    said = f"{found.failed} failed, {found.empty} empty and {found.wrong} wrong of {found.requests} requests"
    said += f" (first: {found.first_failure})" if found.first_failure else ""
    passed = not (found.failed or found.empty or found.wrong)
    return GateResult("smoke", passed, said, expected, numbers, "" if passed else "see what its stages were made of")


def _metrics(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """Not worse by more than the margin: the whole interval of the paired difference lies above it."""
    name = config.metric
    expected = f"{name} at most {config.metric_margin:.0%} below that of the champion, for sure"
    if not facts.champion:
        return GateResult("metrics", True, "no champion", expected)
    if facts.metric is None:
        remedy = "run jobs/evaluate.py and jobs/publish_release.py for both with this version of the code"
        return GateResult("metrics", False, "no metrics of each user for one of them", expected, remedy=remedy)
    ours, theirs = facts.metric
    difference = paired_difference(ours, theirs, seed, confidence=config.confidence)
    mean = float(np.nanmean(theirs)) if theirs.size else float("nan")
    least = -config.metric_margin * mean
    numbers = {"users": ours.size, "champion": mean, "difference": difference.mean, "least": least}
    numbers |= {"low": difference.low, "high": difference.high}
    if not difference.known:
        remedy = "evaluate both releases on users that they have in common"
        return GateResult("metrics", False, f"{ours.size} users in both evaluations", expected, numbers, remedy)
    passed = difference.low >= least
    said = (
        f"{name} {difference.mean:+.4f} against {mean:.4f}, between {difference.low:+.4f} and {difference.high:+.4f} "
        f"over {ours.size} users"
    )
    unsure = difference.mean >= least
    remedy = "evaluate on more users, or raise gates.metric_margin" if unsure else "look at `reco releases diff` of the two"
    return GateResult("metrics", passed, said, expected, numbers, "" if passed else remedy)


def _slices(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """Nobody is proved worse off: small parts prove little, so "not worse" is not asked of each as it is of all together."""
    expected = f"no third of the users more than {config.slice_margin:.0%} worse off in {config.metric}, for sure"
    if not facts.champion:
        return GateResult("slices", True, "no champion", expected)
    if facts.metric is None or facts.history is None:
        remedy = "run jobs/evaluate.py and jobs/publish_release.py with this version of the code"
        return GateResult("slices", False, "no metrics of each user with the length of their history", expected, remedy=remedy)
    ours, theirs = facts.metric
    low, high = np.quantile(facts.history, [1 / 3, 2 / 3], method="lower") if ours.size else (0.0, 0.0)
    parts = {"short": facts.history <= low, "long": facts.history > high}
    parts["middle"] = ~(parts["short"] | parts["long"])
    numbers, worse, sure = dict[str, float](), list[str](), 1 - (1 - config.confidence) / len(parts)
    for name, inside in parts.items():
        difference = paired_difference(ours[inside], theirs[inside], seed, confidence=sure)
        if not difference.known or inside.sum() < _LEAST_USERS:
            continue
        least = -config.slice_margin * float(np.nanmean(theirs[inside]))
        numbers |= {f"{name}_users": int(inside.sum()), f"{name}_difference": difference.mean, f"{name}_least": least}
        numbers |= {f"{name}_low": difference.low, f"{name}_high": difference.high}
        if difference.high < least:
            worse.append(f"{name} histories {difference.mean:+.4f} (at most {difference.high:+.4f})")
    said = ", ".join(worse) or f"none of {len(numbers) // 5} parts worse off for sure"
    remedy = "look at the slices in both reports, or raise gates.slice_margin" if worse else ""
    return GateResult("slices", not worse, said, expected, numbers, remedy)


def _latency(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    expected = f"p95 of at most {config.latency_ratio:g} times the champion's and {config.latency_slack_ms:g} ms"
    ours, theirs = facts.answers
    if not facts.champion or theirs is None or not theirs.ms.size:
        return GateResult("latency", True, "no champion's answers to compare with", expected)
    if ours is None or not ours.ms.size:
        return GateResult("latency", False, "no answer", expected, remedy="see gate smoke")
    p95 = float(np.quantile(ours.ms, 0.95)), float(np.quantile(theirs.ms, 0.95))
    passed = p95[0] <= config.latency_ratio * p95[1] + config.latency_slack_ms
    numbers = {"p95_ms": p95[0], "champion_p95_ms": p95[1], "ratio": p95[0] / p95[1], "requests": ours.ms.size}
    said = f"p95 {p95[0]:.1f} ms, the champion's {p95[1]:.1f} ms"
    remedy = "fewer candidates or smaller models, or raise gates.latency_ratio"
    return GateResult("latency", passed, said, expected, numbers, "" if passed else remedy)


def _size(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    expected = f"at most {config.size_ratio:g} times the champion's size"
    if not facts.champion or not facts.sizes[1]:
        return GateResult("size", True, "no champion", expected, {"bytes": facts.sizes[0]})
    ours, theirs = facts.sizes
    passed = ours <= config.size_ratio * theirs
    numbers = {"bytes": ours, "champion_bytes": theirs, "ratio": ours / theirs}
    said = f"{ours / 1e6:.1f} MB, the champion's {theirs / 1e6:.1f} MB"
    return GateResult("size", passed, said, expected, numbers, "" if passed else "see what grew, or raise gates.size_ratio")


_GATES: Mapping[GateName, Callable[[Facts, GatesConfig, int], GateResult]] = {
    GateName.integrity: _integrity,
    GateName.smoke: _smoke,
    GateName.metrics: _metrics,
    GateName.slices: _slices,
    GateName.latency: _latency,
    GateName.size: _size,
    GateName.cost: fitness.cost,
    GateName.parity: fitness.parity,
    GateName.drift: fitness.drift,
    GateName.off_policy: fitness.off_policy,
    GateName.approval: fitness.approval,
}
