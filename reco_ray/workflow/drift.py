"""Reports of drift: the features that decisions were made with, against those that the release's ranker was trained on.

User view. Reference: the rows of all users in the snapshot ``fit`` of the release's features output. Current: rows that
decisions of the last hours were made with, one of each user, drawn at random, so that one who asks often does not count often.
The two are not the same people: who comes often is served more surely, and who had no event before the cut is not in the
reference, of which the ranker in turn saw those who came again before the next cut. So a release may start with a distance that
is none of time's. `Compared.unknown` says how many had no features.
Item view. Reference: the items of that snapshot. Current: the same catalogue by the online sums as they are now.
What grows with the age of the data (`features.views.Column.grows`) is measured and shown, and never held to drift.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import PipelineConfig
from reco_ray.errors import DataError
from reco_ray.evaluation.histograms import Panel, draw
from reco_ray.features import ITEM_COLUMNS, USER_COLUMNS, Catalogue
from reco_ray.features.drift import Drift, compare
from reco_ray.features.skew import user_columns
from reco_ray.features.views import USER_TASTE
from reco_ray.lake import storage, tables
from reco_ray.release import Manifest, newest, open_release, verify
from reco_ray.store import OnlineStore
from reco_ray.streaming.items import LiveItems
from reco_ray.workflow.skew import unpacked
from reco_ray.workflow.snapshots import of_snapshot

__all__ = ["Compared", "DriftReport", "drift_of_both", "report_drift", "require_none"]

log = logging.getLogger(__name__)

_GROWING = {column.name for column in (*USER_COLUMNS, *ITEM_COLUMNS) if column.grows}
_SHOWN = 12  # columns in the table and the plot, or all that drift where they are more

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One view of one release.

    Attributes:
        view: ``user`` or ``item``.
        reference, current: rows, shapes (n, F) and (m, F), with ``columns``.
        drifts: one for each column, the worst first.
        unknown: share of the served users who had no features, and are left out.
    """

    release: str
    view: str
    columns: Sequence[str]
    reference: Matrix
    current: Matrix
    drifts: Sequence[Drift]
    unknown: float = 0.0

    @property
    def drifting(self) -> list[str]:
        """Names of the columns that drift, the worst first."""
        return [each.column for each in self.drifts if each.drifts]


@dataclass(frozen=True, slots=True, eq=False)
class DriftReport:
    """What was compared, and where the report lies."""

    uri: str
    compared: Sequence[Compared]

    @property
    def drifting(self) -> list[Compared]:
        """Those with a column that drifts."""
        return [each for each in self.compared if each.drifting]


def report_drift(config: PipelineConfig, store: OnlineStore | None = None, now: datetime | None = None) -> DriftReport:
    """Compare the features of the last hours' decisions, by release; writes ``reports/drift``: JSON, and a plot of each view.

    Args:
        store: for the item view; without one only the user view is compared.
        now: the present time, for tests.
    Raises: DataError: no decision carries its row or none has features, or a release's snapshot is gone.
    """
    served = _served(config, (now or datetime.now(UTC)) - timedelta(hours=config.drift.hours))
    compared: list[Compared] = []
    for (release,), rows in served.group_by("release", maintain_order=True):
        folder = open_release(config.root, str(release))
        catalogue, manifest = Catalogue.load(folder), verify(folder)
        compared += _users(config, manifest, catalogue, rows)
        compared += _items(config, manifest, catalogue, store) if store else []
    if not compared:
        raise DataError(
            f"exposures of the last {config.drift.hours:g} hours: found {served.height} users, none of them with features, "
            "expected some; run jobs/materialize_features.py"
        )
    return _told(config, compared)


