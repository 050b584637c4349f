"""Reports of skew: the rows that decisions were made with, and those that the online store holds, against the lake."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import polars as pl

from reco_ray.config import PipelineConfig
from reco_ray.errors import DataError, SchemaError
from reco_ray.events.bus import EVENTS
from reco_ray.events.feed import writer_name
from reco_ray.features import Catalogue
from reco_ray.features.skew import Served, SkewReport, compare
from reco_ray.lake import storage, tables
from reco_ray.release import features_of, open_release, verify
from reco_ray.store import OnlineStore, registered_views, unpack_user

__all__ = ["check_feature_parity", "report_skew", "unpacked"]

log = logging.getLogger(__name__)


def report_skew(config: PipelineConfig, now: datetime | None = None) -> dict[str, SkewReport]:
    """Compare the rows that decisions of the last hours were made with, by release; writes ``reports/skew``.

    Args:
        now: the present time, for tests.
    Raises: DataError: no decision carries its row, or more rows than ``skew.limit`` differ; the columns are named.
    """
    since = (now or datetime.now(UTC)) - timedelta(hours=config.skew.hours)
    where = pl.col("user_row").is_not_null() & (pl.col("ts") >= since)
    rows = tables.read(config.root, "exposures", ["user_id", "release", "user_row"], where)
    rows = rows.sample(min(rows.height, config.skew.rows), seed=config.seed)
    if rows.is_empty():
        raise DataError(
            f"exposures of the last {config.skew.hours:g} hours: found none with the user's row, expected some; "
            "raise exposures.features_share or skew.hours"
        )
    reports = {}
    for (release,), group in rows.group_by("release", maintain_order=True):
        served = unpacked(group["user_id"].to_list(), group["user_row"].to_list())
        reports[str(release)] = _compare(config, config.root, str(release), served)
    return _told(config, "skew", reports)


def check_feature_parity(config: PipelineConfig, store_url: str) -> dict[str, SkewReport]:
    """Compare rows of the online store, of users that the lake knows, by release; writes ``reports/parity``.

    Raises: DataError: no view is kept up to date, or more rows than ``skew.limit`` differ; the columns are named.
    """
    users = tables.read(config.root, EVENTS, ["user_id"]).unique().sort("user_id")["user_id"]
    sample = users.sample(min(len(users), config.skew.rows), seed=config.seed).to_list()
    reports = {}
    with OnlineStore(store_url, config.store.namespace) as store:
        for view, of in registered_views(store).items():
            served = list(zip(sample, store.users(sample, view), strict=True))
            reports[of["release"]] = _compare(config, of["root"], of["release"], served)
    if not reports:
        raise DataError("online features: found no view that is kept up to date, expected one; run materialize_features")
    return _told(config, "parity", reports)


def unpacked(users: Sequence[str], rows: Sequence[bytes]) -> list[Served]:
    """Unpack served rows; those of another format are left out."""
    served = []
    for user, raw in zip(users, rows, strict=True):
        try:
            served.append((user, unpack_user(raw)))
        except SchemaError:  # served before the format changed
            continue
    return served


def _compare(config: PipelineConfig, root: str, release: str, served: Sequence[Served]) -> SkewReport:
    folder = open_release(root, release)
    catalogue, made_with = Catalogue.load(folder), features_of(verify(folder))
    stands = [
        tables.remembered(config.root, EVENTS, writer_name(EVENTS, partition))
        for partition in range(config.events.bus.partitions)
    ]
    return compare(config.root, served, stands, catalogue.facts(), catalogue.categories, made_with)


def _told(config: PipelineConfig, name: str, reports: dict[str, SkewReport]) -> dict[str, SkewReport]:
    """Write the reports; returns them.

    Raises: DataError: one is above the limit.
    """
    made_ts = datetime.now(UTC).isoformat()
    uri = storage.join(config.root, "reports", name, f"{made_ts}.json")
    content = {release: {**asdict(report), "rate": report.rate} for release, report in reports.items()}
    storage.write_bytes(uri, json.dumps({"made_ts": made_ts, "releases": content}, indent=1).encode())
    for release, report in reports.items():
        log.info(
            "%s of release %s: %d rows compared, %d differ, %d are ahead of the lake",
            *(name, release, report.rows, report.skewed, report.ahead),
        )
    worst = max(reports.items(), key=lambda each: each[1].rate)
    if worst[1].rate > config.skew.limit:
        columns = ", ".join(f"{column} in {n} rows" for column, n in list(worst[1].columns.items())[:5])
        raise DataError(
            f"{name} of release {worst[0]}: found {worst[1].rate:.2%} of {worst[1].rows} rows differing from the lake "
            f"({columns}), expected at most {config.skew.limit:.2%}; "
            f"see {uri}, and run materialize_features when the cause is gone"
        )
    return reports
