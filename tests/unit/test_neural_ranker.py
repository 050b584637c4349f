"""The heavy ranker: it learns a known taste, resumes as if undisturbed, and serves what it was trained as."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rank_world import COLUMNS, training_rows

from reco_ray.arrays import gather_rows
from reco_ray.config import NeuralConfig
from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue, user_row
from reco_ray.hashing import item_keys
from reco_ray.rank import NeuralRanker
from reco_ray.rank import load as load_rank
from reco_ray.rank.calibration import fit_calibration
from reco_ray.rank.neural.forward import score
from reco_ray.rank.neural.groups import lay_out, pack, pack_histories
from reco_ray.rank.neural.model import NeuralModel
from reco_ray.rank.neural.stage import ABOUT_FILE, INTEREST, About, build, save
from reco_ray.rank.neural.trainee import NeuralTrainee
from reco_ray.rank.neural.vectors import ReleasedVectors, trained_vectors
from reco_ray.rank.stage import rank_features
from reco_ray.recall import load as load_recall
from reco_ray.recall.training.epochs import Schedule, State, fit_epochs
from reco_ray.types import Candidates, Request

SMALL = NeuralConfig(embedding_size=4, history=3, cross_rank=4, hidden_size=8, dropout=0.1, learning_rate=1e-2)
VECTOR = 6


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return training_rows(120)


def trainee(rows: pl.DataFrame, seed: int = 3) -> NeuralTrainee:
    keys = np.sort(item_keys(rows["item_id"][:200].unique()))
    vectors = np.random.default_rng(0).normal(size=(keys.size, VECTOR)).astype(np.float32)
    users = pl.DataFrame(
        {
            "user_id": ["u0", "u1", "u2"],
            "history": [rows["item_id"][:6].to_list(), ["unknown"], []],
            "weights": [[1.0, 0.5, 0.25, 1.0, 1.0, 0.5], [1.0], []],
        }
    )

    def read(held_out: bool) -> Iterator[pl.DataFrame]:
        frame = rows.filter(held_out=held_out)
        yield from (frame.filter(half == (pl.col("user_bucket") < 32)) for half in (True, False))

    return NeuralTrainee(read, rows, keys, vectors, pack_histories(users, keys, SMALL.history), SMALL, seed, stops_early=False)


def fitted(rows: pl.DataFrame, epochs: int, state: State | None = None) -> State:
    schedule = Schedule("rank.neural", epochs, 3, SMALL.learning_rate, SMALL.weight_decay, 3)
    states: list[State] = []
    fit_epochs(trainee(rows), schedule, state, lambda reached, _: states.append(deepcopy(reached)))
    return states[-1]


def test_it_learns_a_taste_that_no_column_shows_alone(rows: pl.DataFrame) -> None:
    epochs = [epoch["valid_ndcg10"] for epoch in fitted(rows, 6)["epochs"]]
    assert epochs[-1] > epochs[0]
    assert epochs[-1] > 0.75


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(rows: pl.DataFrame) -> None:
    whole, resumed = fitted(rows, 3), fitted(rows, 3, fitted(rows, 1))
    assert len(whole["epochs"]) == 3
    assert whole["epochs"] == resumed["epochs"]
    for name, tensor in whole["best_model"].items():
        torch.testing.assert_close(tensor, resumed["best_model"][name], rtol=0, atol=0)


def test_serving_gives_what_training_gave(rows: pl.DataFrame) -> None:
    made = trainee(rows)
    with torch.no_grad():
        made.model.lag_bias.normal_()
    made.model.eval()
    weights = {name: tensor.numpy() for name, tensor in made.model.state_dict().items()}
    holes = rows["features"].list.to_array(COLUMNS).to_numpy().astype(np.float32).copy()
    holes[::3, 1] = np.nan
    groups = replace(pack(rows, made._keys, made._histories), features=holes)
    which = np.flatnonzero(np.isin(groups.users, [0, len(made._histories.at)]))[:20]
    batch = lay_out(groups, which, made._histories, made._keys.size)
    with torch.no_grad():
        scores = made._scores(batch).numpy()
    assert batch.had.any(axis=1).sum() == 1, "one user with a history is among them"
    vectors = made._vectors.numpy()
    for row, group in enumerate(which):
        at, _ = gather_rows(groups.offsets, np.array([group]))
        size = made._histories.sizes[groups.users[group]]
        past = vectors[made._histories.rows[groups.users[group], :size]]
        strengths = made._histories.strengths[groups.users[group], :size]
        served = score(weights, holes[at], vectors[groups.items[at]], past, strengths)
        np.testing.assert_allclose(served, scores[row, : at.size], rtol=1e-4, atol=1e-5)


def test_the_newest_items_come_first_and_unknown_ones_do_not_count() -> None:
    keys = np.sort(item_keys(["a", "b", "c", "d"]))
    users = pl.DataFrame(
        {"user_id": ["u", "v"], "history": [["a", "?", "b", "c"], ["?"]], "weights": [[0.1, 0.2, 0.3, 0.4], [1.0]]}
    )
    found = pack_histories(users, keys, 2)
    assert found.at == {"u": 0}
    np.testing.assert_array_equal(keys[found.rows[0]], item_keys(["c", "b"]))
    np.testing.assert_allclose(found.strengths[0], [0.4, 0.3])
    np.testing.assert_array_equal(found.sizes, [2, 0])


def test_item_vectors_in_training_are_those_of_the_release(models: Path, catalogue: Catalogue, folder: Path) -> None:
    sources = ["two_tower", "sequential", "mf"]
    trained = trained_vectors(models, sources, catalogue)
    released = ReleasedVectors(folder, sources, rank_features(folder))
    np.testing.assert_allclose(trained, released(np.arange(len(catalogue))), rtol=1e-5, atol=1e-6)
    assert trained.any(axis=1).all()
    np.testing.assert_array_equal(released(np.array([len(catalogue) + 5])), 0)
    assert trained_vectors(None, [], catalogue).shape == (len(catalogue), 0)


@pytest.fixture(scope="module")
def release(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with an untrained model: enough to score."""
    target, trained = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("trained")
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    features = rank_features(folder)
    assert features.vectors is not None
    f = len(features.columns)
    torch.manual_seed(1)
    model = NeuralModel(SMALL, torch.zeros(f), torch.ones(f), torch.zeros(f), features.vectors.shape[1])
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    calibration = fit_calibration(np.arange(4, dtype=np.float32), np.array([False, True, False, True]))
    save(trained, weights, About(features.columns, {}, ["two_tower"]), calibration)
    build(target, trained)
    return target


