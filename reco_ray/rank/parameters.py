"""XGBoost's parameters of a configuration."""

from typing import Any

from reco_ray.config import RankConfig

__all__ = ["parameters"]


def parameters(config: RankConfig, seed: int) -> dict[str, Any]:
    """LambdaMART on graded labels, judged by NDCG@10."""
    return {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@10",
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 20,
        "tree_method": "hist",
        "max_depth": config.max_depth,
        "learning_rate": config.learning_rate,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bytree": config.colsample,
        "reg_lambda": config.reg_lambda,
        "seed": seed,
        **({"lambdarank_unbiased": True} if config.unbiased else {}),
    }