def drift_of_both(config: PipelineConfig, ours: Manifest, theirs: Manifest) -> tuple[Sequence[Drift], Sequence[Drift]] | None:
    """How far the users' features of the last hours' decisions are from what each of two releases was trained on.

    Args:
        theirs: of the release that made the decisions. Nothing is known of its training where the snapshot is gone.
    Returns: None where no decision has a row that both can read, or our snapshot is gone.
    """
    if ours.user_view != theirs.user_view or not tables.exists(config.root, "exposures"):
        return None
    try:
        served = _served(config, datetime.now(UTC) - timedelta(hours=config.drift.hours))
    except DataError as exc:
        log.info("gate drift: %s", exc)
        return None
    rows = served.filter(pl.col("release") == theirs.release_id)
    found: list[Sequence[Drift]] = []
    for manifest in (ours, theirs):
        try:
            compared = list(_users(config, manifest, Catalogue.load(open_release(config.root, manifest.release_id)), rows))
        except DataError as exc:
            log.info("drift of release %s is not known: %s", manifest.release_id, exc)
            compared = []
        found.append(compared[0].drifts if compared else [])
    return (found[0], found[1]) if found[0] else None


def require_none(config: PipelineConfig, report: DriftReport) -> None:
    """Pass where no column drifts.

    Raises: DataError: one does; they are named.
    """
    if report.drifting:
        found = "; ".join(f"{each.view} view of release {each.release}: {_names(each)}" for each in report.drifting)
        latest = newest(config.root)
        since = "" if latest in _releases(report) else f"deploy release {latest}, which was published since, or "
        raise DataError(f"features drift: found {found}, expected none; {since}run jobs/retrain.py; see {report.uri}")


def _served(config: PipelineConfig, since: datetime) -> pl.DataFrame:
    """One decision of each user and release: release, user_id, user_row; at most ``drift.rows`` of a release."""
    where = pl.col("user_row").is_not_null() & (pl.col("ts") >= since)
    asked = tables.read(config.root, "exposures", ["request_id", "release", "user_id"], where).sort("request_id")
    if asked.is_empty():
        raise DataError(
            f"exposures of the last {config.drift.hours:g} hours: found none with the user's row, expected some; "
            "raise exposures.features_share or drift.hours"
        )
    drawn = asked.sample(fraction=1.0, shuffle=True, seed=config.seed)
    drawn = drawn.unique(["release", "user_id"], keep="first", maintain_order=True)
    drawn = drawn.group_by("release", maintain_order=True).head(config.drift.rows)
    # the rows themselves are large, and read of those only that are compared
    where &= pl.col("request_id").is_in(drawn["request_id"].implode())
    rows = tables.read(config.root, "exposures", ["request_id", "user_row"], where).unique("request_id")
    return drawn.join(rows, on="request_id", how="inner", maintain_order="left")


def _users(config: PipelineConfig, manifest: Manifest, catalogue: Catalogue, served: pl.DataFrame) -> Iterator[Compared]:
    columns = user_columns(catalogue.categories)
    rows = [row.features for _, row in unpacked(served["user_id"].to_list(), served["user_row"].to_list())]
    current = [features for features in rows if features.size == len(columns)]
    if not current:
        log.info("release %s: none of %d served users had features", manifest.release_id, served.height)
        return
    fit = of_snapshot("features_users", _features_key(manifest), "fit")
    users = _found(tables.read(config.root, "features_users", ["user_id"], fit), config, manifest)["user_id"].sort()
    drawn = users.sample(min(len(users), config.drift.rows), seed=config.seed)
    where = fit & pl.col("user_id").is_in(drawn.implode())
    reference = np.stack(tables.read(config.root, "features_users", ["features"], where)["features"].to_list())
    taste = [column.default for column in USER_TASTE for _ in catalogue.categories]
    defaults = [*(column.default for column in USER_COLUMNS), *taste]
    unknown = 1 - len(current) / len(rows)
    yield _compared(config, manifest, "user", columns, defaults, reference, np.stack(current), unknown)


def _items(config: PipelineConfig, manifest: Manifest, catalogue: Catalogue, store: OnlineStore) -> Iterator[Compared]:
    current = LiveItems(store, manifest.user_view, lambda: catalogue).refresh()
    if current is None:
        log.info("release %s: its items are not kept up to date, and not compared", manifest.release_id)
        return
    columns = [column.name for column in ITEM_COLUMNS]
    fit = of_snapshot("features_items", _features_key(manifest), "fit")
    reference = _found(tables.read(config.root, "features_items", columns, fit), config, manifest)
    defaults = [column.default for column in ITEM_COLUMNS]
    yield _compared(config, manifest, "item", columns, defaults, reference.to_numpy().astype(np.float32), current.features)


