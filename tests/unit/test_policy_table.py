"""`evaluate_policy`: from a table of one's own or from exposures to a report, with errors that name the column."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from reco_ray.compose import compose_config
from reco_ray.config import ExploreConfig, ExploreKind, PolicyConfig, RerankConfig
from reco_ray.errors import ConfigError, DataError
from reco_ray.evaluation.off_policy import estimate
from reco_ray.evaluation.policy_table import draws_of
from reco_ray.features import Catalogue, user_row
from reco_ray.lake import tables
from reco_ray.rank import load as load_rank
from reco_ray.recall import load as load_recall
from reco_ray.release import release_uri, seal
from reco_ray.rerank import build, load
from reco_ray.schema import EXPOSURES, FEEDBACK
from reco_ray.store import pack_user
from reco_ray.types import Request
from reco_ray.workflow.policy import evaluate_policy

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def logged(n: int = 3_000, seed: int = 0) -> pl.DataFrame:
    """Two actions, of which the one that fits the context earns more; half and half were logged, the target does what fits."""
    rng = np.random.default_rng(seed)
    young, action = rng.random(n) < 0.5, rng.integers(0, 2, n)
    fits = young == (action == 1)
    target_b = np.where(young, 0.9, 0.1)
    return pl.DataFrame(
        {
            "group": np.where(young, "young", "old"),
            "height": rng.normal(size=n),
            "action": np.where(action == 1, "b", "a"),
            "reward": (rng.random(n) < np.where(fits, 0.6, 0.2)).astype(float),
            "propensity": np.full(n, 0.5),
            "target": np.where(action == 1, target_b, 1 - target_b),
            "target:a": 1 - target_b,
            "target:b": target_b,
        }
    )


TRUTH = 0.9 * 0.6 + 0.1 * 0.2


def test_a_table_of_ones_own_is_judged_and_a_model_makes_it_narrower() -> None:
    found = {e.estimator: e.value for e in estimate(draws_of(logged(), PolicyConfig(context=["group", "height"]), "t"))}
    assert set(found) == {"ips", "snips", "dr"}
    assert all(value.low < TRUTH < value.high for value in found.values())
    assert found["dr"].high - found["dr"].low < found["ips"].high - found["ips"].low
    plain = draws_of(logged().drop("target:a", "target:b"), PolicyConfig(), "t")
    assert estimate(plain)[0].value.mean == pytest.approx(found["ips"].mean)
    assert [e.estimator for e in estimate(plain)] == ["ips", "snips"]


def test_rows_of_one_draw_stand_side_by_side_in_whatever_order_they_come() -> None:
    rows = pl.DataFrame(
        {
            "action": ["x", "y", "z"],
            "reward": [0.0, 1.0, 2.0],
            "propensity": [0.5, 0.25, 0.1],
            "target": [0.4, 0.2, 0.3],
            "slate": ["s", "t", "s"],
            "place": [2, 1, 1],
            "user": ["u", "u", "u"],
        }
    )
    draws = draws_of(rows, PolicyConfig(draw="slate", position="place", unit="user"), "t")
    assert draws.rewards.tolist() == [[2, 0], [1, 0]]
    assert draws.logged.tolist() == [[0.1, 0.5], [0.25, 1]]
    assert draws.target.tolist() == [[0.3, 0.4], [0.2, 1]]
    assert draws.units.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": None}, r"t: found no column 'propensity' among .*give policy\.propensity=NAME"),
        ({"propensity": 0.0}, "t: found 0 to 0 in column 'propensity', expected probabilities, more than 0 to 1"),
        ({"target:b": 0.5}, r"t: found rows whose columns target:\* sum to 0\.600 up to 1\.400, expected 1"),
        ({"action": "c"}, r"t: found actions \['c'\] without a column target:c"),
        ({"reward": "much"}, "t: found String in column 'reward', expected numbers"),
        ({"reward": float("nan")}, "t: found NaN or infinity in column 'reward'"),
    ],
)
def test_a_wrong_column_is_named_with_what_is_expected(change: dict[str, Any], message: str) -> None:
    table = logged(50)
    for name, value in change.items():
        table = table.drop(name) if value is None else table.with_columns(pl.lit(value).alias(name))
    with pytest.raises(DataError, match=message):
        draws_of(table, PolicyConfig(), "t")


def test_rows_without_a_value_and_places_that_cannot_be_are_named() -> None:
    table = logged(4).with_columns(reward=pl.Series([1.0, None, 0.0, None]))
    with pytest.raises(DataError, match="t: found 2 rows without 'reward'"):
        draws_of(table, PolicyConfig(), "t")
    table = logged(4).with_columns(s=pl.lit("s"), p=pl.Series([1, 2, 2, 3]))
    with pytest.raises(DataError, match="t: found positions 1 to 3 in column 'p', expected 1, 2, 3"):
        draws_of(table, PolicyConfig(draw="s", position="p"), "t")
    with pytest.raises(ConfigError, match="expected both or none"):
        PolicyConfig(draw="s")


def test_the_job_writes_a_report_and_refuses_without_overlap(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    logged().write_csv(table)
    args = [f"root={tmp_path / 'root'}", f"policy.table={table}", "policy.context=[group]"]
    report = evaluate_policy(compose_config(args, "evaluate_policy"), NOW)
    folder = tmp_path / "root" / "reports" / "policy" / NOW.isoformat()
    assert json.loads((folder / "report.json").read_text())["estimates"][-1]["estimator"] == "dr"
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "the policy would earn" in page
    assert report.support.refused == ""
    logged().with_columns((pl.col("target:a") * 0).alias("target"), pl.lit(0.7).alias("x")).drop(
        "target:a", "target:b"
    ).write_csv(table)
    later = NOW + timedelta(hours=1)
    with pytest.raises(DataError, match=r"the policy: found 0\.0 effective of 3,000 draws, expected 100"):
        evaluate_policy(compose_config(args[:2], "evaluate_policy"), later)
    refused = tmp_path / "root" / "reports" / "policy" / later.isoformat() / "report.json"
    assert json.loads(refused.read_text())["estimates"] == []
    with pytest.raises(DataError, match="found no such file"):
        evaluate_policy(compose_config([args[0], "policy.table=nowhere.csv"], "evaluate_policy"), later)


def explored(kind: ExploreKind, rate: float) -> RerankConfig:
    return RerankConfig(explore=ExploreConfig(kind=kind, rate=rate, newcomers=0), seen_items_return=True, diversity_pool=8)


def publish(root: Path, release: str, assembled: Callable[[Path], None], config: RerankConfig) -> Path:
    folder = Path(release_uri(str(root), release))
    folder.mkdir(parents=True)
    assembled(folder)
    build(folder, config)
    seal(folder, release, "v1", {"made_ts": "2026-01-01"})
    return folder


@pytest.mark.parametrize("kind", [ExploreKind.plackett_luce, ExploreKind.linucb])
def test_a_release_is_judged_from_exposures_before_anybody_sees_it(
    tmp_path: Path, assembled: Callable[[Path], None], users: pl.DataFrame, catalogue: Catalogue, kind: ExploreKind
) -> None:
    """Users click even items only; what the new release would earn is known from drawing its slates."""
    old = publish(tmp_path, "old", assembled, explored(ExploreKind.uniform, 0.6))
    new = publish(tmp_path, "new", assembled, explored(kind, 0.3))
    people = [user_row(row) for row in users.iter_rows(named=True)]
    n, k, at = 600, 2, NOW - timedelta(hours=2)
    asked = int(at.timestamp() * 1e6)
    requests = [Request(request_id=f"r{i}", user_id=f"u{i}", k=k, user=people[i % len(people)], at_us=asked) for i in range(n)]
    candidates = load_recall(old).recall(requests)
    scores = load_rank(old).score(requests, candidates)
    slates = load(old).arrange(requests, candidates, scores)

    def earned(item_id: str) -> int:
        return int(int(item_id[5:]) % 4 == 0)

    base = {f.name: None for f in EXPOSURES} | {"call": "recommend", "consent": True, "release": "old", "variant": "main"}
    base |= {
        "rung": "full",
        "degraded": [],
        "age_s": 0.0,
        "timings": [],
        "date": "2026-04-30",
        "user_bucket": 0,
        "user_view": "v1",
    }
    rows, outcomes = [], []
    for request, slate in zip(requests, slates, strict=True):
        given = {"request_id": request.request_id, "draw_id": request.request_id, "user_id": request.user_id, "ts": at}
        lists = {"sources": [[]] * k, "rules": [[]] * k, "propensities": slate.propensities.tolist(), "received_ts": at}
        shown = {"item_ids": slate.item_ids, "scores": slate.scores.tolist(), "user_row": pack_user(request.user)}
        rows.append({**base, **given, **lists, **shown})
        for position, item in enumerate(slate.item_ids, 1):
            counts = dict.fromkeys(("impressions", "clicks", "purchases"), 0) | {"clicks": earned(item), "order_ids": []}
            kept = {"item_id": item, "position": position, "grade": 0.0, "revenue": 0.0, "consent": True, "date": "2026-04-30"}
            names = {"release": "old", "variant": "main", "rung": "full", "user_bucket": 0}
            outcomes.append({**dict.fromkeys(f.name for f in FEEDBACK), **given, **counts, **kept, **names})
    # a cached slate that is shown again is no second draw
    rows.append({**rows[0], "request_id": "again"})
    tables.replace(str(tmp_path), "exposures", pa.Table.from_pylist(rows, schema=EXPOSURES))
    tables.replace(str(tmp_path), "feedback", pa.Table.from_pylist(outcomes, schema=FEEDBACK))

    report = evaluate_policy(compose_config([f"root={tmp_path}", "release=new"], "evaluate_policy"), NOW)
    assert report.support.draws == n
    stage = load(new)
    again = [
        Request(request_id=f"{i}-{r.request_id}", user_id=r.user_id, k=k, user=r.user, at_us=asked)
        for i in range(5)
        for r in requests
    ]
    truth = np.mean([sum(map(earned, s.item_ids)) for s in stage.arrange(again, candidates * 5, scores * 5)])
    assert [e.estimator for e in report.estimates] == ["ips", "snips", "sequential"]
    for each in report.estimates:
        assert each.value.low - 0.02 < truth < each.value.high + 0.02
    assert abs(truth - report.observed.mean) > 0.005


def test_exposures_without_chance_are_refused(tmp_path: Path, assembled: Callable[[Path], None]) -> None:
    publish(tmp_path, "old", assembled, RerankConfig())
    tables.replace(str(tmp_path), "exposures", EXPOSURES.empty_table())
    with pytest.raises(DataError, match=r"found 0 full slates, 0 of them drawn by chance.*rerank\.explore\.kind"):
        evaluate_policy(compose_config([f"root={tmp_path}", "release=old"], "evaluate_policy"), NOW)
