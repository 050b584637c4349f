"""Columns of a training set that order its labels too well to be honest: the second line against leaks.

`features.leakage` is exact for what a build makes. This one looks at the finished rows, for what came in behind it: a recall
score or a similarity that knows the labels.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from reco_ray.errors import DataError

__all__ = ["LEAST_USERS", "LIMIT", "orderings", "refuse_implausible"]

LIMIT = 0.95
"""What no honest column reaches: the best of MovieLens is recall_score with 0.72, that of a shop's receipts two_tower_score
with 0.73, while the label itself has 1. It is no setting: whoever could raise it would, to get a release out."""

LEAST_USERS = 100
"""Below so many users the mean is noise, and nothing is refused."""


def refuse_implausible(rows: pl.DataFrame, columns: Sequence[str]) -> None:
    """Check a training set.

    Args:
        rows: of `flow.build_training_set`. columns: names of the features, in order.
    Raises: DataError: a column alone orders the labels of the average user implausibly well.
    """
    users, found = orderings(rows, columns)
    strange = {name: auc for name, auc in found.items() if max(auc, 1 - auc) > LIMIT}
    if users >= LEAST_USERS and strange:
        named = ", ".join(f"{name} (AUC {auc:.3f})" for name, auc in sorted(strange.items(), key=lambda each: each[0]))
        raise DataError(
            f"ranker: {named} alone orders what {users:,} users turned to, expected an AUC within users from {1 - LIMIT:.2f} "
            f"to {LIMIT}; such a column knows the labels: compute it from events before the fit snapshot's cut, or drop it"
        )


def orderings(rows: pl.DataFrame, columns: Sequence[str]) -> tuple[int, dict[str, float]]:
    """How well each column alone tells a user's positive rows from the others.

    Returns: users with rows of both kinds; of each column the mean over these users of the area under the ROC curve, where
        ties count half and a missing value is the lowest. 0.5 for a column that is the same for all of a user's rows.
    """
    positive = pl.col("label") > 0
    both = rows.filter((positive.any() & ~positive.all()).over("user_id"))
    if both.is_empty():
        return 0, {}
    matrix = np.asarray(both["features"].list.to_array(len(columns)).to_numpy(), np.float32)
    base = both.select("user_id", positive.alias("positive"))
    n, p = pl.len(), pl.col("positive").sum()
    found = {}
    for at, name in enumerate(columns):  # one after another: ranks of all would be twice the size of the training set
        column = base.with_columns(pl.Series("value", np.nan_to_num(matrix[:, at], nan=-np.inf, posinf=np.inf, neginf=-np.inf)))
        ranked = column.with_columns(pl.col("value").rank().over("user_id"))
        area = (pl.col("value").filter("positive").sum() - p * (p + 1) / 2) / (p * (n - p))
        found[name] = float(ranked.group_by("user_id", maintain_order=True).agg(area.alias("auc"))["auc"].mean())  # type: ignore[arg-type]
    return base["user_id"].n_unique(), found
