"""Metrics of the actors behind the bus; made when one starts, never at import."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["BanditMetrics", "FeatureMetrics", "SinkMetrics"]

_SINK_ROWS = [1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000]
_COMMIT_MS = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000]


class SinkMetrics:
    """What the sink of one partition counts, once per batch.

    Args:
        topic, partition: labels of all.
    """

    def __init__(self, topic: str, partition: int) -> None:
        self._tags = {"topic": topic, "partition": str(partition)}
        names = tuple(self._tags)
        self._records = Counter(
            "reco_sink_records_total",
            description="Records read from the bus: written, duplicate, fenced (of an erased user) or undecodable.",
            tag_keys=(*names, "result"),
        )
        self._failures = Counter(
            "reco_sink_failures_total", description="Batches tried again, by kind of error.", tag_keys=(*names, "error")
        )
        self._conflicts = Counter(
            "reco_sink_conflicts_total", description="Commits of others that came between.", tag_keys=names
        )
        self._batch_rows = Histogram(
            "reco_sink_batch_rows", description="Records per batch.", boundaries=_SINK_ROWS, tag_keys=names
        )
        self._commit_ms = Histogram(
            "reco_sink_commit_latency_ms",
            description="Milliseconds from a decoded batch to its commit, looking for duplicates included.",
            boundaries=_COMMIT_MS,
            tag_keys=names,
        )
        self._lag = Gauge("reco_sink_lag_records", description="Records that wait in the partition.", tag_keys=names)
        self._lag_age_s = Gauge(
            "reco_sink_lag_age_s", description="Age of the last record read where more wait behind it.", tag_keys=names
        )
        self._freshness_s = Gauge(
            "reco_sink_freshness_s", description="Now less the latest event time in the lake (M7).", tag_keys=names
        )

    def batch(self, results: Mapping[str, int], conflicts: int, commit_ms: float) -> None:
        """A batch was committed; ``results`` counts its records."""
        for result, n in results.items():
            if n:
                self._records.inc(n, {**self._tags, "result": result})
        if conflicts:
            self._conflicts.inc(conflicts, self._tags)
        self._batch_rows.observe(sum(results.values()), self._tags)
        self._commit_ms.observe(commit_ms, self._tags)

    def failed(self, error: BaseException) -> None:
        """A batch failed, and will be tried again."""
        self._failures.inc(1, {**self._tags, "error": type(error).__name__})

    def state(self, lag: int | None, lag_age_s: float, freshness_s: float) -> None:
        """What stands now; ``lag`` is None where the bus did not say."""
        if lag is not None:
            self._lag.set(lag, self._tags)
        self._lag_age_s.set(lag_age_s, self._tags)
        self._freshness_s.set(freshness_s, self._tags)


class FeatureMetrics:
    """What the stream of one partition into one user view counts, once per batch.

    Args:
        view, partition: labels of all.
    """

    def __init__(self, view: str, partition: int) -> None:
        self._tags = {"view": view, "partition": str(partition)}
        names = tuple(self._tags)
        self._events = Counter(
            "reco_features_events_total", description="Events that changed an online feature.", tag_keys=names
        )
        self._rows = Counter("reco_features_rows_total", description="Rows of users written.", tag_keys=names)
        self._undecodable = Counter(
            "reco_features_undecodable_total", description="Records of the bus that are no events.", tag_keys=names
        )
        self._failures = Counter(
            "reco_features_failures_total", description="Batches tried again, by kind of error.", tag_keys=(*names, "error")
        )
        self._lag_s = Gauge(
            "reco_features_lag_s", description="Age of a batch's oldest event when its features could be read.", tag_keys=names
        )

    def applied(self, events: int, rows: int, undecodable: int, lag_s: float) -> None:
        """A batch was applied."""
        for counter, n in ((self._events, events), (self._rows, rows), (self._undecodable, undecodable)):
            if n:
                counter.inc(n, self._tags)
        self._lag_s.set(lag_s, self._tags)

    def failed(self, error: BaseException) -> None:
        """A batch failed, and will be tried again."""
        self._failures.inc(1, {**self._tags, "error": type(error).__name__})


class BanditMetrics:
    """What a bandit learns from one partition. ``partition``: label of all."""

    def __init__(self, partition: int) -> None:
        self._tags = {"partition": str(partition)}
        names = tuple(self._tags)
        self._places = Counter(
            "reco_explore_places_total", description="Places drawn from a source that a bandit learned from.", tag_keys=names
        )
        self._rewards = Counter("reco_explore_rewards_total", description="Of these, rewarded ones.", tag_keys=names)
        self._failures = Counter(
            "reco_explore_failures_total", description="Batches tried again, by kind of error.", tag_keys=(*names, "error")
        )

    def learned(self, places: int, rewards: int) -> None:
        """So many places and rewards were added."""
        for counter, n in ((self._places, places), (self._rewards, rewards)):
            if n:
                counter.inc(n, self._tags)

    def failed(self, error: BaseException) -> None:
        """A batch failed, and will be tried again."""
        self._failures.inc(1, {**self._tags, "error": type(error).__name__})
