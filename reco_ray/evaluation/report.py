"""What an evaluation found: the report as data, as JSON for machines, and as a table for the terminal.

`page.render_html` makes the page that people read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rich import box
from rich.markup import escape
from rich.table import Table

from reco_ray.evaluation.bootstrap import Interval
from reco_ray.evaluation.slices import Slice
from reco_ray.evaluation.variety import Variety

__all__ = [
    "CURVE_CUTOFFS",
    "METRICS",
    "POPULAR",
    "RANDOM",
    "RANKED",
    "RECALL",
    "RERANKED",
    "UNION",
    "Difference",
    "EvaluationReport",
    "Metric",
    "StageResult",
    "render_table",
]

RANDOM, POPULAR, RECALL, RANKED, RERANKED = "random", "popular", "recall", "recall+rank", "+rerank"
UNION = "union"
CURVE_CUTOFFS = (10, 20, 50, 100, 200, 300, 500)

_CHECKS = {POPULAR: "popular", RECALL: "recall", RANKED: "ranked", RERANKED: "reranked"}


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: heading; ``{k}`` is the length of the lists.
        short: heading in the terminal.
        pattern: number format.
        meaning: in plain words, without a full stop.
    """

    label: str
    short: str
    pattern: str
    meaning: str


METRICS: Mapping[str, Metric] = {
    "ndcg": Metric(
        "NDCG@{k}", "NDCG@{k}", ".3f", "how near to the top the right items are; 1 is a list that could not be better"
    ),
    "recall": Metric("Recall@{k}", "Recall@{k}", ".3f", "share of all the items a user took that the list holds"),
    "mrr": Metric("MRR@{k}", "MRR", ".3f", "1 / position of the first right item, on average"),
    "hit_rate": Metric("Hit rate@{k}", "Hits", ".3f", "share of users whose list holds at least one right item"),
    "auc": Metric(
        "AUC",
        "AUC",
        ".3f",
        "share of the pairs of a right and another candidate that stand right; of all candidates, not of lists",
    ),
    "coverage": Metric("Coverage", "Cover", ".1%", "share of the catalogue that somebody is shown"),
    "novelty": Metric("Novelty", "Novel", ".1f", "how rare the items are in training, in bits"),
    "diversity": Metric("Diversity", "Divers", ".2f", "how unlike each other the items of one list are; 0 to 1"),
    "gini": Metric("Gini", "Gini", ".2f", "how unequally items are shown; 0 is equal, 1 is one item for all"),
}


