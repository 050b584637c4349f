"""Pages: whatever happens between them, none repeats an item, and their places count on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import World, problem
from test_ladder import popular_list

from reco_ray.features import Catalogue
from reco_ray.hashing import item_keys
from reco_ray.recall.query import make_query
from reco_ray.rules import RuleBook, Standing, parse
from reco_ray.serve.http import cursors
from reco_ray.serve.http.answers import finish
from reco_ray.serve.http.contract import MAX_CURSOR
from reco_ray.serve.http.problems import HttpProblem
from reco_ray.serve.path.exposures import _slots
from reco_ray.serve.path.wire import pack_request, unpack_request
from reco_ray.store import Precomputed, Traffic
from reco_ray.types import Request, Slate, UserRow

NOW = 1.7e9
USERS = ("", "known", "nobody")


def keys_of(*names: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return item_keys(names)


class Catalog:
    """Stages with 30 items in an order that each release turns round, which show what was not shown."""

    def __init__(self, first: int) -> None:
        self.ids = [f"i{(first + i) % 30}" for i in range(30)]
        self.broken = False

    def prepare(self, request: Request) -> Request:
        return unpack_request(pack_request(request))

    async def recall(self, query: Request) -> list[str]:
        if self.broken:
            raise OSError("broken on purpose")
        return [name for name, new in zip(self.ids, ~np.isin(item_keys(self.ids), query.shown), strict=True) if new]

    async def score(self, query: Request, found: list[str]) -> list[str]:
        return found

    async def arrange(self, query: Request, found: list[str], scored: list[str]) -> Slate:
        ids = tuple(scored[: query.k])
        ones = np.ones(len(ids), np.float32)
        short = ("short_slate",) if len(ids) < query.k else ()
        return Slate(query.request_id, ids, ids, ones, ones, (("popular",),) * len(ids), short)

    def recall_order(self, found: list[str]) -> list[str]:
        return found


def replica(first: int = 0) -> World:
    world = World(release=f"rel-{first}")
    world.stages, world.popular = Catalog(first), popular_list()  # type: ignore[assignment]
    return world


Step = tuple[int, int, bool]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(USERS),
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0, 7, 19]), st.booleans()), min_size=2, max_size=6),
)
def test_pages_never_repeat_on_whatever_replica_and_release_and_rung(user_id: str, steps: list[Step]) -> None:
    worlds = {first: replica(first) for first in (0, 7, 19)}
    seen, cursor = list[str](), ""
    for k, first, broken in steps:
        world = worlds[first]
        world.stages.broken = broken  # type: ignore[attr-defined]
        response = world.post({"user_id": user_id, "k": k, "cursor": cursor})
        if response.status_code == 503:  # the popular list has shown all that it has
            assert broken or len(seen) >= 20
            break
        answer = response.json()
        places = [item["position"] for item in answer["items"]]
        assert places == list(range(len(seen) + 1, len(seen) + 1 + len(places)))
        seen += [item["item_id"] for item in answer["items"]]
        assert len(set(seen)) == len(seen)
        if not (cursor := answer.get("next_cursor", "")):
            assert not answer["items"]
            break


def test_the_pages_of_one_release_are_its_whole_order_and_end_with_an_empty_one() -> None:
    world, cursor, seen = replica(), "", list[str]()
    for _ in range(4):
        answer = world.ask("GET", "/v1/recommendations/known", params={"k": 10, "cursor": cursor}).json()
        seen += [item["item_id"] for item in answer["items"]]
        cursor = answer.get("next_cursor", "")
    assert seen == Catalog(0).ids
    assert (answer["items"], answer["degraded"], cursor) == ([], ["short_slate"], "")


def test_another_users_cursor_one_that_was_cut_and_an_old_one_are_refused() -> None:
    world = World()
    cursor = world.post({"user_id": "known", "k": 2}).json()["next_cursor"]
    assert world.post({"user_id": "known", "cursor": cursor}).status_code == 200
    for body in ({"user_id": "nobody", "cursor": cursor}, {"user_id": "known", "cursor": cursor[:-4]}, {"cursor": "x"}):
        response = world.post(body)
        assert response.status_code == 422
        assert [each["field"] for each in problem(response)["errors"]] == ["cursor"]
        assert "not given to this user" in problem(response)["errors"][0]["detail"]
    old = cursors.write(cursors.NOTHING_SHOWN, keys_of("a"), "known", NOW)
    response = world.post({"user_id": "known", "cursor": old})
    assert (response.status_code, problem(response)["type"]) == (410, "/docs#cursor-expired")
    assert "ask without cursor" in problem(response)["detail"]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40, unique=True), st.text(max_size=20), st.data())
def test_a_cursor_gives_back_what_was_shown_and_no_change_of_it_does(keys: list[int], user: str, data: st.DataObject) -> None:
    user = user.encode(errors="ignore").decode()
    at = data.draw(st.integers(0, len(keys) - 1))
    shown, page = np.array(keys[:at], np.uint64), np.array(keys[at:], np.uint64)
    cursor = cursors.write(shown, page, user, NOW)
    assert cursors.read(cursor, user, NOW + cursors.LIFE_S - 1).tolist() == sorted(keys)
    place = data.draw(st.integers(0, len(cursor) - 2))  # the last sign may hold bits that mean nothing
    changed = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
    with pytest.raises(HttpProblem, match="cannot be used"):
        cursors.read(changed, user, NOW)
    with pytest.raises(HttpProblem, match="old"):
        cursors.read(cursor, user, NOW + cursors.LIFE_S + 1)


def test_the_longest_cursor_fits_and_there_is_none_behind_it() -> None:
    every = np.arange(1, cursors.MOST_SHOWN + 1, dtype=np.uint64)
    assert 6_000 < len(cursors.write(every[:-10], every[-10:], "u", NOW)) <= MAX_CURSOR
    assert cursors.write(every[:-9], every[-10:], "u", NOW) == ""
    assert cursors.write(every[:5], every[:0], "u", NOW) == ""


def test_what_was_shown_is_hidden_from_every_source_and_rung(catalogue: Catalogue) -> None:
    shown = np.sort(keys_of("item-0", "item-5"))
    request = Request("r", k=3, shown=shown)
    hidden = make_query(request, catalogue, True, np.empty(0, np.int64)).hidden
    assert sorted(catalogue.item_ids[row] for row in hidden) == ["item-0", "item-5"]
    ids = ("item-0", "item-1", "item-5", "item-2")
    listed = Precomputed(NOW, "rel", ids, ids, (1.0,) * 4, ((),) * 4).pick(request, seen_items_return=True)
    assert listed is not None
    assert listed.item_ids == ("item-1", "item-2")
    hits = popular_list().pick(Request("r", k=2, shown=np.sort(keys_of("hit-0", "hit-2"))))
    assert hits.item_ids == ("hit-1", "hit-3")


def test_a_request_travels_with_what_was_shown() -> None:
    user = UserRow(history=keys_of("h"), weights=np.ones(1, np.float32), as_of=7)
    shown = np.sort(keys_of("a", "b", "c"))
    found = unpack_request(pack_request(Request("r", "u", user=user, shown=shown, interests=("Comedy",))))
    assert (found.shown.tolist(), found.interests, found.user.as_of) == (shown.tolist(), ("Comedy",), 7)
    assert unpack_request(pack_request(Request("r", "u", user=user))).shown.size == 0


@pytest.mark.parametrize(("before", "pinned", "missed"), [(0, {4: 2}, []), (3, {1: 2}, []), (5, {}, []), (4, {0: 2}, [])])
def test_pins_count_places_from_the_first_page(
    before: int, pinned: dict[int, int], missed: list[str], catalogue: Catalogue
) -> None:
    rules: Sequence[dict[str, Any]] = [{"name": "p", "kind": "pin", "item_id": catalogue.item_ids[2], "position": 5}]
    plan = RuleBook(Standing(1, parse({"rules": list(rules)})), catalogue).plan(Request("r"), NOW)
    bounds = plan.bounds(np.arange(10), 5, before)
    assert (bounds.pinned, bounds.missed) == (pinned, missed)


def test_the_record_says_where_a_page_begins_and_by_which_rules() -> None:
    ones = np.ones(2, np.float32)
    slate = finish(Slate("r", ("a", "b"), ("", ""), ones, ones, ((), ()), rules=7), "rel", "main", "full", [], NOW, before=10)
    fields = orjson.loads(_slots(slate))
    assert (fields["first_position"], fields["rules_version"]) == (11, 7)


def test_a_release_change_between_pages_goes_unnoticed_by_the_reader() -> None:
    world = replica(0)
    first = world.post({"user_id": "known", "k": 10}).json()
    world.stages = Catalog(5)  # type: ignore[assignment]
    world.traffic = Traffic(2, {"next": 1.0}, {"next": "v1"})
    second = world.post({"user_id": "known", "k": 10, "cursor": first["next_cursor"]}).json()
    assert (first["release"], second["release"]) == ("rel-0", "next")
    assert [item["item_id"] for item in second["items"]] == [f"i{i}" for i in range(10, 20)]
