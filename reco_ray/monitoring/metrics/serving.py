"""Metrics of the replicas of a deployment; made in a replica's ``__init__``, never at import."""

from collections.abc import Mapping, Sequence

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["EventMetrics", "ExploreMetrics", "GatewayMetrics", "ItemMetrics", "RecallMetrics", "RuleMetrics"]

_LATENCY_MS = [0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 110, 150, 250, 500, 1000]
_RECALL = [0.5, 0.7, 0.8, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999]
_LAG_S = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 4, 5, 7, 10, 30, 60]
_ROWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]


class GatewayMetrics:
    """What a gateway replica counts: 2.6 us a call.

    Labels: call (of the table of calls), status, release, variant (see `rollout.variants`), rung (of the ladder), reason (of
    ``degraded``; at most some tens), stage (and ``rank.`` with a model's name, for what it ranked), result (of the cache).
    """

    def __init__(self) -> None:
        self._requests = Counter(
            "reco_serve_requests_total",
            description="Requests answered, by call, status, release and variant.",
            tag_keys=("call", "status", "release", "variant"),
        )
        self._degraded = Counter(
            "reco_serve_degraded_total",
            description="Answers that were less than full, by rung of the ladder and reason.",
            tag_keys=("release", "rung", "reason"),
        )
        self._rejected = Counter(
            "reco_serve_rejected_total", description="Requests refused for their API key, by reason.", tag_keys=("reason",)
        )
        self._failures = Counter(
            "reco_serve_stage_failures_total",
            description="Stages that failed, were late or held back by their breaker.",
            tag_keys=("release", "stage", "reason"),
        )
        self._stage_ms = Histogram(
            "reco_serve_stage_latency_ms",
            description="Milliseconds until a stage had answered, queueing included.",
            boundaries=_LATENCY_MS,
            tag_keys=("release", "stage"),
        )
        self._request_ms = Histogram(
            "reco_serve_request_latency_ms",
            description="Milliseconds of an answered request inside the gateway.",
            boundaries=_LATENCY_MS,
            tag_keys=("call", "release", "variant"),
        )
        self._batch_rows = Histogram(
            "reco_serve_batch_rows",
            description="Requests per batch that leaves for a stage.",
            boundaries=_ROWS,
            tag_keys=("stage",),
        )
        self._queue_ms = Histogram(
            "reco_serve_queue_ms",
            description="Milliseconds that the oldest request of a batch waited for its stage.",
            boundaries=_LATENCY_MS,
            tag_keys=("stage",),
        )
        self._cache = Counter(
            "reco_serve_cache_total", description="Looks into the slate cache, by result.", tag_keys=("result",)
        )
        self._cache_bytes = Gauge("reco_serve_cache_bytes", description="Memory of the slate cache.")
        self._exposures = Counter("reco_serve_exposures_total", description="Decisions recorded on the bus.")
        self._exposures_lost = Counter(
            "reco_serve_exposures_lost_total", description="Decisions whose record was lost, by reason.", tag_keys=("reason",)
        )
        self._exposure_failures = Counter(
            "reco_serve_exposure_failures_total", description="Times that the bus did not take records of decisions."
        )
        self._exposures_waiting = Gauge("reco_serve_exposures_waiting", description="Records of decisions not on the bus yet.")
        self._mirrored = Counter(
            "reco_serve_shadow_total",
            description="Copies of requests for a release in the shadow: made, failed, or dropped for want of room.",
            tag_keys=("release", "result"),
        )
        self._feature_age_s = Gauge(
            "reco_features_age_s",
            description="Seconds of events that the features of a user view lack, where they are furthest behind.",
            tag_keys=("view",),
        )
        self._limit = Gauge("reco_serve_admission_limit", description="Requests that may be at work before more are shed.")

    def served(self, call: str, status: int, release: str, variant: str, rung: str, degraded: Sequence[str], ms: float) -> None:
        """A request was answered."""
        where = {"call": call, "release": release, "variant": variant}
        self._requests.inc(1, {**where, "status": str(status)})
        self._request_ms.observe(ms, where)
        for reason in degraded:
            self._degraded.inc(1, {"release": release, "rung": rung, "reason": reason})

    def rejected(self, reason: str) -> None:
        """A request was refused as ``unauthorized``, ``forbidden`` or ``rate_limited``; nothing says whose it was."""
        self._rejected.inc(1, {"reason": reason})

    def stage(self, release: str, stage: str, ms: float) -> None:
        """A stage answered."""
        self._stage_ms.observe(ms, {"release": release, "stage": stage})

    def failed(self, release: str, stage: str, reason: str, error: BaseException | None) -> None:
        """A stage was ``late``, ``failed`` or ``open``."""
        self._failures.inc(1, {"release": release, "stage": stage, "reason": reason})

    def left(self, stage: str, rows: int, queued_s: float) -> None:
        """A batch left for a stage."""
        self._batch_rows.observe(rows, {"stage": stage})
        self._queue_ms.observe(1e3 * queued_s, {"stage": stage})

    def state(self, cache: Mapping[str, int], cache_bytes: int, limit: int) -> None:
        """What has been counted elsewhere since the last call, and what stands now."""
        for result, n in cache.items():
            if n:
                self._cache.inc(n, {"result": result})
        self._cache_bytes.set(cache_bytes)
        self._limit.set(limit)

    def fresh(self, view: str, age_s: float) -> None:
        """The features of a view lack events of so many seconds."""
        self._feature_age_s.set(age_s, {"view": view})

    def mirrored(self, release: str, result: str) -> None:
        """A copy for a release in the shadow was ``made``, has ``failed``, or was ``dropped``."""
        self._mirrored.inc(1, {"release": release, "result": result})

    def exposed(self, sent: int, lost: Mapping[str, int], failures: int, waiting: int) -> None:
        """Records of decisions since the last call: ``lost`` by reason: ``overflow``, ``unwritable`` or ``stopped``."""
        if sent:
            self._exposures.inc(sent)
        if failures:
            self._exposure_failures.inc(failures)
        for reason, n in lost.items():
            self._exposures_lost.inc(n, {"reason": reason})
        self._exposures_waiting.set(waiting)


