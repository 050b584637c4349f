"""The whole workflow on files of a user's own, on the shared cluster: every step, a kill, and what runs again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
import xgboost
from ports import free_port
from ray import serve

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig, Topology
from reco_ray.events.client import EventClient
from reco_ray.features import user_row
from reco_ray.hashing import item_keys
from reco_ray.lake import tables
from reco_ray.rank.stage import MODEL_FILE
from reco_ray.rank.stage import load as load_rank
from reco_ray.recall import load as load_recall
from reco_ray.release import open_release, verify
from reco_ray.slate import Pipeline
from reco_ray.store import OnlineStore
from reco_ray.types import Request, UserRow
from reco_ray.workflow import STEPS, Output, run_all, run_one
from reco_ray.workflow.deploy import deploy_release, load_precomputed, materialize_features
from reco_ray.workflow.sinks import feature_status, stop_sinks
from reco_ray.workflow.snapshots import user_rows

USERS, ITEMS, EVENTS = 90, 120, 24
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People of two tastes who come back over a hundred days: a global cut in time is possible."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(5)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = []
    for user in range(USERS):
        own = [item for item in range(ITEMS) if item % 2 == user % 2]
        days = np.sort(rng.uniform(0, 100, EVENTS))
        for day, item in zip(days, rng.permutation(own)[:EVENTS], strict=True):
            rows.append({"who": f"w{user}", "what": f"a{item}", "when": (start + timedelta(days=float(day))).isoformat()})
    pl.DataFrame(rows).write_csv(folder / "events.csv")
    items = [{"what": f"a{i}", "title": f"Article {i}", "categories": "even" if i % 2 == 0 else "odd"} for i in range(ITEMS)]
    pl.DataFrame(items).write_ndjson(folder / "items.jsonl")
    return folder


def overrides(root: Path, files: Path) -> list[str]:
    return [
        f"root={root}",
        "source=files",
        "recall=wide",
        f"source.events={files}/events.csv",
        f"source.items={files}/items.jsonl",
        "source.columns.user_id=who",
        "source.columns.item_id=what",
        "source.columns.ts=when",
        "split.min_test_users=50",
        "recall.two_tower.epochs=4",
        "recall.two_tower.batch_size=64",
        "rank.rounds=20",
        "batch.k=5",
        f"store.port={free_port()}",
    ]


@pytest.fixture(scope="module")
def config(files: Path, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    return compose_config(overrides(tmp_path_factory.mktemp("root"), files))


@pytest.fixture(scope="module")
def outputs(ray_cluster: str, config: PipelineConfig) -> dict[str, Output]:
    return run_all(STEPS, config)


def test_every_step_leaves_its_output(outputs: dict[str, Output], config: PipelineConfig) -> None:
    assert list(outputs) == [step.name for step in STEPS if step.needed(config)]
    assert outputs["import_dataset"].facts["events_new"] == USERS * EVENTS
    assert outputs["build_features"].facts["split"]["kind"] == "global_time"  # type: ignore[index]
    slates = pl.read_parquet(f"{outputs['recommend_batch'].facts['slates']}/*.parquet")
    assert slates.height == USERS
    assert slates["item_ids"].list.len().to_list() == [5] * USERS
    assert slates["item_ids"].list.n_unique().to_list() == [5] * USERS
    assert (Path(config.root) / "mlflow.db").is_file()


def test_the_report_holds_every_stage_and_each_but_the_newest_finds_the_taste(outputs: dict[str, Output]) -> None:
    report = json.loads((outputs["evaluate"].folder() / "report.json").read_text())
    ndcg = {stage["stage"]: stage["metrics"]["ndcg"]["mean"] for stage in report["stages"]}
    singles = ["two_tower", "mf", "covisit", "content", "fresh"]
    assert list(ndcg) == ["random", "popular", *singles, "recall", "recall+rank", "+rerank"]
    # all that there is to know of these people is their taste, which the popular list of a segment knows too
    assert min(value for stage, value in ndcg.items() if stage not in ("random", "fresh")) > 2 * ndcg["random"]
    assert {c["name"] for c in report["checks"]} == {
        *(f"{n}_ndcg10" for n in ("popular", "recall", "ranked", "reranked")),
        *("best_source_recall500", "union_recall500"),
    }
    assert "<html" in (outputs["evaluate"].folder() / "report.html").read_text()


def test_nothing_after_the_cut_feeds_the_snapshot_that_is_tested(outputs: dict[str, Output], config: PipelineConfig) -> None:
    features = outputs["build_features"]
    labels = tables.read(config.root, "labels", where=pl.col("part") == f"{features.key}-test")
    users = tables.read(config.root, "features_users", where=pl.col("snapshot") == f"{features.key}-eval")
    joined = users.join(labels, on="user_id")
    assert joined.height > 50
    for row in joined.iter_rows(named=True):
        assert not set(row["seen"]) & set(row["item_ids"])
        assert row["as_of"] <= features.facts["as_of"]["eval"]  # type: ignore[index]


def test_the_release_recommends_a_users_own_taste(outputs: dict[str, Output], config: PipelineConfig) -> None:
    release = str(outputs["publish_release"].facts["release"])
    folder = open_release(config.root, release)
    assert verify(folder).facts["sensitive_columns"] == [], "none is declared"
    pipeline = Pipeline.load(folder)
    snapshot = f"{outputs['build_features'].key}-live"
    rows = tables.read(config.root, "features_users", where=pl.col("snapshot") == snapshot).sort("user_id")
    slates = pipeline.run([Request(request_id="r", user_id=r["user_id"], k=5, user=user_row(r)) for r in rows.to_dicts()])
    own = [
        int(item[1:]) % 2 == int(user[1:]) % 2
        for user, slate in zip(rows["user_id"], slates, strict=True)
        for item in slate.item_ids
    ]
    assert np.mean(own) > 0.9
    assert all(not slate.degraded for slate in slates)


def test_a_second_run_does_nothing_and_one_deleted_output_runs_what_follows(
    outputs: dict[str, Output], config: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def ran() -> list[str]:
        caplog.clear()
        with caplog.at_level("INFO", logger="reco_ray.workflow.graph"):
            run_all(STEPS, config)
        return [r.getMessage().split()[1].rstrip(":") for r in caplog.records if r.getMessage().endswith(": running")]

    assert ran() == []
    shutil.rmtree(outputs["evaluate"].uri)
    assert ran() == ["evaluate", "publish_release", "recommend_batch"]


def test_a_killed_training_ends_as_an_undisturbed_one(
    ray_cluster: str, outputs: dict[str, Output], files: Path, tmp_path: Path
) -> None:
    import ray

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, str(REPOSITORY / "jobs/run_pipeline.py"), *overrides(tmp_path, files), "only=train_embeddings"]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    pause, checkpoints = threading.Event(), 0
    while process.poll() is None and checkpoints < 2:
        checkpoints = len(list(tmp_path.glob("train/*/checkpoint_*")))
        pause.wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoints >= 2, log.read_text()[-2000:]
    assert not (tmp_path / "steps/train_embeddings").exists(), "killed before its output was published"
    again = run_all(STEPS, compose_config(overrides(tmp_path, files)), upto="train_embeddings")
    assert again["train_embeddings"].content == outputs["train_embeddings"].content


def test_the_starter_rung_publishes_lists_and_rules_without_training(
    ray_cluster: str, outputs: dict[str, Output], files: Path, tmp_path: Path
) -> None:
    events_only = [o for o in overrides(tmp_path, files) if not o.startswith(("source.items", "recall="))]
    config = compose_config([*events_only, "profile=starter"])
    found = run_all(STEPS, config, upto="publish_release")
    assert "train_embeddings" not in found
    assert "train_ranker" not in found
    pipeline = Pipeline.load(open_release(config.root, str(found["publish_release"].facts["release"])))
    (slate,) = pipeline.run([Request(request_id="r", user_id="stranger", k=5)])
    assert len(slate.item_ids) == 5
    assert slate.degraded == ("unknown_user",)


def test_one_job_alone_runs_on_the_outputs_before_it(outputs: dict[str, Output], config: PipelineConfig) -> None:
    assert run_one(STEPS, config, "train_ranker").content == outputs["train_ranker"].content


@pytest.fixture(scope="module")
def store_url(config: PipelineConfig, outputs: dict[str, Output]) -> Iterator[str]:
    config.store.port, config.serve.port = free_port(), free_port()
    with embedded_store(config) as url:
        yield url
        stop_sinks(config)
    serve.shutdown()


@pytest.mark.parametrize("topology", Topology)
def test_the_release_answers_over_http_as_it_does_in_process(
    ray_cluster: str, store_url: str, outputs: dict[str, Output], config: PipelineConfig, topology: Topology
) -> None:
    config.serve.topology, config.serve.deadline_ms = topology, 5_000  # a busy test machine is no reason to degrade
    report = deploy_release(config, store_url, ray_cluster)
    assert report.release == outputs["publish_release"].facts["release"]
    assert not deploy_release(config, store_url, ray_cluster).changed, "deploying what is deployed changes nothing"
    pipeline = Pipeline.load(open_release(config.root, report.release))
    users = user_rows(config, outputs["build_features"], "live").sort("user_id")
    with httpx.Client(base_url=report.url, timeout=30) as client:
        for row in users.head(30).iter_rows(named=True):
            asked = [time.time_ns() // 1000]
            answer = client.post("/v1/recommendations", json={"user_id": row["user_id"], "k": 5}).json()
            asked.append(time.time_ns() // 1000)  # of another hour, once in a while
            requests = [
                Request(request_id="r", user_id=row["user_id"], k=5, user=user_row(row), at_us=at_us) for at_us in asked
            ]
            assert (answer["release"], answer["degraded"]) == (report.release, [])
            expected = [slate.item_ids for slate in pipeline.run(requests)]
            assert tuple(item["item_id"] for item in answer["items"]) in expected
            assert all(item["title"].startswith("Article") for item in answer["items"])


def test_a_served_request_is_explained_over_http_as_a_recomputation_says(
    ray_cluster: str, store_url: str, outputs: dict[str, Output], config: PipelineConfig
) -> None:
    """Before any event: items' features in the replicas follow those, and an explanation runs the release as it was made."""
    report = deploy_release(config, store_url, ray_cluster)
    release = open_release(config.root, report.release)
    with OnlineStore(store_url, config.store.namespace) as store:
        user = store.users(["w4"], verify(release).user_view)[0]
    recall, ranker = load_recall(release), load_rank(release)
    ids = recall.catalogue.item_ids
    with httpx.Client(base_url=report.url, timeout=30) as client:
        served = client.post("/v1/recommendations", json={"user_id": "w4", "k": 5}, headers={"x-request-id": "why"}).json()
        shown = [item["item_id"] for item in served["items"]]
        until(lambda: client.get("/v1/explanations/why").status_code == 200)
        request = Request(request_id="why", user_id="w4", k=5, user=user, at_us=answered_us(config, "why"))
        (found,) = recall.recall([request])
        (scores,) = ranker.score([request], [found])
        order = [ids[row] for row in found.item_idx[np.argsort(-scores, kind="stable")]]
        answer = client.get("/v1/explanations/why", params={"item": order[-1]}).json()
    assert (answer["release"], answer["same_slate"]) == (report.release, True)
    assert [item["item_id"] for item in answer["items"]] == shown
    matrix = ranker.features.matrix(request, found)
    effects = xgboost.Booster(model_file=release / MODEL_FILE).predict(xgboost.DMatrix(matrix), pred_contribs=True)[:, :-1]
    effects -= effects.mean(axis=0)
    score_of = dict(zip((ids[row] for row in found.item_idx), zip(scores, effects, strict=True), strict=True))
    for said in (*answer["items"], answer["item"]):
        score, effect = score_of[said["item_id"]]
        assert said["score"] == pytest.approx(score, abs=1e-5)
        assert said["reasons"]
        for reason in said["reasons"]:
            assert reason["effect"] == pytest.approx(effect[ranker.features.columns.index(reason["column"])], abs=1e-5)
    lost, last = answer["item"], min(score_of[item][0] for item in shown)
    assert (lost["stage"], lost["place"], lost["behind"]) == ("rank", len(order), pytest.approx(last - scores.min(), abs=1e-5))


