"""Gates: each passes and refuses by its own facts; a refusal names gate, found, expected, remedy; force leaves a record."""

import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from reco_ray.cli.main import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import GateName, GatesConfig, PipelineConfig
from reco_ray.errors import ArtifactError, ConfigError
from reco_ray.evaluation.lists import StageLists
from reco_ray.evaluation.off_policy import Draws
from reco_ray.evaluation.per_user import PER_USER, per_user_metrics, same_users, write_per_user
from reco_ray.evaluation.policy_report import PolicyReport, judge
from reco_ray.evaluation.smoke import Answers, ask
from reco_ray.features import user_row
from reco_ray.features.drift import Drift
from reco_ray.features.skew import SkewReport
from reco_ray.release import release_uri, seal
from reco_ray.release.shelf import gates_said
from reco_ray.rollout.gates import Facts, GateResult, check, refusal
from reco_ray.slate import Pipeline
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.types import Candidates, Request
from reco_ray.workflow.gates import pass_gates


def answers(ms: float = 5.0, **counts: int) -> Answers:
    found = {"requests": 100, "failed": 0, "empty": 0, "wrong": 0, **counts}
    times = np.full(100, ms)
    return Answers(**found, first_failure="ValueError: odd" if found["failed"] else "", ms=times, cpu_ms=times / 2)


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


def test_cost_is_held_to_the_champions_cpu_with_slack() -> None:
    assert result(GateName.cost, facts(answers=(answers(13.9), answers(5.0)))).passed  # 7 ms are 7 s: 2 x 2.5 and 2
    found = result(GateName.cost, facts(answers=(answers(14.1), answers(5.0)), train_s=(90.0, 60.0)))
    assert not found.passed
    assert found.numbers == {
        "train_s": 90,
        "champion_train_s": 60,
        "cpu_s_per_1000": pytest.approx(7.05),
        "champion_cpu_s_per_1000": 2.5,
    }
    assert "7.05 s of CPU for 1,000 requests, the champion's 2.50 s" in found.found
    assert result(GateName.cost, facts(champion="", answers=(answers(900.0), None))).passed


def test_rows_that_streams_would_make_otherwise_are_refused_and_the_columns_named() -> None:
    skewed = SkewReport(200, 3, 0, {"n_events": 3, "history": 1}, {"n_events": 0.5, "history": 0.0})
    found = result(GateName.parity, facts(parity=skewed))
    assert (found.passed, found.found) == (False, "3 of 200 rows (n_events in 3, history in 1)")
    assert result(GateName.parity, facts(parity=skewed), parity_limit=0.02).passed
    assert result(GateName.parity, facts(parity=SkewReport(200))).passed
    assert result(GateName.parity, facts(parity=None)).passed


def drifted(psi: float, drifts: bool = True, column: str = "n_events") -> Drift:
    return Drift(column, psi, 0.4, 0.3, 1e-9, (0.0, 0.0), (0.1, 0.1), (900, 800), drifts)


def test_a_feature_that_drifts_is_refused_only_where_the_champions_training_is_nearer() -> None:
    steady = drifted(0.05, drifts=False, column="recency")
    for theirs, passes in ((0.5, True), (0.35, True), (0.3, False)):
        found = result(GateName.drift, facts(drifts=([drifted(0.5), steady], [drifted(theirs), steady])))
        assert found.passed is passes, found
        assert (found.numbers["drifting"], found.numbers["farther"], found.numbers["rows"]) == (1, int(not passes), 800)
    assert found.found == "n_events PSI 0.50 (0.30)"
    assert not result(GateName.drift, facts(drifts=([drifted(0.5)], []))).passed, "of the champion's nothing is known"
    assert result(GateName.drift, facts(drifts=([drifted(0.5, drifts=False)], []))).passed
    assert result(GateName.drift, facts(drifts=None)).passed


def judged(target: float, n: int = 4000) -> PolicyReport:
    """Two actions, drawn alike; the first earns 0.3, the other 0.1. A policy takes the first one with odds ``target``."""
    rng = np.random.default_rng(5)
    first = rng.random(n) < 0.5
    rewards = (rng.random(n) < np.where(first, 0.3, 0.1)).astype(float)[:, None]
    odds = np.where(first, target, 1 - target)[:, None]
    draws = Draws(rewards, np.full((n, 1), 0.5), odds, np.arange(n))
    return judge(draws, "release new", "logs", "clicks", 0.95, 100, datetime.now(UTC))


