"""The stages of a release, their evaluation, and slates made in batches."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.errors import ConfigError

__all__ = [
    "BatchConfig",
    "ContentConfig",
    "Diversify",
    "EncoderName",
    "EvaluationConfig",
    "ExploreConfig",
    "ExploreKind",
    "GroupKind",
    "HybridConfig",
    "MfConfig",
    "NeuralConfig",
    "PolicyConfig",
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
    repeat = "repeat"
    content = "content"
    popular = "popular"
    trending = "trending"
    fresh = "fresh"


class EncoderName(Enum):
    """Text encoders of the source ``content``; ``lsa`` is fitted to the catalogue itself."""

    lsa = "lsa"


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


class ExploreKind(Enum):
    """What a place that explores is drawn from.

    ``none``: nothing is left to chance. ``uniform``: all alike. ``plackett_luce``: in proportion to exp(score / temperature).
    ``thompson``: by the probability of being best, given how little is known of an item. ``linucb``: from the recall source
    that has earned most in such circumstances, or may, by a bandit that learns from the stream.
    """

    none = "none"
    uniform = "uniform"
    plackett_luce = "plackett_luce"
    thompson = "thompson"
    linucb = "linucb"


@dataclass(kw_only=True)
class ExploreConfig:
    """Exploration: the last thing that happens to a slate. Its odds are logged with every decision.

    Attributes:
        rate: share of the places that explore; 0.05 to 0.15 is usual.
        temperature: of ``plackett_luce``, and of ``linucb`` within a source, in deviations of the request's scores.
        half_known: times that an item was shown, or acted on, after which ``thompson`` takes half of its score from the model,
            and half from the mean.
        newcomers: so many items that were met less often are among those drawn from, whatever their score.
        epsilon: share of its draws for which ``linucb`` chooses among the sources as if it had learned nothing.
        width: deviations that ``linucb`` adds to what a source has earned, in rewards of 0 or 1: more of them try more.
    """

    kind: ExploreKind = ExploreKind.none
    rate: float = 0.1
    temperature: float = 0.5
    half_known: int = 50
    newcomers: int = 20
    epsilon: float = 0.2
    width: float = 0.5

    def __post_init__(self) -> None:
        between("rerank.explore.rate", self.rate, 0, 1)
        between("rerank.explore.temperature", self.temperature, 0.01, 100)
        between("rerank.explore.half_known", self.half_known, 1, 1_000_000)
        between("rerank.explore.newcomers", self.newcomers, 0, 200)
        between("rerank.explore.epsilon", self.epsilon, 0.01, 1)
        between("rerank.explore.width", self.width, 0, 100)


class Diversify(Enum):
    """How a slate is spread over categories; ``rerank.diversity`` is the knob of each.

    ``mmr``: away from the most alike item before. ``dpp``: away from all that the items before have in common.
    ``calibrated``: towards the shares that categories have in the user's history.
    """

    mmr = "mmr"
    dpp = "dpp"
    calibrated = "calibrated"


@dataclass(kw_only=True)
class RerankConfig:
    """Rules, diversity and exploration of the last stage.

    Attributes:
        seen_items_return: whether an item the user has had may come back; a property of the data (groceries yes, films no).
        diversify: how a slate is spread.
        diversity: weight of that against the score; 0 keeps the ranker's order.
        diversity_window: places that ``dpp`` and ``calibrated`` look back over.
        diversity_pool: how many of the best items diversity may choose from.
        category_cap: at most so many items of one main category; 0 means no cap.
        blocked: item ids never shown.
        boosts: category -> number added to the standardised score.
        explore: what is left to chance.
    """

    seen_items_return: bool = False
    diversify: Diversify = Diversify.mmr
    diversity: float = 0.05
    diversity_window: int = 10
    diversity_pool: int = 50
    category_cap: int = 0
    blocked: list[str] = field(default_factory=list)
    boosts: dict[str, float] = field(default_factory=dict)
    explore: ExploreConfig = field(default_factory=ExploreConfig)

    def __post_init__(self) -> None:
        between("rerank.diversity", self.diversity, 0, 1)
        between("rerank.diversity_window", self.diversity_window, 1, 200)


@dataclass(kw_only=True)
class EvaluationConfig:
    """Offline evaluation of every stage; ``cohorts`` names attributes of users by which the report divides them."""

    k: int = 10
    bootstrap: int = 1000
    confidence: float = 0.95
    cohorts: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class PolicyConfig:
    """``evaluate_policy``: what another policy would have earned, from what was logged.

    Without a ``table`` the logs are this system's exposures of the last ``hours`` and what followed them, and the policy in
    question is the configured ``release``. A table of one's own has a row per place.

    Attributes:
        table: URI of a CSV or Parquet file.
        action, reward, propensity, target: its columns: what was done, what came of it, with which odds it was done, and with
            which odds the policy in question would have done it.
        draw, position: rows of one draw, and their places from 1, where several things are done at once; odds are then those
            given the places before. Empty where each row is a draw.
        unit: what is independent of what, such as a user; empty where each draw is.
        context: columns that a model of rewards may use. With it, and columns ``target_prefix`` + action for the odds of every
            action under the policy in question, estimates are doubly robust too.
        outcome: of exposures: clicks, purchases, revenue or grade.
        min_effective: fewer effective draws are refused.
        draws: of exposures that are used at most.
    """

    table: str = ""
    action: str = "action"
    reward: str = "reward"
    propensity: str = "propensity"
    target: str = "target"
    draw: str = ""
    position: str = ""
    unit: str = ""
    context: list[str] = field(default_factory=list)
    target_prefix: str = "target:"
    outcome: str = "clicks"
    hours: float = 168.0
    min_effective: float = 100.0
    confidence: float = 0.95
    draws: int = 20_000

    def __post_init__(self) -> None:
        between("policy.confidence", self.confidence, 0.5, 0.999)
        between("policy.min_effective", self.min_effective, 2, 1e9)
        if self.outcome not in (allowed := ("clicks", "purchases", "revenue", "grade")):
            raise ConfigError(f"policy.outcome: found {self.outcome!r}, expected one of {list(allowed)}")
        if bool(self.draw) != bool(self.position):
            raise ConfigError(f"policy: found draw={self.draw!r} and position={self.position!r}, expected both or none")


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
