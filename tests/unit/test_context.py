"""The context view: one transform, whoever calls it, and a ranker that orders by it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.config import DateUnit, FeaturesConfig
from reco_ray.errors import ArtifactError
from reco_ray.events.bus import Record
from reco_ray.events.contract import Admitted, admit
from reco_ray.events.encoding import rows_to_table
from reco_ray.features import CONTEXT_COLUMNS, ContextRows, Vocabulary, past_request, transform, user_row, vocabulary_of
from reco_ray.rank import RecallOrder, XGBoostRanker
from reco_ray.rank import load as load_rank
from reco_ray.rank.flow import training_request
from reco_ray.rank.stage import rank_features
from reco_ray.serve.http.answers import recommend_request
from reco_ray.serve.http.contract import RecommendationsBody
from reco_ray.serve.path import wire
from reco_ray.slate import Pipeline
from reco_ray.types import Candidates, Request, UserRow

NAMES = [column.name for column in CONTEXT_COLUMNS]
VOCABULARY: Vocabulary = {
    "device": ["phone", "tv"],
    "locale": ["de-DE", "en"],
    "location": ["DE-BY", "DE", "US"],
    "surface": ["home", "email"],
}
ROWS = ContextRows(VOCABULARY)
NOW_US = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp() * 1e6)

contexts = st.fixed_dictionaries(
    {"surface": st.sampled_from(["home", "email", "elsewhere"])},
    optional={
        "device": st.sampled_from(["phone", "tv", "fridge"]),
        "locale": st.sampled_from(["de-DE", "en", ""]),
        "location": st.sampled_from(["DE-BY", "DE", "US", "US-CA", "48.137,11.575", "Main Street 5", "DE-BY-M"]),
    },
)
instants = st.datetimes(datetime(1971, 1, 1), datetime(2029, 12, 31), timezones=st.just(UTC))


def named(row: NDArray[np.float32]) -> dict[str, float | None]:
    """A row by column; None for NaN."""
    return {name: None if np.isnan(value) else float(value) for name, value in zip(NAMES, row, strict=True)}


def labels_of(*raw: dict[str, Any]) -> pl.DataFrame:
    """From events as applications send them to labels, by way of the lake's rows."""
    fields = {"type": "like", "item_id": "i", "user_id": "u"}
    found = admit([{"event_id": f"e{n}", **fields, **each} for n, each in enumerate(raw)], NOW_US)
    values = [each.value for each in found if isinstance(each, Admitted)]
    assert len(values) == len(raw)
    rows = pl.DataFrame(rows_to_table([Record(n, 0, value) for n, value in enumerate(values)], DateUnit.day))
    return transform.label_rows(transform.prepare(rows, FeaturesConfig(), ("context",)), None)


def with_user(labels: pl.DataFrame, row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **labels.to_arrow().to_pylist()[0]}


@pytest.fixture(scope="module")
def stored(users: pl.DataFrame) -> dict[str, Any]:
    return users.row(0, named=True)


@given(contexts, instants)
def test_the_same_instant_and_context_make_the_same_row_in_training_and_at_serving(
    stored: dict[str, Any], context: dict[str, str], at: datetime
) -> None:
    past = past_request(with_user(labels_of({"ts": at.isoformat(), "context": context}), stored))
    body = RecommendationsBody.model_validate({"user_id": "u", "context": context})
    at_us = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    served = recommend_request(body, "r", user_row(stored), at_us=at_us)
    assert past.at_us == at_us
    rows = [ROWS.row(request) for request in (past, served, wire.unpack_request(wire.pack_request(served)))]
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])
    found = named(rows[0])
    assert (found["context_hour"], found["context_weekday"]) == (at.hour, at.weekday())


