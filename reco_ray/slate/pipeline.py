"""The stages in order, in one process."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reco_ray.slate.stages import RankStage, RecallStage, RerankStage, load_rank, load_recall, load_rerank, ranker_of
from reco_ray.types import Request, Slate

__all__ = ["Pipeline"]


class Pipeline:
    """Recall, rank and rerank of one release, one after the other."""

    def __init__(self, recall: RecallStage, rank: RankStage, rerank: RerankStage) -> None:
        self.recall, self.rank, self.rerank = recall, rank, rerank

    @classmethod
    def load(cls, folder: Path) -> "Pipeline":
        """Load all stages of a release from its local folder."""
        return cls(load_recall(folder), load_rank(folder), load_rerank(folder))

    def run(self, requests: Sequence[Request]) -> list[Slate]:
        """Answer a batch of requests, in order."""
        candidates = self.recall.recall(requests)
        scores = self.rank.score(requests, candidates)
        slates = self.rerank.arrange(requests, candidates, scores)
        return [replace(slate, ranker=ranker_of(self.rank, each)) for each, slate in zip(requests, slates, strict=True)]
