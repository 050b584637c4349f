"""Why an item was shown, and why another was not: told by the stages themselves, and over HTTP the same."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import redis
import xgboost
from test_contract import World, problem

from reco_ray.config import DateUnit, RerankConfig
from reco_ray.events.bus import Record
from reco_ray.features import Catalogue, user_row
from reco_ray.feedback.exposures import Decision, encode, encode_slots, rows_to_table
from reco_ray.lake import tables
from reco_ray.rank import XGBoostRanker, reasons_of
from reco_ray.rank import build as build_rank
from reco_ray.rank.stage import rank_features
from reco_ray.recall import load as load_recall
from reco_ray.release import release_uri, seal
from reco_ray.rerank import build as build_rerank
from reco_ray.serve.http.asgi import HttpApp
from reco_ray.serve.http.explanation_bodies import ExplanationAnswer
from reco_ray.serve.path.explanations import ExplanationCalls
from reco_ray.slate import Pipeline, explain
from reco_ray.store import pack_user
from reco_ray.types import EMPTY_USER, Request, UserRow

K = 5
ANSWERED_US = 1_767_225_600_000_000


@pytest.fixture(scope="module")
def release(folder: Path, users: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with a ranker that prefers likeness of taste, and fewer candidates than items; root is three folders up."""
    root, ranker = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("ranker")
    target = Path(release_uri(str(root), "rel"))
    shutil.copytree(folder, target)
    settings = json.loads((target / "recall.json").read_text())
    (target / "recall.json").write_text(json.dumps({**settings, "candidates": 20}))
    features, recall = rank_features(folder), load_recall(folder)
    requests = [Request(request_id="", user_id="u", user=user_row(row)) for row in users.iter_rows(named=True)]
    parts = [features.matrix(r, c) for r, c in zip(requests, recall.recall(requests), strict=True)]
    x = np.concatenate(parts)
    noise = np.random.default_rng(0).random(len(x)) + x[:, features.columns.index("taste_share")]
    groups = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    matrix = xgboost.DMatrix(x, label=(noise > 0.7).astype(int) + (noise > 1.1), qid=groups)
    xgboost.train({"objective": "rank:ndcg", "max_depth": 5}, matrix, 40).save_model(str(ranker / "ranker.ubj"))
    (ranker / "ranker_columns.json").write_text(json.dumps(features.columns))
    (ranker / "ranker_context.json").write_text("{}")
    build_rank(target, ranker)
    seal(target, "rel", "v1", {})
    return target


@pytest.fixture(scope="module")
def pipeline(release: Path) -> Pipeline:
    return Pipeline.load(release)


@pytest.fixture(scope="module")
def user(users: pl.DataFrame) -> UserRow:
    return user_row(users.row(0, named=True))


@pytest.fixture
def request_of(user: UserRow) -> Request:
    return Request(request_id="r1", user_id="u0", k=K, user=user, at_us=ANSWERED_US)


def test_effects_add_up_to_the_score_against_the_mean(pipeline: Pipeline, request_of: Request) -> None:
    ranker = pipeline.rank
    assert isinstance(ranker, XGBoostRanker)
    (found,) = pipeline.recall.recall([request_of])
    (scores,) = ranker.score([request_of], [found])
    told = ranker.contributions(request_of, found)
    assert told is not None
    matrix, effects = told
    assert matrix.shape == effects.shape == (len(found), len(ranker.features.columns))
    assert scores.std() > 0
    np.testing.assert_allclose(effects.sum(axis=1), scores - scores.mean(), atol=1e-5)
    assert ranker.contributions(Request(request_id="r", user_id="stranger"), found) is None


def test_every_column_has_words_and_the_strongest_come_first(release: Path) -> None:
    columns = rank_features(release).columns
    effects = np.linspace(-1, 0.5, len(columns), dtype=np.float32)
    values = np.full(len(columns), np.nan, np.float32)
    told = reasons_of(columns, values, effects, most=len(columns))
    assert {each.column for each in told} == {c for c, e in zip(columns, effects, strict=True) if e != 0}
    assert [abs(each.effect) for each in told] == sorted((abs(each.effect) for each in told), reverse=True)
    assert [each.text for each in told if each.text == each.column] == []
    assert {each.value for each in told} == {None}
    assert reasons_of(["x"], np.ones(1, np.float32), np.zeros(1, np.float32)) == ()


