"""What variety costs: the evaluation answers at each place of the knob, and its report shows all of them."""

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from reco_ray.config import Diversify
from reco_ray.evaluation.bootstrap import Interval
from reco_ray.evaluation.flow import _Stages
from reco_ray.evaluation.variety import PLACES, Variety, variety_section
from reco_ray.features import user_row
from reco_ray.rerank import Rerank
from reco_ray.slate import Pipeline
from reco_ray.types import Request


def test_each_place_of_the_knob_is_answered_as_a_release_of_that_knob_would(folder: Path, users: pl.DataFrame) -> None:
    some = users.head(6).with_columns(
        relevant=pl.lit(["item-1"], pl.List(pl.String)),
        ts=pl.lit(datetime(2026, 6, 1, tzinfo=UTC), pl.Datetime("us", "UTC")),
        context=pl.lit(None),
    )
    answered = pl.DataFrame(_Stages(str(folder), 7, 8)(some.to_arrow()))
    names = {name for name in answered.columns if name.startswith("spread:")}
    assert names == {"spread:none:0", *(f"spread:{kind.name}:{at}" for kind, at in PLACES)}
    ranked = answered["list:recall+rank"].to_list()
    for plain, by_rank in zip(answered["spread:none:0"].to_list(), ranked, strict=True):
        assert plain
        assert plain == [row for row in by_rank if row in set(plain)], "at 0 the ranker's order stays"


@pytest.mark.parametrize("kind", list(Diversify))
def test_a_spread_stage_differs_in_nothing_but_its_knob(folder: Path, users: pl.DataFrame, kind: Diversify) -> None:
    pipeline = Pipeline.load(folder)
    rerank = pipeline.rerank
    assert isinstance(rerank, Rerank)
    requests = [Request(str(i), k=8, user=user_row(row)) for i, row in enumerate(users.head(4).iter_rows(named=True))]
    found = pipeline.recall.recall(requests)
    scores = pipeline.rank.score(requests, found)
    config = rerank._config
    same = rerank.spread(config.diversify, config.diversity).arrange(requests, found, scores)
    assert [s.item_ids for s in same] == [s.item_ids for s in rerank.arrange(requests, found, scores)]
    plain, far = (rerank.spread(kind, at).arrange(requests, found, scores) for at in (0.0, 0.9))
    assert all(np.all(s.propensities == 1) for s in far)
    assert [set(s.item_ids) <= set(rerank.catalogue.item_ids) for s in plain] == [True] * 4


def test_the_page_shows_each_place_and_is_empty_without_any() -> None:
    found = [Variety("none", 0.0, Interval(0.2, 0.18, 0.22), Interval.point(0.5)), *(_of(*place) for place in PLACES)]
    section = variety_section(found, 10)
    for each in found:
        assert f"<th scope=row>{each.name}</th>" in section
    assert "0.200<small>0.180–0.220</small>" in section
    ElementTree.fromstring(section[section.index("<svg") : section.index("</svg>") + 6])
    assert variety_section([], 10) == ""


def _of(kind: Diversify, at: float) -> Variety:
    return Variety(kind.name, at, Interval.point(0.2 - 0.1 * at), Interval.point(0.5 + at / 2))
