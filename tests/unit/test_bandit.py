"""The bandit over sources: its regressions, its odds, what it may know, and that it finds what is best where."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig
from reco_ray.errors import ConfigError, NotReadyError, SchemaError
from reco_ray.features import Catalogue
from reco_ray.rerank import Rerank
from reco_ray.rerank.bandit import (
    CIRCUMSTANCES,
    DRAWN,
    Beliefs,
    BySource,
    Evidence,
    circumstances,
    drawn_in,
    drawn_source,
)
from reco_ray.rerank.exploration import SlatePolicy
from reco_ray.rerank.policy import Scored, Sources, make_policy
from reco_ray.serve.path.bandit import LearningFollower
from reco_ray.slate import LearningStage
from reco_ray.store import BanditState
from reco_ray.types import Candidates, Request, UserRow

D = len(CIRCUMSTANCES)
DAY_S = 86_400.0


def told(rows: Sequence[tuple[str, NDArray[np.float64], float, bool]]) -> Evidence:
    """Evidence of places: source, circumstances, time, and whether there was a reward."""
    found = Evidence()
    for source, x, at, reward in rows:
        found = found.shown(source, x, at)
        found = found.rewarded(source, x, at) if reward else found
    return found


def places(n: int, seed: int) -> list[tuple[str, NDArray[np.float64], float, bool]]:
    rng = np.random.default_rng(seed)
    return [
        (f"s{rng.integers(3)}", rng.uniform(-1, 1, D), float(rng.uniform(0, 30 * DAY_S)), bool(rng.random() < 0.3))
        for _ in range(n)
    ]


def test_the_regressions_are_those_that_a_direct_ridge_finds() -> None:
    rows = places(200, 1)
    found, now = Beliefs.of(["s0", "s1", "s2", "new"], [told(rows)]), max(row[2] for row in rows)
    for at, name in enumerate(["s0", "s1", "s2"]):
        mine = [row for row in rows if row[0] == name]
        x, r = np.array([row[1] for row in mine]), np.array([row[3] for row in mine], float)
        root = np.sqrt(0.5 ** ((now - np.array([row[2] for row in mine])) / (7 * DAY_S)))
        stacked = np.vstack([x * root[:, None], np.eye(D)])  # a ridge is a regression with rows that say 0
        direct = np.linalg.lstsq(stacked, np.append(r * root, np.zeros(D)), rcond=None)[0]
        np.testing.assert_allclose(found.weights[at], direct, atol=1e-9)
        someone = np.linspace(-1, 1, D)
        deviation = np.sqrt(someone @ np.linalg.solve(stacked.T @ stacked, someone))
        assert found.upper(someone, 1.5)[at] == pytest.approx(direct @ someone + 1.5 * deviation)
    x = np.linspace(-1, 1, D)
    assert found.upper(x, 2.0)[3] == pytest.approx(2 * np.linalg.norm(x)), "of a new one nothing is known"


@given(st.integers(0, 40), st.lists(st.integers(0, 4), max_size=40), st.integers(0, 1_000))
def test_evidence_adds_up_in_parts_and_in_any_order(n: int, part: list[int], seed: int) -> None:
    rows = places(n, seed)
    whole, rng = told(rows), np.random.default_rng(seed)
    parts: dict[int, list[int]] = {}
    for at in rng.permutation(n).tolist():
        parts.setdefault(part[at] if at < len(part) else 0, []).append(at)
    packed = [told([rows[at] for at in each]).pack() for each in parts.values()]
    again = reduce(add, map(Evidence.unpack, packed), Evidence())
    assert again.as_of == whole.as_of
    assert again.sums.keys() == whole.sums.keys()
    for name, found in whole.sums.items():
        np.testing.assert_allclose(again.sums[name], found, atol=1e-9)


def test_what_is_old_fades_and_a_late_reward_weighs_as_its_place() -> None:
    x = np.eye(D)[0]
    old = told([("s", x, 0.0, True)])
    later = old.shown("s", x, 7 * DAY_S)
    assert later.sums["s"][0, 0] == pytest.approx(1.5)
    assert later.sums["s"][D, 0] == pytest.approx(0.5)
    late = Evidence().shown("s", x, 0.0).shown("s", x, 7 * DAY_S).rewarded("s", x, 0.0)
    np.testing.assert_allclose(late.sums["s"], later.sums["s"])


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"format":1,"columns":["any"],"as_of":0,"sums":{"s":[[1]]}}'])
def test_evidence_that_cannot_be_read_is_named(raw: bytes) -> None:
    with pytest.raises(SchemaError, match=r"a bandit's evidence: found .*expected"):
        Evidence.unpack(raw)


def test_evidence_of_other_circumstances_begins_anew() -> None:
    raw = orjson.dumps({**orjson.loads(Evidence().pack()), "columns": ["another"]})
    with pytest.raises(SchemaError, match="it begins anew"):
        Evidence.unpack(raw)


@given(st.integers(1, 12), st.integers(0, 4), st.floats(0.01, 1), st.integers(0, 10_000))
def test_odds_sum_to_one_and_everything_left_has_some(n: int, sources: int, epsilon: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    brought, left = rng.random((n, sources)) < 0.4, rng.random(n) < 0.6
    left[rng.integers(n)] = True
    found = BySource(np.exp(rng.normal(0, 2, n)), brought, rng.integers(0, 3, sources).astype(float), epsilon)
    odds = found.of_all(left)
    assert odds.sum() == pytest.approx(1)
    assert ((odds > 0) == left).all()
    np.testing.assert_allclose([found.of_one(left, at) for at in np.flatnonzero(left)], odds[left])
    for at in np.flatnonzero(left):
        origin = found.source_of(left, int(at), float(rng.random()))
        assert brought[at, origin] if origin >= 0 else not brought[at].any()


def test_the_source_of_the_largest_bound_gets_all_but_epsilon_and_equal_ones_share() -> None:
    brought = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.bool_)
    left = np.ones(4, np.bool_)
    odds = BySource(np.array([3.0, 1.0, 1.0, 1.0]), brought, np.array([0.5, 0.1, 0.2]), 0.3).of_all(left)
    np.testing.assert_allclose(odds, [0.8 * 0.75, 0.8 * 0.25, 0.1, 0.1])
    left[:2] = False
    odds = BySource(np.array([3.0, 1.0, 1.0, 1.0]), brought, np.array([0.5, 0.1, 0.2]), 0.3).of_all(left)
    np.testing.assert_allclose(odds, [0, 0, 0.15, 0.85])
    alike = BySource(np.ones(4), brought, np.zeros(3), 0.3).of_all(np.ones(4, np.bool_))
    np.testing.assert_allclose(alike, [1 / 6, 1 / 6, 1 / 3, 1 / 3])


def test_an_items_source_is_told_as_often_as_it_was_drawn_from_it() -> None:
    brought = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], np.bool_)
    weights, left = np.array([1.0, 3.0, 1.0, 1.0]), np.ones(4, np.bool_)
    bandit = BySource(weights, brought, np.array([0.4, 0.1]), 0.3)
    policy = SlatePolicy(4, np.array([3, 0, 1, 2]), bandit, 0.5, origin=bandit.source_of)
    rng, counts, n = np.random.default_rng(3), Counter[tuple[int, int]](), 40_000
    for _ in range(n):
        drawn = policy.draw(1, rng)
        counts[int(drawn.chosen[0]), int(drawn.origins[0])] += 1
    odds = np.array([0.8, 0.1])  # of each source: 0.7 to the best, and a third of 0.3 to each and to what nobody brought
    expected = {(0, 0): odds[0] / 4, (0, 1): odds[1] / 2, (1, 0): odds[0] * 3 / 4, (2, 1): odds[1] / 2}
    for key, chance in expected.items():
        p = 0.5 * chance
        assert abs(counts[key] - n * p) < 4 * np.sqrt(n * p * (1 - p)), key
    assert bandit.of_all(left)[3] == pytest.approx(0.1)
    assert counts[3, -1] == n - sum(counts[key] for key in expected)


def test_circumstances_are_few_bounded_and_name_nobody() -> None:
    day_us = 86_400_000_000
    empty = circumstances(Request("r"))
    np.testing.assert_array_equal(empty, [1, 0, 1, 0, 0, 0, 0])
    keys = np.arange(400, dtype=np.uint64)
    row = UserRow(history=keys, weights=np.ones(400, np.float32))
    full = Request("r", "ana", user=row, session=("a",), context={"device": "Mobile"}, at_us=20_000 * day_us + day_us // 4)
    np.testing.assert_allclose(circumstances(full), [1, 1, 0, 1, 1, 1, 0], atol=1e-9)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"rerank\.explore\.epsilon: found 0, expected 0\.01 to 1"):
        ExploreConfig(kind=ExploreKind.linucb, epsilon=0)
    with pytest.raises(ConfigError, match=r"rerank\.explore\.width: found -1"):
        ExploreConfig(kind=ExploreKind.linucb, width=-1)


def clicked(epsilon: float, seed: int) -> float:
    """Mean true rate of 2,000 places, where the second source is better on mobile devices and the first one elsewhere."""
    rng, evidence, rates = np.random.default_rng(seed), Evidence(), []
    brought, left, beliefs = np.eye(3, dtype=np.bool_), np.ones(3, np.bool_), Beliefs.of(["s0", "s1", "s2"])
    for number in range(2_000):
        mobile = bool(rng.random() < 0.5)
        x = circumstances(Request("r", context={"device": "mobile"} if mobile else {}))
        odds = BySource(np.ones(3), brought, beliefs.upper(x, 0.5), epsilon).of_all(left)
        source = int(rng.choice(3, p=odds))
        rates.append([[0.15, 0.05], [0.05, 0.15], [0.05, 0.05]][source][mobile])
        evidence = evidence.shown(f"s{source}", x, 0.0)
        if rng.random() < rates[-1]:
            evidence = evidence.rewarded(f"s{source}", x, 0.0)
        if number % 20 == 19:
            beliefs = Beliefs.of(["s0", "s1", "s2"], [evidence])
    return float(np.mean(rates))


def test_where_the_best_source_depends_on_the_circumstances_it_beats_chance() -> None:
    gains = np.array([clicked(0.2, seed) - clicked(1.0, seed) for seed in range(5)])
    assert gains.mean() > 4 * gains.std(ddof=1) / np.sqrt(5), "significantly"
    assert gains.mean() > 0.02


CONFIG = ExploreConfig(kind=ExploreKind.linucb, rate=1.0, epsilon=0.1, newcomers=0)


def test_without_sources_there_is_no_bandit() -> None:
    scores = np.zeros(3, np.float32)
    scored = Scored(scores, np.arange(3, dtype=np.uint64), np.zeros(3, np.int64), np.zeros((3, 1), np.float32), np.arange(3))
    with pytest.raises(ValueError, match="linucb: found no sources"):
        make_policy(RerankConfig(explore=CONFIG), scored, 2, explores=True)
    none = Sources(np.zeros((3, 0), np.bool_), np.zeros(0))
    assert make_policy(RerankConfig(explore=CONFIG), scored, 2, explores=True, sources=none)[1].rate == 1.0


@pytest.fixture
def stage(catalogue: Catalogue) -> Callable[..., Rerank]:
    def make(explore: ExploreConfig = CONFIG) -> Rerank:
        config = RerankConfig(seen_items_return=True, explore=explore)
        return Rerank(catalogue, config, ["covisit", "popular", "fresh"])

    return make


def asked(rerank: Rerank, number: int, *, mobile: bool = False) -> tuple[Request, Candidates]:
    n = 30
    bits = np.array([1, 2, 3, 4, 0], np.uint16)[np.arange(n) % 5]
    nothing = np.zeros((n, 3), np.float32)
    scores = np.linspace(1, -1, n).astype(np.float32)
    context = {"device": "mobile" if mobile else "desktop"}
    request = Request(f"r{number}", "u", k=5, context=context)
    return request, Candidates(np.arange(n, dtype=np.int32), scores, bits, nothing.astype(np.int16), nothing)


def arranged(rerank: Rerank, numbers: range, *, mobile: bool = False) -> list[tuple[str, ...]]:
    asks = [asked(rerank, number, mobile=mobile) for number in numbers]
    slates = rerank.arrange([request for request, _ in asks], [found for _, found in asks], [found.scores for _, found in asks])
    return [each for slate in slates for each in slate.reasons]


def test_a_stage_says_where_it_drew_from_and_follows_what_it_is_taught(stage: Callable[..., Rerank]) -> None:
    rerank = stage()
    assert isinstance(rerank, LearningStage)
    assert rerank.learns
    before = Counter(map(drawn_source, arranged(rerank, range(200))))
    assert all(before[name] > 150 for name in ("covisit", "popular", "fresh"))
    named = {name: n for name, n in before.items() if name}
    assert rerank.drawn_from() == named
    assert rerank.drawn_from() == {}
    for why in arranged(rerank, range(20)):
        if source := drawn_source(why):
            assert source in why
            assert "explore" in why
    on, off = (circumstances(asked(rerank, 0, mobile=mobile)[0]) for mobile in (True, False))
    rows = [(name, x, 0.0, (name, x is on) in (("fresh", True), ("popular", False))) for x in (on, off) for name in named] * 400
    rerank.learn([told(rows[::2]).pack(), told(rows[1::2]).pack()])
    assert Counter(map(drawn_source, arranged(rerank, range(200), mobile=True))).most_common(1)[0][0] == "fresh"
    assert Counter(map(drawn_source, arranged(rerank, range(200)))).most_common(1)[0][0] == "popular"


def test_the_odds_of_a_slate_follow_what_is_known(stage: Callable[..., Rerank]) -> None:
    rerank = stage()
    (request, found) = asked(rerank, 1)
    (slate,) = rerank.arrange([request], [found], [found.scores])
    (same,) = rerank.odds([request], [found], [found.scores], [slate.item_ids])
    np.testing.assert_allclose(same, slate.propensities, rtol=1e-6)
    assert len(drawn_in(request, slate)) == D
    rerank.learn([told([("popular", circumstances(request), 0.0, True)] * 50).pack()])
    (other,) = rerank.odds([request], [found], [found.scores], [slate.item_ids])
    assert not np.allclose(other, same)
    with pytest.raises(SchemaError):
        rerank.learn([b"?"])
    (still,) = rerank.odds([request], [found], [found.scores], [slate.item_ids])
    np.testing.assert_array_equal(still, other)


def test_other_kinds_have_no_bandit(stage: Callable[..., Rerank]) -> None:
    rerank = stage(ExploreConfig(kind=ExploreKind.uniform, rate=0.5))
    assert not rerank.learns
    assert not any(each.startswith(DRAWN) for why in arranged(rerank, range(20)) for each in why)
    request, found = asked(rerank, 1)
    assert drawn_in(request, rerank.arrange([request], [found], [found.scores])[0]) == ()


class Stored:
    """A store with evidence in it, which may be away."""

    def __init__(self) -> None:
        self.state, self.away, self.wanted = BanditState(), False, list[float]()

    def read(self) -> BanditState:
        if self.away:
            raise NotReadyError("the store is away")
        return self.state

    def want(self, now_s: float) -> None:
        self.wanted.append(now_s)
        self.state = BanditState(self.state.parts, now_s)


class Taught:
    def __init__(self) -> None:
        self.learns, self.lessons, self.places = True, list[Sequence[bytes]](), Counter[str]()

    def learn(self, parts: Sequence[bytes]) -> None:
        self.lessons.append(parts)

    def drawn_from(self) -> Mapping[str, int]:
        return {"covisit": 2}

    def drawn(self, places: Mapping[str, int]) -> None:
        self.places.update(places)


def test_a_replica_takes_what_is_new_once_and_keeps_it_while_the_store_is_away() -> None:
    stored, taught, now = Stored(), Taught(), [10_000.0]
    follower = LearningFollower(stored, taught, taught, lambda: now[0])
    follower.look()
    assert stored.wanted == [10_000.0]
    stored.state = BanditState((b"a",), 10_000.0)
    follower.look()
    follower.look()
    stored.away = True
    follower.look()
    stored.away, now[0] = False, 20_000.0
    follower.look()
    assert taught.lessons == [(b"a",)]
    assert stored.wanted == [10_000.0, 20_000.0], "said again each hour or so"
    assert taught.places == {"covisit": 10}


def test_what_is_learned_is_taken_while_requests_go_on(stage: Callable[..., Rerank]) -> None:
    rerank = stage()
    x = circumstances(asked(rerank, 0)[0])
    parts = [[told([("popular", x, 0.0, True)] * n).pack()] for n in range(1, 30)]
    teacher = threading.Thread(target=lambda: [rerank.learn(part) for part in parts])
    teacher.start()
    assert len(arranged(rerank, range(100))) == 500
    teacher.join()
