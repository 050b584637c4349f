"""Training that starts from a release: what is found again of it, and that it goes on from there."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rank_world import stored, training_rows
from recall_world import FACTORS, packed

from reco_ray.config import MfConfig, RankConfig, SequentialConfig, SourceName, TwoTowerConfig
from reco_ray.features import ITEM_COLUMNS, Catalogue
from reco_ray.rank.groups import quantile_matrices
from reco_ray.rank.parameters import parameters
from reco_ray.rank.rounds import best_rounds, fit_rounds, started_from
from reco_ray.recall.sources.two_tower import load_weights
from reco_ray.recall.training.factors import fit_factors
from reco_ray.recall.training.sequence_model import SequenceModel
from reco_ray.recall.training.starting import set_start
from reco_ray.recall.training.tower import TwoTower
from reco_ray.recall.warm import start_of


@pytest.fixture(scope="module")
def grown(items: pl.DataFrame) -> Catalogue:
    """The items of the release less one, and one more of a category that came since; that one is the most frequent now."""
    first = items.head(1).with_columns(item_id=pl.lit("item-new"))
    now = pl.concat([first, items.tail(-1)]).with_columns(categories=pl.concat_list(pl.lit("a-new-one"), "categories"))
    none = now.select("item_id", n=pl.lit(1), n_positive=pl.lit(1), **{column.name: pl.lit(0.0) for column in ITEM_COLUMNS})
    return Catalogue.build(now, none)


def test_items_are_found_again_by_their_keys_and_categories_by_their_names(
    folder: Path, catalogue: Catalogue, grown: Catalogue
) -> None:
    start, (weights, keys) = start_of(SourceName.two_tower, folder, grown, grown.keys), load_weights(folder)
    assert start is not None
    new = int(grown.find(["item-new"])[0]) + 1
    assert np.flatnonzero(~start.known).tolist() == [new]
    known = np.flatnonzero(start.known)[1:]
    np.testing.assert_array_equal(
        start.rows[known], weights["item_id.weight"][np.searchsorted(keys, grown.keys[known - 1]) + 1]
    )
    assert grown.categories[0] == "a-new-one"
    size, hidden, before = start.rows.shape[1], start.weights["item_hidden.weight"], weights["item_hidden.weight"]
    assert not hidden[:, size].any()
    for category in catalogue.categories:
        at, was = size + grown.categories.index(category), size + catalogue.categories.index(category)
        np.testing.assert_array_equal(hidden[:, at], before[:, was])
    np.testing.assert_array_equal(hidden[:, -2:], before[:, -2:])


def test_a_torch_model_takes_what_fits_and_keeps_the_rest(folder: Path, grown: Catalogue) -> None:
    torch.manual_seed(1)
    config = TwoTowerConfig(embedding_size=16, hidden_size=16)
    start = start_of(SourceName.two_tower, folder, grown, grown.keys)
    model = TwoTower(config, len(grown), len(grown.categories) + 2, 50)
    drawn = model.item_id.weight.detach().clone()
    assert start is not None
    assert 0.9 < set_start(model, start) < 1
    unknown = torch.from_numpy(~start.known)
    torch.testing.assert_close(model.item_id.weight[unknown], drawn[unknown], rtol=0, atol=0)
    np.testing.assert_array_equal(model.item_id.weight[~unknown].detach().numpy(), start.rows[start.known])
    other = TwoTower(TwoTowerConfig(embedding_size=8, hidden_size=16), len(grown), len(grown.categories) + 2, 50)
    sequence = start_of(SourceName.sequential, folder, grown, grown.keys)
    assert sequence is not None
    assert set_start(SequenceModel(SequentialConfig(embedding_size=16, hidden_size=16), len(grown), 50), sequence) > 0.9
    before = other.item_id.weight.detach().clone()
    set_start(other, start)
    torch.testing.assert_close(other.item_id.weight, before, rtol=0, atol=0)


def test_factors_that_start_from_a_release_need_fewer_iterations(
    folder: Path, events: pl.DataFrame, catalogue: Catalogue
) -> None:
    start = start_of(SourceName.mf, folder, catalogue, catalogue.keys)
    assert start is not None
    once = MfConfig(factors=FACTORS.factors, regularization=FACTORS.regularization, iterations=1)
    losses = [fit_factors([packed(events, catalogue)], len(catalogue), once, 7, rows)[1] for rows in (start.rows, None)]
    whole = fit_factors([packed(events, catalogue)], len(catalogue), FACTORS, 7)[1][-1]["loss"]
    assert losses[0][0]["loss"] == pytest.approx(whole, rel=0.02)
    assert losses[1][0]["loss"] > 1.05 * whole


def test_a_release_without_these_models_or_items_is_no_start(folder: Path, grown: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "catalogue.arrow").write_bytes((folder / "catalogue.arrow").read_bytes())
    for name in (SourceName.two_tower, SourceName.sequential, SourceName.mf):
        assert start_of(name, tmp_path, grown, grown.keys) is None
        assert start_of(name, folder, grown, np.array([1, 2], np.uint64)) is None


def test_a_ranker_goes_on_with_the_trees_of_the_one_before_on_new_groups(tmp_path: Path) -> None:
    old, new = stored(tmp_path / "old", training_rows(400, 0)), stored(tmp_path / "new", training_rows(400, 1))
    params = parameters(RankConfig(), 3) | {"nthread": 1}
    before = fit_rounds(params, *quantile_matrices(old.read(None)), 60, 0, None, lambda *_: None)
    train, valid = quantile_matrices(new.read(None))
    base, rounds = started_from(params, train, valid, bytes(before[:60].save_raw()))
    assert rounds == 60
    judged: list[float] = []
    model = fit_rounds(params, train, valid, rounds + 30, 0, base, lambda _, metrics, __: judged.append(metrics["valid"]))
    assert model.get_dump()[:60] == before.get_dump()
    assert model.num_boosted_rounds() == 90
    again = fit_rounds(params, train, valid, rounds + 200, 1, base, lambda *_: None)
    assert best_rounds(again) >= 60, "where new trees are no better, the one before stays"
    anew = fit_rounds(params, train, valid, 30, 0, None, lambda *_: None)
    value = float(str(anew.eval(valid)).rsplit(":", 1)[1])
    assert judged[-1] > value, "thirty trees on top of sixty know more than thirty"
