"""Offline evaluation: lists of items per user and what the users then took come in.

Metrics with intervals over users go out, as a report to read (terminal, HTML) and to check (JSON).
Called by the evaluation job and by the release gates; nothing here knows of Ray.
"""

from reco_ray.evaluation.bootstrap import Interval, confidence_interval, paired_difference, unpaired_difference
from reco_ray.evaluation.datasets import Dataset, read_dataset
from reco_ray.evaluation.metrics import (
    catalogue_coverage,
    gini,
    hit_rate_at_k,
    intra_list_diversity,
    ndcg_at_k,
    novelty,
    recall_at_k,
    reciprocal_rank_at_k,
)
from reco_ray.evaluation.page import render_html
from reco_ray.evaluation.protocols import Division, divide
from reco_ray.evaluation.recall_benchmark import compare, render
from reco_ray.evaluation.report import Difference, EvaluationReport, StageResult, render_table
from reco_ray.evaluation.slices import Slice, auc, by_category, by_cohort, by_history, by_popularity

__all__ = [
    "Dataset",
    "Difference",
    "Division",
    "EvaluationReport",
    "Interval",
    "Slice",
    "StageResult",
    "auc",
    "by_category",
    "by_cohort",
    "by_history",
    "by_popularity",
    "catalogue_coverage",
    "compare",
    "confidence_interval",
    "divide",
    "gini",
    "hit_rate_at_k",
    "intra_list_diversity",
    "ndcg_at_k",
    "novelty",
    "paired_difference",
    "read_dataset",
    "recall_at_k",
    "reciprocal_rank_at_k",
    "render",
    "render_html",
    "render_table",
    "unpaired_difference",
]
