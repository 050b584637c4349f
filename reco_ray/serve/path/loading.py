"""How a replica gets its stage: open the release, load the pure class, run it once before it counts as ready."""

import importlib
from typing import Protocol

import numpy as np

from reco_ray.errors import ConfigError
from reco_ray.slate import RankStage, RecallStage, RerankStage, load_rank, load_recall, load_rerank
from reco_ray.types import Candidates, Request

__all__ = ["Loader", "ReleaseLoader", "find_loader", "warm_rank", "warm_recall", "warm_rerank"]

_PROBE = Request(request_id="warm-up", k=10, session=("warm-up",))  # with a history, so that the ranker has work


class Loader(Protocol):
    """Loads the stages of one release."""

    def __init__(self, root: str, release_id: str) -> None: ...

    def recall(self) -> RecallStage:
        """Load recall."""

    def rank(self) -> RankStage:
        """Load the ranker."""

    def rerank(self) -> RerankStage:
        """Load rerank."""


class ReleaseLoader:
    """Loads from a published release, checked against its manifest.

    Raises: ArtifactError: the release is missing, incomplete or changed.
    """

    def __init__(self, root: str, release_id: str) -> None:
        from reco_ray.release import open_release

        self._folder = open_release(root, release_id)

    def recall(self) -> RecallStage:
        return load_recall(self._folder)

    def rank(self) -> RankStage:
        return load_rank(self._folder)

    def rerank(self) -> RerankStage:
        return load_rerank(self._folder)


def find_loader(path: str) -> type[Loader]:
    """Import a loader class.

    Raises: ConfigError: there is none at ``module:Class``.
    """
    module, _, name = path.partition(":")
    try:
        found: type[Loader] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"loader: found {path!r}, expected an importable module:Class: {exc}") from exc
    return found


def warm_recall(stage: RecallStage) -> None:
    """Answer one request: touches the index, compiles what compiles late. Also asked as health check."""
    stage.recall([_PROBE])


def warm_rank(stage: RankStage) -> None:
    """Score one candidate."""
    stage.score([_PROBE], [_one_candidate(stage.n_sources)])


def warm_rerank(stage: RerankStage) -> None:
    """Arrange one candidate."""
    stage.arrange([_PROBE], [_one_candidate(0)], [np.zeros(1, np.float32)])


def _one_candidate(n_sources: int) -> Candidates:
    shape = (1, n_sources)
    return Candidates(
        item_idx=np.zeros(1, np.int32),
        scores=np.zeros(1, np.float32),
        sources=np.zeros(1, np.uint16),
        source_ranks=np.full(shape, -1, np.int16),
        source_scores=np.full(shape, np.nan, np.float32),
    )
