"""What faster forms of a ranker lose on real data: two phases, fewer trees, fewer features; on users unseen in training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import xgboost
from numpy.typing import NDArray

from reco_ray.config import RankConfig
from reco_ray.evaluation import ndcg_at_k, paired_difference
from reco_ray.hashing import hash64
from reco_ray.lake import tables
from reco_ray.rank.calibration import expected_error, fit_calibration, reliability

__all__ = ["losses", "two_phase"]

_FOLDS = 3
Scores = dict[str, NDArray[np.float32]]


def losses(root: str, seed: int = 1) -> dict[str, Any]:
    """Compare forms on the newest training set of a root, in three folds over users.

    Returns: per form NDCG@10 over the candidates, its loss against the full model with a 95% interval over users, and the
        share of the full model's first ten that it keeps.
    """
    table = tables.read(root, "training_rank")
    rows = table.filter(pl.col("snapshot") == table["snapshot"][0]).sort("user_id", "place")
    fold = np.array([hash64(user, "fold") % _FOLDS for user in rows["user_id"].unique(maintain_order=True)])
    group = rows["user_id"].rle_id().to_numpy()
    x = np.asarray(rows["features"].list.to_array(len(rows["features"][0])).to_numpy(), np.float32)
    y = rows["label"].to_numpy()
    found: Scores = {}
    for held in range(_FOLDS):
        test = fold[group] == held
        for form, scores in _scores(x[~test], y[~test], group[~test], x[test], group[test], seed).items():
            found.setdefault(form, np.zeros(len(y), np.float32))[test] = scores
    found["recall order"] = -rows["place"].to_numpy().astype(np.float32)
    users = rows["user_id"].to_list()
    return {**_table(found, y, group, seed), "calibration": _calibration(found["full"], y > 0, users)}


def two_phase(
    model: xgboost.Booster, matrix: NDArray[np.float32], sizes: Sequence[int], rounds: int, kept: int
) -> NDArray[np.float32]:
    """Score with the first trees only, and with the rest those that stand best by then.

    The best ``kept`` of each list get the very scores of the whole model. The others keep the order of the first phase, below
    them; a score of theirs says nothing else.

    Args:
        matrix: rows of all lists, one list after the other. sizes: of the lists, summing up to its rows.
        rounds: of the first phase, fewer than the model has.
    Returns: shape (rows of the matrix,).
    """
    first = model.inplace_predict(matrix, iteration_range=(0, rounds), validate_features=False)
    scores = np.asarray(first, np.float32)
    best, start = [], 0
    for size in sizes:
        part = scores[start : start + size]
        best.append(start + (np.argpartition(-part, kept)[:kept] if size > kept else np.arange(size)))
        start += size
    rows = np.concatenate(best)
    whole = model.inplace_predict(matrix[rows], validate_features=False)
    start = at = 0
    for size, chosen in zip(sizes, best, strict=True):
        least = whole[at : at + chosen.size].min(initial=np.inf)
        if size > kept:
            part = scores[start : start + size]
            behind = np.ones(size, np.bool_)
            behind[chosen - start] = False
            part[behind] -= max(0.0, float(part[behind].max() - least))
        start, at = start + size, at + chosen.size
    scores[rows] = whole
    return scores


def _scores(
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    group: NDArray[np.uint32],
    test: NDArray[np.float32],
    test_group: NDArray[np.uint32],
    seed: int,
) -> Scores:
    rounds = RankConfig().rounds
    model = _fit(x, y, group, seed)
    sizes = np.unique(test_group, return_counts=True)[1].tolist()
    found = {"full": model.inplace_predict(test)}
    for share, kept in ((4, 100), (4, 50), (2, 100), (2, 50)):
        found[f"two phases: 1/{share} of the trees, then {kept} candidates"] = two_phase(
            model, test, sizes, rounds // share, kept
        )
    for share in (4, 2):
        found[f"1/{share} of the trees"] = model.inplace_predict(test, iteration_range=(0, rounds // share))
    gains = {int(name[1:]): gain for name, gain in model.get_score(importance_type="total_gain").items()}
    order = sorted(gains, key=lambda at: -gains[at])
    for n in (10, 20):
        columns = sorted(order[:n])
        found[f"the {n} columns of most gain"] = _fit(x[:, columns], y, group, seed).inplace_predict(
            np.ascontiguousarray(test[:, columns])
        )
    return found


def _calibration(scores: NDArray[np.float32], taken: NDArray[np.bool_], users: list[str]) -> dict[str, Any]:
    """Fit on the scores of one half of the users, all unseen by the model that scored them, and judge on the other."""
    half = np.array([hash64(user, "calibration") % 2 == 0 for user in users])
    raw = 1 / (1 + np.exp(-scores[~half].astype(np.float64)))
    fitted = fit_calibration(scores[half], taken[half]).probabilities(scores[~half])
    bins = {"before": reliability(raw, taken[~half]), "after": reliability(fitted, taken[~half])}
    return {
        "ece_before": expected_error(raw, taken[~half]),
        "ece_after": expected_error(fitted, taken[~half]),
        **{name: {"said": said.tolist(), "came": came.tolist(), "n": n.tolist()} for name, (said, came, n) in bins.items()},
    }


def _fit(x: NDArray[np.float32], y: NDArray[np.int32], group: NDArray[np.uint32], seed: int) -> xgboost.Booster:
    from reco_ray.rank.parameters import parameters

    config = RankConfig()
    model = xgboost.train(parameters(config, seed) | {"nthread": 1}, xgboost.DMatrix(x, label=y, qid=group), config.rounds)
    model.set_param({"nthread": 1})
    return model


def _table(found: Scores, y: NDArray[np.int32], group: NDArray[np.uint32], seed: int) -> dict[str, Any]:
    starts = np.flatnonzero(np.r_[True, np.diff(group) > 0])
    ends = np.r_[starts[1:], len(y)]
    useful = [(a, b) for a, b in zip(starts, ends, strict=True) if (y[a:b] > 0).any()]
    relevant = [np.flatnonzero(y[a:b] > 0).astype(np.int32) for a, b in useful]
    lists = {
        form: [np.argsort(-scores[a:b], kind="stable")[:10].astype(np.int32) for a, b in useful]
        for form, scores in found.items()
    }
    ndcg = {form: ndcg_at_k(each, relevant, 10) for form, each in lists.items()}
    forms = []
    for form, values in ndcg.items():
        lost = paired_difference(ndcg["full"], values, seed)
        kept = [np.isin(a, b).mean() for a, b in zip(lists["full"], lists[form], strict=True)]
        forms.append(
            {
                "form": form,
                "ndcg10": float(values.mean()),
                "loss": lost.mean,
                "low": lost.low,
                "high": lost.high,
                "overlap10": float(np.mean(kept)),
            }
        )
    return {"users": len(useful), "rows": len(y), "forms": forms}
