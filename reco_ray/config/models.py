"""The stages of a release, their evaluation, and slates made in batches."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = [
    "BatchConfig",
    "ContentConfig",
    "EncoderName",
    "EvaluationConfig",
    "MfConfig",
    "RankConfig",
    "RankKind",
    "RecallConfig",
    "ReplayConfig",
    "RerankConfig",
    "SequentialConfig",
    "SourceName",
    "TwoTowerConfig",
]


class SourceName(Enum):
    """Recall sources. Those that a release has a quota for are the columns of `types.Candidates`, in this order."""

    two_tower = "two_tower"
    sequential = "sequential"
    mf = "mf"
    covisit = "covisit"
    content = "content"
    popular = "popular"
    trending = "trending"
    fresh = "fresh"


class EncoderName(Enum):
    """Text encoders of the source ``content``; ``lsa`` is fitted to the catalogue itself."""

    lsa = "lsa"


class RankKind(Enum):
    """Which ranker a release carries; ``none`` keeps recall's order (starter rung)."""

    xgboost = "xgboost"
    none = "none"


@dataclass(kw_only=True)
class TwoTowerConfig:
    """The embedding model and its training."""

    embedding_size: int = 64
    hidden_size: int = 128
    dropout: float = 0.5
    batch_size: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    temperature: float = 0.07
    epochs: int = 30
    patience: int = 4

    def __post_init__(self) -> None:
        between("recall.two_tower.temperature", self.temperature, 1e-3, 10)
        between("recall.two_tower.dropout", self.dropout, 0, 0.9)


@dataclass(kw_only=True)
class SequentialConfig:
    """The next-item model and its training.

    Attributes:
        kernel: how many of the newest items the causal convolution sees in their order.
        item_dropout: share of the inputs that are hidden while training.
        batch_targets: places to predict in one batch, padding counted. negatives: sampled items in one batch.
    """

    embedding_size: int = 64
    hidden_size: int = 256
    layers: int = 1
    heads: int = 2
    kernel: int = 3
    dropout: float = 0.4
    item_dropout: float = 0.1
    temperature: float = 0.07
    negatives: int = 2048
    batch_targets: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    epochs: int = 60
    patience: int = 5

    def __post_init__(self) -> None:
        between("recall.sequential.temperature", self.temperature, 1e-3, 10)
        between("recall.sequential.dropout", self.dropout, 0, 0.9)
        between("recall.sequential.item_dropout", self.item_dropout, 0, 0.9)
        between("recall.sequential.layers", self.layers, 1, 16)
        if self.embedding_size % self.heads:
            raise ConfigError(
                f"recall.sequential.heads: found {self.heads}, expected a divisor of embedding_size={self.embedding_size}"
            )


@dataclass(kw_only=True)
class MfConfig:
    """The matrix factorisation: an event of strength r counts 1 + ``alpha`` r, which ``regularization`` is measured against."""

    factors: int = 64
    regularization: float = 100.0
    alpha: float = 40.0
    iterations: int = 15

    def __post_init__(self) -> None:
        between("recall.mf.factors", self.factors, 1, 1_024)
        between("recall.mf.regularization", self.regularization, 1e-6, 1e6)
        between("recall.mf.alpha", self.alpha, 1e-3, 1e6)
        between("recall.mf.iterations", self.iterations, 1, 1_000)


@dataclass(kw_only=True)
class ContentConfig:
    """The text encoder: size of its vectors, and how many words count at most."""

    encoder: EncoderName = EncoderName.lsa
    dimensions: int = 128
    vocabulary: int = 50_000

    def __post_init__(self) -> None:
        between("recall.content.dimensions", self.dimensions, 1, 4_096)
        between("recall.content.vocabulary", self.vocabulary, 1, 10_000_000)


@dataclass(kw_only=True)
class RecallConfig:
    """Sources and how many items each may bring; ``candidates`` caps their union.

    A source weighs as much in the union as its quota, and is sure of its quota's share of the candidates (`recall.merge`); one
    with quota 0 is left out, and its model is not trained. The source ``fresh`` draws from the ``fresh_pool`` newest items.

    A catalogue below ``exact_below`` items is searched by brute force, which is exact; above, by a quantized tree, as far as
    ``recall_target`` of what exact search finds needs.
    """

    quotas: dict[SourceName, int] = field(
        default_factory=lambda: {
            SourceName.two_tower: 200,
            SourceName.sequential: 0,
            SourceName.mf: 0,
            SourceName.covisit: 200,
            SourceName.content: 0,
            SourceName.popular: 100,
            SourceName.trending: 0,
            SourceName.fresh: 20,
        }
    )
    candidates: int = 300
    two_tower: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    sequential: SequentialConfig = field(default_factory=SequentialConfig)
    mf: MfConfig = field(default_factory=MfConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    fresh_pool: int = 200
    exact_below: int = 20_000
    recall_target: float = 0.98

    def __post_init__(self) -> None:
        if not any(quota > 0 for quota in self.quotas.values()):
            raise ConfigError(f"recall.quotas: found none above 0, expected at least one of {[s.value for s in SourceName]}")
        between("recall.candidates", self.candidates, 1, 5_000)
        between("recall.recall_target", self.recall_target, 0.5, 0.999)
        between("recall.fresh_pool", self.fresh_pool, 1, 100_000)


@dataclass(kw_only=True)
class RankConfig:
    """The ranker.

    The number of rounds is fixed: on a hundred validation users the best round is noise (8 to 297 over reruns, decision 0007).
    ``validation_share`` of the users are held out to report how it does. ``declared_sensitive`` names the sensitive columns
    of the views that it may use; a release's manifest holds them.
    """

    kind: RankKind = RankKind.xgboost
    rounds: int = 150
    max_depth: int = 4
    learning_rate: float = 0.03
    min_child_weight: float = 10.0
    subsample: float = 0.8
    colsample: float = 0.6
    reg_lambda: float = 5.0
    validation_share: float = 0.1
    declared_sensitive: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        between("rank.max_depth", self.max_depth, 1, 16)
        between("rank.validation_share", self.validation_share, 0.01, 0.5)


@dataclass(kw_only=True)
class RerankConfig:
    """Rules and diversity of the last stage.

    Attributes:
        seen_items_return: whether an item the user has had may come back; a property of the data (groceries yes, films no).
        diversity: MMR's weight of novelty against score; 0 keeps the ranker's order.
        diversity_pool: how many of the best items diversity may choose from.
        category_cap: at most so many items of one main category; 0 means no cap.
        blocked: item ids never shown.
        boosts: category -> number added to the standardised score.
    """

    seen_items_return: bool = False
    diversity: float = 0.05
    diversity_pool: int = 50
    category_cap: int = 0
    blocked: list[str] = field(default_factory=list)
    boosts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        between("rerank.diversity", self.diversity, 0, 1)


@dataclass(kw_only=True)
class EvaluationConfig:
    """Offline evaluation of every stage."""

    k: int = 10
    bootstrap: int = 1000
    confidence: float = 0.95


@dataclass(kw_only=True)
class ReplayConfig:
    """Logged requests through two releases.

    Attributes:
        against: release that ``release`` is compared with; empty: the same one.
        requests: the newest ones that are taken.
    """

    against: str = ""
    requests: int = 1_000

    def __post_init__(self) -> None:
        between("replay.requests", self.requests, 1, 1_000_000)


@dataclass(kw_only=True)
class BatchConfig:
    """``recommend_batch``: slates for ``users`` (all when empty), ``k`` items each."""

    users: list[str] = field(default_factory=list)
    k: int = 20
    users_per_task: int = 256