def test_a_request_is_coded_by_the_vocabulary() -> None:
    at_us = int(datetime(2026, 11, 26, 23, 59, tzinfo=UTC).timestamp() * 1e6)  # a Thursday
    context = {"device": "tv", "locale": "en", "location": "US-CA"}
    assert named(ROWS.row(Request("r", surface="email", context=context, at_us=at_us))) == {
        "context_hour": 23,
        "context_weekday": 3,
        "context_device": 1,
        "context_locale": 1,
        "context_location": None,
        "context_surface": 1,
    }
    said = Request("r", surface="home", context={"surface": "email"})
    assert named(ROWS.row(said))["context_surface"] == 1, "as the application's events say it"


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("DE-BY", 0),
        ("DE-BY-M", 0),
        ("DE-BY:81667", 0),
        ("DE", 1),
        ("DE:81667", 1),
        ("US", 2),
        ("DEU", None),
        ("48.1,11.6", None),
    ],
)
def test_a_place_is_never_finer_than_a_region(place: str, code: float | None) -> None:
    assert named(ROWS.row(Request("r", context={"location": place})))["context_location"] == code


def test_what_is_unknown_is_nan_and_nothing_else() -> None:
    assert np.isnan(ROWS.row(Request("r", surface=""))).all()
    strange = Request("r", surface="x", context={"device": "", "locale": "fr", "location": "XX", "ip": "1.2.3.4"}, at_us=1)
    assert named(ROWS.row(strange)) == dict.fromkeys(NAMES) | {"context_hour": 0, "context_weekday": 3}
    assert np.isnan(ContextRows({}).row(Request("r", context={"device": "tv"}))).all()


def test_data_without_contexts_give_requests_that_have_an_instant_only(stored: dict[str, Any]) -> None:
    labels = labels_of({"ts": "2026-03-01T10:00:00Z"})
    assert labels["context"].to_list() == [None]
    found = named(ROWS.row(past_request(with_user(labels, stored))))
    assert found == dict.fromkeys(NAMES) | {"context_hour": 10, "context_weekday": 6}
    assert not any(vocabulary_of(labels["context"]).values())


def series(*values: str | None, field: str = "device") -> pl.Series:
    fields = ("device", "locale", "surface", "location")
    rows = [{name: value if name == field else None for name in fields} for value in values]
    return pl.Series([*rows, None], dtype=pl.Struct(dict.fromkeys(fields, pl.String)))


@given(st.lists(st.integers(0, 40), max_size=80))
def test_a_vocabulary_holds_the_most_frequent_values_of_ten_people_or_more(people: list[int]) -> None:
    values = [f"d{n}" for n, count in enumerate(people) for _ in range(count)]
    found = vocabulary_of(series(*values, None, *[""] * 50))
    counts = {f"d{n}": count for n, count in enumerate(people) if count >= 10}
    assert found["device"] == sorted(counts, key=lambda value: (-counts[value], value))[:32]
    assert found["locale"] == []


def test_a_vocabulary_of_places_adds_up_what_is_finer_than_a_region() -> None:
    assert vocabulary_of(series(*["DE-BY-M"] * 6, *["DE-BY"] * 6, *["48.1,11.6"] * 20, *["FR"] * 10, field="location")) == {
        "device": [],
        "locale": [],
        "location": ["DE-BY", "FR"],
        "surface": [],
    }


def test_a_fifth_of_the_groups_has_no_context_and_always_the_same_ones(stored: dict[str, Any]) -> None:
    row = with_user(labels_of({"ts": "2026-03-01T10:00:00Z", "context": {"device": "tv", "surface": "home"}}), stored)

    def without() -> list[int]:
        requests = [training_request({**row, "user_id": f"u{n}"}) for n in range(2000)]
        rows = np.array([ROWS.row(request) for request in requests])
        assert (np.isnan(rows).all(axis=1) | (np.isfinite(rows).sum(axis=1) == 4)).all()
        return np.flatnonzero(np.isnan(rows).all(axis=1)).tolist()

    assert 340 < len(without()) < 460
    assert without() == without()


