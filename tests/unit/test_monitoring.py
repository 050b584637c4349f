"""Traces and the request log: what is written, and that writing cannot hurt."""

import json
import logging
from pathlib import Path

import pytest

from reco_ray.monitoring.request_log import RequestLog
from reco_ray.monitoring.tracing import Traces

PARENT = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def spans(tmp_path: Path, parent: bytes | None) -> list[dict[str, object]]:
    traces = Traces(0.0, "", tmp_path / "spans.jsonl", "r0")
    timings = {"user": 1.0, "recall": 2.0, "total": 5.0}
    traces.write("recommend", {"request_id": "q", "release": "rel"}, 1_700_000_000.0, timings, parent, failed=False)
    traces.close()
    return [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]


def test_a_request_is_one_span_with_a_child_for_each_stage(tmp_path: Path) -> None:
    user, recall, request = spans(tmp_path, None)
    assert [each["name"] for each in (user, recall, request)] == ["user", "recall", "recommend"]
    assert request["attributes"] == {"request_id": "q", "release": "rel"}
    assert request["parent_id"] is None
    assert {user["parent_id"], recall["parent_id"]} == {request["context"]["span_id"]}  # type: ignore[index]
    assert user["end_time"] == recall["start_time"]
    assert (request["start_time"], request["end_time"]) == ("2023-11-14T22:13:19.995000Z", "2023-11-14T22:13:20.000000Z")


def test_spans_join_the_callers_trace(tmp_path: Path) -> None:
    request = spans(tmp_path, PARENT)[-1]
    assert request["parent_id"] == "0x0123456789abcdef"
    assert request["context"]["trace_id"] == "0x0123456789abcdef0123456789abcdef"  # type: ignore[index]


def test_the_callers_flag_decides_and_else_the_share(tmp_path: Path) -> None:
    traces = Traces(0.25, "", tmp_path / "spans.jsonl", "r0", draw=iter([0.2, 0.3, 0.3]).__next__)
    assert traces.wanted(PARENT)
    assert not traces.wanted(PARENT[:-1] + b"0")
    assert [traces.wanted(None), traces.wanted(None), traces.wanted(b"nonsense")] == [True, False, False]
    traces.close()


def test_the_request_log_is_json_lines_and_says_what_it_dropped(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "requests.jsonl")
    log.flush()
    assert not (tmp_path / "requests.jsonl").exists()
    for i in range(20_003):
        log.add({"request_id": f"q{i}", "status": 200})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert lines[0] == {"request_id": "q0", "status": 200}
    assert len(lines) == 20_001
    assert lines[-1] == {"dropped": 3}


def test_a_full_disk_drops_and_counts_lines_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(Path("/dev/full"))
    with caplog.at_level(logging.WARNING):
        for i in range(3):
            log.add({"request_id": f"q{i}"})
            log.flush()
    assert [record.message.split(":")[0] for record in caplog.records] == ["the request log cannot be written"]
    assert log.dropped == 3
