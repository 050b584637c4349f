"""The heavy ranker's forward pass in NumPy, so that a replica needs no torch; a test holds it equal to `model`."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Weights", "most_history", "score"]

Weights = dict[str, NDArray[np.float32]]
Floats = NDArray[np.float32]

_LIMIT = np.float32(5.0)


def most_history(weights: Weights) -> int:
    """How many of the user's newest items the model looks at; 0 for one without vectors."""
    return weights["lag_bias"].size if "lag_bias" in weights else 0


def score(weights: Weights, features: Floats, items: Floats, history: Floats, strengths: Floats) -> Floats:
    """Score one request's candidates, shape (n,).

    Args:
        weights: of `model.NeuralModel`.
        features: NaN where missing, shape (n, F). items: vectors of the candidates, shape (n, v).
        history: vectors of the user's items, the newest first, at most `most_history`, shape (h, v). strengths: shape (h,).
    """
    missing = np.isnan(features)
    x = (features - weights["mean"]) * weights["inverse"]
    x[missing] = 0
    np.clip(x, -_LIMIT, _LIMIT, out=x)
    parts = [x, missing[:, np.flatnonzero(weights["gaps"])].astype(np.float32)]
    if most_history(weights):
        candidate = _linear(weights, "item", items)
        interest = _interest(weights, candidate, history, strengths) if len(history) else np.zeros_like(candidate)
        parts += [candidate, interest, candidate * interest]
    first = x = np.concatenate(parts, axis=1, dtype=np.float32)
    for layer in range(sum(name.startswith("narrow.") for name in weights)):
        narrow = np.asarray(x @ weights[f"narrow.{layer}.weight"].T, np.float32)
        x = first * _linear(weights, f"wide.{layer}", narrow) + x
    deep = first
    for layer in range(sum(name.startswith("hidden.") and name.endswith(".bias") for name in weights)):
        deep = np.maximum(_linear(weights, f"hidden.{layer}", deep), 0)
    split = x.shape[1]
    out = weights["out.weight"][0]
    return np.asarray(x @ out[:split] + deep @ out[split:] + weights["out.bias"][0], np.float32)


def _interest(weights: Weights, candidate: Floats, history: Floats, strengths: Floats) -> Floats:
    past = _linear(weights, "item", history)
    likeness = _linear(weights, "ask", candidate) @ _linear(weights, "key", past).T / np.float32(candidate.shape[1] ** 0.5)
    likeness += weights["lag_bias"][: len(history)] + weights["strength_scale"] * strengths
    share = np.exp(likeness - likeness.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return np.asarray(share @ past, np.float32)


def _linear(weights: Weights, name: str, x: Floats) -> Floats:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], np.float32)