def test_what_was_shown_has_its_place_score_sources_and_reasons(pipeline: Pipeline, request_of: Request) -> None:
    (slate,) = pipeline.run([request_of])
    told = explain(pipeline, request_of)
    assert told.item_ids == slate.item_ids
    assert [each.score for each in told.items] == pytest.approx(slate.scores.tolist())
    for place, each in enumerate(told.items, 1):
        assert (each.stage, each.place, each.behind) == ("shown", place, None)
        assert {source.source for source in each.sources} == set(slate.reasons[place - 1])
        assert each.reasons
    assert told.others == ()


def test_a_lost_item_names_the_stage_and_by_how_much(release: Path, pipeline: Pipeline, request_of: Request) -> None:
    catalogue = Catalogue.load(release)
    (found,) = pipeline.recall.recall([request_of])
    (scores,) = pipeline.rank.score([request_of], [found])
    (slate,) = pipeline.run([request_of])
    last = catalogue.item_ids[found.item_idx[scores.argmin()]]
    seen = next(item for item, key in zip(catalogue.item_ids, catalogue.keys, strict=True) if key in request_of.user.seen)
    nowhere, had, ranked = explain(pipeline, request_of, ["nothing", seen, last]).others
    assert (nowhere.stage, had.stage, ranked.stage) == ("catalogue", "request", "rank")
    assert "has had it" in had.detail
    assert ranked.place == len(found)
    assert ranked.behind == pytest.approx(slate.scores.min() - scores.min())
    excluding = Request(request_id="r", user_id="u0", k=K, user=request_of.user, exclude=(slate.item_ids[0],))
    (excluded,) = explain(pipeline, excluding, [slate.item_ids[0]]).others
    assert (excluded.stage, excluded.detail) == ("request", "the request excludes it")


def test_an_item_that_recall_left_out_has_its_place_in_the_nearest_source(pipeline: Pipeline, request_of: Request) -> None:
    (found,) = pipeline.recall.recall([request_of])
    catalogue = pipeline.recall.catalogue  # type: ignore[attr-defined]
    ((deep, _),) = pipeline.recall.alone("popular", [request_of], 5_000)  # type: ignore[attr-defined]
    row = next(int(row) for row in deep[::-1] if row not in found.item_idx)
    (lost,) = explain(pipeline, request_of, [catalogue.item_ids[row]]).others
    assert lost.stage == "recall"
    popular = next(each for each in lost.sources if each.source == "popular")
    assert popular.place == int(np.flatnonzero(deep == row)[0]) + 1
    assert popular.brought == int(found.source_ranks[:, pipeline.recall.names.index("popular")].max()) + 1
    assert lost.reasons == ()


def test_what_a_rule_took_away_is_rerank(release: Path, request_of: Request, tmp_path: Path) -> None:
    blocking = tmp_path / "release"
    shutil.copytree(release, blocking)
    (best,) = Pipeline.load(release).run([request_of])
    settings = json.loads((blocking / "recall.json").read_text())
    (blocking / "recall.json").write_text(json.dumps({**settings, "candidates": 40}))  # of both tastes
    build_rerank(blocking, RerankConfig(blocked=[best.item_ids[0]], boosts={"odd": 50}))
    pipeline = Pipeline.load(blocking)
    (found,) = pipeline.recall.recall([request_of])
    (scores,) = pipeline.rank.score([request_of], [found])
    order = [pipeline.recall.catalogue.item_ids[i] for i in found.item_idx[np.argsort(-scores, kind="stable")]]  # type: ignore[attr-defined]
    (slate,) = pipeline.run([request_of])
    moved = [item for item in order[:K] if item not in slate.item_ids and item != best.item_ids[0]]
    blocked, *others = explain(pipeline, request_of, [best.item_ids[0], *moved]).others
    assert blocked.stage == "rerank"
    assert "a rule hides it" in blocked.detail
    assert moved, "a boost of the other taste moves nothing in this world"
    for each in others:
        assert (each.stage, "after rules and diversity" in each.detail) == ("rerank", True)
        assert each.place is not None
        assert each.place > K


class Rows:
    """The part of the store that explanations read."""

    def __init__(self, row: UserRow) -> None:
        self.row, self.away = row, False

    def users(self, user_ids: list[str], view: str) -> list[UserRow]:
        if self.away:
            raise redis.ConnectionError
        assert (user_ids, view) == (["u0"], "v1")
        return [self.row]