@pytest.fixture(scope="module")
def everything(folder: Path) -> Candidates:
    """All items as candidates, with nothing that tells them apart but themselves."""
    features = rank_features(folder)
    n, ones = len(features.catalogue), np.ones((len(features.catalogue), features.n_sources), np.float32)
    return Candidates(np.arange(n, dtype=np.int32), ones[:, 0], ones[:, 0].astype(np.uint16), ones.astype(np.int16), ones)


CHOICES = {
    "device": (Request("r", context={"device": "phone"}), Request("r", context={"device": "tv"})),
    "hour": (Request("r", at_us=NOW_US + 7 * 3_600_000_000), Request("r", at_us=NOW_US + 22 * 3_600_000_000)),
}


@pytest.mark.parametrize("circumstance", CHOICES)
def test_a_ranker_orders_by_the_circumstance_that_people_choose_by(
    folder: Path, everything: Candidates, users: pl.DataFrame, circumstance: str
) -> None:
    """Old items in the morning or on a phone, new ones in the evening or on a television."""
    features = rank_features(folder, VOCABULARY)
    old = features.catalogue.years < np.median(features.catalogue.years)
    rng = np.random.default_rng(3)
    matrices, labels = [], []
    for n in range(120):
        at = n % 2
        row = user_row(users.row(n % users.height, named=True))
        shown = asked(CHOICES[circumstance][at], row)
        matrices.append(features.matrix(shown if n % 5 else asked(Request("r", surface=""), row), everything))
        labels.append((old == (at == 0)) & (rng.random(old.size) < 0.5))
    matrix = xgboost.DMatrix(np.concatenate(matrices), np.concatenate(labels), qid=np.repeat(np.arange(120), old.size))
    model = xgboost.train({"objective": "rank:ndcg", "max_depth": 3, "seed": 0, "nthread": 1}, matrix, 20)
    ranker = XGBoostRanker(model, features)

    row = user_row(users.row(5, named=True))
    requests = [*(asked(request, row) for request in CHOICES[circumstance]), asked(Request("r", surface=""), row)]
    first = [old[np.argsort(-scores)[:10]].mean() for scores in ranker.score(requests, [everything] * 3)]
    assert first[0] >= 0.9
    assert first[1] <= 0.1
    assert all(np.isfinite(scores).all() for scores in ranker.score(requests, [everything] * 3))


def asked(request: Request, row: UserRow) -> Request:
    return Request("r", user_id="u", surface=request.surface, context=request.context, user=row, at_us=request.at_us)


def test_a_ranker_carries_its_vocabulary_and_is_refused_without_it(
    folder: Path, everything: Candidates, users: pl.DataFrame, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    columns = rank_features(folder).columns
    assert [name for name in columns if name.startswith("context_")] == NAMES
    rng = np.random.default_rng(0)
    model = xgboost.train({}, xgboost.DMatrix(rng.random((20, len(columns)), np.float32), rng.random(20)), 2)
    model.save_model(str(tmp_path / "ranker.ubj"))
    (tmp_path / "ranker_columns.json").write_text(json.dumps(columns))
    with pytest.raises(ArtifactError, match=r"a ranker without ranker_context\.json, expected one; train the ranker anew"):
        load_rank(tmp_path)
    (tmp_path / "ranker_context.json").write_text(json.dumps(VOCABULARY))
    ranker = load_rank(tmp_path)
    assert isinstance(ranker, XGBoostRanker)
    request = Request("r", user=user_row(users.row(0, named=True)), context={"device": "tv"})
    device = ranker.features.matrix(request, everything)[:, columns.index("context_device")]
    assert device.tolist() == [1.0] * len(everything)


def test_a_release_without_a_ranker_takes_requests_with_and_without_a_context(folder: Path, stored: dict[str, Any]) -> None:
    assert isinstance(load_rank(folder), RecallOrder)
    plain = Request("r", k=5, user=user_row(stored))
    told = Request("r", k=5, user=user_row(stored), context={"device": "tv", "location": "DE"}, at_us=NOW_US)
    one, other = Pipeline.load(folder).run([plain, told])
    assert one.item_ids == other.item_ids
