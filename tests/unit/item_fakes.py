"""Fakes for tests of live items."""

from collections.abc import Sequence


class ItemCounts:
    """Counts as `monitoring.metrics.serving.ItemMetrics` does."""

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        self.passed = 0

    def taken(self, lags_s: Sequence[float]) -> None:
        self.lags_s += lags_s

    def unknown(self, candidates: int) -> None:
        self.passed += candidates