def _features_key(manifest: Manifest) -> str:
    return str(manifest.facts.get("features_key", ""))


def _found(reference: pl.DataFrame, config: PipelineConfig, manifest: Manifest) -> pl.DataFrame:
    if reference.is_empty():
        raise DataError(
            f"features that release {manifest.release_id} was trained on: found no rows of output {_features_key(manifest)!r} "
            f"under {config.root}, expected some; run jobs/run_pipeline.py, and deploy what it publishes"
        )
    return reference


def _compared(
    config: PipelineConfig,
    manifest: Manifest,
    view: str,
    columns: Sequence[str],
    defaults: Sequence[float],
    reference: Matrix,
    current: Matrix,
    unknown: float = 0.0,
) -> Compared:
    found = compare(reference, current, columns, defaults, config.drift.psi, config.drift.min_rows)
    drifts = [replace(each, drifts=each.drifts and each.column not in _GROWING) for each in found]
    drifts.sort(key=lambda each: not each.drifts)
    return Compared(manifest.release_id, view, columns, reference, current, drifts, unknown)


def _told(config: PipelineConfig, compared: Sequence[Compared]) -> DriftReport:
    """Write and log what was found."""
    made_ts = datetime.now(UTC).isoformat()
    base = storage.join(config.root, "reports", "drift", made_ts)
    releases: dict[str, dict[str, object]] = {}
    for each in compared:
        releases.setdefault(each.release, {})[each.view] = {
            "unknown": each.unknown,
            "drifting": each.drifting,
            "columns": [asdict(drift) for drift in each.drifts],
        }
        storage.write_bytes(f"{base}-{each.release}-{each.view}.png", _plot(each))
        log.info("%s view of release %s, reference against current:\n%s", each.view, each.release, _table(each))
        if min(each.drifts[0].rows) < config.drift.min_rows:
            log.warning("%s view: rows %s are fewer than drift.min_rows", each.view, each.drifts[0].rows)
    content = {"made_ts": made_ts, "psi": config.drift.psi, "min_rows": config.drift.min_rows, "releases": releases}
    storage.write_bytes(f"{base}.json", json.dumps(content, indent=1).encode())
    log.info("drift: report in %s.json, with a plot of each view beside it", base)
    return DriftReport(f"{base}.json", compared)


def _shown(compared: Compared) -> Sequence[Drift]:
    return compared.drifts[: max(_SHOWN, len(compared.drifting))]


def _table(compared: Compared) -> str:
    lines = [f"{'column':<32} {'PSI':>7} {'KS':>6} {'JS':>6} {'p':>8} {'default':>15} {'missing':>15}"]
    for each in _shown(compared):
        shares = " ".join(f"{before:>6.1%} > {now:>6.1%}" for before, now in (each.default, each.missing))
        mark = "  drifts" if each.drifts else "  grows" * (each.column in _GROWING)
        measures = f"{each.psi:>7.3f} {each.ks:>6.3f} {each.js:>6.3f} {each.p_value:>8.1e}"
        lines.append(f"{each.column[:32]:<32} {measures} {shares}{mark}")
    left, rows = len(compared.drifts) - len(lines) + 1, compared.drifts[0].rows
    lines.append(f"{left} more columns; {rows[0]} and {rows[1]} rows; {compared.unknown:.1%} of the served had no features")
    return "\n".join(lines)


def _plot(compared: Compared) -> bytes:
    at = {name: place for place, name in enumerate(compared.columns)}
    panels = [
        Panel(
            f"{each.column[:28]}\nPSI {each.psi:.2f}  KS {each.ks:.2f}  JS {each.js:.2f}",
            compared.reference[:, at[each.column]],
            compared.current[:, at[each.column]],
            each.drifts,
        )
        for each in _shown(compared)
    ]
    count, (before, now) = len(compared.drifting), compared.drifts[0].rows
    title = f"{compared.view} view of release {compared.release}: {count} of {len(compared.columns)} columns drift"
    return draw(panels, f"{title} ({before:,} rows of reference, {now:,} current)")


def _names(compared: Compared) -> str:
    names = compared.drifting
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _releases(report: DriftReport) -> set[str]:
    return {each.release for each in report.drifting}
