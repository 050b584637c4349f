"""What orders candidates, and how it is trained."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = [
    "GroupKind",
    "HybridConfig",
    "NeuralConfig",
    "RankConfig",
    "RankKind",
    "TuneConfig",
]


class GroupKind(Enum):
    """What the ranker learns from: a user's candidates at a cut in time, or what an exposure showed."""

    users = "users"
    exposures = "exposures"


class RankKind(Enum):
    """Which ranker a release carries; ``hybrid`` both, ``none`` keeps recall's order (starter rung)."""

    xgboost = "xgboost"
    neural = "neural"
    hybrid = "hybrid"
    none = "none"


@dataclass(kw_only=True)
class NeuralConfig:
    """The heavy ranker and its training.

    Attributes:
        embedding_size: of items within the model. history: newest items of the user that a candidate is held against.
        cross_layers, cross_rank: of the part that multiplies columns.
        hidden_size: of the deep part, halved in its second layer.
        batch_groups: groups in one batch.
        epochs: that are made; on 1,000 held-out groups or more, at most so many, until ``patience`` of them brought nothing.
    """

    embedding_size: int = 32
    history: int = 20
    cross_layers: int = 2
    cross_rank: int = 32
    hidden_size: int = 128
    dropout: float = 0.3
    batch_groups: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    epochs: int = 12
    patience: int = 3

    def __post_init__(self) -> None:
        between("rank.neural.embedding_size", self.embedding_size, 1, 1_024)
        between("rank.neural.history", self.history, 1, 1_000)
        between("rank.neural.cross_layers", self.cross_layers, 0, 16)
        between("rank.neural.hidden_size", self.hidden_size, 2, 16_384)
        between("rank.neural.dropout", self.dropout, 0, 0.9)
        between("rank.neural.batch_groups", self.batch_groups, 1, 10_000)
        between("rank.neural.epochs", self.epochs, 1, 10_000)


@dataclass(kw_only=True)
class HybridConfig:
    """Which requests the heavy ranker gets under ``rank=hybrid``; the others go to XGBoost.

    Attributes:
        by: what is looked at: a column of the user view, ``history`` (items in the user's history and of the session), or
            ``session`` (items of the session alone).
        share: of users with a history, those with the most get it.
        at_least: value from which on a request gets it, in place of the one that ``share`` would lead to; 0 for none given.
    """

    by: str = "user_events"
    share: float = 0.2
    at_least: float = 0.0

    def __post_init__(self) -> None:
        between("rank.hybrid.share", self.share, 0.001, 0.999)
        between("rank.hybrid.at_least", self.at_least, 0, 1e9)
        if self.by == "session" and not self.at_least:
            raise ConfigError(
                "rank.hybrid.by=session: found no rank.hybrid.at_least, expected one; no log that a share could be measured on "
                "holds sessions"
            )


@dataclass(kw_only=True)
class RankConfig:
    """The ranker.

    ``groups=exposures`` learns from what was shown between the fit and the test part, as ``join_feedback`` has joined it; then
    ``unbiased`` estimates how much each place is looked at while it learns (XGBoost's ``lambdarank_unbiased``).
    ``validation_share`` of the groups are held out: users by a hash, exposures the latest ones. Training stops after
    ``patience`` rounds without a better one on 1,000 held-out groups or more; on fewer the best round is noise (decision 0007),
    and all rounds are made; one that starts from a release's ranker makes ``more_rounds``. ``declared_sensitive`` names the
    sensitive columns of the views that it may use; a release's manifest holds them. ``balance`` names an attribute of users
    whose values weigh alike in training.
    """

    kind: RankKind = RankKind.xgboost
    groups: GroupKind = GroupKind.users
    unbiased: bool = False
    rounds: int = 150
    more_rounds: int = 50
    max_depth: int = 4
    learning_rate: float = 0.03
    min_child_weight: float = 10.0
    subsample: float = 0.8
    colsample: float = 0.6
    reg_lambda: float = 5.0
    validation_share: float = 0.1
    patience: int = 30
    declared_sensitive: list[str] = field(default_factory=list)
    balance: str = ""
    neural: NeuralConfig = field(default_factory=NeuralConfig)
    hybrid: HybridConfig = field(default_factory=HybridConfig)

    def __post_init__(self) -> None:
        between("rank.max_depth", self.max_depth, 1, 16)
        between("rank.more_rounds", self.more_rounds, 1, 100_000)
        between("rank.validation_share", self.validation_share, 0.01, 0.5)
        between("rank.patience", self.patience, 1, 10_000)
        if self.unbiased and self.groups is not GroupKind.exposures:
            raise ConfigError(
                f"rank.unbiased: found rank.groups={self.groups.value}, expected exposures; candidates that nobody "
                "was shown have no place that biases them"
            )


@dataclass(kw_only=True)
class TuneConfig:
    """``tune_ranker``: so many draws of the ranker's settings, some ``at_once``, each on one training worker's CPUs."""

    trials: int = 16
    at_once: int = 2

    def __post_init__(self) -> None:
        between("tune.trials", self.trials, 1, 1_000)
        between("tune.at_once", self.at_once, 1, 1_000)