def recorded(release: Path, request: Request, *, row: bool = True, name: str = "rel", call: str = "recommend") -> Record:
    (slate,) = Pipeline.load(release).run([request])
    decision = Decision(
        request_id=request.request_id,
        call=call,
        user_id=request.user_id,
        ts_us=ANSWERED_US,
        surface="home",
        context={},
        consent=True,
        release=name,
        variant="main",
        rung="full",
        degraded=(),
        draw_id=request.request_id,
        age_s=0,
        slots=encode_slots(slate.item_ids, slate.scores, slate.reasons, ranker=slate.ranker or None),
        user_view="v1",
        user_row=pack_user(request.user) if row else None,
    )
    return Record(1, 1_767_225_600_500, encode(decision))


def ask(root: Path, store: Rows, path: str, hides: str = "") -> httpx.Response:
    return get_from(ExplanationCalls(str(root), store, lambda user: user == hides), path)  # type: ignore[arg-type]


def get_from(calls: ExplanationCalls | None, path: str) -> httpx.Response:
    app = HttpApp(World().app._service, deadline_ms=100, max_deadline_ms=100, explanations=calls)

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reco") as client:
            return await client.get(path)

    return asyncio.run(get())


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_a_served_request_is_explained_over_http_as_a_recomputation_does(release: Path, request_of: Request) -> None:
    root, store = release.parents[1], Rows(request_of.user)
    others = [
        recorded(release, Request(request_id="r2", user_id="u0", k=K, user=request_of.user, at_us=ANSWERED_US), row=False),
        recorded(release, Request(request_id="r3", k=K, at_us=ANSWERED_US)),
        recorded(release, Request(request_id="r4", k=K, at_us=ANSWERED_US), name="gone"),
        recorded(release, Request(request_id="r5", k=K, at_us=ANSWERED_US), call="rank"),
    ]
    tables.replace(str(root), "exposures", rows_to_table([recorded(release, request_of), *others], DateUnit.day))
    pipeline = Pipeline.load(release)
    (found,) = pipeline.recall.recall([request_of])
    (scores,) = pipeline.rank.score([request_of], [found])
    lost = pipeline.recall.catalogue.item_ids[found.item_idx[scores.argmin()]]  # type: ignore[attr-defined]
    response = ask(root, store, f"/v1/explanations/r1?item={lost}")
    answer = response.json()
    assert response.status_code == 200
    ExplanationAnswer.model_validate_json(response.content, strict=True)
    (slate,) = pipeline.run([request_of])
    assert (answer["release"], answer["ranker"], answer["user_row"], answer["same_slate"]) == ("rel", "xgboost", "then", True)
    assert [item["item_id"] for item in answer["items"]] == list(slate.item_ids)
    for item, score in zip(answer["items"], slate.scores.tolist(), strict=True):
        assert item["score"] == pytest.approx(item["recorded_score"], abs=1e-6)
        assert item["score"] == pytest.approx(score, abs=1e-6)
    (by_hand,) = explain(pipeline, request_of, [lost]).others
    assert answer["item"]["stage"] == "rank"
    assert answer["item"]["behind"] == pytest.approx(by_hand.behind)
    assert [each["column"] for each in answer["item"]["reasons"]] == [each.column for each in by_hand.reasons]
    assert ask(root, store, "/v1/explanations/r2").json()["user_row"] == "now"
    nobody = ask(root, Rows(EMPTY_USER), "/v1/explanations/r3").json()
    assert (nobody["ranker"], nobody["user_row"], nobody["same_slate"], nobody["item"]) == (None, "nobody", True, None)
    for gone in ("r4", "r5", "never", "r6"):
        refused = problem(ask(root, store, f"/v1/explanations/{gone}"))
        assert (refused["status"], refused["type"]) == (404, "/docs#not-found")
    assert problem(ask(root, store, "/v1/explanations/r1", hides="u0"))["status"] == 404, "a user who is being erased"
    store.away = True
    assert problem(ask(root, store, "/v1/explanations/r2"))["status"] == 503
    wrong = problem(ask(root, store, "/v1/explanations/r1?who=me"))
    assert (wrong["status"], wrong["errors"]) == (422, [{"field": "who", "detail": "Unknown parameter; expected 'item'"}])
    assert problem(ask(root, store, "/v1/explanations/r1?item="))["status"] == 422


def test_a_gateway_without_a_lake_says_so() -> None:
    assert problem(get_from(None, "/v1/explanations/r1"))["type"] == "/docs#not-ready"
