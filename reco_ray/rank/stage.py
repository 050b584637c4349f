"""The rank stage of a release: XGBoost over `RankFeatures`, the heavy model, both, or recall's own order without a ranker."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue, Vocabulary
from reco_ray.rank.calibration import CALIBRATION_FILE, Calibration
from reco_ray.rank.features import RankFeatures
from reco_ray.rank.hybrid import HybridRanker, RankerPolicy
from reco_ray.rank.neural import stage as heavy
from reco_ray.rank.neural.stage import NeuralRanker
from reco_ray.rank.personal import has_history, score_personal
from reco_ray.recall.index import vectors_file
from reco_ray.recall.sources.two_tower import INDEX, load_weights
from reco_ray.store import LiveItem
from reco_ray.types import Candidates, Request

if TYPE_CHECKING:
    import xgboost  # brings SciPy and scikit-learn, a second or two, so only those that score import it

__all__ = ["HybridRanker", "NeuralRanker", "RecallOrder", "XGBoostRanker", "build", "load"]

MODEL_FILE, COLUMNS_FILE, VOCABULARY_FILE = "ranker.ubj", "ranker_columns.json", "ranker_context.json"
_NO_VOCABULARY: Vocabulary = {}


class RecallOrder:
    """Keeps recall's order; the rank stage of the starter rung, and what is left when the ranker fails."""

    n_sources = 0

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        """Return recall's merged scores; contract of `slate.RankStage`."""
        return [c.scores for c in candidates]


class XGBoostRanker:
    """Scores candidates with a LambdaMART model.

    Args:
        model: trained on the columns of ``features``, in their order.
        calibration: of its scores; None where they are never shown as chances.
    """

    def __init__(self, model: "xgboost.Booster", features: RankFeatures, calibration: Calibration | None = None) -> None:
        model.set_param({"nthread": 1})  # replicas are the parallelism; threads of many replicas would fight
        self._model, self.features, self.n_sources = model, features, features.n_sources
        self.calibration = calibration
        self.unknown = 0

    def ranker_of(self, request: Request) -> str:
        """Contract of `slate.NamedStage`."""
        return "xgboost" if has_history(request) else ""

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        """Score all candidates of the batch in one call; contract of `slate.RankStage`, see `personal.score_personal`."""
        scores, unknown = score_personal(requests, candidates, len(self.features.catalogue), self._predict)
        self.unknown += unknown
        return scores

    def _predict(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        matrices = [self.features.matrix(*each) for each in zip(requests, candidates, strict=True)]
        flat = self._model.inplace_predict(np.concatenate(matrices), validate_features=False)
        return np.split(flat.astype(np.float32), np.cumsum([m.shape[0] for m in matrices])[:-1])

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Contract of `slate.LiveStage`."""
        self.features.follow(changes)

    @property
    def explained(self) -> list[str]:
        """Names of the columns of `contributions`."""
        return self.features.columns

    def contributions(self, request: Request, candidates: Candidates) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """What each column did for each candidate's score, against the average candidate of the request, by TreeSHAP.

        Returns: the matrix and the effects, both (n, len(features.columns)); a candidate's effects add up to its score less
            the mean score. None where `score` keeps recall's order.
        """
        if not has_history(request) or not len(candidates):
            return None
        matrix = self.features.matrix(request, candidates)
        from xgboost import DMatrix

        found = self._model.predict(DMatrix(matrix, nthread=1), pred_contribs=True, validate_features=False)
        effects = np.asarray(found[:, :-1], np.float32)
        return matrix, effects - effects.mean(axis=0)

    def importances(self, top: int = 15) -> list[tuple[str, float]]:
        """Total gain by column, largest first, as shares of the whole."""
        gains = {k: float(v) for k, v in self._model.get_score(importance_type="total_gain").items()}
        whole = sum(gains.values()) or 1.0
        named = [
            (self.features.columns[int(k[1:])] if k not in self.features.columns else k, g / whole) for k, g in gains.items()
        ]
        return sorted(named, key=lambda pair: -pair[1])[:top]


def build(folder: Path, ranker: Path | None, neural: Path | None = None, policy: RankerPolicy | None = None) -> None:
    """Copy trained rankers, the light and the heavy one, into a release's folder; nothing without one.

    Args:
        policy: where there are both.
    """
    if policy is not None:
        policy.save(folder)
    if neural is not None:
        heavy.build(folder, neural)
    if ranker is not None:
        for name in (MODEL_FILE, COLUMNS_FILE, VOCABULARY_FILE):
            shutil.copy2(ranker / name, folder / name)
        if (ranker / CALIBRATION_FILE).is_file():
            shutil.copy2(ranker / CALIBRATION_FILE, folder / CALIBRATION_FILE)


def load(folder: Path) -> XGBoostRanker | NeuralRanker | HybridRanker | RecallOrder:
    """Load the rank stage from a release's local folder.

    Raises: ArtifactError: a ranker was trained on other columns than this release makes, or before rankers knew a context; or
        two rankers do not go together.
    """
    light, neural = ((folder / name).is_file() for name in (MODEL_FILE, heavy.MODEL_FILE))
    if light and neural:
        return _load_both(folder, RankerPolicy.load(folder))
    if light:
        return _load_light(folder, rank_features(folder, _vocabulary(folder)))
    if neural:
        return NeuralRanker.load(folder, rank_features(folder, heavy.About.load(folder).vocabulary))
    return RecallOrder()


def _load_both(folder: Path, policy: RankerPolicy) -> HybridRanker:
    vocabulary = _vocabulary(folder)
    if vocabulary != heavy.About.load(folder).vocabulary:
        said = f"{folder}: found rankers that know different contexts, expected those of one training set"
        raise ArtifactError(f"{said}; publish with rank=hybrid")
    features = rank_features(folder, vocabulary)
    return HybridRanker(_load_light(folder, features), NeuralRanker.load(folder, features), policy)


def _load_light(folder: Path, features: RankFeatures) -> XGBoostRanker:
    trained = json.loads((folder / COLUMNS_FILE).read_text())
    if features.columns != trained:
        odd = sorted(set(trained) ^ set(features.columns)) or "another order"
        raise ArtifactError(f"{folder}: ranker and recall disagree on columns: {odd}; train the ranker on this recall stage")
    from xgboost import Booster

    model = Booster()
    model.load_model(str(folder / MODEL_FILE))
    return XGBoostRanker(model, features, Calibration.load(folder))


def rank_features(folder: Path, vocabulary: Vocabulary = _NO_VOCABULARY) -> RankFeatures:
    """Make the feature builder of a release's folder (its recall stage must be there)."""
    quotas = json.loads((folder / "recall.json").read_text())["quotas"]
    stored = vectors_file(folder, INDEX)
    if not stored.is_file():
        return RankFeatures(Catalogue.load(folder), quotas, None, vocabulary)
    vectors = np.load(stored, allow_pickle=False)
    return RankFeatures(Catalogue.load(folder), quotas, vectors, vocabulary, load_weights(folder)[0])


def _vocabulary(folder: Path) -> Vocabulary:
    try:
        found: Vocabulary = json.loads((folder / VOCABULARY_FILE).read_text())
    except FileNotFoundError as exc:
        raise ArtifactError(f"{folder}: found a ranker without {VOCABULARY_FILE}, expected one; train the ranker anew") from exc
    return found
