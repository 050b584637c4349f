"""The report: checks in JSON, a table that fits a terminal, a page that is complete and escapes what it is given."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from xml.etree import ElementTree

import pytest
from rich.console import Console

from reco_ray.evaluation.bootstrap import Interval
from reco_ray.evaluation.findings import details, headline, stage_label, verdict
from reco_ray.evaluation.page import render_html
from reco_ray.evaluation.report import (
    CURVE_CUTOFFS,
    METRICS,
    UNION,
    Difference,
    EvaluationReport,
    StageResult,
    render_table,
)

STAGES = ("random", "popular", "two_tower", "covisit", "recall", "recall+rank", "+rerank")
EVIL = "<script>alert('x')</script>[bold]&\"tail"


def _stage(name: str, value: float) -> StageResult:
    metrics = {key: Interval(value, value * 0.9, value * 1.1) for key in METRICS}
    return StageResult(name, {**metrics, "coverage": Interval.point(value / 2), "gini": Interval.point(0.9)}, 655)


@pytest.fixture
def report() -> EvaluationReport:
    return EvaluationReport(
        title="MovieLens small",
        split_kind="per_user",
        split_explanation="The last 20 % of each user's own events are the test.",
        cold_share=0.125,
        n_users=655,
        n_events={"fit": 64_003, "rank": 16_000, "test": 20_001},
        k=10,
        stages=tuple(_stage(name, 0.02 * (i + 1)) for i, name in enumerate(STAGES)),
        differences=(
            Difference("+rerank", "popular", "ndcg", Interval(0.1, 0.08, 0.12)),
            Difference("recall+rank", "recall", "ndcg", Interval(-0.001, -0.004, 0.002)),
        ),
        candidate_recall={s: {n: n / 600 for n in CURVE_CUTOFFS} for s in ("two_tower", "covisit", UNION)},
        importances=(("covisit_score", 30.0), ("item_age_days", 10.0)),
        lake_versions={"events": 3, "items": 1},
        commit="3f9c2e1d7a",
        config_hash="9a1be07c44d2",
        seed=7,
        seconds=41.83,
        made_ts=datetime(2026, 11, 14, 9, 30, tzinfo=UTC),
    )


def test_json_survives_a_round_trip_and_has_the_checks(report: EvaluationReport) -> None:
    found = report.to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["checks"] == [
        {"name": "popular_ndcg10", "value": pytest.approx(0.04), "unit": "ndcg"},
        {"name": "recall_ndcg10", "value": pytest.approx(0.1), "unit": "ndcg"},
        {"name": "ranked_ndcg10", "value": pytest.approx(0.12), "unit": "ndcg"},
        {"name": "reranked_ndcg10", "value": pytest.approx(0.14), "unit": "ndcg"},
        {"name": "best_source_recall500", "value": pytest.approx(500 / 600), "unit": "share"},
        {"name": "union_recall500", "value": pytest.approx(500 / 600), "unit": "share"},
    ]


def test_checks_are_named_by_k_and_leave_out_stages_that_did_not_run(report: EvaluationReport) -> None:
    short = replace(report, k=20, stages=report.stages[:2], candidate_recall={})
    assert short.to_json()["checks"] == [{"name": "popular_ndcg20", "value": pytest.approx(0.04), "unit": "ndcg"}]


def test_json_writes_undefined_numbers_as_null(report: EvaluationReport) -> None:
    stages = report.to_json()["stages"]
    assert isinstance(stages, list)
    assert stages[0]["metrics"]["coverage"] == {"mean": pytest.approx(0.01), "low": None, "high": None}


def test_a_difference_is_significant_when_its_interval_excludes_zero(report: EvaluationReport) -> None:
    assert [(d.name, d.significant) for d in report.differences] == [
        ("ndcg: +rerank vs popular", True),
        ("ndcg: recall+rank vs recall", False),
    ]
    assert [verdict(d) for d in report.differences] == ["clear gain", "could be chance"]
    assert verdict(Difference("a", "b", "gini", Interval(0.1, 0.05, 0.2))) == "clear rise"


def test_the_table_fits_110_columns_and_shows_every_number(report: EvaluationReport) -> None:
    text = _terminal(report)
    assert max(len(line) for line in text.splitlines()) <= 110
    assert all(stage in text for stage in STAGES)
    assert "0.140 .126–.154" in text
    assert "…" not in text


def test_the_table_shows_brackets_in_a_title_as_they_are(report: EvaluationReport) -> None:
    assert EVIL in _terminal(replace(report, title=EVIL))


def test_the_headline_says_how_the_served_stage_does_and_whether_chance_explains_it(report: EvaluationReport) -> None:
    assert headline(report) == (
        "The full pipeline beats the popular list by 250% in NDCG@10 (0.140 against 0.040), more than chance explains."
    )
    loses = replace(
        report,
        stages=(_stage("popular", 0.2), _stage("recall", 0.15)),
        differences=(Difference("recall", "popular", "ndcg", Interval(-0.05, -0.12, 0.02)),),
    )
    assert headline(loses) == (
        "Recall alone falls 25% short of the popular list in NDCG@10 (0.150 against 0.200), "
        "but chance alone could explain that."
    )
    assert headline(replace(report, stages=report.stages[1:2])) == "The popular list reaches NDCG@10 0.040."
    assert headline(replace(report, stages=())) == "No stage was evaluated."


def test_the_details_tell_a_cost_from_a_gain_and_doubt_from_certainty(report: EvaluationReport) -> None:
    assert "The ranker costs 0.001 NDCG, which chance could explain." in details(report)


def test_the_page_contains_each_stage_and_what_is_needed_to_repeat_it(report: EvaluationReport) -> None:
    page = render_html(report)
    assert all(f"<th scope=row>{stage_label(stage)}</th>" in page for stage in STAGES)
    for text in ("3f9c2e1d7a", "9a1be07c44d2", "events v3, items v1", "12.5%", "covisit_score", report.split_kind):
        assert text in page
    assert page.count("<svg") == 4


def test_the_page_escapes_whatever_it_is_given(report: EvaluationReport) -> None:
    plain, evil = _Tags(), _Tags()
    plain.feed(render_html(report))
    page = render_html(
        replace(
            report,
            title=EVIL,
            split_kind=EVIL,
            split_explanation=EVIL,
            commit=EVIL,
            config_hash=EVIL,
            n_events={EVIL: 1},
            lake_versions={EVIL: 1},
            importances=((EVIL, 1.0),),
            candidate_recall={EVIL: {10: 0.1, 20: 0.2}},
            stages=(*report.stages[:-1], _stage(EVIL, 0.1)),
            differences=(Difference(EVIL, EVIL, EVIL, Interval(1.0, 0.5, 1.5)),),
            limits=(EVIL,),
        )
    )
    evil.feed(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert evil.names <= plain.names


def test_the_page_loads_nothing_and_its_drawings_are_well_formed(report: EvaluationReport) -> None:
    page = render_html(report)
    assert not re.search(r"(src|href)=|url\(|@import|https?://|<script", page)
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_the_page_of_an_evaluation_with_little_in_it_is_still_a_page(report: EvaluationReport) -> None:
    bare = replace(
        report,
        stages=(StageResult("popular", {"ndcg": Interval.point(0.0), "coverage": Interval.point(math.nan)}, 1),),
        differences=(),
        candidate_recall={"popular": {10: math.nan}},
        importances=(),
        lake_versions={},
        cold_share=math.nan,
    )
    page = render_html(bare)
    assert "popular" in page
    assert "nan" not in page
    assert render_html(replace(bare, stages=(), candidate_recall={})).count("<svg") == 0


class _Tags(HTMLParser):
    """Collects the names of all elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(f"@{name}" for name, _ in attrs)}


def _terminal(report: EvaluationReport) -> str:
    out = StringIO()
    Console(file=out, width=110, color_system=None).print(render_table(report))
    return out.getvalue()