def answered_us(config: PipelineConfig, request_id: str) -> int:
    """When the request was answered, by its record."""
    (ts,) = tables.read(config.root, "exposures", ["ts"], where=pl.col("request_id") == request_id)["ts"]
    return round(ts.timestamp() * 1e6)


def test_an_event_is_in_the_next_requests_features_and_a_rebuild_says_the_same(
    ray_cluster: str, store_url: str, outputs: dict[str, Output], config: PipelineConfig
) -> None:
    url = deploy_release(config, store_url, ray_cluster).url
    manifest = verify(open_release(config.root, str(outputs["publish_release"].facts["release"])))
    with OnlineStore(store_url, config.store.namespace) as store, EventClient(url) as client:

        def row() -> UserRow:
            return store.users(["w1"], manifest.user_view)[0]

        before = row()
        client.send({"type": "like", "user_id": "w1", "item_id": "a5"})
        client.flush()
        until(lambda: row().position > before.position)
        online = row()
        assert online.history[-1] == item_keys(["a5"])[0]
        assert online.as_of > before.as_of
        until(lambda: tables.read(config.root, "events").filter(user_id="w1").height == EVENTS + 1)
        rebuilt = materialize_features(config, store_url, manifest, again=True)
        assert rebuilt is not None
        assert rebuilt.users == USERS
        np.testing.assert_allclose(row().features, online.features, atol=2e-5)
        np.testing.assert_array_equal(row().history, online.history)
        assert row().position >= online.position
        assert [state.view for state in feature_status(config) if state.error] == []


