"""Rank: requests and recall's candidates come in, a score per candidate goes out; rerank reads it.

`features` makes the matrix, in training and serving alike; `flow` builds training sets, `trainer` fits, `stage` scores,
`reasons` puts what the columns did into words; `neural` is the heavy model, beside `stage`'s XGBoost, and `hybrid` chooses.
"""

from reco_ray.rank.features import RankFeatures
from reco_ray.rank.hybrid import HybridRanker, RankerPolicy, measure_policy
from reco_ray.rank.reasons import Reason, reasons_of
from reco_ray.rank.stage import NeuralRanker, RecallOrder, XGBoostRanker, build, load

__all__ = [
    "HybridRanker",
    "NeuralRanker",
    "RankFeatures",
    "RankerPolicy",
    "Reason",
    "RecallOrder",
    "XGBoostRanker",
    "build",
    "load",
    "measure_policy",
    "reasons_of",
]
