"""The popular list: written with a release, read alone, and what it lets through."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import RerankConfig, SourceName
from reco_ray.errors import ArtifactError
from reco_ray.features import Catalogue
from reco_ray.hashing import item_keys
from reco_ray.recall.query import make_query
from reco_ray.recall.sources.lists import ListSource
from reco_ray.release import read_part, release_uri, seal
from reco_ray.rerank import POPULAR, write_popular
from reco_ray.slate import PopularList
from reco_ray.types import Request, UserRow


@pytest.fixture
def root(folder: Path, tmp_path: Path) -> Path:
    target = Path(release_uri(str(tmp_path), "abc"))
    shutil.copytree(folder, target)
    seal(target, "abc", "view", {"made_ts": "2026-01-01"})
    return tmp_path


@pytest.fixture(scope="session")
def popular(folder: Path) -> PopularList:
    return PopularList.load(folder, "abc")


def seen(*item_ids: str) -> UserRow:
    return UserRow(seen=np.sort(item_keys(item_ids)))


def test_a_release_holds_its_list_and_the_list_can_be_read_alone(root: Path, folder: Path) -> None:
    raw = read_part(str(root), "abc", POPULAR)
    assert raw == (folder / POPULAR).read_bytes()
    slate = PopularList(raw, "abc").pick(Request(request_id="q", k=5))
    assert (slate.request_id, slate.release, len(slate.item_ids), slate.degraded) == ("q", "abc", 5, ())
    assert (np.diff(slate.scores) <= 0).all()
    assert slate.titles[0] == f"Title {slate.item_ids[0].removeprefix('item-')}"


def test_a_part_that_was_changed_or_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(ArtifactError, match=r"found no nothing.json in the manifest"):
        read_part(str(root), "abc", "nothing.json")
    with pytest.raises(ArtifactError, match="found nothing, expected a file"):
        read_part(str(root), "xyz", POPULAR)
    (root / "releases/abc" / POPULAR).write_text("{}")
    with pytest.raises(ArtifactError, match=r"popular.json has SHA-256 .*, expected"):
        read_part(str(root), "abc", POPULAR)
    (root / "releases/abc").rename(root / "releases/xyz")
    with pytest.raises(ArtifactError, match="found release abc of format 1, expected xyz"):
        read_part(str(root), "xyz", POPULAR)


def test_a_release_without_a_list_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"found no popular.json, expected one; publish the release again"):
        PopularList.load(tmp_path)
    with pytest.raises(ArtifactError, match="found format 9, expected 1"):
        PopularList(b'{"format": 9}')


def test_blocked_and_withdrawn_items_are_not_in_the_list(catalogue: Catalogue, tmp_path: Path) -> None:
    first = PopularList.load(_written(tmp_path / "a", catalogue, RerankConfig())).pick(Request(request_id="", k=1)).item_ids[0]
    rules = RerankConfig(blocked=[first, "unheard-of"])
    listed = PopularList.load(_written(tmp_path / "b", catalogue, rules))
    available = int(catalogue.available.sum())
    assert len(listed) == available - 1
    assert first not in listed.pick(Request(request_id="", k=200)).item_ids


def test_items_of_liked_categories_come_first(popular: PopularList) -> None:
    plain = popular.pick(Request(request_id="", k=40)).item_ids
    liked = popular.pick(Request(request_id="", k=40, interests=("odd", "of no release"))).item_ids
    odd = [item for item in plain if int(item[5:]) % 2]
    assert list(liked) == [*odd, *(item for item in plain if item not in odd)]
    assert popular.pick(Request(request_id="", k=40, interests=("of no release",))).item_ids == plain
    assert popular.pick(Request(request_id="", k=3, interests=("odd",), exclude=(odd[0],))).item_ids == tuple(odd[1:4])


def test_seen_items_come_back_where_the_data_say_so(catalogue: Catalogue, tmp_path: Path) -> None:
    again = PopularList.load(_written(tmp_path / "a", catalogue, RerankConfig(seen_items_return=True)))
    best = again.pick(Request(request_id="", k=1)).item_ids
    request = Request(request_id="", k=1, user=seen(*best), session=best)
    assert again.pick(request).item_ids == best
    assert again.pick(Request(request_id="", k=1, exclude=best)).item_ids != best


def test_an_empty_list_gives_an_empty_slate() -> None:
    slate = PopularList(b'{"format":1,"seen_items_return":false,"items":[]}').pick(Request(request_id="", k=3))
    assert (slate.item_ids, slate.degraded) == ((), ("short_slate",))


some = st.lists(st.integers(0, 39).map(lambda i: f"item-{i}"), max_size=12).map(tuple)
filters = st.fixed_dictionaries(
    {},
    optional={
        "category": st.lists(st.sampled_from(["even", "odd", "all", "none"]), min_size=1).map(tuple),
        "year": st.lists(st.integers(1990, 2032).map(str), min_size=1).map(tuple),
    },
)


@given(st.integers(1, 50), filters, some, some, some)
def test_it_answers_as_recalls_own_popular_source_would(
    popular: PopularList,
    catalogue: Catalogue,
    k: int,
    filters: dict[str, tuple[str, ...]],
    exclude: tuple[str, ...],
    session: tuple[str, ...],
    had: tuple[str, ...],
) -> None:
    request = Request(request_id="", k=k, filters=filters, exclude=exclude, session=session, user=seen(*had))
    query = make_query(request, catalogue, False, np.flatnonzero(~catalogue.available))
    rows, _ = ListSource.of(SourceName.popular, catalogue).recall([query], k)[0]
    slate = popular.pick(request)
    assert list(slate.item_ids) == [catalogue.item_ids[row] for row in rows]
    assert slate.degraded == (("short_slate",) if len(rows) < k else ())


def test_an_unknown_filter_is_an_error(popular: PopularList) -> None:
    with pytest.raises(ValueError, match="filter attribute is 'colour'"):
        popular.pick(Request(request_id="", filters={"colour": ("red",)}))


def test_picking_is_fast(popular: PopularList) -> None:
    ids = tuple(f"x{i}" for i in range(1000))
    request = Request(
        request_id="", k=20, exclude=ids, filters={"category": ("even",)}, user=seen(*(f"y{i}" for i in range(5000)))
    )
    started = time.perf_counter()
    for _ in range(20):
        popular.pick(request)
    assert time.perf_counter() - started < 20 * 0.02, "0.1 ms; a busy test machine has a hundred times that"


def _written(folder: Path, catalogue: Catalogue, config: RerankConfig) -> Path:
    folder.mkdir()
    write_popular(folder, catalogue, config)
    return folder