def until(check: Callable[[], bool], seconds: float = 60) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not check():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def test_the_slates_of_a_batch_reach_the_online_store(
    store_url: str, outputs: dict[str, Output], config: PipelineConfig
) -> None:
    assert load_precomputed(config, outputs["recommend_batch"], store_url) == USERS
    assert load_precomputed(config, outputs["recommend_batch"], store_url) == USERS
    with OnlineStore(store_url, config.store.namespace) as store:
        assert len(store.blocking_calls.keys(store.key("precomputed", "*"))) == USERS


def test_filters_exclusions_strangers_and_neighbours_are_honoured_over_http(
    ray_cluster: str, store_url: str, config: PipelineConfig
) -> None:
    url = deploy_release(config, store_url, ray_cluster).url
    with httpx.Client(base_url=url, timeout=30) as client:
        body = {"user_id": "w3", "k": 9, "filters": {"category": ["even"]}, "exclude": ["a10"]}
        items = [item["item_id"] for item in client.post("/v1/recommendations", json=body).json()["items"]]
        assert items
        assert "a10" not in items
        assert all(int(item[1:]) % 2 == 0 for item in items)
        stranger = client.post("/v1/recommendations", json={"user_id": "nobody", "k": 4}).json()
        assert len(stranger["items"]) == 4
        assert stranger["degraded"] == ["unknown_user"]
        near = client.post("/v1/similar-items", json={"item_id": "a7", "k": 3}).json()
        assert len(near["items"]) == 3
        assert client.post("/v1/similar-items", json={"item_id": "none"}).status_code == 404
        assert client.post("/v1/recommendations", json={"kk": 3}).headers["content-type"] == "application/problem+json"
        first = client.get("/v1/recommendations/w3?k=4")
        again = client.get("/v1/recommendations/w3?k=4", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304
