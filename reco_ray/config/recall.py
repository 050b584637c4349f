"""What finds candidates, and its models."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = [
    "ContentConfig",
    "EncoderName",
    "MfConfig",
    "RecallConfig",
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
    repeat = "repeat"
    content = "content"
    popular = "popular"
    trending = "trending"
    fresh = "fresh"


class EncoderName(Enum):
    """Text encoders of the source ``content``; ``lsa`` is fitted to the catalogue itself."""

    lsa = "lsa"


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

    The ``history`` newest items of a user are what the sources see, but for ``repeat``, which sees all of ``features.history``;
    more of them made mf worse, 0.10 against 0.28 on The Complete Journey with 500.

    A catalogue below ``exact_below`` items is searched by brute force, which is exact; above, by a quantized tree, as far as
    ``recall_target`` of what exact search finds needs.
    """

    quotas: dict[SourceName, int] = field(
        default_factory=lambda: {
            SourceName.two_tower: 200,
            SourceName.sequential: 0,
            SourceName.mf: 0,
            SourceName.covisit: 200,
            SourceName.repeat: 0,
            SourceName.content: 0,
            SourceName.popular: 100,
            SourceName.trending: 0,
            SourceName.fresh: 20,
        }
    )
    candidates: int = 300
    history: int = 50
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
        between("recall.history", self.history, 1, 1_000)
        between("recall.recall_target", self.recall_target, 0.5, 0.999)
        between("recall.fresh_pool", self.fresh_pool, 1, 100_000)
