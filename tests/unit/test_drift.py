"""Drift: measures against known values, no alarm by chance or from few rows, and the report on a small root."""

import json
import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from reco_ray.compose import compose_config
from reco_ray.config import FeaturesConfig, PipelineConfig
from reco_ray.errors import DataError
from reco_ray.evaluation.histograms import Panel, draw
from reco_ray.features import ITEM_COLUMNS, Catalogue, transform
from reco_ray.features.drift import Drift, compare
from reco_ray.features.online import pack_items
from reco_ray.features.skew import user_columns
from reco_ray.features.sums import added_up, item_sums
from reco_ray.hashing import item_keys, user_bucket
from reco_ray.lake import tables
from reco_ray.release import open_release, release_uri, seal, verify
from reco_ray.schema import EXPOSURES
from reco_ray.store import LAKE_ITEMS, pack_user
from reco_ray.types import UserRow
from reco_ray.workflow import drift

Matrix = NDArray[np.float32]
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def column(values: object) -> Matrix:
    return np.asarray(values, np.float32).reshape(-1, 1)


def one(reference: object, current: object, default: float = 0.0, min_rows: int = 1) -> Drift:
    (found,) = compare(column(reference), column(current), ["x"], [default], 0.25, min_rows)
    return found


def test_the_measures_are_those_of_the_textbook() -> None:
    """Deciles of 1 to 100 are 10, 20, ...: a tenth of the reference in each bin, and known numbers of the current rows."""
    counts = [5, 5, 10, 10, 10, 10, 10, 10, 10, 20]
    current = np.concatenate([np.full(n, 10 * at + 5) for at, n in enumerate(counts)])
    found = one(np.arange(1, 101), current)
    shares = np.array(counts) / 100
    assert found.psi == pytest.approx(2 * (0.05 - 0.1) * np.log(0.5) + (0.2 - 0.1) * np.log(2))
    assert found.js == pytest.approx(jensenshannon(shares, np.full(10, 0.1), base=2))
    assert found.ks == pytest.approx(ks_2samp(np.arange(1, 101), current).statistic)
    assert found.p_value == pytest.approx(ks_2samp(np.arange(1, 101), current, method="asymp").pvalue)


def test_p_values_are_corrected_for_the_number_of_columns() -> None:
    rng = np.random.default_rng(1)
    reference, current = rng.normal(size=(2, 300, 4)).astype(np.float32)
    current[:, 0] += 0.4
    current[:, 1] += 0.3
    raw = [ks_2samp(reference[:, at], current[:, at], method="asymp").pvalue for at in range(4)]
    found = {each.column: each.p_value for each in compare(reference, current, list("abcd"), [0.0] * 4, 0.25, 1)}
    order = np.argsort(raw)
    expected = np.minimum(np.maximum.accumulate(np.array(raw)[order] * [4, 3, 2, 1]), 1)
    assert [found["abcd"[at]] for at in order] == pytest.approx(list(expected))


def test_a_column_that_is_constant_in_both_has_not_moved() -> None:
    for value in (0.0, 3.5, np.nan):
        found = one(np.full(700, value), np.full(300, value))
        assert (found.psi, found.ks, found.js, found.p_value, found.drifts) == (0, 0, 0, 1, False)


def test_a_constant_that_became_another_drifts() -> None:
    assert one(np.zeros(2000), np.full(2000, 0.1)).drifts
    assert one(np.full(2000, 0.1), np.zeros(2000)).drifts


@pytest.mark.parametrize("at", [-1.0, 0.0, 0.5])
def test_mass_that_leaves_one_value_is_seen_wherever_the_value_lies(at: float) -> None:
    """Half of the rows are at one value; a fifth of all move from there to just below or above it."""
    rest = np.linspace(-0.9, 0.9, 1000)
    for side in (-1e-3, 1e-3):
        moved = np.concatenate([rest, np.full(600, at), np.full(400, at + side)])
        found = one(np.concatenate([rest, np.full(1000, at)]), moved, default=at)
        assert found.psi > 0.1
        assert found.default == pytest.approx((0.5, 0.3), abs=2e-3)


