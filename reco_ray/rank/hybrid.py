"""Both rankers in one release, and the policy that says which of them a request gets."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import HybridConfig
from reco_ray.errors import ArtifactError, ConfigError, DataError
from reco_ray.features import USER_COLUMNS
from reco_ray.rank.calibration import Calibration
from reco_ray.rank.features import RankFeatures
from reco_ray.store import LiveItem
from reco_ray.types import Candidates, Request

__all__ = ["POLICY_FILE", "HybridRanker", "Model", "RankerPolicy", "check_criterion", "measure_policy"]

POLICY_FILE = "ranker_policy.json"
_FORMAT = 1
_HISTORY, _SESSION = "history", "session"
_COLUMNS = {column.name: at for at, column in enumerate(USER_COLUMNS)}

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RankerPolicy:
    """A request whose value reaches the threshold gets the heavy ranker.

    Attributes:
        by: as `HybridConfig.by`. threshold: in its unit.
        share, users: how many users with a history reached it, of how many, when it was measured.
    """

    by: str
    threshold: float
    share: float = 0.0
    users: int = 0

    def value(self, request: Request) -> float:
        """What is looked at; 0 for a user who is not known."""
        if self.by == _SESSION:
            return len(request.session)
        if self.by == _HISTORY:
            return request.user.history.size + len(request.session)
        row = request.user.features
        return float(row[_COLUMNS[self.by]]) if row.size else 0.0

    def heavy(self, request: Request) -> bool:
        """Whether the request gets the heavy ranker."""
        return self.value(request) >= self.threshold

    def save(self, folder: Path) -> None:
        """Write it as JSON."""
        (folder / POLICY_FILE).write_text(json.dumps({"format": _FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, folder: Path) -> "RankerPolicy":
        """Read it from a release's folder.

        Raises: ArtifactError: it is not there, or of another format.
        """
        if not (folder / POLICY_FILE).is_file():
            raise ArtifactError(f"{folder}: found two rankers and no {POLICY_FILE}, expected one; publish with rank=hybrid")
        content = json.loads((folder / POLICY_FILE).read_text())
        if (found := content.pop("format", None)) != _FORMAT or content["by"] not in (*_COLUMNS, _HISTORY, _SESSION):
            told = f"format {found} by {content.get('by')!r}"
            raise ArtifactError(f"{folder}/{POLICY_FILE}: found {told}, expected format {_FORMAT}; publish the release again")
        return cls(**content)


def check_criterion(config: HybridConfig) -> None:
    """Raise ConfigError where no request could tell what ``by`` asks for."""
    if config.by not in (known := (*_COLUMNS, _HISTORY, _SESSION)):
        raise ConfigError(f"rank.hybrid.by: found {config.by!r}, expected one of {', '.join(known)}")


def measure_policy(config: HybridConfig, users: pl.DataFrame) -> RankerPolicy:
    """Find the threshold that ``share`` of the users with a history reach, ties included.

    Args:
        users: rows of the user view, as of what the rankers were trained on.
    Raises: DataError: all have the same, so that there is no one to choose.
    """
    check_criterion(config)
    if config.by == _SESSION:
        return RankerPolicy(config.by, config.at_least)
    known = users.filter(pl.col("history").list.len() > 0)
    rows = known["history"].list.len() if config.by == _HISTORY else known["features"].list.get(_COLUMNS[config.by])
    values = rows.cast(pl.Float32).to_numpy()
    threshold = config.at_least or (float(np.quantile(values, 1 - config.share, method="higher")) if values.size else 0.0)
    if not values.size or (not config.at_least and values.min() >= threshold):
        raise DataError(
            f"rank.hybrid.by={config.by}: found {values.size} users with a history and no value that divides them, expected "
            "some; choose another column, give rank.hybrid.at_least, or rank=xgboost"
        )
    return RankerPolicy(config.by, threshold, round(float(np.mean(values >= threshold)), 4), int(values.size))


class Model(Protocol):
    """What both rankers are to this one: a rank stage whose scores can be explained."""

    features: RankFeatures
    n_sources: int
    calibration: Calibration | None
    unknown: int

    @property
    def explained(self) -> list[str]: ...

    def ranker_of(self, request: Request) -> str: ...

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[Floats]: ...

    def contributions(self, request: Request, candidates: Candidates) -> tuple[Floats, Floats] | None: ...


class HybridRanker:
    """Gives each request to one of two rankers over the same features.

    Args:
        light, heavy: their scores are on different scales; a slate's are all of one.
    """

    def __init__(self, light: Model, heavy: Model, policy: RankerPolicy) -> None:
        if light.features is not heavy.features:
            raise ValueError("found rankers with features of their own, expected the same ones: items that come are told once")
        self.light, self.heavy, self.policy = light, heavy, policy
        self.features, self.n_sources = light.features, light.n_sources

    @property
    def unknown(self) -> int:
        """Contract of `slate.LiveStage`."""
        return self.light.unknown + self.heavy.unknown

    def of(self, request: Request) -> Model:
        """The ranker that the request gets."""
        return self.heavy if self.policy.heavy(request) else self.light

    def ranker_of(self, request: Request) -> str:
        """Contract of `slate.NamedStage`."""
        return self.of(request).ranker_of(request)

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[Floats]:
        """Contract of `slate.RankStage`: at most one call of each ranker."""
        chosen = [self.policy.heavy(request) for request in requests]
        scores: list[Floats] = [c.scores for c in candidates]
        for ranker, heavy in ((self.light, False), (self.heavy, True)):
            if at := [i for i, each in enumerate(chosen) if each is heavy]:
                for i, found in zip(at, ranker.score([requests[i] for i in at], [candidates[i] for i in at]), strict=True):
                    scores[i] = found
        return scores

    def follow(self, changes: Sequence[LiveItem]) -> None:
        """Contract of `slate.LiveStage`."""
        self.features.follow(changes)
