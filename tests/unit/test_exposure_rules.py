"""Rules on exposure: over many slates a set has its share, no matter how, and where it has it nothing moves."""

from typing import Any

import numpy as np
import pytest

from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig
from reco_ray.features import Catalogue
from reco_ray.rerank import Rerank
from reco_ray.rules import NO_RULES, RulesRefused, Standing, parse, read_csv
from reco_ray.rules.exposure import weights
from reco_ray.types import Candidates, Request, Slate

ODD = {"name": "odd", "kind": "exposure", "where": {"category": ["odd"]}}
K = 6


def standing(*rules: dict[str, Any], version: int = 1) -> Standing:
    return Standing(version, parse({"rules": list(rules)}))


class Shop:
    """Slates of random tastes, in which odd items are liked less than the others."""

    def __init__(self, catalogue: Catalogue, *rules: dict[str, Any], config: RerankConfig | None = None) -> None:
        self.catalogue, self.rng, self.asked = catalogue, np.random.default_rng(11), 0
        self.odd = catalogue.in_category[:, catalogue.categories.index("odd")] > 0
        self.rerank = Rerank(catalogue, config or RerankConfig(diversity=0), ["popular"], clock=lambda: 0.0)
        self.rerank.obey(standing(*rules))

    def serve(self, n: int, **more: Any) -> list[Slate]:
        slates, size = [], len(self.catalogue)
        for _ in range(n):
            self.asked += 1
            scores = (self.rng.normal(size=size) - 1.5 * self.odd).astype(np.float32)
            found = Candidates(
                np.arange(size, dtype=np.int32),
                scores,
                np.ones(size, np.uint16),
                np.zeros((size, 1), np.int16),
                np.zeros((size, 1), np.float32),
            )
            slates += self.rerank.arrange([Request(f"r{self.asked}", k=K, **more)], [found], [scores])
        return slates

    def share(self, slates: list[Slate]) -> float:
        """Of the exposure that odd items had."""
        seen = weights(K)
        shares = [seen @ self.odd[self.catalogue.find(list(each.item_ids))] / seen.sum() for each in slates]
        return float(np.mean(shares))


@pytest.mark.parametrize(("bounds", "low", "high"), [({"least": 0.3}, 0.28, 0.33), ({"least": 0.3, "most": 0.35}, 0.28, 0.36)])
def test_a_set_comes_to_its_least_share_and_the_push_is_told(
    catalogue: Catalogue, bounds: dict[str, float], low: float, high: float
) -> None:
    shop = Shop(catalogue, ODD | bounds)
    assert shop.share(Shop(catalogue).serve(500)) < 0.15
    shop.serve(2_000)
    slates = shop.serve(1_000)
    assert low < shop.share(slates) < high
    (stands,) = shop.rerank.pushed()
    assert (stands.rule, stands.slates) == ("odd", 3_000)
    assert low - 0.05 < stands.share < high + 0.05
    assert 0 < stands.amount < 3
    assert 0 < stands.cost < stands.amount
    told = {why for slate in slates for item, why in zip(slate.item_ids, slate.reasons, strict=True) if int(item[5:]) % 2}
    assert told <= {("popular", "exposure")}


def test_a_set_comes_down_to_its_most(catalogue: Catalogue) -> None:
    shop = Shop(catalogue, {"name": "even", "kind": "exposure", "where": {"category": ["even"]}, "most": 0.6})
    shop.serve(2_000)
    assert 1 - shop.share(shop.serve(1_000)) == pytest.approx(0.6, abs=0.03)
    assert shop.rerank.pushed()[0].amount < 0


def test_where_a_set_has_its_share_nothing_moves_and_nothing_is_paid(catalogue: Catalogue) -> None:
    bounded, free = Shop(catalogue, ODD | {"most": 0.9}), Shop(catalogue)
    one, other = bounded.serve(300), free.serve(300)
    assert [each.item_ids for each in one] == [each.item_ids for each in other]
    assert {why for each in one for why in each.reasons} == {("popular",)}
    (stands,) = bounded.rerank.pushed()
    assert (stands.amount, stands.cost) == (0, 0)


def test_what_was_learned_goes_on_while_a_rule_stays_as_it_is(catalogue: Catalogue) -> None:
    shop = Shop(catalogue, ODD | {"least": 0.3})
    shop.serve(500)
    before = shop.rerank.pushed()
    shop.rerank.obey(standing(ODD | {"least": 0.3}, {"name": "gone", "kind": "block", "where": {"item_id": ["item-1"]}}))
    shop.rerank.follow([])
    assert shop.rerank.pushed() == before
    shop.rerank.obey(standing(ODD | {"least": 0.2}))
    assert [(each.amount, each.slates) for each in shop.rerank.pushed()] == [(0, 0)]
    shop.rerank.obey(NO_RULES)
    assert shop.rerank.pushed() == []


def test_only_slates_that_it_holds_for_count_and_lists_of_the_callers_own_do_not(catalogue: Catalogue) -> None:
    shop = Shop(catalogue, ODD | {"least": 0.3, "surface": ["home"]})
    shop.serve(50, surface="cart")
    shop.serve(50, items=("item-0", "item-1"), item_scores=np.full(2, np.nan, np.float32))
    assert shop.rerank.pushed()[0].slates == 0
    shop.serve(50, surface="home")
    assert shop.rerank.pushed()[0].slates == 50


def test_odds_are_those_that_a_place_was_drawn_with(catalogue: Catalogue) -> None:
    explore = ExploreConfig(kind=ExploreKind.uniform, rate=0.2)
    shop = Shop(catalogue, ODD | {"least": 0.3}, config=RerankConfig(diversity=0, explore=explore))
    slates = shop.serve(1_500)
    odds = np.concatenate([each.propensities for each in slates])
    assert ((odds > 0) & (odds < 1)).all()
    explored = np.mean(["explore" in why for each in slates for why in each.reasons])
    assert explored == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "expected least, most, or both"),
        ({"least": 0.5, "most": 0.4}, "found least=0.5 above most=0.4"),
        ({"least": 2}, "less than 1"),
        ({"most": 0}, "greater than 0"),
        ({"least": "0.1"}, "a valid number"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RulesRefused, match=said):
        parse({"rules": [ODD | wrong]})


def test_a_sheet_may_hold_one() -> None:
    found = read_csv("name,kind,category,least,most\nodd,exposure,odd,0.2,\nfew,cap,odd,,2\n")
    assert found == parse(
        {"rules": [ODD | {"least": 0.2}, {"name": "few", "kind": "cap", "where": {"category": ["odd"]}, "most": 2}]}
    )
    with pytest.raises(RulesRefused, match="most"):
        read_csv("name,kind,category,most\nfew,cap,odd,2.5\n")
