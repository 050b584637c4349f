"""The three stages of a request, each one verb over a batch: recall finds, rank scores, rerank arranges.

A stage cannot do another's work: recall cannot see the ranker's scores, a ranker cannot drop a candidate, only rerank cuts.
All of them take and return lists of the same length, so that a batch of one and a batch of many are the same code.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reco_ray.rules import Hits, Pushed, Standing
from reco_ray.store import Flags, LiveItem
from reco_ray.types import Candidates, Request, Slate

__all__ = [
    "LearningStage",
    "LiveStage",
    "NamedStage",
    "RankStage",
    "RecallStage",
    "RerankStage",
    "RuledStage",
    "SwitchedStage",
    "load_rank",
    "load_recall",
    "load_rerank",
    "ranker_of",
]


class RecallStage(Protocol):
    """Finds candidates.

    Attributes:
        names: of its sources, the columns of the candidates' ``source_ranks``.
    """

    @property
    def names(self) -> Sequence[str]: ...

    def recall(self, requests: Sequence[Request]) -> list[Candidates]:
        """Return candidates per request, best first; for one with ``items`` those that the release knows, in their order."""

    def watch(self, report: Callable[[str, str, float], None]) -> None:
        """Measure the recall of approximate searches against exact ones, a small share of them and off the request's path.

        Args:
            report: takes the source, the bucket of filter selectivity and the recall, from another thread.
        """


class RankStage(Protocol):
    """Scores candidates.

    Attributes:
        n_sources: columns of ``source_ranks`` that it expects: the sources of the recall stage of its release.
    """

    @property
    def n_sources(self) -> int: ...

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        """Return a score per candidate, in the order of ``item_idx``; larger is better."""


@runtime_checkable
class NamedStage(Protocol):
    """A rank stage that says which model scores a request."""

    def ranker_of(self, request: Request) -> str:
        """Name of the model; empty where recall's order stands. The same for the same request, whatever it is batched with."""


class RerankStage(Protocol):
    """Arranges scored candidates into a slate."""

    def arrange(
        self,
        requests: Sequence[Request],
        candidates: Sequence[Candidates],
        scores: Sequence[NDArray[np.float32]],
    ) -> list[Slate]:
        """Return a slate per request, at most ``k`` items each."""


@runtime_checkable
class LiveStage(Protocol):
    """A stage that takes items which come and go while it is loaded.

    Attributes:
        unknown: candidates so far that were passed over, because this stage did not know their items yet.
    """

    unknown: int

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Take changes, in their order, at most one of each item; from a thread of its own, while requests go on."""


@runtime_checkable
class RuledStage(Protocol):
    """A stage that keeps to rules, which change while it is loaded.

    Attributes:
        arranged: slates made since it was loaded.
    """

    arranged: int

    def obey(self, standing: Standing) -> None:
        """Keep to these rules from now on; from a thread of its own, while requests go on."""

    def rule_hits(self) -> Hits:
        """What the rules did since the last call; from the same thread."""

    def pushed(self) -> list[Pushed]:
        """How the rules on exposure stand."""


@runtime_checkable
class LearningStage(Protocol):
    """A stage that chooses by what was learned while it is loaded.

    Attributes:
        learns: whether it does, as its release is configured.
    """

    learns: bool

    def learn(self, parts: Sequence[bytes]) -> None:
        """Choose by these parts of the evidence from now on; from a thread of its own, while requests go on.

        Raises: SchemaError: one cannot be read; nothing changes.
        """

    def drawn_from(self) -> Mapping[str, int]:
        """How many places were drawn from which source since the last call; from the same thread."""


@runtime_checkable
class SwitchedStage(Protocol):
    """A stage of which parts can be switched off while it is loaded."""

    def switch(self, flags: Flags) -> None:
        """Leave out what is switched off from now on; from a thread of its own, while requests go on."""


def ranker_of(stage: RankStage, request: Request) -> str:
    """Name of the model that scores a request; empty where recall's order stands, or the stage does not say."""
    return stage.ranker_of(request) if isinstance(stage, NamedStage) else ""


def load_recall(folder: Path) -> RecallStage:
    """Load a release's recall stage from its local folder."""
    from reco_ray.recall import load

    return load(folder)


def load_rank(folder: Path) -> RankStage:
    """Load a release's rank stage; one without a trained ranker keeps recall's order."""
    from reco_ray.rank import load

    return load(folder)


def load_rerank(folder: Path) -> RerankStage:
    """Load a release's rerank stage."""
    from reco_ray.rerank import load

    return load(folder)
