"""Gates: each passes and refuses by its own facts; a refusal names gate, found, expected, remedy; force leaves a record."""

import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import GateName, GatesConfig, PipelineConfig
from reco_ray.errors import ArtifactError, ConfigError
from reco_ray.evaluation.lists import StageLists
from reco_ray.evaluation.per_user import PER_USER, per_user_metrics, same_users, write_per_user
from reco_ray.evaluation.smoke import Answers, ask
from reco_ray.features import user_row
from reco_ray.release import release_uri, seal
from reco_ray.rollout.gates import Facts, GateResult, check, refusal
from reco_ray.slate import Pipeline
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.types import Candidates, Request
from reco_ray.workflow.gates import pass_gates


def answers(ms: float = 5.0, **counts: int) -> Answers:
    found = {"requests": 100, "failed": 0, "empty": 0, "wrong": 0, **counts}
    return Answers(**found, first_failure="ValueError: odd" if found["failed"] else "", ms=np.full(100, ms))


def facts(**changed: object) -> Facts:
    users = np.random.default_rng(1).random(500)
    base = Facts("new", "old", "", (answers(), answers()), (users, users), (100, 100), np.arange(500.0))
    return replace(base, **changed)  # type: ignore[arg-type]


def result(name: GateName, of: Facts, **settings: object) -> GateResult:
    (found,) = check(of, GatesConfig(wanted=[name], **settings), seed=7)  # type: ignore[arg-type]
    return found


def test_an_equal_release_passes_all_gates_in_the_declared_order() -> None:
    found = check(facts(), GatesConfig(), 7)
    assert [each.name for each in found] == [each.value for each in GateName]
    assert all(each.passed for each in found)
    assert refusal("new", found) == ""
    assert [each.name for each in check(facts(), GatesConfig(wanted=[GateName.size]), 7)] == ["size"]


def test_a_damaged_bundle_is_refused_whatever_is_wanted() -> None:
    (found,) = check(Facts("new", damage="a.npy is missing"), GatesConfig(wanted=[]), 7)
    assert (found.name, found.passed, found.found) == ("integrity", False, "a.npy is missing")


@pytest.mark.parametrize("wrong", ["failed", "empty", "wrong"])
def test_one_bad_answer_fails_the_smoke_gate(wrong: str) -> None:
    found = result(GateName.smoke, facts(answers=(answers(**{wrong: 1}), answers())))
    assert not found.passed
    assert found.numbers[wrong] == 1
    assert f"1 {wrong}" in found.found
    assert not result(GateName.smoke, facts(answers=(answers(requests=0), None))).passed


def test_a_metric_passes_only_where_its_whole_interval_is_above_the_margin() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.random(2000)
    for loss, passes in ((0.0, True), (0.05, True), (0.2, False)):
        found = result(GateName.metrics, facts(metric=(theirs * (1 - loss) + rng.normal(0, 0.01, 2000), theirs)))
        assert found.passed is passes, found
        assert found.numbers["low"] <= found.numbers["difference"] <= found.numbers["high"]
    noise = rng.normal(0, 1, 20)
    unsure = result(GateName.metrics, facts(metric=(theirs[:20] + noise - noise.mean(), theirs[:20])))
    assert not unsure.passed
    assert "more users" in unsure.remedy
    assert not result(GateName.metrics, facts(metric=None)).passed
    assert "0 users in both" in result(GateName.metrics, facts(metric=(theirs[:0], theirs[:0]))).found
    assert result(GateName.metrics, facts(champion="", metric=None)).passed


def test_a_third_of_the_users_that_is_worse_off_for_sure_is_named() -> None:
    rng = np.random.default_rng(3)
    theirs, history = rng.random(900), np.arange(900.0)
    short = theirs * np.where(history < 300, 0.6, 1.1)
    found = result(GateName.slices, facts(metric=(short, theirs), history=history))
    assert result(GateName.metrics, facts(metric=(short, theirs))).passed, "on the average nobody sees it"
    assert not found.passed
    assert found.found.startswith("short histories -")
    assert found.numbers["short_high"] < found.numbers["short_least"] < found.numbers["long_low"]
    assert result(GateName.slices, facts(metric=(theirs, theirs), history=history)).passed
    few = result(GateName.slices, facts(metric=(theirs[:6] - rng.random(6), theirs[:6]), history=history[:6]))
    assert (few.passed, few.numbers) == (True, {}), "two users prove nothing"
    assert not result(GateName.slices, facts(history=None)).passed
    assert result(GateName.slices, facts(champion="", history=None)).passed


def test_latency_is_held_to_the_champions_with_slack() -> None:
    assert result(GateName.latency, facts(answers=(answers(14.9), answers(5.0)))).passed  # 2 x 5 + 5 ms
    found = result(GateName.latency, facts(answers=(answers(15.1), answers(5.0))))
    assert not found.passed
    assert found.numbers["ratio"] == pytest.approx(3.02)
    assert result(GateName.latency, facts(champion="", answers=(answers(900.0), None))).passed


def test_size_is_held_to_the_champions() -> None:
    assert result(GateName.size, facts(sizes=(200, 100))).passed
    found = result(GateName.size, facts(sizes=(201, 100)))
    assert (found.passed, found.numbers["ratio"]) == (False, 2.01)
    assert result(GateName.size, facts(champion="", sizes=(10**9, 0))).passed


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gates.metric: found 'auc', expected one of"):
        GatesConfig(metric="auc")
    assert compose_config(["gates.wanted=[smoke,size]"]).gates.wanted == [GateName.smoke, GateName.size]


