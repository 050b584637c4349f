"""Position bias: a known one is found again from clicks, and places that nothing links are not made up."""

import numpy as np
import pytest

from reco_ray.rank.propensity import Propensities, estimate_propensities

LOOKS = np.array([1.0, 0.6, 0.4, 0.2])


def log(n: int, seed: int, moved: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots of ``n`` slates of four of twelve items, better ones higher; items move by noise of this size."""
    rng = np.random.default_rng(seed)
    liked = np.linspace(0.9, 0.1, 12)
    shown = np.argsort(-(liked + moved * rng.normal(size=(n, 12))), axis=1)[:, :4]
    clicks = (rng.random((n, 4)) < LOOKS) & (rng.random((n, 4)) < liked[shown])
    return shown.ravel(), np.tile(np.arange(4), n), clicks.ravel()


def test_the_looks_that_made_the_clicks_are_found() -> None:
    items, places, clicks = log(40_000, 0, 0.4)
    found = estimate_propensities(items, places, clicks, 4)
    assert found.items == 12
    np.testing.assert_allclose(found.looks, LOOKS, atol=0.02)
    rates = np.array([clicks[places == place].mean() for place in range(4)])
    assert np.abs(rates / rates[0] - LOOKS).max() > 0.03, "click rates alone are wrong here: better items stand higher"


def test_places_that_no_item_links_to_the_first_are_unknown() -> None:
    items = np.array([0, 0, 1, 1, 2, 2])
    places = np.array([0, 1, 0, 1, 2, 3])
    found = estimate_propensities(items, places, np.ones(6, np.bool_), 4)
    assert np.isnan(found.looks).tolist() == [False, False, True, True]
    np.testing.assert_allclose(found.weights(np.array([0, 1, 2, 9])), 1.0)


def test_a_click_far_down_is_worth_more_up_to_a_bound() -> None:
    found = Propensities(np.array([1.0, 0.5, 0.001]), 3)
    np.testing.assert_allclose(found.weights(np.array([0, 1, 2])), [1, 2, 20])


def test_logs_in_which_nothing_moves_are_refused() -> None:
    items, places, clicks = log(500, 0, 0.0)
    with pytest.raises(ValueError, match="none of them shown at two places"):
        estimate_propensities(items, places, clicks, 4)
