"""Retraining: its reasons, one at a time, its time limit, and what it does with what it trained."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reco_ray.cli.main import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig, RetrainMode
from reco_ray.errors import DataError, NotReadyError
from reco_ray.release import release_uri, seal
from reco_ray.rollout import DEFAULT_POLICY, commands
from reco_ray.rollout.roles import Roles
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.store.leases import Lease, leased
from reco_ray.workflow import retrain as retraining
from reco_ray.workflow.budget import Bill, within
from reco_ray.workflow.graph import Output
from reco_ray.workflow.retrain import RetrainFacts, reasons, retrain
from reco_ray.workflow.status import read_status


@pytest.mark.parametrize(
    ("facts", "overrides", "expected"),
    [
        (RetrainFacts(), [], ["no release was published yet"]),
        (RetrainFacts("r", 1.0, 10), [], []),
        (RetrainFacts("r", 25.0), [], ["release r is 25.0 h old, allowed 24"]),
        (RetrainFacts("r", 25.0), ["retrain.max_age_h=0"], []),
        (RetrainFacts("r", 1.0, 500), ["retrain.new_events=500"], ["500 events came in since release r, allowed 500"]),
        (RetrainFacts("r", 1.0, 500), ["retrain.new_events=0"], []),
        (RetrainFacts("r", 1.0, 0, ("user",)), [], ["features drift: user view of release r"]),
        (RetrainFacts("r", 1.0, 0, ("user",)), ["retrain.on_drift=false"], []),
        (RetrainFacts("r", 1.0), ["force=true"], ["force=true"]),
    ],
)
def test_there_is_a_reason_or_none(facts: RetrainFacts, overrides: list[str], expected: list[str]) -> None:
    assert reasons(facts, compose_config(overrides)) == expected


def test_a_block_that_takes_too_long_is_interrupted_and_one_that_does_not_is_not() -> None:
    def too_long() -> None:
        with within(0.05):
            threading.Event().wait(60)

    def swallows_one() -> None:
        with within(0.05, again_s=0.05):
            with contextlib.suppress(NotReadyError):
                threading.Event().wait(60)
            threading.Event().wait(60)

    for body in (too_long, swallows_one):
        with pytest.raises(NotReadyError, match=r"unfinished after 0.05 s, expected an end; raise retrain.max_wall_s"):
            body()
    with within(60.0):
        pass
    with within(0):
        pass


World = tuple[PipelineConfig, str, OnlineStore]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = compose_config([f"root={tmp_path_factory.mktemp('store')}", f"store.port={port}", "retrain.on_drift=false"])
    with embedded_store(config) as url:
        yield config, url


@pytest.fixture
def world(server: tuple[PipelineConfig, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A published release ``old``; "training" publishes ``new``."""
    given, url = server
    config = replace(given, root=str(tmp_path), store=replace(given.store, namespace=tmp_path.name))
    publish(folder, config.root, "old", hours_ago=30)

    def train(config: PipelineConfig) -> dict[str, Output]:
        publish(folder, config.root, "new", hours_ago=0)
        return {"publish_release": Output("publish_release", "k", "", "new", {"release": "new"}, 0.0)}

    monkeypatch.setattr(retraining, "run_steps", train)
    monkeypatch.setattr(retraining, "ray_session", lambda _: contextlib.nullcontext("http://dashboard"))
    with OnlineStore(url, config.store.namespace) as store:
        yield config, url, store


def publish(folder: Path, root: str, name: str, hours_ago: float) -> None:
    target, made_ts = Path(release_uri(root, name)), datetime.now(UTC) - timedelta(hours=hours_ago)
    shutil.copytree(folder, target)
    seal(target, name, "v1", {"made_ts": made_ts.isoformat(), "inputs": {"build_features": f"of {name}"}})


def written(config: PipelineConfig) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(sorted((Path(config.root) / "reports/retrain").iterdir())[-1].read_text())
    return last


def test_the_second_of_two_says_who_is_at_work_and_leaves(world: World) -> None:
    config, url, store = world
    with leased(store, "retrain", "ana on host, process 1") as lease:
        with pytest.raises(NotReadyError, match=r"found the lock held by ana on host, process 1 since .* UTC, expected nobody"):
            retrain(config, url)
        lease.renew()
    assert retrain(replace(config, retrain=replace(config.retrain, max_age_h=0)), url).outcome == "nothing_to_do"


# A retrain that finds its reasons slowly: until its input is closed.
_AT_WORK = """
import sys
from reco_ray.compose import compose_config
from reco_ray.workflow import retrain

def wait(*_):
    print("at work", flush=True)
    sys.stdin.read()
    return retrain.RetrainFacts("r")

retrain._facts = wait
print(retrain.retrain(compose_config(sys.argv[2:]), sys.argv[1]).outcome)
"""