def test_per_user_metrics_are_kept_and_compared_over_the_users_of_both(tmp_path: Path) -> None:
    def column(*rows: list[int]) -> list[NDArray[np.int32]]:
        return [np.array(row, np.int32) for row in rows]

    answered = StageLists(column([1], [2]), {"+rerank": column([1, 5], [6, 7])}, {}, users=("u1", "u2"))
    metrics = per_user_metrics(answered, "+rerank", 2)
    assert metrics["ndcg"].tolist() == [1.0, 0.0]
    write_per_user(tmp_path, answered.users, metrics)
    ours = pl.read_parquet(tmp_path / PER_USER)
    theirs = pl.DataFrame({"user_id": ["u3", "u2", "u1"], "ndcg": [0.1, 0.2, 0.3]})
    one, other, history = same_users(ours, theirs, "ndcg")
    assert (one.tolist(), other.tolist(), history) == ([1.0, 0.0], [0.3, 0.2], None)
    counted = per_user_metrics(replace(answered, history=np.array([3, 9])), "+rerank", 2)
    write_per_user(tmp_path, answered.users, counted)
    history = same_users(pl.read_parquet(tmp_path / PER_USER), theirs, "ndcg")[2]
    assert history is not None
    assert history.tolist() == [3.0, 9.0]
    with pytest.raises(ValueError, match="found 1 users"):
        write_per_user(tmp_path, ["u1"], metrics)


class Failing:
    """A ranker that fails for one user."""

    n_sources = 1

    def __init__(self, pipeline: Pipeline, user_id: str) -> None:
        self._rank, self._user_id = pipeline.rank, user_id

    def score(self, requests: Sequence[Request], candidates: Sequence[Candidates]) -> list[NDArray[np.float32]]:
        if requests[0].user_id == self._user_id:
            raise ValueError("odd user")
        return self._rank.score(requests, candidates)


def test_requests_are_asked_of_both_and_failures_counted(folder: Path, users: pl.DataFrame) -> None:
    rows = users.head(5).iter_rows(named=True)
    requests = [Request(f"r{i}", row["user_id"], 6, user=user_row(row)) for i, row in enumerate(rows)]
    good = Pipeline.load(folder)
    bad = Pipeline(good.recall, Failing(good, requests[3].user_id), good.rerank)
    ours, theirs = ask([(good, requests), (bad, requests)])
    assert (ours.requests, ours.failed, ours.empty, ours.wrong, ours.ms.size) == (5, 0, 0, 0, 5)
    assert (theirs.failed, theirs.first_failure, theirs.ms.size) == (1, "ValueError: odd user", 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, OnlineStore]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = tmp_path_factory.mktemp("root")
    config = compose_config([f"root={root}", f"store.port={port}", "store.namespace=gates", "gates.latency_ratio=1000"])
    with embedded_store(config) as url, OnlineStore(url, "gates") as store:
        yield config, store


def publish(folder: Path, root: str, name: str, ndcg: NDArray[np.float64]) -> None:
    target = Path(release_uri(root, name))
    shutil.copytree(folder, target)
    seal(target, name, "v1", {"made_ts": name, "evaluation_key": name})
    evaluated = Path(root) / "steps/evaluate" / name
    evaluated.mkdir(parents=True)
    write_per_user(evaluated, [f"u{n}" for n in range(ndcg.size)], {"ndcg": ndcg, "history": np.arange(ndcg.size) + 1.0})


def test_a_worse_release_is_refused_forced_with_a_record_and_a_damaged_one_never_passes(
    folder: Path, world: tuple[PipelineConfig, OnlineStore]
) -> None:
    config, store = world
    usual = np.random.default_rng(3).random(300)
    for name, ndcg in (("old", usual), ("same", usual), ("worse", usual * 0.5), ("torn", usual)):
        publish(folder, config.root, name, ndcg)
    assert all(each.passed for each in pass_gates(config, store, "old"))  # nobody has traffic
    store.set_traffic({"old": 1.0}, {"old": "v1"})
    assert all(each.passed for each in pass_gates(config, store, "same"))
    with pytest.raises(
        ArtifactError, match=r"release worse may not take traffic: gate metrics: found .*, expected .*; look at"
    ):
        pass_gates(config, store, "worse")
    written = json.loads((Path(config.root) / "reports/gates/worse.json").read_text())
    assert (written["action"], written["champion"]) == ("gates_refused", "old")
    assert {each["name"]: each["passed"] for each in written["gates"]}["metrics"] is False
    forced = pass_gates(replace(config, force=True), store, "worse")
    assert [each.name for each in forced if not each.passed] == ["metrics", "slices"]
    with pytest.raises(ArtifactError, match=r"release 'nope': found none"):
        pass_gates(config, store, "nope")
    (Path(config.root) / "releases/torn/recall.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"gate integrity: found .*recall.json has SHA-256"):
        pass_gates(config, store, "torn")
    actions = [(each["action"], each["release"]) for each in RolloutStore(store).history(10)]
    assert actions == [
        ("gates_refused", "torn"),
        ("gates_forced", "worse"),
        ("gates_refused", "worse"),
        ("gates", "same"),
        ("gates", "old"),
    ]
