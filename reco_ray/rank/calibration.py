"""From scores to probabilities: a rising step function, fitted on users that the model has not seen.

A LambdaMART score orders the candidates of one request and means nothing else. Where it is shown as a chance, it goes through
this: the share of held-out candidates of such a score that the user turned to.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import ArtifactError
from reco_ray.hashing import unit_interval

__all__ = ["CALIBRATION_FILE", "Calibration", "expected_error", "fit_and_judge", "fit_calibration", "reliability"]

CALIBRATION_FILE = "ranker_calibration.json"
_FORMAT = 1
_BINS = 15
_LEAST = 50
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A rising function of the score, straight between its knots and level beyond them.

    Attributes:
        scores: ascending, distinct. chances: of these scores, rising, in [0, 1]; both shape (m,), m >= 1.
    """

    scores: Floats
    chances: Floats

    def __post_init__(self) -> None:
        if self.scores.shape != self.chances.shape or not self.scores.size:
            raise ValueError(
                f"found {self.scores.shape} scores and {self.chances.shape} chances, expected as many, one at least"
            )
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.chances) < 0).any():
            raise ValueError("found knots that do not rise, expected ascending scores and rising chances")
        if not (self.chances[0] >= 0 and self.chances[-1] <= 1):
            raise ValueError(f"chances are {self.chances[0]} to {self.chances[-1]}, expected 0 to 1")

    def probabilities(self, scores: NDArray[np.float32]) -> Floats:
        """The chance that the user turns to each candidate, shape (n,); NaN for a score that is not finite."""
        scores = np.asarray(scores, np.float64)
        return np.where(np.isfinite(scores), np.interp(scores, self.scores, self.chances), np.nan)

    def save(self, folder: Path, name: str = CALIBRATION_FILE) -> None:
        """Write it as JSON."""
        content = {"format": _FORMAT, "scores": self.scores.tolist(), "chances": self.chances.tolist()}
        (folder / name).write_text(json.dumps(content))

    @classmethod
    def load(cls, folder: Path, name: str = CALIBRATION_FILE) -> "Calibration | None":
        """Read it from a release's folder; None in one that was published without.

        Raises: ArtifactError: the file is of another format, or no such function.
        """
        try:
            found = json.loads((folder / name).read_text())
        except FileNotFoundError:
            return None
        if found.get("format") != _FORMAT:
            said = f"{folder / name}: found format {found.get('format')}, expected {_FORMAT}"
            raise ArtifactError(f"{said}; train the ranker anew")
        try:
            return cls(np.array(found["scores"], np.float64), np.array(found["chances"], np.float64))
        except (KeyError, ValueError) as exc:
            raise ArtifactError(f"{folder / name}: {exc}; train the ranker anew") from exc


def fit_calibration(scores: NDArray[np.float32], taken: NDArray[np.bool_]) -> Calibration:
    """Fit by isotonic regression over bins of 50 candidates or more; each level becomes one knot, at the mean of its scores.

    Without bins the single best score, when it came true, would promise certainty to all that follow: 0.38 said of the best
    fifteenth, of which 0.28 came.

    Args:
        scores: finite, of candidates of users unseen in training, shape (n,), n >= 1. taken: whether the user turned to them.
    Reference: Zadrozny and Elkan 2002, Transforming classifier scores into accurate multiclass probability estimates.
    """
    from scipy.optimize import isotonic_regression  # takes 0.3 s to import; serving does without

    order = np.argsort(scores, kind="stable")
    known, level = np.unique(np.asarray(scores, np.float64)[order], return_inverse=True)
    n = scores.size
    size = min(_LEAST, max(1, n // 10))
    starts_at = np.searchsorted(level, np.arange(known.size))  # equal scores stay together
    _, level = np.unique(np.minimum(starts_at // size, n // size - 1)[level], return_inverse=True)
    count = np.bincount(level)
    known = np.bincount(level, weights=np.asarray(scores, np.float64)[order]) / count
    share = np.bincount(level, weights=np.asarray(taken, np.float64)[order]) / count
    found = isotonic_regression(share, weights=count)
    starts = found.blocks[:-1]
    weight = np.add.reduceat(count, starts)
    middle = np.add.reduceat(known * count, starts) / weight
    return Calibration(middle, np.clip(found.x[starts], 0.0, 1.0))


def fit_and_judge(
    scores: NDArray[np.float32], taken: NDArray[np.bool_], users: Iterable[str], seed: int
) -> tuple[Calibration, float, float]:
    """Fit on all users, and judge by half of them what the other half gives.

    Args:
        users: of each candidate.
    Returns: the calibration; expected calibration error of the logistic function of the scores, and of the calibrated ones, on
        the half that was not fitted on; NaN with fewer than two users.
    """
    fitted = fit_calibration(scores, taken)
    half = np.array([unit_interval(user, f"calibration:{seed}") < 0.5 for user in users])
    if half.all() or not half.any():
        return fitted, float("nan"), float("nan")
    raw = 1 / (1 + np.exp(-scores[~half].astype(np.float64)))
    calibrated = fit_calibration(scores[half], taken[half]).probabilities(scores[~half])
    return fitted, expected_error(raw, taken[~half]), expected_error(calibrated, taken[~half])


def reliability(chances: Floats, taken: NDArray[np.bool_], bins: int = _BINS) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """What was said against what came, in bins of as many candidates each.

    Equal widths would put nearly all candidates, whose chance is small, into one bin.

    Returns: mean chance, share taken, and count of each bin, shape (bins,) each or fewer.
    """
    parts = [part for part in np.array_split(np.argsort(chances, kind="stable"), bins) if part.size]
    said = np.array([chances[part].mean() for part in parts])
    came = np.array([taken[part].mean() for part in parts])
    return said, came, np.array([part.size for part in parts])


def expected_error(chances: Floats, taken: NDArray[np.bool_], bins: int = _BINS) -> float:
    """Expected calibration error: mean distance of what was said from what came over bins of as many candidates each."""
    said, came, n = reliability(chances, taken, bins)
    return float(np.abs(said - came) @ n / n.sum())