def test_of_two_processes_the_second_names_the_first_and_leaves_before_it_looks_for_a_cluster(world: World) -> None:
    config, url, _ = world
    overrides = [f"root={config.root}", f"store.url={url}", f"store.namespace={config.store.namespace}"]
    first = subprocess.Popen(
        [sys.executable, "-c", _AT_WORK, url, *overrides], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "at work\n"
    job = Path(retraining.__file__).parents[2] / "jobs/retrain.py"
    nowhere = "cluster.address=127.0.0.1:1"  # a cluster that is looked for is not found
    second = subprocess.run(
        [sys.executable, str(job), *overrides, nowhere], capture_output=True, text=True, timeout=120, cwd=config.root
    )
    said, _ = first.communicate(timeout=120)
    assert second.returncode == 1
    assert f"process {first.pid} since" in second.stderr + second.stdout
    assert (first.returncode, said) == (0, "nothing_to_do\n")


def test_the_bill_counts_what_is_held_beyond_the_start_and_ends_the_work_at_its_limit() -> None:
    held, now = iter([4.0, 6.0, 6.0]), iter([0.0, 1800.0, 3600.0])
    bill = Bill(lambda: next(held), 0.5, lambda: next(now))
    bill.look()
    bill.look()
    assert (bill.cpu_hours, bill.cost) == (3.0, 1.5), "two tasks and the driver for an hour"
    dear = Bill(lambda: 0.0, 1e9)
    with (
        pytest.raises(NotReadyError, match=r"CPU-hours\), expected at most 1; raise retrain.max_cost"),
        within(0, bill=dear, max_cost=1.0),
    ):
        threading.Event().wait(60)


def test_an_incremental_one_starts_from_the_champion_where_the_lake_holds_something_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, url, _ = world
    config = replace(config, retrain=replace(config.retrain, mode=RetrainMode.incremental))
    train, asked, features = retraining.run_steps, [], ["of more"]

    def run_steps(config: PipelineConfig) -> dict[str, Output]:
        asked.append((config.only, config.warm_start))
        made = {"build_features": Output("build_features", "k", "", features[0], {}, 0.0)}
        return made if config.only else made | train(config)

    monkeypatch.setattr(retraining, "run_steps", run_steps)
    assert retrain(config, url).parents == ("old",)
    assert asked == [("build_features", "old"), ("", "old")]
    features[0] = "of new"  # as the manifest of the release that was made now says
    monkeypatch.setattr(retraining, "read_roles", lambda *_: Roles(champion="new"))
    with pytest.raises(DataError, match="found nothing in the lake that release new was not made of"):
        retrain(replace(config, force=True), url)


def test_status_says_what_retraining_and_gates_came_to(world: World) -> None:
    config, url, store = world
    assert read_status(config, store) == dict.fromkeys(("rollout", "retrain", "gates")) | {
        "traffic": {},
        "roles": {},
        "retrain_running": "",
    }
    retrain(config, url)
    retrain(replace(config, retrain=replace(config.retrain, new_events=0)), url)
    found = CliRunner().invoke(
        app, ["status", "--json", f"root={config.root}", f"store.url={url}", f"store.namespace={config.store.namespace}"]
    )
    said = json.loads(found.stdout)
    assert said["retrain"]["outcome"] == "nothing_to_do"
    assert (said["gates"]["release"], said["gates"]["action"]) == ("new", "gates")
    with leased(store, "retrain", "ana"):
        found = CliRunner().invoke(
            app, ["status", f"root={config.root}", f"store.url={url}", f"store.namespace={config.store.namespace}"]
        )
    assert "at work: ana since" in found.stdout
    assert "release new: gates; integrity" in " ".join(found.stdout.replace("│", " ").split())


def test_a_lease_ends_by_itself_and_its_owner_notices(world: World) -> None:
    _, _, store = world
    dead = Lease(store, "work", 60.0, "dead")
    dead.take()
    store.blocking_calls.delete(store.key("lease", "work"))  # as when its time is over
    other = Lease(store, "work", 60.0, "other")
    other.take()
    with pytest.raises(NotReadyError, match="the lock was lost"):
        dead.renew()
    dead.give_back()
    other.renew()  # what is not ours is not given back
    assert 0 < int(store.blocking_calls.pttl(store.key("lease", "work"))) <= 60_000


def test_an_old_release_is_trained_anew_and_gated(world: World) -> None:
    config, url, store = world
    report = retrain(config, url)
    assert (report.outcome, report.release) == ("gated", "new")
    assert "30.0 h old" in report.reasons[0]
    assert [each["action"] for each in RolloutStore(store).history(5)] == ["gates"]
    assert written(config)["outcome"] == "gated"


def test_on_a_cluster_that_stays_a_rollout_starts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config, url, store = world
    store.set_traffic({"old": 1.0}, {"old": "v1"})

    def bring_up(config: PipelineConfig, store_url: str, dashboard: str) -> None:
        store.set_traffic({"old": 1.0, config.release: 0.0}, {"old": "v1", config.release: "v1"})

    monkeypatch.setattr(retraining, "attaches", lambda _: True)
    monkeypatch.setattr(retraining, "bring_up_beside", bring_up)
    assert retrain(config, url).outcome == "rollout"
    assert store.traffic().weights == {"old": 1.0, "new": 0.0}
    assert store.traffic().shadow is not None
    with pytest.raises(NotReadyError, match=r"found rollout .* of new running, expected none"):
        retrain(config, url)
    assert written(config)["outcome"] == "failed"


def test_nothing_new_to_train_on_is_an_error_that_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config, url, store = world
    same = Output("publish_release", "k", "", "old", {"release": "old"}, 0.0)
    monkeypatch.setattr(retraining, "run_steps", lambda _: {"publish_release": same})
    with pytest.raises(DataError, match="found nothing in the lake that release old was not made of"):
        retrain(config, url)
    assert written(config)["outcome"] == "failed"
    with leased(store, "retrain", "next"):  # the lock was given back
        pass
    store.set_traffic({"old": 1.0, "x": 0.0}, {"old": "v1", "x": "v1"})
    commands.start(RolloutStore(store), "x", DEFAULT_POLICY, 0.0, "me")
    with pytest.raises(NotReadyError, match="expected none; wait for its end"):
        retrain(config, url)
