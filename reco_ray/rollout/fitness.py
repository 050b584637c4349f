"""Gates on what a release costs, whether it fits the data of today, what it would have earned, and who approved of it.

Where there is nothing to judge by they pass, and say so: logs that hold no chance, or no rows, are a setting and no fault.
"""

import math

import numpy as np

from reco_ray.config import GatesConfig
from reco_ray.rollout.facts import Facts, GateResult

__all__ = ["approval", "cost", "drift", "off_policy", "parity"]

_SHOWN = 5
_ESTIMATOR = "snips"


def cost(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """CPU of a request in the middle, times 1,000: one that waits for a busy machine's rest says nothing."""
    expected = f"CPU for 1,000 requests of at most {config.cost_ratio:g} times the champion's and {config.cost_slack_s:g} s"
    ours, theirs = facts.answers
    numbers = {"train_s": facts.train_s[0], "champion_train_s": facts.train_s[1]}
    if ours is None or not ours.cpu_ms.size:
        return GateResult(
            "cost", not facts.champion, "no answer", expected, numbers, "see gate smoke" if facts.champion else ""
        )
    numbers["cpu_s_per_1000"] = mine = float(np.median(ours.cpu_ms))  # milliseconds of one are seconds of 1,000
    if not facts.champion or theirs is None or not theirs.cpu_ms.size:
        return GateResult("cost", True, f"{mine:.2f} s, and no champion's answers to compare with", expected, numbers)
    numbers["champion_cpu_s_per_1000"] = usual = float(np.median(theirs.cpu_ms))
    passed = mine <= config.cost_ratio * usual + config.cost_slack_s
    said = f"{mine:.2f} s of CPU for 1,000 requests, the champion's {usual:.2f} s"
    remedy = "fewer candidates or smaller models, or raise gates.cost_ratio"
    return GateResult("cost", passed, said, expected, numbers, "" if passed else remedy)


def parity(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """The streams' code and that of the batch make the same rows of the same events."""
    expected = f"at most {config.parity_limit:.2%} of the rows that streams make to differ from the batch's"
    found = facts.parity
    if found is None or not found.rows:
        return GateResult("parity", True, "no events to make rows of", expected)
    numbers = {"rows": found.rows, "skewed": found.skewed, "rate": found.rate}
    columns = ", ".join(f"{name} in {n}" for name, n in list(found.columns.items())[:_SHOWN])
    said = f"{found.skewed} of {found.rows} rows" + (f" ({columns})" if columns else "")
    passed = found.rate <= config.parity_limit
    remedy = "see reco_ray/features/online.py and transform.py for these columns, and publish again"
    return GateResult("parity", passed, said, expected, numbers, "" if passed else remedy)


def drift(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """What it was trained on is no farther from today's requests than what the champion was trained on.

    A release may start with some distance that is none of time's (`workflow.drift`), so that drift alone is no reason.
    """
    expected = f"no feature to drift from its training more than {config.drift_ratio:g} times as far as the champion's"
    if facts.drifts is None or not facts.drifts[0]:
        return GateResult("drift", True, "no decision of the last hours with a row of this view", expected)
    ours, theirs = facts.drifts
    usual = {each.column: each.psi for each in theirs}
    drifting = [each for each in ours if each.drifts]
    farther = [each for each in drifting if each.psi > config.drift_ratio * usual.get(each.column, 0.0)]
    numbers: dict[str, float] = {"rows": min(ours[0].rows), "columns": len(ours), "drifting": len(drifting)}
    numbers |= {
        "farther": len(farther),
        "psi": max(each.psi for each in ours),
        "champion_psi": max(usual.values(), default=math.nan),
    }
    names = ", ".join(f"{each.column} PSI {each.psi:.2f} ({usual.get(each.column, math.nan):.2f})" for each in farther[:_SHOWN])
    said = names or f"{len(drifting)} of {len(ours)} that drift, none of them farther"
    remedy = "train on newer data: jobs/run_pipeline.py after the events are in, or raise gates.drift_ratio" if farther else ""
    return GateResult("drift", not farther, said, expected, numbers, remedy)


def off_policy(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """Not proved worse than what was shown: like slices, it may be unsure."""
    expected = f"an estimate that is not more than {config.off_policy_margin:.0%} below what was earned, for sure"
    report = facts.policy
    if report is None:
        return GateResult("off_policy", True, f"nothing to estimate from: {facts.policy_missing or 'no champion'}", expected)
    numbers = {"draws": report.support.draws, "effective": report.support.effective, "observed": report.observed.mean}
    found = next((each.value for each in report.estimates if each.estimator == _ESTIMATOR), None)
    if found is None:
        return GateResult("off_policy", True, f"no estimate: {report.support.refused}", expected, numbers)
    least = (1 - config.off_policy_margin) * report.observed.mean
    numbers |= {"estimate": found.mean, "low": found.low, "high": found.high, "least": least}
    passed = not found.high < least
    said = (
        f"{found.mean:.4g} {report.outcome} per slate ({found.low:.4g} to {found.high:.4g}), earned {report.observed.mean:.4g}"
    )
    remedy = "see jobs/evaluate_policy.py for the report, or raise gates.off_policy_margin"
    return GateResult("off_policy", passed, said, expected, numbers, "" if passed else remedy)


def approval(facts: Facts, config: GatesConfig, seed: int) -> GateResult:
    """As many people as are asked for have put their names to it."""
    among = f" among {', '.join(config.approvers)}" if config.approvers else ""
    expected = f"{config.approvals} approvals{among}" if config.approvals else "no approval"
    names = sorted({each for each in facts.approvals if not config.approvers or each in config.approvers})
    said = f"{', '.join(names)}" if names else "nobody's"
    passed = len(names) >= config.approvals
    remedy = f"`reco releases approve {facts.release} --by NAME`"
    return GateResult("approval", passed, said, expected, {"approvals": len(names)}, "" if passed else remedy)
