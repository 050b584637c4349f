"""Replay: the same release answers the same, bit for bit; another one is told by the first stage that differs."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from reco_ray.compose import compose_config
from reco_ray.config import DateUnit
from reco_ray.errors import ConfigError, DataError
from reco_ray.evaluation.replay import compare_releases, kendall_tau, overlap
from reco_ray.events.bus import Record
from reco_ray.features import Catalogue, user_row
from reco_ray.feedback.exposures import Decision, encode, encode_slots, rows_to_table
from reco_ray.lake import tables
from reco_ray.release import release_uri, seal
from reco_ray.slate import Pipeline
from reco_ray.store import NO_FLAGS, off_in, pack_user
from reco_ray.types import Candidates, Request, Slate
from reco_ray.workflow.replay import logged_requests, replay

AT_US = 1_767_225_600_000_000


class OtherRank:
    """The same ranker, upside down."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._rank = pipeline.rank
        self.n_sources = pipeline.rank.n_sources

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        return [-scores for scores in self._rank.score(requests, candidates)]


class OtherRerank:
    """The same, but for the last place."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._rerank = pipeline.rerank

    def arrange(
        self, requests: Sequence[Request], candidates: Sequence[Candidates], scores: Sequence[NDArray[np.float32]]
    ) -> list[Slate]:
        fewer = [Request(request_id=r.request_id, user_id=r.user_id, k=r.k - 1, user=r.user, at_us=r.at_us) for r in requests]
        return self._rerank.arrange(fewer, candidates, scores)


@pytest.fixture(scope="module")
def requests(users: pl.DataFrame) -> list[Request]:
    rows = users.head(20).iter_rows(named=True)
    return [
        Request(request_id=f"r{i}", user_id=row["user_id"], k=6, user=user_row(row), at_us=AT_US + i)
        for i, row in enumerate(rows)
    ]


def test_the_same_release_loaded_twice_gives_the_same_slates_bit_for_bit(folder: Path, requests: list[Request]) -> None:
    ids = Catalogue.load(folder).item_ids
    report = compare_releases((Pipeline.load(folder), ids), (Pipeline.load(folder), ids), requests)
    assert (report.requests, report.identical, report.first_difference) == (20, 20, {})
    assert (report.overlap, report.tau, report.score_shift) == (1.0, pytest.approx(1.0), 0.0)
    assert all(low <= high for low, high in zip(report.p50_ms["recall"], report.p95_ms["recall"], strict=True))


def test_the_first_stage_that_differs_is_named(folder: Path, requests: list[Request]) -> None:
    ids, one = Catalogue.load(folder).item_ids, Pipeline.load(folder)
    ranked = Pipeline(one.recall, OtherRank(one), one.rerank)
    report = compare_releases((one, ids), (ranked, ids), requests)
    assert (report.identical, report.first_difference) == (0, {"rank": 20})
    assert report.overlap < 1
    arranged = Pipeline(one.recall, one.rank, OtherRerank(one))
    report = compare_releases((one, ids), (arranged, ids), requests)
    assert report.first_difference == {"rerank": 20}
    assert report.overlap == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="found no request"):
        compare_releases((one, ids), (one, ids), [])


def test_what_was_off_for_a_request_is_off_in_both(folder: Path, requests: list[Request]) -> None:
    ids, one = Catalogue.load(folder).item_ids, Pipeline.load(folder)
    other = Pipeline(one.recall, OtherRank(one), one.rerank)
    flags = [NO_FLAGS, off_in(["off:ranker", "late"])] * 10
    report = compare_releases((one, ids), (other, ids), requests, flags)
    assert (report.identical, report.first_difference) == (10, {"rank": 10})
    quiet = Pipeline.load(folder)
    quiet.recall.switch = lambda _: None  # type: ignore[attr-defined]
    report = compare_releases((one, ids), (quiet, ids), requests, [off_in(["off:source.popular"])] * 20)
    assert report.first_difference == {"recall": 20}


def test_overlap_and_order_have_known_values() -> None:
    assert overlap(["a", "b"], ["b", "c", "d"]) == pytest.approx(1 / 3)
    assert overlap([], []) == 1
    assert kendall_tau(["a", "b", "c"], ["c", "b", "a"]) == pytest.approx(-1)
    assert kendall_tau(["a", "x", "b"], ["a", "b", "y"]) == pytest.approx(1)
    assert math.isnan(kendall_tau(["a"], ["a"]))


def publish(folder: Path, root: Path, name: str, view: str = "v1", candidates: int = 40) -> None:
    target = Path(release_uri(str(root), name))
    shutil.copytree(folder, target)
    settings = json.loads((target / "recall.json").read_text())
    (target / "recall.json").write_text(json.dumps({**settings, "candidates": candidates}))
    seal(target, name, view, {"made_ts": name})


def test_logged_requests_are_replayed_and_reported(folder: Path, requests: list[Request], tmp_path: Path) -> None:
    publish(folder, tmp_path, "a")
    publish(folder, tmp_path, "b", candidates=10)
    publish(folder, tmp_path, "c", view="v2")
    config = compose_config([f"root={tmp_path}", "release=a"])
    with pytest.raises(DataError, match="found no logged request"):
        replay(config)
    marks = [["off:ranker", "flags_behind"], ["off:ranker"], *[[]] * 18]
    records = [
        Record(i, AT_US // 1000, logged(request, "" if i == 19 else "v1", marks[i])) for i, request in enumerate(requests)
    ]
    tables.replace(str(tmp_path), "exposures", rows_to_table(records, DateUnit.day))
    assert replay(config).identical == replay(config).requests == 18  # one has no row, of one it is not known what was off
    assert [set(each.flags.off) for each in logged_requests(config, "v1", 100)] == [*[set()] * 17, {"ranker"}]
    config.release, config.replay.against, config.replay.requests = "b", "a", 10
    report = replay(config)
    assert (report.requests, report.first_difference) == (10, {"recall": 10})
    written = sorted((tmp_path / "reports/replay").iterdir())[-1]
    assert json.loads(written.read_text())["first_difference"] == {"recall": 10}
    config.release = "c"
    with pytest.raises(ConfigError, match="expected the same one"):
        replay(config)


def logged(request: Request, view: str, marks: list[str]) -> bytes:
    return encode(
        Decision(
            request_id=request.request_id,
            call="recommend",
            user_id=request.user_id,
            ts_us=request.at_us,
            surface="home",
            context={},
            consent=True,
            release="a",
            variant="main",
            rung="full",
            degraded=marks,
            draw_id=request.request_id,
            age_s=0.0,
            slots=encode_slots([f"i{n}" for n in range(6)], np.ones(6, np.float32), [["popular"]] * 6),
            user_view=view,
            user_row=pack_user(request.user) if view else None,
        )
    )
