"""The last stage: variety, exposure and chance."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between

__all__ = [
    "Diversify",
    "ExploreConfig",
    "ExploreKind",
    "RerankConfig",
]


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
