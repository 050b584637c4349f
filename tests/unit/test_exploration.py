"""Exploration: what is logged is what is drawn, a wrong logger is caught, and rules hold in every draw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig
from reco_ray.errors import ConfigError
from reco_ray.evaluation.propensities import agreement
from reco_ray.features import Catalogue
from reco_ray.rerank import Rerank, build, load
from reco_ray.rerank.bandit import BySource
from reco_ray.rerank.exploration import Proposal, SlatePolicy, Thompson, Weighted, softmax_weights
from reco_ray.rerank.policy import Scored, make_policy
from reco_ray.rules import Bounds
from reco_ray.rules.bounds import Limit, Terms
from reco_ray.types import Candidates, Request, Slate

SCORES = np.array([2.0, 1.5, 1.0, 0.2, 0.0, -1.0], np.float32)
PROPOSALS: dict[str, Proposal] = {
    "uniform": Weighted(np.ones(6)),
    "plackett_luce": Weighted(softmax_weights(SCORES, 0.5)),
    "thompson": Thompson(SCORES.astype(float), np.array([0.2, 0.2, 0.3, 0.5, 1.0, 1.0])),
    "linucb": BySource(
        softmax_weights(SCORES, 0.5),
        np.array([[1, 0], [1, 1], [0, 1], [0, 1], [1, 0], [0, 0]], np.bool_),
        np.array([0.2, 0.1]),
        0.3,
    ),
}
KINDS = [ExploreKind.uniform, ExploreKind.plackett_luce, ExploreKind.thompson, ExploreKind.linucb]


def policy(name: str, rate: float = 0.4) -> SlatePolicy:
    return SlatePolicy(6, np.array([2, 0, 1, 3, 4, 5]), PROPOSALS[name], rate)


def draws(of: SlatePolicy, n: int, k: int = 3, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.array([of.draw(k, rng).chosen for _ in range(n)])


def p_value(logger: SlatePolicy, slates: NDArray[np.int64], place: int) -> float:
    odds = np.array([logger.follow(slate, every=True).slots[place] for slate in slates])
    return agreement(odds, slates[:, place])


@pytest.mark.parametrize("name", list(PROPOSALS))
def test_items_come_as_often_as_is_logged_and_a_wrong_logger_is_caught(name: str) -> None:
    slates = draws(policy(name), 4_000)
    assert all(p_value(policy(name), slates, place) > 1e-3 for place in range(3))
    assert min(p_value(policy(name, 0.3), slates, place) for place in range(3)) < 1e-6
    other = SlatePolicy(6, policy(name).arranged, PROPOSALS["uniform" if name != "uniform" else "thompson"], 0.4)
    assert min(p_value(other, slates, place) for place in range(3)) < 1e-6


def test_a_logger_that_forgets_what_was_shown_before_is_caught() -> None:
    slates = draws(policy("plackett_luce", 1.0), 4_000)
    first = policy("plackett_luce", 1.0).follow(slates[0], every=True).slots[0]
    assert agreement(np.tile(first, (4_000, 1)), slates[:, 0]) > 1e-3
    assert agreement(np.tile(first, (4_000, 1)), slates[:, 1]) < 1e-6


def test_what_had_no_chance_and_was_taken_is_no_agreement() -> None:
    assert agreement(np.array([[1.0, 0.0]]), np.array([1])) == 0
    with pytest.raises(ValueError, match="expected rows of 1"):
        agreement(np.array([[0.6, 0.6]]), np.array([1]))


@given(st.sampled_from(list(PROPOSALS)), st.floats(0, 1), st.integers(1, 8), st.integers(0, 1000))
def test_a_draw_knows_its_odds_and_they_sum_to_one(name: str, rate: float, k: int, seed: int) -> None:
    drawn = policy(name, rate).draw(k, np.random.default_rng(seed))
    again = policy(name, rate).follow(drawn.chosen, every=True)
    assert sorted(set(drawn.chosen.tolist())) == sorted(drawn.chosen.tolist())
    assert drawn.chosen.size == min(k, 6)
    np.testing.assert_allclose(drawn.propensities, again.propensities)
    np.testing.assert_allclose(again.slots.sum(axis=1), 1)
    np.testing.assert_allclose(again.slots[np.arange(drawn.chosen.size), drawn.chosen], drawn.propensities, rtol=1e-5)
    assert (drawn.propensities > 0).all()


def test_thompsons_odds_are_those_of_the_largest_sample() -> None:
    from scipy.integrate import quad
    from scipy.stats import norm

    means, deviations = np.array([3.0, 2.5, 1.0, 0.0, 0.3]), np.array([0.2, 0.2, 0.5, 1.0, 1.0])
    found = Thompson(means, deviations)
    left = np.array([True, True, False, True, True])

    def exact(i: int) -> float:
        others = [j for j in np.flatnonzero(left) if j != i]

        def density(x: float) -> float:
            return float(norm.pdf(x, means[i], deviations[i]) * np.prod(norm.cdf(x, means[others], deviations[others])))

        return float(quad(density, -2, 9, points=[0, 1, 2, 2.5, 3, 3.5, 4], epsabs=1e-12, limit=500)[0])

    for i in np.flatnonzero(left).tolist():
        assert found.of_one(left, i) == pytest.approx(exact(i), abs=1e-6)
        assert found.of_all(left)[i] == pytest.approx(exact(i), abs=1e-6)
    assert found.of_all(left)[2] == 0
    samples = np.random.default_rng(1).normal(means, deviations, (100_000, 5))
    samples[:, 2] = -np.inf
    assert agreement(np.tile(found.of_all(left), (100_000, 1)), samples.argmax(axis=1)) > 1e-3


def test_without_a_rate_the_arranged_list_is_shown_and_with_one_pins_stay() -> None:
    assert policy("uniform", 0.0).draw(3, np.random.default_rng(0)).chosen.tolist() == [2, 0, 1]
    bounds = Bounds(np.zeros((6, 0), np.uint8), np.zeros(6, bool), None, None, Terms(), [(1, 5, "pin")], 4)
    pinned = SlatePolicy(6, policy("uniform").arranged, PROPOSALS["uniform"], 0.5, bounds=bounds)
    for seed in range(200):
        drawn = pinned.draw(4, np.random.default_rng(seed))
        assert drawn.chosen[1] == 5
        assert drawn.propensities[1] == 1
        np.testing.assert_allclose(pinned.follow(drawn.chosen).propensities, drawn.propensities)
    assert pinned.follow(np.array([0, 1, 2])).propensities.tolist()[1:] == [0, 0]


def test_rules_never_give_way_to_chance() -> None:
    inside = np.arange(6)[:, None] < 3  # of the first three one at most, in all four places
    limit = Limit("one", 0, None, 1, 0)
    for seed in range(100):
        member = np.packbits(inside, axis=1, bitorder="little")
        bounds = Bounds(member, np.zeros(6, bool), None, None, Terms((limit,)), [], 5)
        bound = SlatePolicy(6, policy("uniform").arranged, PROPOSALS["plackett_luce"], 0.8, bounds=bounds)
        drawn = bound.draw(5, np.random.default_rng(seed))
        assert (drawn.chosen < 3).sum() == 1
        assert drawn.chosen.size == 4
        np.testing.assert_allclose(bound.follow(drawn.chosen).propensities, drawn.propensities)
        assert bound.follow(np.array([0, 1])).propensities[1] == 0


def test_a_slate_that_cannot_be_has_no_odds_from_there_on() -> None:
    found = policy("uniform").follow(np.array([0, 0, 1]))
    assert found.propensities[0] > 0
    assert found.propensities[1:].tolist() == [0, 0]
    assert policy("uniform").follow(np.array([-1, 2])).propensities.tolist() == [0, 0]


def test_a_cap_holds_in_every_draw_while_it_can() -> None:
    scores, keys = np.linspace(2, 0, 12).astype(np.float32), np.arange(12, dtype=np.uint64)
    in_category = np.eye(4, dtype=np.float32)[np.arange(12) // 3]
    config = RerankConfig(category_cap=2, explore=ExploreConfig(kind=ExploreKind.uniform, rate=0.7))
    _, capped = make_policy(config, Scored(scores, keys, np.full(12, 100), in_category, np.arange(12)), 8, explores=True)
    for seed in range(100):
        drawn = capped.draw(8, np.random.default_rng(seed))
        assert np.bincount(drawn.chosen // 3, minlength=4).tolist() == [2, 2, 2, 2]
        assert capped.draw(12, np.random.default_rng(seed)).chosen.size == 12


def test_newcomers_may_be_drawn_from_far_down_and_thompson_draws_them_more_often() -> None:
    scores, keys = np.linspace(3, -3, 60).astype(np.float32), np.arange(60, dtype=np.uint64)
    events = np.full(60, 100_000)
    events[55:] = 0

    def share(kind: ExploreKind, newcomers: int = 5) -> float:
        config = RerankConfig(diversity_pool=20, explore=ExploreConfig(kind=kind, rate=1.0, newcomers=newcomers))
        scored = Scored(scores, keys, events, np.zeros((60, 0), np.float32), np.arange(60))
        rows, made = make_policy(config, scored, 5, explores=True)
        assert rows.tolist() == [*range(20), *range(55, 55 + newcomers)]
        return float(made.follow(np.array([0]), every=True).slots[0][20:].sum())

    assert share(ExploreKind.uniform) == pytest.approx(5 / 25)
    assert share(ExploreKind.plackett_luce) < 1e-3
    assert share(ExploreKind.thompson) > 0.05
    assert share(ExploreKind.thompson, 0) == 0


Arrange = Callable[..., Slate]


@pytest.fixture
def arrange(catalogue: Catalogue) -> Arrange:
    n = 30
    rows, scores = np.arange(n, dtype=np.int32), np.linspace(1, 0, n).astype(np.float32)
    parts = np.ones(n, np.uint16), np.zeros((n, 1), np.int16), np.zeros((n, 1), np.float32)

    def arranged(config: RerankConfig, request: Request) -> Slate:
        return Rerank(catalogue, config, ["popular"]).arrange([request], [Candidates(rows, scores, *parts)], [scores])[0]

    return arranged


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_asked_again_is_answered_the_same_and_another_one_is_not(arrange: Arrange, kind: ExploreKind) -> None:
    config = RerankConfig(explore=ExploreConfig(kind=kind, rate=0.5))
    one, again = (arrange(config, Request(request_id="r", user_id="u", k=10)) for _ in range(2))
    others = {arrange(config, Request(request_id=f"r{i}", user_id="u", k=10)).item_ids for i in range(10)}
    assert one.item_ids == again.item_ids
    assert len(others) > 5
    assert ((one.propensities > 0) & (one.propensities < 1)).all()
    assert any("explore" in reasons for reasons in one.reasons)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_items_are_never_drawn(arrange: Arrange, catalogue: Catalogue, kind: ExploreKind) -> None:
    blocked, excluded = catalogue.item_ids[3], catalogue.item_ids[4]
    config = RerankConfig(blocked=[blocked], explore=ExploreConfig(kind=kind, rate=1.0))
    for i in range(50):
        slate = arrange(config, Request(request_id=f"r{i}", k=20, exclude=(excluded,)))
        assert not {blocked, excluded} & set(slate.item_ids)


def test_what_is_not_left_to_chance_has_odds_of_one(arrange: Arrange, catalogue: Catalogue) -> None:
    config = RerankConfig(explore=ExploreConfig(kind=ExploreKind.uniform, rate=1.0))
    own = arrange(
        config, Request(request_id="r", k=3, items=tuple(catalogue.item_ids[:5]), item_scores=np.zeros(5, np.float32))
    )
    near = arrange(config, Request(request_id="r", k=3, similar_to=catalogue.item_ids[5]))
    assert (own.propensities == 1).all()
    assert (near.propensities == 1).all()
    assert (arrange(RerankConfig(), Request(request_id="r", k=3)).propensities == 1).all()


def test_the_rate_is_the_share_of_places_that_explore(arrange: Arrange) -> None:
    config = RerankConfig(diversity=0, explore=ExploreConfig(kind=ExploreKind.uniform, rate=0.1, newcomers=0))
    slates = [arrange(config, Request(request_id=f"r{i}", k=10)) for i in range(600)]
    explored = np.mean([["explore" in reasons for reasons in slate.reasons] for slate in slates])
    assert 0.08 < explored < 0.11  # a place that explores shows the next item all the same one time in 25


def test_a_release_keeps_its_exploration_and_older_ones_have_none(folder: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    build(tmp_path, RerankConfig(explore=ExploreConfig(kind=ExploreKind.thompson, rate=0.07)))
    assert load(tmp_path)._config.explore == ExploreConfig(kind=ExploreKind.thompson, rate=0.07)
    (tmp_path / "rerank.json").write_text('{"diversity": 0.1}')
    assert load(tmp_path)._config == RerankConfig(diversity=0.1)


def test_nothing_to_show_is_nothing_to_explore(catalogue: Catalogue) -> None:
    config = RerankConfig(explore=ExploreConfig(kind=ExploreKind.thompson))
    nothing = Candidates(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.uint16), *np.zeros((2, 0, 1)))
    slate = Rerank(catalogue, config, ["popular"]).arrange([Request(request_id="r")], [nothing], [np.zeros(0, np.float32)])[0]
    assert slate.item_ids == ()


def test_a_rate_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rerank\.explore\.rate: found 1.5, expected 0 to 1"):
        ExploreConfig(rate=1.5)