def test_a_sliver_of_the_reference_is_no_bin() -> None:
    """Just under two fifths are 0, so that a decile lies on the least value above; a tenth moves from there to below it."""
    rest = np.linspace(0.2, 1, 6002)
    moved = np.concatenate([np.zeros(3998), np.full(1000, 0.1), rest[1000:]])
    assert one(np.concatenate([np.zeros(3998), rest]), moved).psi < 0.05


def test_values_that_are_missing_now_are_a_shift() -> None:
    values = np.random.default_rng(2).normal(size=4000)
    holes = values[2000:].copy()
    holes[:500] = np.nan
    holes[500:600] = np.inf
    found = one(values[:2000], holes)
    assert found.drifts
    assert found.missing == (0.0, 0.3)
    assert one(holes, holes[::-1]).psi == 0


def test_few_rows_do_not_alarm_however_far_they_are() -> None:
    assert not one(np.zeros(5000), np.ones(100), min_rows=101).drifts
    assert one(np.zeros(5000), np.ones(100), min_rows=100).drifts


def test_what_drifts_comes_first_then_the_largest_index() -> None:
    rng = np.random.default_rng(3)
    reference, current = rng.normal(size=(2, 2000, 3)).astype(np.float32)
    current[:, 2] += 1
    current[:, 1] += 0.1
    found = compare(reference, current, ["a", "b", "c"], [0.0] * 3, 0.25, 500)
    assert [(each.column, each.drifts) for each in found] == [("c", True), ("b", False), ("a", False)]


@pytest.mark.parametrize(("rows", "width"), [((0, 5), 1), ((5, 0), 1), ((5, 5), 2)])
def test_wrong_shapes_and_sides_without_rows_are_refused(rows: tuple[int, int], width: int) -> None:
    with pytest.raises(ValueError, match=r"must agree|expected some of both"):
        compare(np.zeros((rows[0], 1), np.float32), np.zeros((rows[1], width), np.float32), ["x"], [0.0], 0.25, 1)


def sample(kind: str, rng: np.random.Generator, n: int, width: int) -> Matrix:
    """Columns as features have them, each with a standard deviation near one."""
    normal = rng.normal(size=(n, width))
    match kind:
        case "normal":
            made = normal
        case "skewed":
            made = rng.exponential(size=(n, width))
        case "mostly zero":
            made = np.where(rng.random((n, width)) < 0.8, 0.0, 2.5 * rng.random((n, width)))
        case _:
            made = np.round(normal)
    return made.astype(np.float32)


