"""The lake against what was acknowledged: every id exactly once, and files that a killed writer left behind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable

from reco_ray.lake import tables

__all__ = ["Count", "count", "orphans", "rows"]


@dataclass(frozen=True, slots=True)
class Count:
    """Events by what became of them. ``stored`` counts distinct ids in the lake, acknowledged or not."""

    sent: int
    acknowledged: int
    stored: int
    duplicated: int
    lost: int


def count(root: str, run: str, ledger: Mapping[str, Any]) -> Count:
    """Compare the lake's events of a run with its ledger."""
    ids = tables.read(root, "events", ["event_id"], pl.col("event_id").str.starts_with(f"{run}-"))["event_id"]
    stored = set(ids)
    acknowledged = set(_acknowledged(run, ledger["acknowledged"]))
    return Count(ledger["sent"], len(acknowledged), len(stored), len(ids) - len(stored), len(acknowledged - stored))


def rows(root: str, name: str = "events") -> int:
    """Rows of a table, from its log; 0 where it is not there yet."""
    if not tables.exists(root, name):
        return 0
    actions = pl.DataFrame(DeltaTable(tables.table_uri(root, name)).get_add_actions(flatten=True))
    return int(actions["num_records"].sum())


def orphans(root: str, name: str = "events") -> set[str]:
    """Data files that no version of a table names: what a writer had written when it was killed before its commit."""
    if not tables.exists(root, name):
        return set()
    folder = Path(tables.table_uri(root, name))
    on_disk = {path.name for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts}
    named: set[str] = set()
    for log in (folder / "_delta_log").glob("*.json"):
        named |= {part.split('"path":"')[1].split('"')[0].rpartition("/")[2] for part in _adds(log)}
    return on_disk - named


def _adds(log: Path) -> Iterable[str]:
    return (line for line in log.read_text().splitlines() if line.startswith(('{"add"', '{"remove"')))


def _acknowledged(run: str, batches: Iterable[tuple[int, int, int]]) -> Iterable[str]:
    for worker, first, n in batches:
        yield from (f"{run}-{worker}-{number}" for number in range(first, first + n))
