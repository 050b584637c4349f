"""The request path as pure code: requests come in, slates go out; evaluation, batch and serving all run this.

Stages are loaded from a release's folder; nothing here knows of Ray or HTTP. `popular` answers when they cannot, and
`explanation` tells what became of an item.
"""

from reco_ray.slate.explanation import Explanation, WhyItem, explain
from reco_ray.slate.pipeline import Pipeline
from reco_ray.slate.popular import PopularList
from reco_ray.slate.stages import (
    LearningStage,
    LiveStage,
    NamedStage,
    RankStage,
    RecallStage,
    RerankStage,
    RuledStage,
    SwitchedStage,
    load_rank,
    load_recall,
    load_rerank,
    ranker_of,
)
from reco_ray.slate.trial import Trial, recent_requests, try_rules

__all__ = [
    "Explanation",
    "LearningStage",
    "LiveStage",
    "NamedStage",
    "Pipeline",
    "PopularList",
    "RankStage",
    "RecallStage",
    "RerankStage",
    "RuledStage",
    "SwitchedStage",
    "Trial",
    "WhyItem",
    "explain",
    "load_rank",
    "load_recall",
    "load_rerank",
    "ranker_of",
    "recent_requests",
    "try_rules",
]