KINDS = st.sampled_from(["normal", "skewed", "mostly zero", "few values"])
SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=30)
@given(KINDS, SEEDS, st.sampled_from([100, 500, 2000]))
def test_equal_distributions_do_not_alarm_whatever_the_number_of_columns(kind: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    found = compare(sample(kind, rng, n, 40), sample(kind, rng, n, 40), [f"c{at}" for at in range(40)], [0.0] * 40, 0.25, 1)
    assert not any(each.drifts for each in found)
    assert all(0 <= each.ks <= 1 and 0 <= each.js <= 1 and each.psi >= 0 and 0 <= each.p_value <= 1 for each in found)


@settings(deadline=None, max_examples=30)
@given(KINDS, SEEDS)
def test_a_shift_by_one_standard_deviation_alarms(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, current = sample(kind, rng, 2000, 1), sample(kind, rng, 2000, 1)
    assert one(reference, current + reference.std(), min_rows=500).drifts


@settings(deadline=None, max_examples=100)
@given(*2 * [st.lists(st.floats(width=32) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=30)])
def test_any_numbers_give_finite_measures_and_the_same_rows_none(reference: list[float], current: list[float]) -> None:
    found = one(reference, current)
    assert np.isfinite([found.psi, found.ks, found.js, found.p_value]).all()
    same = one(reference, reference[::-1])
    assert (same.psi, same.ks, same.js, same.drifts) == (0, 0, 0, False)


def test_a_plot_is_drawn_of_any_panel() -> None:
    values = np.random.default_rng(4).normal(size=100).astype(np.float32)
    nothing = np.full(5, np.nan, np.float32)
    panels = [
        Panel("moved", values, values + 1, True),
        Panel("constant", np.zeros(9, np.float32), np.zeros(3, np.float32), False),
        Panel("missing", nothing, nothing, False),
        Panel("now missing", values, nothing, True),
        Panel("wide", values, values * np.float32(1e30), False),
    ]
    assert draw(panels, "five").startswith(b"\x89PNG")
    assert draw(panels[:1], "one").startswith(b"\x89PNG")


# The report, on a root with one release and its decisions.

USERS = 600


@pytest.fixture(scope="module")
def columns(catalogue: Catalogue) -> list[str]:
    return user_columns(catalogue.categories)


def publish(root: str, release: str, catalogue: Catalogue, made: str) -> None:
    folder = Path(release_uri(root, release))
    folder.mkdir(parents=True)
    catalogue.save(folder)
    seal(folder, release, "v1", {"features_key": "key", "features": asdict(FeaturesConfig()), "made_ts": made})


def write_users(root: str, features: Matrix) -> None:
    """The fit snapshot, and another one of other users that nothing may read."""
    rows = [
        {"user_id": f"u{at}", "features": (row + offset).tolist(), "snapshot": f"key-{snapshot}"}
        for snapshot, offset in (("fit", 0), ("live", 9))
        for at, row in enumerate(features)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"features": pl.List(pl.Float32)})
    tables.replace(root, "features_users", frame.to_arrow())


def write_decisions(root: str, decisions: list[tuple[str, str, datetime, Matrix | None]]) -> None:
    """Release, user, time and features of each; None for a decision that carries no row."""
    rows = [
        {
            **{field.name: None if field.nullable else [] if pa.types.is_list(field.type) else "" for field in EXPOSURES},
            "request_id": f"r{at}",
            "user_id": user,
            "release": release,
            "ts": ts,
            "received_ts": ts,
            "consent": True,
            "age_s": 0.0,
            "timings": [],
            "date": "2026-06",
            "user_bucket": user_bucket(user),
            "user_row": None if features is None else pack_user(UserRow(features=features)),
        }
        for at, (release, user, ts, features) in enumerate(decisions)
    ]
    write_deltalake(tables.table_uri(root, "exposures"), pa.Table.from_pylist(rows, EXPOSURES), mode="append")


@pytest.fixture
def config(tmp_path: Path, catalogue: Catalogue, columns: list[str]) -> PipelineConfig:
    config = compose_config([f"root={tmp_path}", "drift.min_rows=30"])
    publish(config.root, "r1", catalogue, "2026-01-01")
    write_users(config.root, rows(columns, 1))
    return config


def rows(columns: list[str], seed: int) -> Matrix:
    return np.random.default_rng(seed).normal(size=(USERS, len(columns))).astype(np.float32)


def served(columns: list[str], release: str = "r1", shifted: str = "", seed: int = 2) -> list:
    features = rows(columns, seed)
    if shifted:
        features[:, columns.index(shifted)] += 1
    return [(release, f"u{at}", NOW - timedelta(hours=1), row) for at, row in enumerate(features)]


def test_a_column_that_drifts_is_named_and_no_other(
    config: PipelineConfig, columns: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_decisions(config.root, served(columns, shifted="user_strength_mean"))
    with caplog.at_level(logging.INFO):
        report = drift.report_drift(config, now=NOW)
    (found,) = report.compared
    assert (found.release, found.view, found.drifting) == ("r1", "user", ["user_strength_mean"])
    with pytest.raises(DataError, match=r"user view of release r1: user_strength_mean, expected none; run jobs/retrain.py"):
        drift.require_none(config, report)
    content = json.loads(Path(report.uri).read_text())["releases"]["r1"]["user"]
    assert content["drifting"] == ["user_strength_mean"]
    assert [each["column"] for each in content["columns"][:1]] == ["user_strength_mean"]
    assert len(content["columns"]) == len(columns)
    assert content["columns"][0]["rows"] == [USERS, USERS]
    plot = Path(report.uri.replace(".json", "-r1-user.png"))
    assert plot.read_bytes().startswith(b"\x89PNG")
    (line,) = [line for line in caplog.text.splitlines() if line.endswith("drifts")]
    assert line.startswith("user_strength_mean")


def test_rows_as_they_were_trained_on_pass(config: PipelineConfig, columns: list[str]) -> None:
    write_decisions(config.root, served(columns))
    report = drift.report_drift(config, now=NOW)
    assert report.drifting == []
    drift.require_none(config, report)


def test_each_user_counts_once_and_what_is_old_or_has_no_features_does_not(config: PipelineConfig, columns: list[str]) -> None:
    far = np.full(len(columns), 50, np.float32)
    often = [("r1", "u0", NOW - timedelta(minutes=at), far) for at in range(1000)]
    old = [("r1", f"old{at}", NOW - timedelta(hours=25), far) for at in range(300)]
    strangers = [("r1", f"new{at}", NOW, np.empty(0, np.float32)) for at in range(200)]
    bare = [("r1", f"bare{at}", NOW, None) for at in range(100)]
    write_decisions(config.root, [*served(columns), *often, *old, *strangers, *bare])
    (found,) = drift.report_drift(config, now=NOW).compared
    assert found.current.shape == (USERS, len(columns))
    assert found.unknown == pytest.approx(200 / (USERS + 200))
    assert found.drifting == []


def test_at_most_so_many_rows_are_compared(config: PipelineConfig, columns: list[str]) -> None:
    write_decisions(config.root, served(columns))
    config.drift.rows = 100
    first, again = (drift.report_drift(config, now=NOW).compared[0] for _ in range(2))
    assert (len(first.reference), len(first.current)) == (100, 100)
    np.testing.assert_array_equal(first.current, again.current)


def test_of_a_release_that_was_replaced_the_remedy_is_the_newer_one(
    config: PipelineConfig, columns: list[str], catalogue: Catalogue
) -> None:
    publish(config.root, "r2", catalogue, "2026-02-01")
    write_decisions(config.root, served(columns, "r1", "user_events"))
    replaced = drift.report_drift(config, now=NOW)
    with pytest.raises(DataError, match=r"deploy release r2, which was published since, or run jobs/retrain"):
        drift.require_none(config, replaced)
    write_decisions(config.root, served(columns, "r2", "user_events", 3))
    both = drift.report_drift(config, now=NOW)
    assert {each.release for each in both.drifting} == {"r1", "r2"}
    with pytest.raises(DataError, match=r"expected none; run jobs/retrain"):
        drift.require_none(config, both)


def test_what_is_not_there_is_said(config: PipelineConfig, columns: list[str]) -> None:
    write_decisions(config.root, [("r1", "u1", NOW - timedelta(hours=30), rows(columns, 1)[0])])
    with pytest.raises(DataError, match="exposures of the last 24 hours: found none with the user's row"):
        drift.report_drift(config, now=NOW)
    write_decisions(config.root, [("r1", "u1", NOW, np.empty(0, np.float32))])
    with pytest.raises(DataError, match="found 1 users, none of them with features"):
        drift.report_drift(config, now=NOW)
    write_decisions(config.root, served(columns))
    tables.replace(config.root, "features_users", pa.table({"user_id": [""], "features": [[0.0]], "snapshot": ["other-fit"]}))
    with pytest.raises(DataError, match="release r1 was trained on: found no rows of output 'key'"):
        drift.report_drift(config, now=NOW)


def test_two_releases_are_held_against_the_same_decisions(
    config: PipelineConfig, columns: list[str], catalogue: Catalogue
) -> None:
    config.drift.hours = 10_000
    publish(config.root, "r2", catalogue, "2026-02-01")
    first, second = (verify(open_release(config.root, release)) for release in ("r1", "r2"))
    assert drift.drift_of_both(config, second, first) is None, "there is no decision yet"
    write_decisions(config.root, served(columns, "r1", "user_strength_mean"))
    both = drift.drift_of_both(config, second, first)
    assert both is not None
    for found in both:
        assert [each.column for each in found if each.drifts] == ["user_strength_mean"]
    assert drift.drift_of_both(config, first, second) is None, "the other one made none"
    assert drift.drift_of_both(config, replace(second, user_view="v9"), first) is None, "rows of another view"


class FakeStore:
    """What `LiveItems` reads of a store: one view, and the items' sums of its last rebuild."""

    def __init__(self, sums: dict[bytes, bytes], registered: bool) -> None:
        view = orjson.dumps({"features": asdict(FeaturesConfig()), "partitions": 1})
        self._views = {b"v1": view} if registered else {}
        self._sums = {self.key("items", "v1", LAKE_ITEMS): sums}
        self.blocking_calls = self

    def key(self, *parts: str) -> str:
        return ":".join(parts)

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return self._views

    def hmget(self, key: str, fields: list[bytes]) -> list[bytes | None]:
        return [self._sums.get(key, {}).get(field) for field in fields]


@pytest.mark.parametrize("registered", [True, False])
def test_items_as_they_are_now_are_compared_with_those_of_the_snapshot(
    config: PipelineConfig, columns: list[str], catalogue: Catalogue, events: pl.DataFrame, registered: bool
) -> None:
    write_decisions(config.root, served(columns))
    items = pl.DataFrame({"item_id": catalogue.item_ids, "year": catalogue.years})
    as_of = int(events["ts"].dt.epoch("us").max())
    total = added_up(item_sums(events, FeaturesConfig()), items["item_id"], FeaturesConfig())
    fit = transform.item_rows(total, items, as_of)
    fit = fit.with_columns(pl.col("item_events") - 3, snapshot=pl.lit("key-fit"))
    tables.replace(config.root, "features_items", fit.to_arrow())
    packed = pack_items(total)
    sums = {key.tobytes(): raw for key, raw in zip(item_keys(items["item_id"]), packed, strict=True)}
    report = drift.report_drift(config, FakeStore(sums, registered), NOW)
    assert [each.view for each in report.compared] == (["user", "item"] if registered else ["user"])
    assert [(each.view, each.drifting) for each in report.drifting] == ([("item", ["item_events"])] if registered else [])
    if registered:
        found = report.compared[1]
        assert [each.column for each in found.drifts if each.psi > 0] == ["item_events"]
        assert set(found.columns) == {column.name for column in ITEM_COLUMNS}


def test_what_grows_with_time_is_shown_and_is_no_alarm(config: PipelineConfig, columns: list[str]) -> None:
    write_decisions(config.root, served(columns, shifted="user_span_days"))
    report = drift.report_drift(config, now=NOW)
    assert report.drifting == []
    (span,) = [each for each in report.compared[0].drifts if each.column == "user_span_days"]
    assert span.psi > config.drift.psi


def test_a_report_of_too_few_rows_says_so(config: PipelineConfig, columns: list[str], caplog: pytest.LogCaptureFixture) -> None:
    config = replace(config, drift=replace(config.drift, min_rows=USERS + 1))
    write_decisions(config.root, served(columns, shifted="user_events"))
    report = drift.report_drift(config, now=NOW)
    assert report.drifting == []
    assert "fewer than drift.min_rows" in caplog.text
