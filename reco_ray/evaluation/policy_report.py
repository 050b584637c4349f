"""The report of an off-policy evaluation: what was logged, what another policy would have earned, or why nobody can say."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape

import numpy as np

from reco_ray.evaluation import charts
from reco_ray.evaluation.bootstrap import Interval
from reco_ray.evaluation.off_policy import Draws, Estimate, Support, estimate, mean_interval, support
from reco_ray.evaluation.page import STYLE, figure

__all__ = ["PolicyReport", "judge"]

_MEANINGS = {
    "ips": "weights each draw by the ratio of its odds; unbiased, wide",
    "snips": "the same, normalised by the weights; a little biased, mostly narrower",
    "sequential": "each place with the ratio of the odds up to it; holds where a place does not depend on those behind it",
    "dr": "a model's expectation, corrected by what was logged",
}


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What is known of a policy.

    Attributes:
        policy, logs: names of what was judged, and of what from. outcome: what is counted, per draw.
        observed: of the logged policy.
        estimates: of the policy in question; empty where they are refused.
        weights: shares of draws by weight: below 0.1, to 1, to 10, to 100, and above.
    """

    policy: str
    logs: str
    outcome: str
    confidence: float
    observed: Interval
    support: Support
    estimates: list[Estimate]
    weights: list[float]
    made_ts: datetime

    def to_json(self) -> str:
        """All of it, for gates and tools."""
        return json.dumps(asdict(self), indent=1, default=str)

    def to_html(self) -> str:
        """A page that needs nothing else."""
        title = f"{self.policy}, from {self.logs}"
        parts = [f'<p class="kicker">Off-policy evaluation</p><h1>{escape(self._headline())}</h1>']
        s = self.support
        text = (
            f"{self.policy} was judged by {s.draws:,} logged draws of {self.logs}, which say as much as {s.effective:,.0f} of "
            f"its own would. Their weights average {s.mean_weight.mean:.3f}; 1 is expected."
        )
        parts.append(f'<p class="lead">{escape(text)}</p><p class="soft">{self.made_ts:%d %B %Y, %H:%M} UTC.</p>')
        figures = []
        if self.estimates:
            marks = [charts.Mark("logged", self.observed, "base")]
            marks += [charts.Mark(e.estimator, e.value, "pipeline") for e in self.estimates]
            meaning = "; ".join(f"{e.estimator}: {_MEANINGS[e.estimator]}" for e in self.estimates)
            note = f"{self.confidence:.0%} intervals. {meaning}."
            figures.append(figure(f"{self.outcome} per draw".capitalize(), note, charts.bars(marks, "Estimates", _digits)))
        names = ("below 0.1", "0.1 to 1", "1 to 10", "10 to 100", "above 100")
        marks = [charts.Mark(n, Interval.point(share), "source") for n, share in zip(names, self.weights, strict=True)]
        note = "Share of the draws by weight. Estimates that rest on a few large weights are wide."
        figures.append(figure("Overlap of the policies", note, charts.bars(marks, "Weights", lambda share: f"{share:.0%}")))
        parts.append(f'<section><div class="charts">{"".join(figures)}</div></section>')
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{''.join(parts)}\n</main></body></html>\n"
        )

    def _headline(self) -> str:
        if self.support.refused:
            return f"Nothing can be said of {self.policy}: {self.support.refused}."
        best = self.estimates[-1]
        v, o = best.value, self.observed
        return (
            f"{self.policy} would earn {v.mean:.4g} {self.outcome} per draw ({v.low:.4g} to {v.high:.4g}, {best.estimator}), "
            f"where {o.mean:.4g} were seen."
        )


def judge(draws: Draws, policy: str, logs: str, outcome: str, confidence: float, least: float, now: datetime) -> PolicyReport:
    """Estimate what a policy would have earned, unless the logs cannot say.

    Args:
        least: effective draws that are asked for.
    """
    found = support(draws, least)
    edges = np.searchsorted([0.1, 1, 10, 100], draws.weights[:, -1], side="right")
    return PolicyReport(
        policy=policy,
        logs=logs,
        outcome=outcome,
        confidence=confidence,
        observed=mean_interval(draws.rewards.sum(axis=1), draws.units, confidence),
        support=found,
        estimates=[] if found.refused else estimate(draws, confidence),
        weights=(np.bincount(edges, minlength=5) / edges.size).tolist(),
        made_ts=now,
    )


def _digits(value: float) -> str:
    return f"{value:.3g}"