def test_a_release_that_would_have_earned_less_for_sure_is_refused() -> None:
    for target, passes in ((0.9, True), (0.5, True), (0.1, False)):
        found = result(GateName.off_policy, facts(policy=judged(target)))
        assert found.passed is passes, found
        assert found.numbers["low"] < 0.1 + 0.2 * target < found.numbers["high"]
    none = result(GateName.off_policy, facts(policy_missing="exposures: found no such table"))
    assert (none.passed, none.found) == (True, "nothing to estimate from: exposures: found no such table")
    unsure = result(GateName.off_policy, facts(policy=judged(0.1, n=20)))
    assert (unsure.passed, "effective of 20 draws" in unsure.found, "estimate" in unsure.numbers) == (True, True, False)


def test_names_are_asked_for_where_the_configuration_says_so() -> None:
    assert result(GateName.approval, facts()).passed
    found = result(GateName.approval, facts(approvals=["ana", "eve"]), approvals=2, approvers=["ana", "ben"])
    assert (found.passed, found.found, found.expected) == (False, "ana", "2 approvals among ana, ben")
    assert found.remedy == "`reco releases approve new --by NAME`"
    assert result(GateName.approval, facts(approvals=["ana", "eve"]), approvals=2).passed
    with pytest.raises(ConfigError, match=r"gates.approvals: found 2, expected at most the 1 of gates.approvers"):
        GatesConfig(approvals=2, approvers=["ana", "ana"])


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
    assert (ours.requests, ours.failed, ours.empty, ours.wrong, ours.ms.size, ours.cpu_ms.size) == (5, 0, 0, 0, 5, 5)
    assert (theirs.failed, theirs.first_failure, theirs.ms.size) == (1, "ValueError: odd user", 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, OnlineStore]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = tmp_path_factory.mktemp("root")
    config = compose_config(
        [f"root={root}", f"store.port={port}", "store.namespace=gates", "gates.latency_ratio=1000", "gates.cost_ratio=1000"]
    )
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


def test_a_release_waits_for_the_names_that_are_asked_for_and_each_is_on_record(
    folder: Path, world: tuple[PipelineConfig, OnlineStore], tmp_path: Path
) -> None:
    config, store = world
    wanted = replace(config, gates=replace(config.gates, wanted=[GateName.approval], approvals=1))
    publish(folder, config.root, "signed", np.ones(50))
    settings = [f"root={config.root}", f"store.port={config.store.port}", "store.namespace=gates"]

    def approve(*words: str) -> str:
        found = CliRunner().invoke(app, ["releases", "approve", *words, *settings])
        if found.exception is not None:
            raise found.exception
        return found.stdout.strip()

    with pytest.raises(ArtifactError, match=r"gate approval: found nobody's, expected 1 approvals; `reco releases approve"):
        pass_gates(wanted, store, "signed")
    assert approve("signed", "--by", "ana", "--note", "looked at it") == "release signed: approved by ana"
    assert approve("signed", "--by", "ana", "--note", "again") == "release signed: approved by ana"
    assert pass_gates(wanted, store, "signed")[0].found == "ana"
    assert (gates_said(config.root, "signed") or {})["action"] == "gates"
    assert approve("signed", "--by", "ana", "--withdraw") == "release signed: approved by nobody"
    assert gates_said(config.root, "signed") is None, "a rollout started over HTTP goes by it"
    with pytest.raises(ConfigError, match="approval: found none of ana"):
        approve("signed", "--by", "ana", "--withdraw")
    with pytest.raises(ConfigError, match="approval: found no name"):
        approve("signed", "--by", " ")
    with pytest.raises(ArtifactError, match=r"release 'nope': found none"):
        approve("nope", "--by", "ana")
    with pytest.raises(ArtifactError, match="gate approval"):
        pass_gates(wanted, store, "signed")
    said = [(each["action"], each["reason"]) for each in RolloutStore(store).history(4)]
    assert said[1:] == [
        ("approval_withdrawn", "ana"),
        ("gates", "passed approval"),
        ("approval", "ana: again"),
    ]
