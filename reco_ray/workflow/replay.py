"""Replay of logged requests through two releases; writes ``reports/replay``."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from reco_ray.config import PipelineConfig
from reco_ray.errors import ConfigError, DataError, SchemaError
from reco_ray.evaluation.replay import ReplayReport, compare_releases
from reco_ray.features import Catalogue
from reco_ray.lake import storage, tables
from reco_ray.release import newest, open_release, user_view
from reco_ray.slate import Pipeline
from reco_ray.store import FLAGS_BEHIND, Flags, off_in, unpack_user
from reco_ray.types import Request

__all__ = ["Logged", "logged_requests", "replay"]

log = logging.getLogger(__name__)

_CALLS = ("recommend", "recommend_user")
_COLUMNS = ["request_id", "user_id", "surface", "context", "consent", "ts", "item_ids", "degraded", "user_view", "user_row"]


class Logged(NamedTuple):
    """A request of the log, and what was switched off when it was answered."""

    request: Request
    flags: Flags


def replay(config: PipelineConfig) -> ReplayReport:
    """Run the newest logged requests through ``replay.against`` and ``release``, or the newest release for either.

    Only decisions that hold their user's row are taken (``exposures.features_share``). What was switched off for one is off in
    both releases. What the log does not hold is not replayed: filters, excluded items, and items of the session.

    Raises:
        ConfigError: the releases were trained on different views of users.
        DataError: there is no such request.
        ArtifactError: there is no such release, or it is damaged.
    """
    second = config.release or newest(config.root)
    first = config.replay.against or second
    views = user_view(config.root, first), user_view(config.root, second)
    if views[0] != views[1]:
        raise ConfigError(
            f"replay: found release {first} with user view {views[0]}, {second} with {views[1]}, expected the same one: "
            "the logged rows mean nothing to the other; compare releases that have it in common"
        )
    logged = logged_requests(config, views[0], config.replay.requests)
    pipelines = []
    for release in (first, second):
        folder = open_release(config.root, release)
        pipelines.append((Pipeline.load(folder), Catalogue.load(folder).item_ids))
    report = compare_releases(pipelines[0], pipelines[1], *zip(*logged, strict=True))
    made_ts = datetime.now(UTC).isoformat()
    content = {"made_ts": made_ts, "first": first, "second": second, **asdict(report)}
    content = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in content.items()}
    uri = storage.join(config.root, "reports", "replay", f"{made_ts}.json")
    storage.write_bytes(uri, json.dumps(content, indent=1).encode())
    log.info(
        "replay of %d requests through %s and %s: %d identical slates, first difference %s, overlap %.3f; %s",
        *(report.requests, first, second, report.identical, report.first_difference or "nowhere", report.overlap, uri),
    )
    return report


def logged_requests(config: PipelineConfig, view: str, n: int) -> list[Logged]:
    """The newest ``n`` logged requests that hold their user's row of this view, newest first.

    Those of the seconds after a change of flags are left out: nothing says which of these their stages knew.

    Raises: DataError: there is none.
    """
    where = pl.col("user_row").is_not_null() & (pl.col("user_view") == view) & pl.col("call").is_in(_CALLS)
    where &= ~pl.col("degraded").list.contains(FLAGS_BEHIND)
    rows = tables.read(config.root, "exposures", _COLUMNS, where) if tables.exists(config.root, "exposures") else pl.DataFrame()
    newest_first = rows.sort("ts", "request_id", descending=True).head(n) if rows.height else rows
    found = [each for row in newest_first.iter_rows(named=True) if (each := _logged(row)) is not None]
    if not found:
        raise DataError(
            f"replay: found no logged request with the row of a user of view {view}, expected some; "
            "raise exposures.features_share, and let requests come"
        )
    return found


def _logged(row: Mapping[str, Any]) -> Logged | None:
    """The request of a record; None where its row is of another format."""
    try:
        user = unpack_user(row["user_row"])
    except SchemaError:  # recorded before the format changed
        return None
    request = Request(
        request_id=row["request_id"],
        user_id=row["user_id"],
        k=max(1, len(row["item_ids"])),
        surface=row["surface"] or "",
        context={name: value for name, value in (row["context"] or {}).items() if value is not None},
        consent=row["consent"],
        user=user,
        at_us=round(row["ts"].timestamp() * 1e6),
    )
    return Logged(request, off_in(row["degraded"]))
