"""The model card of a release: what it is, what it was made from, how good it is and for whom, in Markdown. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reco_ray.config import PipelineConfig

__all__ = ["CARD", "model_card", "with_verdicts"]

CARD = "card.md"

_METRICS = ("ndcg", "recall", "mrr", "hit_rate", "coverage", "diversity")
_WORST = 8


def model_card(release: str, facts: Mapping[str, Any], config: PipelineConfig, report: Mapping[str, Any]) -> str:
    """Write the card that is sealed into a release.

    Args:
        facts: those of its manifest. report: of its evaluation, as ``report.json`` has it.
    """
    return "\n".join(
        [
            f"# Release {release}",
            "",
            f"Made {facts['made_ts'][:19]} UTC by reco_ray, commit {facts['commit'] or 'unknown'}.",
            "",
            "## What it is",
            "",
            *_made_of(facts, config),
            "",
            "## Data",
            "",
            *_data(facts, report),
            "",
            "## How good it is",
            "",
            *_quality(report),
            "",
            "## For whom it is worse",
            "",
            *_slices(report),
            "",
            "## Limits",
            "",
            *(f"- {each}" for each in report["split"]["limits"]),
            "- Offline metrics count what users did without it; what they do when it answers, a rollout shows.",
            "",
        ]
    )


def with_verdicts(card: str, gates: Mapping[str, Any] | None, approvals: Sequence[Mapping[str, str]]) -> str:
    """Add what gates said and who approved: they come after the release is sealed.

    Args:
        gates: the last results; None where none were asked.
    """
    lines = ["## Gates", ""]
    if gates is None:
        lines.append("None was asked yet.")
    else:
        lines += [f"Asked {gates['made_ts'][:19]} UTC, against {gates['champion'] or 'no champion'}: {gates['action']}.", ""]
        rows = [
            (each["name"], "yes" if each["passed"] else "**no**", each["found"], each["expected"]) for each in gates["gates"]
        ]
        lines += _table(("gate", "passed", "found", "expected"), rows)
    lines += ["", "## Approvals", ""]
    lines += [f"- {each['by']}, {each['ts'][:19]} UTC{': ' * bool(each['note'])}{each['note']}" for each in approvals] or [
        "None."
    ]
    return "\n".join([card.rstrip("\n"), "", *lines, ""])


def _made_of(facts: Mapping[str, Any], config: PipelineConfig) -> Iterator[str]:
    quotas = ", ".join(f"{getattr(name, 'value', name)} {n}" for name, n in config.recall.quotas.items() if n > 0)
    yield f"- Recall: {quotas} candidates."
    yield f"- Ranker: {config.rank.kind.value}."
    explore = config.rerank.explore
    yield f"- Diversity {config.rerank.diversity:g} ({config.rerank.diversify.value}); exploration: {explore.kind.value}" + (
        f" in {explore.rate:.0%} of the places." if explore.kind.value != "none" else "."
    )
    if parents := facts.get("parents"):
        yield f"- Models start from those of {', '.join(parents)}."
    sensitive = facts.get("sensitive_columns") or []
    yield f"- Sensitive columns that the ranker reads: {', '.join(sensitive) or 'none'}."


def _data(facts: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    yield f"- {report['title']}: lake versions {', '.join(f'{k} {v}' for k, v in facts['lake_versions'].items())}."
    yield f"- Events: {', '.join(f'{n:,} {part}' for part, n in report['n_events'].items())}."
    yield f"- {report['split']['explanation']}"
    if seconds := facts.get("seconds"):
        yield f"- Making it took {', '.join(f'{name} {s:.0f} s' for name, s in sorted(seconds.items()))}."


def _quality(report: Mapping[str, Any]) -> list[str]:
    k = report["k"]
    lines = [
        f"{report['n_users']:,} users of the test part, lists of {k}; {report['confidence']:.0%} intervals over users.",
        "",
    ]
    rows = [(each["stage"], *(_cell(each["metrics"].get(name)) for name in _METRICS)) for each in report["stages"]]
    return [*lines, *_table(("stage", *_METRICS), rows)]


def _slices(report: Mapping[str, Any]) -> list[str]:
    """The parts whose served lists are worse than the average for sure, the worst first."""
    served = report["stages"][-1]["stage"] if report["stages"] else ""
    worse = [each for each in report["slices"] if each["stage"] == served and (each["delta"]["high"] or 0) < 0]
    if not worse:
        return ["No slice that was looked at is worse off than the others for sure."]
    rows = [
        (f"{each['of']}: {each['name']}", f"{each['users']:,}", each["metric"], _cell(each["value"]), _cell(each["delta"]))
        for each in sorted(worse, key=lambda each: each["delta"]["mean"])[:_WORST]
    ]
    return _table(("slice", "users", "metric", "value", "against the others"), rows)


def _cell(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["mean"] is None:
        return ""
    low, high = found["low"], found["high"]
    return f"{found['mean']:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(each.replace('|', '/') for each in row)} |" for row in rows)]