class RecallMetrics:
    """What a replica with a recall stage counts.

    Labels: selectivity (of a request's filters: all, >10%, 1-10%, <1%).

    Args:
        release: label of all.
    """

    def __init__(self, release: str) -> None:
        self._candidates = Counter(
            "reco_recall_candidates_total", description="Candidates found, by source.", tag_keys=("release", "source")
        )
        self._missing = Counter(
            "reco_recall_source_failures_total", description="Requests without a source.", tag_keys=("release", "source")
        )
        self._index_ratio = Histogram(
            "reco_recall_index_ratio",
            description="Share of an exact search's answer that a sampled search by vectors found.",
            boundaries=_RECALL,
            tag_keys=("release", "source", "selectivity"),
        )
        self._release = release

    def searched(self, source: str, selectivity: str, recall: float) -> None:
        """A sampled search was made again exactly."""
        self._index_ratio.observe(recall, {"release": self._release, "source": source, "selectivity": selectivity})

    def found(self, by_source: Mapping[str, int], missing: Mapping[str, int]) -> None:
        """A batch was answered with so many candidates of each source, and so many requests without one."""
        for counter, counts in ((self._candidates, by_source), (self._missing, missing)):
            for source, n in counts.items():
                if n:
                    counter.inc(n, {"release": self._release, "source": source})


class ItemMetrics:
    """What a replica that follows the live items counts.

    Args:
        stage, release: labels of all; a gateway has no release.
    """

    def __init__(self, stage: str, release: str = "") -> None:
        self._tags = {"stage": stage, "release": release}
        names = tuple(self._tags)
        self._lag_s = Histogram(
            "reco_items_lag_seconds",
            description="Seconds from a change of a live item in the online store to its being in force in a replica.",
            boundaries=_LAG_S,
            tag_keys=names,
        )
        self._unknown = Counter(
            "reco_items_unknown_total",
            description="Candidates that a stage passed over, because it did not know their items yet.",
            tag_keys=names,
        )

    def taken(self, lags_s: Sequence[float]) -> None:
        """Changes are in force."""
        for lag_s in lags_s:
            self._lag_s.observe(max(0.0, lag_s), self._tags)

    def unknown(self, candidates: int) -> None:
        """So many more candidates were passed over."""
        self._unknown.inc(candidates, self._tags)


