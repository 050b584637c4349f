"""The heavy ranker as the rank stage of a release, and its files."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from reco_ray.errors import ArtifactError
from reco_ray.features import Vocabulary
from reco_ray.rank.calibration import Calibration
from reco_ray.rank.features import RankFeatures
from reco_ray.rank.neural.forward import Weights, most_history, score
from reco_ray.rank.neural.vectors import ReleasedVectors
from reco_ray.rank.personal import has_history, score_personal
from reco_ray.store import LiveItem
from reco_ray.types import Candidates, Request

__all__ = ["INTEREST", "MODEL_FILE", "About", "NeuralRanker", "build", "save"]

MODEL_FILE, ABOUT_FILE, CALIBRATION_FILE = "neural_ranker.safetensors", "neural_ranker.json", "neural_ranker_calibration.json"
INTEREST = "interest"
"""Stands among the columns for what a candidate has in common with the user's newest items."""

Floats = NDArray[np.float32]


class NeuralRanker:
    """Scores candidates with the heavy model.

    Args:
        weights: of `model.NeuralModel`, trained on the columns of ``features``, in their order.
        vectors: of items by row. calibration: of its scores; None where they are never shown as chances.
    """

    def __init__(
        self, weights: Weights, features: RankFeatures, vectors: ReleasedVectors, calibration: Calibration | None = None
    ) -> None:
        self._weights, self._vectors, self.features, self.n_sources = weights, vectors, features, features.n_sources
        self.calibration = calibration
        self.unknown = 0

    @classmethod
    def load(cls, folder: Path, features: RankFeatures) -> "NeuralRanker":
        """Load it from a release's folder.

        Raises: ArtifactError: it was trained on other columns or item vectors than this release makes.
        """
        about = About.load(folder)
        if features.columns != about.columns:
            odd = sorted(set(about.columns) ^ set(features.columns)) or "another order"
            said = f"{folder}: heavy ranker and recall disagree on columns: {odd}"
            raise ArtifactError(f"{said}; run train_neural_ranker on this recall stage")
        weights = load_file(str(folder / MODEL_FILE))
        vectors = ReleasedVectors(folder, about.vectors, features)
        size, expected = (
            vectors(np.empty(0, np.int64)).shape[1],
            weights["item.weight"].shape[1] if "item.weight" in weights else 0,
        )
        if size != expected:
            said = f"{folder}: item vectors of {about.vectors} have {size} columns, the heavy ranker takes {expected}"
            raise ArtifactError(f"{said}; run train_neural_ranker on this recall stage")
        return cls(weights, features, vectors, Calibration.load(folder, CALIBRATION_FILE))

    @property
    def explained(self) -> list[str]:
        """Names of the columns of `contributions`."""
        return [*self.features.columns, INTEREST]

    def ranker_of(self, request: Request) -> str:
        """Contract of `slate.NamedStage`."""
        return "neural" if has_history(request) else ""

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[Floats]:
        """Contract of `slate.RankStage`; see `personal.score_personal`."""
        scores, unknown = score_personal(requests, candidates, len(self.features.catalogue), self._predict)
        self.unknown += unknown
        return scores

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Contract of `slate.LiveStage`."""
        self.features.follow(changes)

    def contributions(self, request: Request, candidates: Candidates) -> tuple[Floats, Floats] | None:
        """What each column did for each candidate's score, against the average candidate of the request, by occlusion.

        A column's effect is what the score loses when the column has its mean over the candidates; the effects do not add up to
        the score, as columns work together.

        Returns: the matrix and the effects, both (n, len(explained)); None where `score` keeps recall's order.
        """
        if not has_history(request) or not len(candidates):
            return None
        matrix, items, (history, strengths) = self._inputs(request, candidates)
        whole = score(self._weights, matrix, items, history, strengths)
        effects = np.zeros((len(candidates), matrix.shape[1] + 1), np.float32)
        for at in range(matrix.shape[1]):
            column = matrix[:, at]
            known = np.isfinite(column)
            if not known.any() or (known.all() and column.min() == column.max()):
                continue
            without = matrix.copy()
            without[:, at] = column[known].mean()
            effects[:, at] = whole - score(self._weights, without, items, history, strengths)
        effects[:, -1] = whole - score(self._weights, matrix, items, history[:0], strengths[:0])
        shown = np.concatenate([matrix, np.full((len(matrix), 1), np.nan, np.float32)], axis=1)
        return shown, effects - effects.mean(axis=0)

    def _predict(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[Floats]:
        found = []
        for request, of in zip(requests, candidates, strict=True):
            matrix, items, past = self._inputs(request, of)
            found.append(score(self._weights, matrix, items, *past))
        return found

    def _inputs(self, request: Request, candidates: Candidates) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
        matrix = self.features.matrix(request, candidates)
        return matrix, self._vectors(candidates.item_idx.astype(np.int64)), self._past(request)

    def _past(self, request: Request) -> tuple[Floats, Floats]:
        """Vectors and strengths of the newest items that are known here, the newest first."""
        catalogue, user = self.features.catalogue, request.user
        rows = np.concatenate([catalogue.find_keys(user.history), catalogue.find(list(request.session))])
        strengths = np.concatenate([user.weights, np.ones(len(request.session), np.float32)])
        most = most_history(self._weights)
        kept = np.flatnonzero(rows >= 0)[::-1][:most]
        return self._vectors(rows[kept]), strengths[kept]


@dataclass(frozen=True, slots=True)
class About:
    """What a trained model goes with.

    Attributes:
        columns: of the matrix, in order. vocabulary: of the context view.
        vectors: names of the recall sources whose item vectors it was trained with.
    """

    columns: list[str]
    vocabulary: Vocabulary
    vectors: list[str]

    @classmethod
    def load(cls, folder: Path) -> "About":
        """Read what `save` wrote.

        Raises: ArtifactError: it is not there.
        """
        if not (folder / ABOUT_FILE).is_file():
            raise ArtifactError(f"{folder}: found a heavy ranker without {ABOUT_FILE}, expected one; run train_neural_ranker")
        return cls(**json.loads((folder / ABOUT_FILE).read_text()))


def save(folder: Path, weights: Weights, about: About, calibration: Calibration) -> None:
    """Write a trained model."""
    save_file({name: np.ascontiguousarray(w) for name, w in sorted(weights.items())}, str(folder / MODEL_FILE))
    (folder / ABOUT_FILE).write_text(json.dumps(asdict(about), sort_keys=True))
    calibration.save(folder, CALIBRATION_FILE)


def build(folder: Path, trained: Path) -> None:
    """Copy a trained model into a release's folder."""
    for name in (MODEL_FILE, ABOUT_FILE, CALIBRATION_FILE):
        shutil.copy2(trained / name, folder / name)
