"""Rules on the lower rungs: no hard rule is broken where the stages give nothing."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_rules import NOON, standing
from test_slate_cache import CONFIG, finished, items_of

from reco_ray.errors import NotReadyError
from reco_ray.rerank import POPULAR
from reco_ray.rules import NO_RULES, Standing
from reco_ray.serve.caching.cache import SlateCache
from reco_ray.serve.caching.cache_key import SlateKey, cache_key
from reco_ray.serve.caching.withdrawn import Withdrawn
from reco_ray.serve.http.contract import RecommendationsBody
from reco_ray.serve.path.fleet import Route
from reco_ray.serve.path.ladder import Ladder
from reco_ray.serve.path.pipeline import Deadline, LoggingObserver, Run
from reco_ray.slate import PopularList
from reco_ray.store import Item, LiveItem, Precomputed
from reco_ray.types import Request

EVEN = {"name": "e", "kind": "block", "where": {"category": ["even"]}, "surface": ["kids"]}
DEAR = {"name": "d", "kind": "block", "where": {"price_from": 50}}
BY_ID = {"name": "i", "kind": "block", "where": {"item_id": ["item-1"]}}


def put(item_id: str, price: float | None, changed: float = 1.7e9) -> LiveItem:
    return LiveItem(item_id, 1, 0, changed, Item("T", price=price))


@pytest.fixture(scope="module")
def popular(folder: Path) -> PopularList:
    return PopularList.load(folder, "rel")


def test_the_popular_list_keeps_to_the_rules(popular: PopularList) -> None:
    plain = popular.pick(Request("r", k=6))
    assert (plain.rules, plain.missed_rules) == (0, ())
    rules = standing(EVEN)
    odd = popular.pick(Request("r", k=6, surface="kids"), rules=rules)
    assert all(int(item[5:]) % 2 for item in odd.item_ids)
    assert odd.rules == 3
    assert popular.pick(Request("r", k=6), rules=rules).item_ids == plain.item_ids
    capped = popular.pick(Request("r", k=6), rules=standing({"name": "c", "kind": "cap", "per": "category", "most": 2}))
    assert len(capped.item_ids) == 2, "all items of this world share a category"
    assert capped.degraded == ("short_slate",)
    last = plain.item_ids[-1]
    pinned = popular.pick(Request("r", k=6), rules=standing({"name": "p", "kind": "pin", "item_id": last, "position": 1}))
    assert pinned.item_ids == (last, *plain.item_ids[:-1])
    gone = standing({"name": "p", "kind": "pin", "item_id": "nobody knows", "position": 1})
    assert popular.pick(Request("r", k=6), rules=gone).missed_rules == ("p",)
    assert popular.pick(Request("r", k=6)).item_ids == plain.item_ids


@pytest.mark.parametrize(
    ("rules", "narrows"),
    [
        ([], False),
        ([BY_ID], False),
        ([{"name": "b", "kind": "boost", "where": {"category": ["even"]}, "amount": 1}], False),
        ([EVEN], True),
        ([DEAR], True),
        ([BY_ID | {"surface": ["kids"]}], True),
        ([{"name": "c", "kind": "cap", "per": "year", "most": 1}], True),
        ([EVEN | {"ends": NOON.isoformat()}], False),
    ],
)
def test_it_is_known_whether_ids_are_enough(rules: list[dict[str, Any]], narrows: bool) -> None:
    assert standing(*rules).narrows(NOON.timestamp()) is narrows


class Lists:
    """Has a slate for everybody."""

    async def precomputed(self, user_id: str) -> Precomputed:
        ids = ("item-2", "item-4")
        return Precomputed(made=1.0, release="rel", item_ids=ids, titles=ids, scores=(1.0, 0.5), reasons=((), ()), draw_id="d")


def key(rules: str, **more: Any) -> SlateKey:
    return cache_key(RecommendationsBody(user_id="u", k=2, surface="kids", **more), "rel", rules)


def answered(cache: SlateCache, rules: Standing, popular: PopularList, asked: SlateKey) -> tuple[str, list[str]]:
    """Rung and items where the stages give nothing."""
    ladder = Ladder(cache, Lists(), Withdrawn(), lambda: rules)

    async def descend() -> tuple[str, list[str]]:
        route = Route("rel", "v1", None, popular)  # type: ignore[arg-type]
        run = Run("rel", Deadline(5.0), LoggingObserver())
        found = await ladder.descend(route, Request("r", "u", k=2, surface="kids"), run, "main", ["recall_unavailable"], asked)
        if found is None:
            raise NotReadyError("nothing")
        return found.rung, items_of(found)

    return asyncio.run(descend())


def test_the_popular_list_goes_by_the_newest_prices(folder: Path) -> None:
    popular = PopularList.load(folder, "rel")
    withdrawn, request, rules = Withdrawn(), Request("r", k=40), standing(DEAR)

    def shown() -> set[str]:
        return set(popular.pick(request, withdrawn, rules, withdrawn).item_ids)

    by_release = shown()
    assert {"item-19", "item-23"} <= by_release, "23 has no price"
    assert "item-20" not in by_release
    withdrawn.follow([put("item-1", 50.0), put("item-20", 49.99), put("item-21", None), put("elsewhere", 1.0)])
    assert shown() == (by_release - {"item-1"}) | {"item-20", "item-21"}
    withdrawn.follow([put("item-1", 1.0)])
    assert shown() == by_release | {"item-20", "item-21"}
    content = orjson.loads((folder / POPULAR).read_bytes())
    for item in content["items"]:
        del item["price"]
    old = PopularList(orjson.dumps(content)).pick(request, rules=rules)
    assert len(old.item_ids) == 40, "a list from before prices knows none"


def test_a_kept_slate_with_an_item_that_was_put_since_stands_in_for_none_while_ids_are_not_enough() -> None:
    cache = SlateCache(CONFIG, clock=lambda: 100.0, withdrawn=(withdrawn := Withdrawn()))
    ladder = Ladder(cache, Lists(), withdrawn, lambda: standing(DEAR))
    asked, older = key("main.3.0"), finished(["item-1", "item-3"], 90.0)
    cache.put(asked, older)
    withdrawn.follow([put("item-3", 80.0, changed=89.0), put("item-9", 80.0, changed=95.0)])
    assert ladder.kept(asked, older, ["recall_unavailable"]) is not None, "rules that go by ids alone ask for no price"
    withdrawn.rule_out((), narrows=True)
    assert withdrawn.outdated(older), "the stages that made it may not have heard"
    assert not withdrawn.outdated(finished(["item-1", "item-3"], 94.0))
    assert not withdrawn.outdated(finished(["item-1"], 90.0))
    assert ladder.kept(asked, older, ["recall_unavailable"]) is None
    withdrawn.rule_out(())
    assert ladder.kept(asked, older, ["recall_unavailable"]) is not None


def test_slates_that_other_rules_made_do_not_stand_in_while_ids_are_not_enough(popular: PopularList) -> None:
    cache = SlateCache(CONFIG, clock=lambda: 10.0)
    assert answered(cache, NO_RULES, popular, key("main"))[0] == "precomputed"
    rung, items = answered(cache, standing(EVEN), popular, key("main.3.0"))
    assert rung == "popular"
    assert len(items) == 2
    assert all(int(item[5:]) % 2 for item in items)
    cache.put(key("main"), finished(["item-2", "item-4"], 5.0))
    assert answered(cache, NO_RULES, popular, key("main.3.0"))[0] == "cached"
    assert answered(cache, standing(EVEN), popular, key("main.3.0"))[0] == "popular"
    cache.put(key("main.3.0"), finished(["item-1", "item-3"], 5.0))
    assert answered(cache, standing(EVEN), popular, key("main.3.0"))[0] == "cached"
    assert answered(cache, standing(EVEN), popular, key("main.3.0", context={"device": "tv"}))[0] == "popular"
