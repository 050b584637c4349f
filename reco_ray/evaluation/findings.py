"""What a report says, in sentences: text for people, not escaped."""

import math

from reco_ray.evaluation.report import POPULAR, RANDOM, RANKED, RECALL, RERANKED, Difference, EvaluationReport

__all__ = ["GOOD_WHEN_HIGH", "details", "headline", "limits", "stage_label", "tone", "verdict"]

GOOD_WHEN_HIGH = frozenset({"ndcg", "recall", "mrr", "hit_rate"})

_LABELS = {RANKED: "recall + rank", RERANKED: "recall + rank + rerank"}
_SUBJECTS = {
    POPULAR: "The popular list",
    RECALL: "Recall alone",
    RANKED: "Recall with the ranker",
    RERANKED: "The full pipeline",
}
_SPLIT_LIMITS = {
    "global_time": "The test is one stretch of time, the last one. Another stretch, or another season, may give other numbers.",
    "per_user": "Each user's events were cut at a time of that user's own, so the models have seen what others did later "
    "than some of the tests. Real use has no such help: expect lower numbers there.",
}


def stage_label(name: str) -> str:
    """Name a stage as readers should see it."""
    return _LABELS.get(name, name)


def headline(report: EvaluationReport) -> str:
    """Say in one sentence how the last stage does against the popular list, and whether chance could explain it."""
    served = report.stages[-1] if report.stages else None
    if served is None or "ndcg" not in served.metrics:
        return "No stage was evaluated."
    metric, value = f"NDCG@{report.k}", served.metrics["ndcg"].mean
    subject = _SUBJECTS.get(served.stage, f"Stage {served.stage}")
    popular = report.stage(POPULAR)
    base = popular.metrics["ndcg"].mean if popular and "ndcg" in popular.metrics else math.nan
    if popular is served or not (math.isfinite(base) and math.isfinite(value)) or base <= 0:
        return f"{subject} reaches {metric} {value:.3f}."
    change = value / base - 1
    verb = f"beats the popular list by {change:.0%}" if change >= 0 else f"falls {-change:.0%} short of the popular list"
    test = _find(report, served.stage, POPULAR, "ndcg")
    chance = ""
    if test is not None:
        chance = ", more than chance explains" if test.significant else ", but chance alone could explain that"
    return f"{subject} {verb} in {metric} ({value:.3f} against {base:.3f}){chance}."


def details(report: EvaluationReport) -> list[str]:
    """Say what the last stage means for users, what each step adds, and how much of the catalogue is shown."""
    if not report.stages:
        return []
    result, served, popular = [], report.stages[-1], report.stage(POPULAR)
    hits, coverage = served.metrics.get("hit_rate"), served.metrics.get("coverage")
    if hits is not None and math.isfinite(hits.mean):
        result.append(
            f"{hits.mean:.0%} of users find at least one item that they later took among the {report.k} they are shown."
        )
    for stage, baseline, subject in ((RANKED, RECALL, "The ranker"), (RERANKED, RANKED, "Reranking")):
        step = _find(report, stage, baseline, "ndcg")
        if step is not None and math.isfinite(step.interval.mean):
            verb, size = ("adds", step.interval.mean) if step.interval.mean >= 0 else ("costs", -step.interval.mean)
            doubt = "" if step.significant else ", which chance could explain"
            result.append(f"{subject} {verb} {size:.3f} NDCG{doubt}.")
    if coverage is not None and math.isfinite(coverage.mean):
        against = popular.metrics.get("coverage") if popular and popular is not served else None
        other = f", against {against.mean:.1%} by the popular list" if against else ""
        result.append(f"{coverage.mean:.1%} of the catalogue is shown to somebody{other}.")
    return result


def verdict(difference: Difference) -> str:
    """Name a difference: a gain or loss where high is good, a rise or fall elsewhere, or nothing beyond chance."""
    if not difference.significant:
        return "could be chance"
    up, down = ("gain", "loss") if difference.metric in GOOD_WHEN_HIGH else ("rise", "fall")
    return f"clear {up if difference.interval.mean > 0 else down}"


def limits(report: EvaluationReport) -> list[str]:
    """Say what the numbers do not show."""
    result = [
        "Users could only take what they came across. An item they would have liked but never met counts as wrong, so "
        "absolute numbers are low, and lists near to what was popular at the time are favoured.",
    ]
    if report.split_kind in _SPLIT_LIMITS:
        result.append(_SPLIT_LIMITS[report.split_kind])
    result.append(
        f"Intervals ({report.confidence:.0%}) say how far a number moves with other users of the same kind. They do not "
        "cover other training seeds, and are not widened for the number of comparisons made."
    )
    return result + list(report.limits)


def _find(report: EvaluationReport, stage: str, baseline: str, metric: str) -> Difference | None:
    wanted = (stage, baseline, metric)
    return next((d for d in report.differences if (d.stage, d.baseline, d.metric) == wanted), None)


def tone(stage: str) -> str:
    """Sort a stage into "base", "source" or "pipeline", for its colour."""
    if stage in (RANDOM, POPULAR):
        return "base"
    return "pipeline" if stage in (RECALL, RANKED, RERANKED) else "source"