@dataclass(frozen=True, slots=True)
class StageResult:
    """The metrics of one stage's lists; the keys of ``metrics`` are those of `METRICS`."""

    stage: str
    metrics: Mapping[str, Interval]
    n_users: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference of a metric's mean, ``stage`` minus ``baseline``, over the same users."""

    stage: str
    baseline: str
    metric: str
    interval: Interval

    @property
    def name(self) -> str:
        """Name of the difference, unique in a report."""
        return f"{self.metric}: {self.stage} vs {self.baseline}"

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval.excludes_zero


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """One evaluation of one release.

    Attributes:
        title: names the data, e.g. "MovieLens small".
        split_explanation: one sentence, how the events were divided.
        cold_share: share of the users with events in the test part who have none before it.
        n_users: users whose lists were evaluated.
        n_events: events of each part, in order of time.
        stages: weakest first: random, popular, each single source, recall, recall+rank, +rerank; the last one is served.
        candidate_recall: source -> list length -> mean recall of its candidates; `UNION` holds all sources together.
        slices: metrics of the served lists, and of recall alone, by users and items, with deltas.
        variety: what several places of the knob ``rerank.diversity`` would serve.
        importances: (feature, gain) of the ranker, largest first.
        lake_versions: table -> version read.
        limits: what a reader must know beyond what the page says of every split.
    """

    title: str
    split_kind: str
    split_explanation: str
    cold_share: float
    n_users: int
    n_events: Mapping[str, int]
    k: int
    stages: tuple[StageResult, ...]
    differences: tuple[Difference, ...] = ()
    candidate_recall: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    variety: tuple[Variety, ...] = ()
    importances: tuple[tuple[str, float], ...] = ()
    lake_versions: Mapping[str, int] = field(default_factory=dict)
    commit: str
    config_hash: str
    seed: int
    seconds: float
    made_ts: datetime
    confidence: float = 0.95
    resamples: int = 1000
    limits: tuple[str, ...] = ()

    def stage(self, name: str) -> StageResult | None:
        """Return the stage of that name, None where the report lacks it."""
        return next((s for s in self.stages if s.stage == name), None)

    def to_json(self) -> dict[str, object]:
        """Turn the report into JSON values; NaN becomes null.

        ``checks`` lists NDCG of the popular list and of recall, ranked and reranked, and recall@500 of the best source and of
        the union of all, as {name, value, unit}.
        """
        return {
            "checks": self._checks(),
            "title": self.title,
            "split": {"kind": self.split_kind, "explanation": self.split_explanation, "limits": list(self.limits)},
            "cold_share": _finite(self.cold_share),
            "n_users": self.n_users,
            "n_events": dict(self.n_events),
            "k": self.k,
            "stages": [
                {"stage": s.stage, "n_users": s.n_users, "metrics": {m: _interval(i) for m, i in s.metrics.items()}}
                for s in self.stages
            ],
            "differences": [
                {
                    "name": d.name,
                    "stage": d.stage,
                    "baseline": d.baseline,
                    "metric": d.metric,
                    "significant": d.significant,
                    **_interval(d.interval),
                }
                for d in self.differences
            ],
            "candidate_recall": {
                source: {str(n): _finite(value) for n, value in curve.items()}
                for source, curve in self.candidate_recall.items()
            },
            "slices": [
                {"of": s.of, "name": s.name, "stage": s.stage, "metric": s.metric, "users": s.users}
                | {"value": _interval(s.value), "delta": _interval(s.delta)}
                for s in self.slices
            ],
            "variety": [
                {"kind": v.kind, "at": v.at, "ndcg": _interval(v.ndcg), "diversity": _interval(v.diversity)}
                for v in self.variety
            ],
            "importances": [{"feature": name, "gain": _finite(gain)} for name, gain in self.importances],
            "lake_versions": dict(self.lake_versions),
            "commit": self.commit,
            "config_hash": self.config_hash,
            "seed": self.seed,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seconds": round(self.seconds, 3),
            "made_ts": self.made_ts.isoformat(),
        }

    def _checks(self) -> list[dict[str, object]]:
        found = ((label, self.stage(stage)) for stage, label in _CHECKS.items())
        checks: list[dict[str, object]] = [
            {"name": f"{label}_ndcg{self.k}", "value": _finite(stage.metrics["ndcg"].mean), "unit": "ndcg"}
            for label, stage in found
            if stage is not None and "ndcg" in stage.metrics
        ]
        depth = CURVE_CUTOFFS[-1]
        whole = {name: curve[depth] for name, curve in self.candidate_recall.items() if depth in curve}
        singles = [value for name, value in whole.items() if name != UNION]
        if UNION in whole and singles:
            values = {"best_source": max(singles), UNION: whole[UNION]}
            checks += [{"name": f"{n}_recall{depth}", "value": _finite(v), "unit": "share"} for n, v in values.items()]
        return checks


def render_table(report: EvaluationReport) -> Table:
    """Lay the stages out for a terminal of 110 columns, with intervals of NDCG and recall."""
    table = Table(
        title=f"{escape(report.title)}: {report.n_users:,} users, lists of {report.k}",
        caption=f"{report.confidence:.0%} intervals over users, {report.resamples} resamples, "
        f"{escape(report.split_kind)} split",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("Stage", overflow="fold", max_width=16)
    for metric in METRICS.values():
        table.add_column(metric.short.format(k=report.k), justify="right", no_wrap=True)
    for stage in report.stages:
        cells = [_cell(key, stage.metrics.get(key)) for key in METRICS]
        # titles and names are data: rich would read their brackets as style
        table.add_row(escape(stage.stage), *cells, style="bold" if stage is report.stages[-1] else None)
    return table


def _cell(key: str, found: Interval | None) -> str:
    if found is None or not math.isfinite(found.mean):
        return "–"
    value = format(found.mean, METRICS[key].pattern)
    if key not in ("ndcg", "recall") or not found.known:
        return value
    low, high = (format(bound, ".3f").removeprefix("0") for bound in (found.low, found.high))
    return f"{value} [dim]{low}–{high}[/]"


def _interval(found: Interval) -> dict[str, float | None]:
    return {"mean": _finite(found.mean), "low": _finite(found.low), "high": _finite(found.high)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
