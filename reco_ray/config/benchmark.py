"""What `benchmark_recall` runs: models on a file of a user's own, under a named protocol."""

from dataclasses import dataclass, field
from enum import Enum

from reco_ray.config.checks import between
from reco_ray.config.cluster import ClusterConfig
from reco_ray.config.recall import RecallConfig, SourceName
from reco_ray.errors import ConfigError

__all__ = ["BenchmarkConfig", "DatasetFormat", "ProtocolName"]


class DatasetFormat(Enum):
    """``sequences``: a line per user, ``user item item ...``, oldest first. ``interactions``: a table user,item[,timestamp]."""

    sequences = "sequences"
    interactions = "interactions"


class ProtocolName(Enum):
    """How a dataset is divided; `evaluation.protocols` tells each."""

    leave_one_out = "leave_one_out"
    global_time = "global_time"
    strong_generalisation = "strong_generalisation"
    next_item = "next_item"
    separate_test = "separate_test"


@dataclass(kw_only=True)
class BenchmarkConfig:
    """Settings of the benchmark.

    Attributes:
        dataset: path of the file. test: path of the test part, of the same format, for ``separate_test``.
        items: path of item attributes: JSON ``{item: [attribute, ...]}``, or a table item[,title][,categories by |]; optional.
        user_column, item_column, time_column: names in a table; without such a time column the order of the rows is the time.
        held_out: share of users (strong_generalisation), of events (global_time) or of sessions (next_item) that test.
        withhold: share of the items that no model may see while it is trained; they are the slice of cold items.
        items_return: whether an item that a user has had may be an answer again.
        history: longest history that a model sees.
        models: names of recall sources.
        out: folder of report.json; below it stand the training runs.
    """

    dataset: str = ""
    format: DatasetFormat = DatasetFormat.sequences
    protocol: ProtocolName = ProtocolName.leave_one_out
    test: str = ""
    items: str = ""
    user_column: str = "user"
    item_column: str = "item"
    time_column: str = "timestamp"
    held_out: float = 0.1
    withhold: float = 0.0
    items_return: bool = False
    history: int = 50
    models: list[SourceName] = field(default_factory=lambda: [SourceName.popular, SourceName.covisit, SourceName.sequential])
    seed: int = 7
    out: str = "var/benchmark_recall"
    recall: RecallConfig = field(default_factory=RecallConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        between("held_out", self.held_out, 0.001, 0.9)
        between("withhold", self.withhold, 0, 0.9)
        between("history", self.history, 1, 1_000)
        if not self.models:
            raise ConfigError(f"models: found none, expected some of {[name.value for name in SourceName]}")
        if (self.protocol is ProtocolName.separate_test) != bool(self.test):
            raise ConfigError(
                f"test={self.test!r} with protocol={self.protocol.value}: expected a test file with protocol=separate_test, "
                "and none with another protocol"
            )
