"""The model card: it says what a release is, how good, and for whom it is worse; what comes later is added when it is shown."""

from dataclasses import replace
from typing import Any

import pytest
from test_evaluation_report import report  # noqa: F401  a fixture

from reco_ray.compose import compose_config
from reco_ray.evaluation.bootstrap import Interval
from reco_ray.evaluation.report import EvaluationReport
from reco_ray.evaluation.slices import Slice
from reco_ray.release.card import model_card, with_verdicts

FACTS: dict[str, Any] = {
    "made_ts": "2026-11-20T10:11:12.5+00:00",
    "commit": "abc",
    "parents": ["older"],
    "sensitive_columns": [],
    "lake_versions": {"events": 3, "items": 1},
    "seconds": {"train_ranker": 12.4, "build_features": 3.2},
}


@pytest.fixture
def card(report: EvaluationReport) -> str:  # noqa: F811
    worse = Slice("history", "few", "+rerank", "ndcg", 40, Interval(0.1, 0.08, 0.12), Interval(-0.05, -0.08, -0.02))
    unsure = replace(worse, name="many", delta=Interval(-0.01, -0.05, 0.03))
    found = replace(report, slices=(worse, unsure, replace(worse, stage="recall", name="other stage")))
    return model_card("r1", FACTS, compose_config(["rerank.explore.kind=thompson", "rerank.explore.rate=0.1"]), found.to_json())


def test_it_says_what_the_release_is_and_how_good(card: str) -> None:
    for said in (
        "# Release r1",
        "Made 2026-11-20T10:11:12 UTC by reco_ray, commit abc.",
        "- Ranker: xgboost.",
        "exploration: thompson in 10% of the places.",
        "- Models start from those of older.",
        "- Sensitive columns that the ranker reads: none.",
        "lake versions events 3, items 1.",
        "- Events: 64,003 fit, 16,000 rank, 20,001 test.",
        "build_features 3 s, train_ranker 12 s",
        "655 users of the test part, lists of 10; 95% intervals over users.",
        "| +rerank | 0.140 (0.126 to 0.154) |",
    ):
        assert said in card, said


def test_it_names_who_is_worse_off_for_sure_and_nobody_else(card: str) -> None:
    assert "| history: few | 40 | ndcg | 0.100 (0.080 to 0.120) | -0.050 (-0.080 to -0.020) |" in card
    assert "many" not in card
    assert "other stage" not in card


def test_what_gates_and_people_said_comes_behind_it(card: str) -> None:
    bare = with_verdicts(card, None, [])
    assert bare.startswith(card.rstrip("\n"))
    assert "None was asked yet." in bare
    gate = {"name": "size", "passed": False, "found": "3 | MB", "expected": "2 MB"}
    gates = {"made_ts": "2026-11-21T00:00:00+00:00", "champion": "old", "action": "gates_refused", "gates": [gate]}
    full = with_verdicts(card, gates, [{"by": "ana", "ts": "2026-11-21T01:00:00+00:00", "note": "looked at it"}])
    assert "Asked 2026-11-21T00:00:00 UTC, against old: gates_refused." in full
    assert "| size | **no** | 3 / MB | 2 MB |" in full
    assert "- ana, 2026-11-21T01:00:00 UTC: looked at it" in full
