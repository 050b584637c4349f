"""Rules: what a document may hold, what is refused and how, and what they do to slates."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reco_ray.config import RerankConfig
from reco_ray.features import Catalogue
from reco_ray.rerank import Rerank
from reco_ray.rules import Bounds, Document, RulesRefused, Standing, check_document, parse, read_csv, read_text, unknown_items
from reco_ray.rules.bounds import Least, Limit, Terms
from reco_ray.types import Candidates, Request, Slate, UserRow

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)

EXAMPLE = """
rules:
  - {name: no-odd, kind: block, where: {category: [odd], year_to: 2000}, surface: [kids]}
  - {name: summer, kind: boost, where: {year: [2005]}, amount: 2, starts: 2026-06-01T00:00:00Z, ends: 2026-07-01T00:00:00Z}
  - {name: first, kind: pin, item_id: item-7, position: 1, segment: {device: [tv]}}
  - {name: spread, kind: cap, per: year, most: 1}
  - {name: either, kind: exclusive, sets: [{item_id: [item-1]}, {item_id: [item-2]}]}
  - {name: dear, kind: block, where: {price_from: 90, price_to: 99.5}}
  - {name: some-even, kind: quota, where: {category: [even]}, least: 2, window: 5}
"""


def standing(*rules: dict[str, Any], held: tuple[str, ...] = (), approved: tuple[str, ...] = ()) -> Standing:
    return Standing(3, parse({"rules": list(rules)}), frozenset(held), frozenset(approved))


def arrange(
    catalogue: Catalogue, standing: Standing, request: Request, rows: list[int] | None = None, diversity: float = 0.0
) -> Slate:
    """Arrange candidates, best first by row unless given, under rules."""
    found = np.arange(len(catalogue), dtype=np.int32) if rows is None else np.array(rows, np.int32)
    n = found.size
    scores = np.linspace(1, 0, n).astype(np.float32)
    candidates = Candidates(found, scores, np.ones(n, np.uint16), np.zeros((n, 1), np.int16), np.zeros((n, 1), np.float32))
    rerank = Rerank(catalogue, RerankConfig(diversity=diversity), ["popular"], clock=NOON.timestamp)
    rerank.obey(standing)
    return rerank.arrange([request], [candidates], [scores])[0]


def problems(content: object, catalogue: Catalogue | None = None) -> list[str]:
    with pytest.raises(RulesRefused) as caught:
        check_document(parse(content), catalogue)
    return [str(each) for each in caught.value.problems]


def test_the_example_is_read_as_it_is_meant(catalogue: Catalogue) -> None:
    document = parse(read_text(EXAMPLE))
    check_document(document, catalogue)
    assert [rule.kind for rule in document.rules] == ["block", "boost", "pin", "cap", "exclusive", "block", "quota"]
    assert parse(document.model_dump(mode="json", exclude_none=True)) == document
    assert unknown_items(parse({"rules": [PIN | {"item_id": "none"}]}), catalogue) == [("p", "none")]


PIN = {"name": "p", "kind": "pin", "item_id": "item-1", "position": 1}
CHEAP = {"name": "cheap", "kind": "allow", "where": {"price_to": 20}}
BLOCK = {"name": "b", "kind": "block", "where": {"item_id": ["item-1"]}}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"name": "x", "kind": "hide"}], "rule x, kind: found 'hide', allowed: one of block, allow"),
        ([{"name": "x"}], "rule x, kind: found none, allowed: one of block"),
        (
            [BLOCK | {"where": {"brand": ["a"]}}],
            "rule b, where.brand: found a field of that name, allowed: one of item_id, cat",
        ),
        ([BLOCK | {"colour": 1}], "rule b, colour: found a field of that name, allowed: one of name, note"),
        ([PIN | {"position": 0}], "rule p, position: found 0, allowed: greater than or equal to 1"),
        ([PIN | {"position": "1"}], "rule p, position: found '1', allowed: a valid integer"),
        ([{"kind": "pin", "name": "p", "position": 1}], "rule p, item_id: found nothing, allowed: a value"),
        ([BLOCK | {"where": {}}], "allowed: expected at least one of item_id, category"),
        ([PIN | {"starts": "2026-01-02T00:00:00Z", "ends": "2026-01-01T00:00:00Z"}], "rule p: found"),
        ([PIN, PIN | {"name": "q", "item_id": "item-2"}], "rule q, position: found 1, where rule p pins as well"),
        ([PIN, PIN | {"name": "q", "position": 2}], "rule q, item_id: found 'item-1', which rule p pins as well"),
        ([PIN, BLOCK], "rule p, item_id: found 'item-1', which rule b blocks"),
        ([PIN, PIN | {"position": 2, "item_id": "item-2"}], "rule p, name: found two rules of that name, allowed: distinct"),
        ([BLOCK | {"where": {"category": ["evne"]}}], "where.category: found 'evne', allowed: categories of the release: even"),
        ([{"kind": "block", "where": {"year": ["no"]}}], "rule number 1"),
        ([BLOCK | {"where": {"price_from": -1}}], "rule b, where.price_from: found -1, allowed: greater than or equal to 0"),
        ([BLOCK | {"where": {"price_to": "9.99"}}], "rule b, where.price_to: found '9.99', allowed: a valid number"),
        (
            [BLOCK | {"where": {"price_to": float("nan"), "category": ["even"]}}],
            "rule b, where.price_to: found 'nan', allowed: a v",
        ),
        ([BLOCK | {"where": {"price_from": 10, "price_to": 9.5}}], "found price_from=10 above price_to=9.5, expected it below"),
    ],
)
def test_what_is_wrong_is_named(rules: list[dict[str, Any]], said: str, catalogue: Catalogue) -> None:
    assert any(said in each for each in problems({"rules": rules}, catalogue)), problems({"rules": rules}, catalogue)


def test_rules_on_prices_need_a_release_with_prices(catalogue: Catalogue) -> None:
    free = replace(catalogue, prices=np.full(len(catalogue), np.nan))
    rules = {"rules": [BLOCK | {"where": {"price_from": 100}}, CHEAP]}
    check_document(parse(rules), catalogue)
    said = "allowed: prices once the release knows some: it knows none; import or put items with prices, and publish"
    assert problems(rules, free) == [
        f"rule b, where.price_from: found 100.0, {said}",
        f"rule cheap, where.price_to: found 20.0, {said}",
    ]


def test_an_unknown_price_is_in_no_range(catalogue: Catalogue) -> None:
    known = {item_id for item_id, price in zip(catalogue.item_ids, catalogue.prices, strict=True) if not np.isnan(price)}
    everybody, request = set(catalogue.item_ids), Request("r", k=len(catalogue))
    assert 0 < len(known) < len(everybody)
    anything = {"price_from": 0}
    for kind, left in (("block", everybody - known), ("allow", known)):
        slate = arrange(catalogue, standing({"name": "x", "kind": kind, "where": anything}), request)
        assert set(slate.item_ids) == left, kind
    ends = {"name": "x", "kind": "allow", "where": {"price_from": 5.0, "price_to": 10}}
    assert set(arrange(catalogue, standing(ends), request).item_ids) == {"item-2", "item-3", "item-4"}, "both ends belong to it"


def test_pins_that_no_request_meets_together_are_no_contradiction() -> None:
    other = PIN | {"name": "q", "item_id": "item-2"}
    for scopes in (
        ({"surface": ["home"]}, {"surface": ["cart"]}),
        ({"segment": {"device": ["tv"]}}, {"segment": {"device": ["phone"]}}),
        ({"ends": "2026-01-01T00:00:00Z"}, {"starts": "2026-01-01T00:00:00Z"}),
    ):
        check_document(parse({"rules": [PIN | scopes[0], other | scopes[1]]}))


def test_what_is_no_document_is_refused() -> None:
    for text in ("rules: [", "- a", "rules: {a: 1}"):
        with pytest.raises(RulesRefused, match=r"found .*allowed"):
            parse(read_text(text))


def test_scopes_and_campaigns_say_when_a_rule_holds(catalogue: Catalogue) -> None:
    best = catalogue.item_ids[0]
    for scope, request, holds in [
        ({"surface": ["kids"]}, Request("r", surface="kids"), True),
        ({"surface": ["kids"]}, Request("r"), False),
        ({"surface": ["similar-items"]}, Request("r", similar_to="item-3"), True),
        ({"segment": {"device": ["tv"]}}, Request("r", context={"device": "tv"}), True),
        ({"segment": {"device": ["tv"]}}, Request("r", context={"device": "phone"}), False),
        ({"segment": {"history": "none"}}, Request("r"), True),
        ({"segment": {"history": "known"}}, Request("r"), False),
        ({"segment": {"history": "known"}}, Request("r", session=("x",)), True),
        ({"starts": NOON.isoformat()}, Request("r"), True),
        ({"starts": (NOON + timedelta(seconds=1)).isoformat()}, Request("r"), False),
        ({"ends": NOON.isoformat()}, Request("r"), False),
        ({"ends": NOON.isoformat()}, Request("r", at_us=int(NOON.timestamp() * 1e6) - 1), True),
    ]:
        rule = {"name": "b", "kind": "block", "where": {"item_id": [best]}, **scope}
        assert (best not in arrange(catalogue, standing(rule), request).item_ids) is holds, scope


def test_allow_boost_review_and_held_items(catalogue: Catalogue) -> None:
    request = Request("r", k=5)
    even = {"category": ["even"]}
    only = arrange(catalogue, standing({"name": "a", "kind": "allow", "where": even}), request)
    assert all(int(item[5:]) % 2 == 0 for item in only.item_ids)
    buried = arrange(catalogue, standing({"name": "a", "kind": "boost", "where": even, "amount": -50}), request)
    assert all(int(item[5:]) % 2 for item in buried.item_ids)
    assert all("boost" not in each for each in buried.reasons)
    review = {"name": "v", "kind": "review", "where": {"item_id": list(catalogue.item_ids[:2])}}
    assert arrange(catalogue, standing(review, approved=(catalogue.item_ids[1],)), request).item_ids[0] == catalogue.item_ids[1]
    assert arrange(catalogue, standing(held=(catalogue.item_ids[0],)), request).item_ids[0] == catalogue.item_ids[1]


def test_a_pin_brings_its_item_unless_the_user_or_a_rule_forbids_it(catalogue: Catalogue) -> None:
    pin = {"name": "p", "kind": "pin", "item_id": catalogue.item_ids[30], "position": 3}
    slate = arrange(catalogue, standing(pin), Request("r", k=5), rows=list(range(10)))
    assert slate.item_ids == (*catalogue.item_ids[:2], catalogue.item_ids[30], *catalogue.item_ids[2:4])
    assert (slate.rules, slate.missed_rules) == (3, ())
    assert slate.reasons[2] == ("rule:p",)
    assert np.isnan(slate.scores[2])
    seen = UserRow(seen=np.sort(catalogue.keys[[30]]))
    block = {"name": "b", "kind": "block", "where": {"category": catalogue.categories}}
    for rules, request in (
        ([pin], Request("r", k=5, user=seen)),
        ([pin], Request("r", k=5, exclude=(catalogue.item_ids[30],))),
        ([pin | {"item_id": "nobody knows"}], Request("r", k=5)),
        ([pin, block | {"where": {"year": [int(catalogue.years[30])]}}], Request("r", k=5)),
    ):
        slate = arrange(catalogue, standing(*rules), request, rows=list(range(10)))
        assert slate.missed_rules == ("p",)
        assert catalogue.item_ids[30] not in slate.item_ids
        assert len(slate.item_ids) == 5


def test_a_quota_takes_from_far_down_and_says_where_it_cannot(catalogue: Catalogue) -> None:
    far = catalogue.item_ids[-1]
    quota = {"name": "q", "kind": "quota", "where": {"item_id": [far]}, "least": 1, "window": 3}
    slate = arrange(catalogue, standing(quota), Request("r", k=5))
    assert slate.item_ids.index(far) == 2
    assert slate.missed_rules == ()
    assert arrange(catalogue, standing(quota), Request("r", k=5), rows=[0, 1, 2, 3, 4, 5]).missed_rules == ("q",)


def test_own_items_are_hidden_and_moved_but_not_pinned_or_capped(catalogue: Catalogue) -> None:
    own = tuple(catalogue.item_ids[:6])
    rules = [
        {"name": "b", "kind": "block", "where": {"item_id": [own[0]]}},
        {"name": "p", "kind": "pin", "item_id": own[3], "position": 1},
        {"name": "c", "kind": "cap", "per": "year", "most": 1},
    ]
    request = Request("r", k=6, items=own, item_scores=np.full(6, np.nan, np.float32))
    assert arrange(catalogue, standing(*rules), request, rows=list(range(6))).item_ids == own[1:]


def test_hits_are_counted_by_rule(catalogue: Catalogue) -> None:
    rerank = Rerank(catalogue, RerankConfig(), ["popular"], clock=NOON.timestamp)
    rules = [
        {"name": "b", "kind": "block", "where": {"item_id": list(catalogue.item_ids[:3])}},
        {"name": "u", "kind": "boost", "where": {"item_id": list(catalogue.item_ids[:5])}, "amount": 1},
        {"name": "p", "kind": "pin", "item_id": catalogue.item_ids[0], "position": 1, "segment": {"device": ["tv"]}},
    ]
    rerank.obey(standing(*rules))
    rows = np.arange(10, dtype=np.int32)
    scores = np.linspace(1, 0, 10).astype(np.float32)
    found = Candidates(rows, scores, np.ones(10, np.uint16), np.zeros((10, 1), np.int16), np.zeros((10, 1), np.float32))
    for context in ({}, {"device": "tv"}):
        rerank.arrange([Request("r", context=context)], [found], [scores])
    assert rerank.rule_hits() == {("b", "hidden"): 6, ("u", "moved"): 10, ("p", "missed"): 1}
    assert rerank.rule_hits() == {}
    rerank.arrange([Request("r")], [found], [scores])
    rerank.obey(standing())
    assert rerank.rule_hits() == {("b", "hidden"): 3, ("u", "moved"): 5}


# Laws, over documents of any rules and candidates in any order.

ids = st.lists(st.integers(0, 39).map(lambda i: f"item-{i}"), min_size=1, max_size=8, unique=True)
wheres = st.one_of(
    ids.map(lambda found: {"item_id": found}),
    st.sampled_from(["even", "odd"]).map(lambda name: {"category": [name]}),
    st.integers(1990, 2029).map(lambda year: {"year_from": year}),
    st.tuples(st.sampled_from(["even", "odd"]), st.integers(1990, 2029)).map(lambda t: {"category": [t[0]], "year_to": t[1]}),
    st.integers(0, 40).map(lambda n: {"price_from": 2.5 * n}),
    st.tuples(ids, st.floats(0, 100), st.floats(0, 100)).map(
        lambda t: {"item_id": t[0], "price_from": min(t[1:]), "price_to": max(t[1:])}
    ),
)
windows = st.sampled_from([0, 0, 3, 5, 9])
kinds = st.one_of(
    st.builds(lambda w: {"kind": "block", "where": w}, wheres),
    st.builds(lambda w: {"kind": "allow", "where": w}, wheres),
    st.builds(lambda w: {"kind": "review", "where": w}, wheres),
    st.builds(lambda w, a: {"kind": "boost", "where": w, "amount": a}, wheres, st.floats(-5, 5)),
    st.builds(lambda i, p: {"kind": "pin", "item_id": f"item-{i}", "position": p}, st.integers(0, 39), st.integers(1, 12)),
    st.builds(
        lambda w, p, m, n: {"kind": "cap", "most": m, "window": n} | ({"where": w} if w else {}) | ({"per": p} if p else {}),
        st.one_of(st.none(), wheres),
        st.sampled_from(["category", "year"]),
        st.integers(1, 4),
        windows,
    ),
    st.builds(lambda a, b: {"kind": "exclusive", "sets": [a, b]}, wheres, wheres),
    st.builds(
        lambda w, least, n: {"kind": "quota", "where": w, "least": least, "window": n}, wheres, st.integers(1, 3), windows
    ),
)


def fits(where: dict[str, Any], catalogue: Catalogue, row: int) -> bool:
    """The meaning of a set, spelled out item by item."""
    year, price = int(catalogue.years[row]), float(catalogue.prices[row])
    names = {name for c, name in enumerate(catalogue.categories) if catalogue.in_category[row, c]}
    return (
        ("item_id" not in where or catalogue.item_ids[row] in where["item_id"])
        and ("category" not in where or bool(names & set(where["category"])))
        and ("year_from" not in where or year >= where["year_from"])
        and ("year_to" not in where or 0 < year <= where["year_to"])
        and (not {"price_from", "price_to"} & set(where) or not np.isnan(price))
        and ("price_from" not in where or price >= where["price_from"])
        and ("price_to" not in where or price <= where["price_to"])
    )


@given(
    rules=st.lists(kinds, max_size=6),
    order=st.permutations(range(40)),
    n=st.integers(0, 40),
    k=st.integers(1, 12),
    diversity=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hard_rules_are_never_broken_and_what_is_missed_is_said(
    catalogue: Catalogue, rules: list[dict[str, Any]], order: list[int], n: int, k: int, diversity: float
) -> None:
    rules = [{"name": f"r{i}", **rule} for i, rule in enumerate(rules)]
    try:
        document = parse({"rules": rules})
        check_document(document, catalogue)
    except RulesRefused:
        rules = [rule for rule in rules if rule["kind"] != "pin"]
    slate = arrange(catalogue, standing(*rules), Request("r", k=k), rows=order[:n], diversity=diversity)
    rows = catalogue.find(slate.item_ids).tolist()
    pins = {rule["item_id"]: rule for rule in rules if rule["kind"] == "pin"}
    assert set(rows) <= set(order[:n]) | set(catalogue.find(list(pins)).tolist())
    assert len(rows) <= k
    for rule in rules:
        kind, where = rule["kind"], rule.get("where")
        inside = [where is None or fits(where, catalogue, row) for row in rows]
        if kind in ("block", "review"):
            assert not any(inside)
        elif kind == "allow":
            assert all(inside)
        elif kind == "cap":
            shown = [row for row, one in zip(rows[: rule["window"] or k], inside, strict=False) if one]
            values = [
                [int(catalogue.years[row])] if rule["per"] == "year" else np.flatnonzero(catalogue.in_category[row]).tolist()
                for row in shown
            ]
            counts = np.unique([value for each in values for value in each], return_counts=True)[1]
            assert not counts.size or counts.max() <= rule["most"]
        elif kind == "exclusive":
            assert sum(any(fits(each, catalogue, row) for row in rows) for each in rule["sets"]) <= 1
        elif kind == "pin" and rule["position"] <= k:
            at = slate.item_ids.index(rule["item_id"]) + 1 if rule["item_id"] in slate.item_ids else 0
            assert at == rule["position"] or rule["name"] in slate.missed_rules
        elif kind == "quota":
            met = sum(inside[: rule["window"] or k]) >= min(rule["least"], k)
            assert met is (rule["name"] not in slate.missed_rules)


def test_no_rules_change_nothing(catalogue: Catalogue) -> None:
    request = Request("r", k=12)
    for diversity in (0.0, 0.3):
        empty = arrange(catalogue, Standing(1, Document()), request, diversity=diversity)
        loose = {"name": "c", "kind": "cap", "per": "year", "most": 200}
        assert arrange(catalogue, standing(loose), request, diversity=diversity).item_ids == empty.item_ids


SHEET = """name,kind,item_id,category,year_from,position,amount,surface,device,starts,note,price_from,price_to
top,pin,item-7,,,1,,home|tv,,,"first, always",,
old,boost,,odd|all,1995,,-0.5,,phone,2026-06-01T00:00:00Z,,,
gone,block,item-1|item-2,,,,,,,,,,
dear,block,,odd,,,,,,,,99.95,200
"""


def test_a_sheet_says_what_a_document_says() -> None:
    document = parse(
        {
            "rules": [
                PIN | {"name": "top", "item_id": "item-7", "surface": ["home", "tv"], "note": "first, always"},
                {"name": "old", "kind": "boost", "where": {"category": ["odd", "all"], "year_from": 1995}, "amount": -0.5}
                | {"segment": {"device": ["phone"]}, "starts": "2026-06-01T00:00:00Z"},
                {"name": "gone", "kind": "block", "where": {"item_id": ["item-1", "item-2"]}},
                {"name": "dear", "kind": "block", "where": {"category": ["odd"], "price_from": 99.95, "price_to": 200}},
            ]
        }
    )
    assert read_csv(SHEET) == document
    assert read_csv("\ufeff" + SHEET.replace("\n", "\r\n")) == document


@pytest.mark.parametrize(
    ("sheet", "said"),
    [
        ("name,kind,brand\na,block,x\n", "'brand': found a column of that name, allowed: name, kind"),
        ("kind\nblock\n", "name: found no column of that name"),
        ("name,kind,position,item_id\na,pin,first,x\n", "rule a, position: found 'first', allowed: a valid integer"),
        ("name,kind,price_to\na,block,nan\n", "rule a, where.price_to: found 'nan', allowed: a valid number"),
        ('name,kind,price_to\na,block,"9,99"\n', "rule a, where.price_to: found '9,99', allowed: a valid number"),
        ("name,kind,item_id\na,block,x,y\n", "rule a: found more cells than columns"),
        ("name,kind,item_id\na,block,\n", "rule a, where: found nothing"),
        ("name,kind\na,exclusive\n", "rule a, sets: found nothing"),
    ],
)
def test_a_wrong_sheet_is_named_by_rule_and_column(sheet: str, said: str) -> None:
    with pytest.raises(RulesRefused) as caught:
        read_csv(sheet)
    assert said in str(caught.value)


def allowed_by_definition(
    sets: NDArray[np.bool_], years: NDArray[np.int32], terms: Terms, pinned: dict[int, int], chosen: list[int], k: int
) -> NDArray[np.bool_]:
    """What `Bounds.allowed` says, spelled out: pins count from the start, quotas narrow as far as something is left."""
    place, n = len(chosen), len(years)
    slate = pinned | dict(enumerate(chosen))
    mask = np.array([item not in slate.values() for item in range(n)])
    for limit in terms.limits:
        window = limit.window or k
        inside = np.ones(n, bool) if limit.column < 0 else sets[:, limit.column]
        for value in np.unique(years) if limit.per else [None]:
            counts = inside & ((years == value) & (years > 0) if limit.per else True)
            if place < window and sum(counts[item] for at, item in slate.items() if at < window) >= limit.most:
                mask &= ~counts
    for columns in terms.exclusives:
        mask &= sets[:, columns].sum(axis=1) <= 1
        for column in columns:
            if any(sets[item, column] for item in slate.values()):
                mask &= ~sets[:, [other for other in columns if other != column]].any(axis=1)
    due = np.zeros(n, bool)
    for least in terms.leasts:
        window = min(least.window or k, k)
        missing = min(least.least, window) - sum(sets[item, least.column] for at, item in slate.items() if at < window)
        left = sum(at not in pinned for at in range(place, window))
        if missing > 0 and place < window and missing >= left:
            due |= sets[:, least.column]
    return mask & due if (mask & due).any() else mask


@given(seed=st.integers(0, 2**32), k=st.integers(1, 10))
@settings(max_examples=300, deadline=None)
def test_what_bounds_allow_is_what_their_rules_say(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    n, caps, quotas = int(rng.integers(1, 30)), int(rng.integers(0, 4)), int(rng.integers(0, 4))
    sets = rng.random((n, caps + quotas + 4)) < rng.choice([0.1, 0.4])
    years = rng.integers(2000, 2004, n).astype(np.int32) * (rng.random(n) < 0.9)
    limits = []
    for at in range(caps):
        column = int(rng.choice([at, -1]))
        sets[:, at] &= column == at
        most, window = int(rng.integers(1, 4)), int(rng.integers(0, k + 2))
        limits.append(Limit(f"c{at}", column, [None, "year"][int(rng.integers(2))], most, window))
    leasts = [Least(f"q{at}", caps + at, int(rng.integers(1, 4)), int(rng.integers(0, k + 2))) for at in range(quotas)]
    exclusives = [(caps + quotas, caps + quotas + 1), (caps + quotas + 2, caps + quotas + 3)]
    terms = Terms(tuple(limits), tuple(leasts), tuple(exclusives))
    torn = np.logical_or.reduce([sets[:, columns].sum(axis=1) > 1 for columns in exclusives])
    pins = [(place, int(rng.integers(n)), f"p{place}") for place in range(k + 1) if rng.random() < 0.2]
    member = np.packbits(sets, axis=1, bitorder="little")
    bounds = Bounds(member, torn, None, years, terms, pins, k)
    chosen: list[int] = []
    while len(chosen) < k:
        if (pin := bounds.pinned.get(len(chosen))) is not None:
            chosen.append(pin)
            continue
        mask = bounds.allowed(chosen)
        np.testing.assert_array_equal(mask, allowed_by_definition(sets, years, terms, bounds.pinned, chosen, k))
        if not mask.any():
            break
        chosen.append(int(rng.choice(np.flatnonzero(mask))))
        if rng.random() < 0.2:
            bounds.allowed([])  # asked anew, it says the same
