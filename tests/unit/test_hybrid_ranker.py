"""Two rankers in one release: who gets which, and that each request is scored as its ranker alone would."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import xgboost

from reco_ray.config import HybridConfig, NeuralConfig
from reco_ray.errors import ArtifactError, ConfigError, DataError
from reco_ray.features import USER_COLUMNS, user_row
from reco_ray.rank import HybridRanker, RankerPolicy, measure_policy
from reco_ray.rank import build as build_rank
from reco_ray.rank import load as load_rank
from reco_ray.rank.calibration import fit_calibration
from reco_ray.rank.neural.model import NeuralModel
from reco_ray.rank.neural.stage import ABOUT_FILE, About, save
from reco_ray.rank.stage import rank_features
from reco_ray.slate import Pipeline, explain
from reco_ray.types import Request

BY_HISTORY = RankerPolicy("history", 9)


@pytest.fixture(scope="module")
def release(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with a model of each kind, that know nothing: enough to score."""
    target, trained = tmp_path_factory.mktemp("hybrid"), tmp_path_factory.mktemp("trained")
    shutil.copytree(folder, target, dirs_exist_ok=True)
    features = rank_features(folder)
    assert features.vectors is not None
    f, rng = len(features.columns), np.random.default_rng(0)
    matrix = xgboost.DMatrix(rng.random((60, f), np.float32), label=rng.integers(0, 2, 60), qid=np.repeat([0, 1, 2], 20))
    xgboost.train({"objective": "rank:ndcg", "max_depth": 2}, matrix, 5).save_model(str(trained / "ranker.ubj"))
    (trained / "ranker_columns.json").write_text(json.dumps(features.columns))
    (trained / "ranker_context.json").write_text("{}")
    torch.manual_seed(1)
    model = NeuralModel(NeuralConfig(), torch.zeros(f), torch.ones(f), torch.zeros(f), features.vectors.shape[1])
    calibration = fit_calibration(np.arange(4, dtype=np.float32), np.array([False, True, False, True]))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save(trained, weights, About(features.columns, {}, ["two_tower"]), calibration)
    build_rank(target, trained, trained, BY_HISTORY)
    return target


@pytest.fixture
def requests(users: pl.DataFrame) -> list[Request]:
    """Every second one has a session, which makes its history longer than eight."""
    known = [
        Request(request_id=str(at), user_id=row["user_id"], k=5, user=user_row(row), session=("item-3",) * (at % 2))
        for at, row in enumerate(users.head(6).iter_rows(named=True))
    ]
    return [*known, Request(request_id="new", user_id="stranger", k=5), Request(request_id="sim", similar_to="item-4", k=5)]


def test_each_request_is_scored_as_by_its_ranker_alone(release: Path, requests: list[Request]) -> None:
    pipeline = Pipeline.load(release)
    ranker = pipeline.rank
    assert isinstance(ranker, HybridRanker)
    found = pipeline.recall.recall(requests)
    scores = ranker.score(requests, found)
    for request, of, got in zip(requests, found, scores, strict=True):
        alone = ranker.heavy if len(request.user.history) + len(request.session) >= 9 else ranker.light
        np.testing.assert_allclose(got, alone.score([request], [of])[0], rtol=1e-6)
    assert [ranker.ranker_of(request) for request in requests] == ["xgboost", "neural"] * 3 + ["", ""]
    assert [slate.ranker for slate in pipeline.run(requests)] == ["xgboost", "neural"] * 3 + ["", ""]


def test_an_explanation_is_of_the_ranker_that_the_request_got(release: Path, requests: list[Request]) -> None:
    pipeline = Pipeline.load(release)
    light, heavy = (explain(pipeline, request) for request in requests[:2])
    assert isinstance(pipeline.rank, HybridRanker)
    for request, told, model in ((requests[0], light, pipeline.rank.light), (requests[1], heavy, pipeline.rank.heavy)):
        alone = explain(Pipeline(pipeline.recall, model, pipeline.rerank), request)
        assert told == alone
        assert told.items[0].reasons
    assert light.items[0].probability is None
    assert heavy.items[0].probability is not None


def test_items_that_come_are_told_once_to_both(release: Path) -> None:
    ranker = load_rank(release)
    assert isinstance(ranker, HybridRanker)
    assert ranker.light.features is ranker.heavy.features is ranker.features
    other = load_rank(release)
    assert isinstance(other, HybridRanker)
    with pytest.raises(ValueError, match="features of their own"):
        HybridRanker(ranker.light, other.heavy, BY_HISTORY)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("by", ["history", "user_events"])
def test_a_share_of_those_with_a_history_reach_the_threshold(by: str, share: float) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.permutation(100)
    at = [column.name for column in USER_COLUMNS].index("user_events")
    rows = pl.DataFrame(
        {
            "history": [list(range(size)) for size in sizes],
            "features": [(np.eye(len(USER_COLUMNS), dtype=np.float32)[at] * size).tolist() for size in sizes],
        }
    )
    found = measure_policy(HybridConfig(by=by, share=share), rows)
    assert found.users == 99
    assert found.share == pytest.approx(share, abs=0.02)
    values = np.array([size for size in sizes if size])
    assert found.share == pytest.approx(np.mean(values >= found.threshold), abs=1e-3)
    given = measure_policy(HybridConfig(by=by, at_least=90), rows)
    assert (given.threshold, given.share) == (90, pytest.approx(10 / 99, abs=1e-3))


def test_it_is_written_and_read_and_looks_at_what_a_request_brings(tmp_path: Path, requests: list[Request]) -> None:
    policy = measure_policy(HybridConfig(by="session", at_least=1), pl.DataFrame())
    policy.save(tmp_path)
    assert RankerPolicy.load(tmp_path) == policy
    assert [policy.heavy(request) for request in requests] == [False, True] * 3 + [False] * 2
    stranger = Request(request_id="r", user_id="nobody")
    assert not any(replace(policy, by=by).heavy(stranger) for by in ("history", "session", "user_events"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"by": "user_shoe_size"}, "found 'user_shoe_size', expected one of user_events"),
        ({"by": "session"}, "found no rank.hybrid.at_least"),
        ({"share": 0.0}, "rank.hybrid.share"),
    ],
)
def test_a_criterion_that_no_request_can_tell_is_refused(config: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        measure_policy(HybridConfig(**config), pl.DataFrame())  # type: ignore[arg-type]


def test_users_who_are_all_alike_cannot_be_divided() -> None:
    rows = pl.DataFrame({"history": [[1, 2]] * 9, "features": [[0.0] * len(USER_COLUMNS)] * 9})
    with pytest.raises(DataError, match="found 9 users with a history and no value that divides them"):
        measure_policy(HybridConfig(by="history"), rows)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ranker_policy.json", None, "found two rankers and no ranker_policy.json"),
        ("ranker_policy.json", '{"format": 2, "by": "history"}', "found format 2 by 'history', expected format 1"),
        ("ranker_policy.json", '{"format": 1, "by": "luck"}', "found format 1 by 'luck'"),
        ("ranker_context.json", '{"context_device": ["tv"]}', "rankers that know different contexts"),
    ],
)
def test_rankers_that_do_not_go_together_are_refused(
    release: Path, tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(release, broken)
    (broken / name).unlink() if content is None else (broken / name).write_text(content)
    assert (broken / ABOUT_FILE).is_file()
    with pytest.raises(ArtifactError, match=said):
        load_rank(broken)
