"""Boosting in stretches: what a checkpoint resumes equals what ran undisturbed."""

from collections.abc import Callable, Mapping
from typing import Any

import xgboost

__all__ = ["STRETCH", "best_rounds", "fit_rounds", "started_from"]

STRETCH = 25
_BEST, _BEST_ROUND, _VALUE = "best", "best_round", "value"


def fit_rounds(
    params: Mapping[str, Any],
    train: xgboost.DMatrix,
    valid: xgboost.DMatrix,
    rounds: int,
    patience: int,
    start: bytes | None,
    on_stretch: Callable[[xgboost.Booster, dict[str, float], bool], None],
) -> xgboost.Booster:
    """Boost up to ``rounds`` trees; `best_rounds` of what it returns are the ones to keep.

    A booster that goes on from its file grows other trees than one that ran through (decision 0024), so each stretch of 25
    rounds starts from the file of the one before, with a seed of its own, interrupted or not. The best round stands in the
    model itself.

    Args:
        params: of XGBoost with a seed, and one ``eval_metric`` that grows.
        patience: stop after so many rounds without a better one on ``valid``; 0 never stops.
        start: file of the model after some stretch, as ``Booster.save_raw`` gives it.
        on_stretch: gets the model, its metrics and whether it is the last, after each stretch, in each worker alike.
    """
    made, done = start, False
    while not done:
        model = xgboost.Booster({**params, "seed_per_iteration": True}, [train, valid], made and bytearray(made))
        first = model.num_boosted_rounds()
        model.set_param("seed", params["seed"] + first)
        for at in range(first, min(rounds, first + STRETCH)):
            if _stale(model, patience):
                break
            model.update(train, at - first)  # the unbiased objective goes on from a file only as its round 0
            value = float(str(model.eval(valid, "valid", at)).rsplit(":", 1)[1])
            if value > float(model.attr(_BEST) or "-inf"):
                model.set_attr(**{_BEST: repr(value), _BEST_ROUND: str(at)})
            model.set_attr(**{_VALUE: repr(value)})
        made_rounds = model.num_boosted_rounds()
        done = made_rounds >= rounds or _stale(model, patience)
        on_stretch(model, {"rounds": made_rounds, "valid": float(model.attr(_VALUE) or "nan")}, done)
        made = bytes(model.save_raw())
    return model


def best_rounds(model: xgboost.Booster) -> int:
    """Trees of a model of `fit_rounds` up to its best round."""
    return int(model.attr(_BEST_ROUND) or 0) + 1


def started_from(params: Mapping[str, Any], train: xgboost.DMatrix, valid: xgboost.DMatrix, model: bytes) -> tuple[bytes, int]:
    """Make of an older model what `fit_rounds` goes on from on new data, and how many rounds it has.

    Its best round is its last one, judged on the new held-out groups: where more rounds make it no better, it stays as it is.

    Args:
        model: file of a model with the same columns.
    """
    base = xgboost.Booster(dict(params), [train, valid], bytearray(model))
    rounds = base.num_boosted_rounds()
    value = float(str(base.eval(valid, "valid", rounds - 1)).rsplit(":", 1)[1])
    base.set_attr(**{_BEST: repr(value), _BEST_ROUND: str(rounds - 1), _VALUE: repr(value)})
    return bytes(base.save_raw()), rounds


def _stale(model: xgboost.Booster, patience: int) -> bool:
    return bool(patience) and model.num_boosted_rounds() - best_rounds(model) >= patience