@pytest.fixture
def requests(users: pl.DataFrame) -> list[Request]:
    known = [
        Request(request_id=str(i), user_id=f"u{i}", k=5, user=user_row(row), session=("item-3",) * (i % 2))
        for i, row in enumerate(users.head(3).iter_rows(named=True))
    ]
    return [*known, Request(request_id="new", user_id="stranger", k=5), Request(request_id="sim", similar_to="item-4", k=5)]


def test_a_release_serves_it_as_a_rank_stage(folder: Path, release: Path, requests: list[Request]) -> None:
    ranker = load_rank(release)
    assert isinstance(ranker, NeuralRanker)
    candidates = load_recall(folder).recall(requests)
    together = ranker.score(requests, candidates)
    for request, found, scores in zip(requests, candidates, together, strict=True):
        np.testing.assert_allclose(scores, ranker.score([request], [found])[0], rtol=1e-6)
    for place in (-2, -1):
        np.testing.assert_array_equal(together[place], candidates[place].scores)
    assert np.ptp(together[0]) > 0
    late = replace(candidates[0], item_idx=np.append(candidates[0].item_idx[:-1], 10_000).astype(np.int32))
    (scores,) = ranker.score(requests[:1], [late])
    assert ranker.unknown == 1
    assert scores[-1] == scores.min()


def test_its_effects_say_what_a_column_and_the_newest_items_did(folder: Path, release: Path, requests: list[Request]) -> None:
    ranker = load_rank(release)
    assert isinstance(ranker, NeuralRanker)
    found: Candidates = load_recall(folder).recall(requests[:1])[0]
    told = ranker.contributions(requests[0], found)
    assert told is not None
    matrix, effects = told
    assert matrix.shape == effects.shape == (len(found), len(ranker.explained))
    assert ranker.explained[-1] == INTEREST
    assert np.ptp(effects[:, -1]) > 0
    same = ranker.explained.index("user_events")
    np.testing.assert_array_equal(effects[:, same], 0)
    np.testing.assert_allclose(effects.mean(axis=0), 0, atol=1e-5)
    assert ranker.contributions(requests[-1], found) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"columns": ["other"]}, "heavy ranker and recall disagree on columns"),
        ({"vectors": ["mf"]}, "trained with item vectors of mf, found no mf_vectors.npy"),
        ({"vectors": []}, r"item vectors of \[\] have 0 columns, the heavy ranker takes \d+"),
        (None, "found a heavy ranker without neural_ranker.json"),
    ],
)
def test_a_release_that_it_was_not_trained_for_is_refused(
    release: Path, tmp_path: Path, changed: dict[str, object] | None, said: str
) -> None:
    for path in release.iterdir():
        if path.is_file() and not (changed and path.name.startswith("mf_")):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    if changed is None:
        (tmp_path / ABOUT_FILE).unlink()
    else:
        about = json.loads((release / ABOUT_FILE).read_text())
        (tmp_path / ABOUT_FILE).write_text(json.dumps(about | changed))
    with pytest.raises(ArtifactError, match=said):
        load_rank(tmp_path)