class RuleMetrics:
    """What a replica that keeps to rules counts. Labels: rule (as many as the document has), effect.

    Args:
        release: label of all.
    """

    def __init__(self, release: str) -> None:
        self._tags = {"release": release}
        self._hits = Counter(
            "reco_rules_hits_total",
            description="What rules did: candidates hidden or moved, slates with a pin at its place, or a rule missed (F9).",
            tag_keys=("release", "rule", "effect"),
        )
        self._jumps = Counter(
            "reco_rules_jumps_total",
            description="Times that a rule took effect far more, or far less, for each slate than it did before (F9).",
            tag_keys=("release", "rule", "effect"),
        )
        self._version = Gauge("reco_rules_version", description="Version of the rules in force.", tag_keys=("release",))
        self._share = Gauge(
            "reco_rules_exposure_share",
            description="Share of the exposure that a rule's items have, over the last 500 slates or so of a replica (M10).",
            tag_keys=("release", "rule"),
        )
        self._push = Gauge(
            "reco_rules_exposure_push",
            description="What a rule on exposure adds to its items' scores now, in deviations.",
            tag_keys=("release", "rule"),
        )
        self._cost = Gauge(
            "reco_rules_exposure_cost",
            description="Score that a place loses to all rules on exposure that hold with this one, in deviations.",
            tag_keys=("release", "rule"),
        )

    def in_force(self, version: int) -> None:
        """These rules hold from now on."""
        self._version.set(version, self._tags)

    def jumped(self, rule: str, effect: str) -> None:
        """A rule takes effect far more, or far less, than it did."""
        self._jumps.inc(1, {**self._tags, "rule": rule, "effect": effect})

    def pushed(self, rule: str, share: float, amount: float, cost: float) -> None:
        """How a rule on exposure stands."""
        for gauge, value in ((self._share, share), (self._push, amount), (self._cost, cost)):
            gauge.set(value, {**self._tags, "rule": rule})

    def hits(self, told: Mapping[tuple[str, str], int]) -> None:
        """So often each rule took effect since the last call."""
        for (rule, effect), n in told.items():
            self._hits.inc(n, {**self._tags, "rule": rule, "effect": effect})


class ExploreMetrics:
    """What a replica counts that draws places from sources. ``release``: label of all; the other one is the source."""

    def __init__(self, release: str) -> None:
        self._tags = {"release": release}
        self._drawn = Counter(
            "reco_explore_source_total", description="Places that were drawn from a source.", tag_keys=("release", "source")
        )

    def drawn(self, places: Mapping[str, int]) -> None:
        """So many places were drawn from each source since the last call."""
        for source, n in places.items():
            self._drawn.inc(n, {**self._tags, "source": source})


class EventMetrics:
    """What a gateway replica counts of events, once per batch. Labels: reason, topic, partition; all bounded."""

    def __init__(self) -> None:
        self._accepted = Counter("reco_events_accepted_total", description="Events acknowledged for the first time.")
        self._duplicates = Counter("reco_events_duplicates_total", description="Events that the dedup window knew.")
        self._rejected = Counter("reco_events_rejected_total", description="Events rejected, by reason.", tag_keys=("reason",))
        self._dead_letters = Counter("reco_events_dead_letters_total", description="Rejected events kept as dead letters.")
        self._refused = Counter(
            "reco_events_refused_batches_total",
            description="Batches answered with 503: the bus is away, the sink is behind, or too many are at work.",
            tag_keys=("reason",),
        )
        self._bus_ms = Histogram(
            "reco_events_bus_latency_ms",
            description="Milliseconds until the bus held the records of a batch durably.",
            boundaries=_LATENCY_MS,
            tag_keys=("topic",),
        )
        self._lag = Gauge(
            "reco_events_lag_records", description="Events on the bus that the sink has not stored.", tag_keys=("partition",)
        )
        self._window_failures = Counter(
            "reco_events_window_failures_total", description="Calls that the dedup window did not answer."
        )

    def taken(self, accepted: int, duplicates: int, rejected: Mapping[str, int], dead_letters: int) -> None:
        """A batch was answered; ``rejected`` by reason."""
        for counter, n in ((self._accepted, accepted), (self._duplicates, duplicates), (self._dead_letters, dead_letters)):
            if n:
                counter.inc(n)
        for reason, n in rejected.items():
            self._rejected.inc(n, {"reason": reason})

    def refused(self, reason: str) -> None:
        """A batch was refused: ``bus``, ``lag`` or ``busy``."""
        self._refused.inc(1, {"reason": reason})

    def bus_ms(self, topic: str, ms: float) -> None:
        """The bus took records."""
        self._bus_ms.observe(ms, {"topic": topic})

    def window_failed(self) -> None:
        """The dedup window did not answer."""
        self._window_failures.inc()

    def lag(self, partition: int, records: int) -> None:
        """So many records of a partition wait for the sink."""
        self._lag.set(records, {"partition": str(partition)})
