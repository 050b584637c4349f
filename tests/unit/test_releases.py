"""Releases: who is who, what two differ in, what may go and what never does, and MLflow's aliases after it."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reco_ray.cli.main import app
from reco_ray.cluster import embedded_store
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig, TrackingConfig
from reco_ray.errors import ArtifactError
from reco_ray.release import release_ids, release_uri, seal
from reco_ray.release.bundle import Manifest
from reco_ray.release.registry import Registry, lineage
from reco_ray.release.shelf import differences, prunable, read_manifest, remove_release, size_bytes
from reco_ray.rollout import DEFAULT_POLICY, Status, commands, first_state
from reco_ray.rollout.roles import Roles, roles_of
from reco_ray.store import OnlineStore, RolloutStore, Traffic
from reco_ray.workflow.releases import prune, read_roles


def publish(folder: Path, root: str, name: str, **facts: object) -> None:
    target = Path(release_uri(root, name))
    shutil.copytree(folder, target)
    seal(target, name, "v1", {"made_ts": name, **facts})


def traffic(**weights: float) -> Traffic:
    return Traffic(1, weights, dict.fromkeys(weights, "v1"))


def test_the_champion_has_most_traffic_and_previous_is_loaded_without_any() -> None:
    assert roles_of(Traffic(), None) == Roles()
    found = roles_of(traffic(a=0.0, b=1.0, c=0.0), None, ["c", "a", "b"])
    assert (found.champion, found.candidate, found.previous) == ("b", "", "a")
    assert found.in_use == {"a", "b"}


def test_a_running_rollout_names_candidate_and_champion_whatever_their_shares() -> None:
    state = first_state("x", "new", "old", DEFAULT_POLICY, 0.0, "me")
    found = roles_of(traffic(new=1.0, old=0.0), state)
    assert (found.champion, found.candidate, found.live) == ("old", "new", {"old", "new"})


@pytest.mark.parametrize(
    ("status", "weights", "champion", "previous"),
    [
        (Status.promoted, {"new": 1.0, "old": 0.0, "oldest": 0.0}, "new", "old"),
        (Status.rolled_back, {"new": 0.0, "old": 1.0}, "old", ""),
        (Status.aborted, {"new": 0.0, "old": 1.0, "oldest": 0.0}, "old", "oldest"),
    ],
)
def test_after_a_rollout_the_way_back_is_never_what_failed(
    status: Status, weights: dict[str, float], champion: str, previous: str
) -> None:
    state = first_state("x", "new", "old", DEFAULT_POLICY, 0.0, "me")
    ended = type(state).from_json({**state.to_json(), "status": status})
    found = roles_of(traffic(**weights), ended)
    assert (found.champion, found.candidate, found.previous) == (champion, "", previous)


def test_what_is_in_use_or_among_the_last_ones_is_not_prunable() -> None:
    assert prunable(["a", "b", "c", "d", "e"], {"b"}, 2) == ["a", "c"]
    assert prunable(["a", "b"], set(), 5) == []


def test_differences_name_facts_and_files() -> None:
    one = Manifest("a", "v1", {"metrics": {"ndcg": 0.1}, "commit": "x"}, {"f": "1" * 64, "g": "2" * 64})
    two = Manifest("b", "v2", {"metrics": {"ndcg": 0.2}, "commit": "x"}, {"f": "3" * 64, "h": "2" * 64})
    found = {each.what: (each.before, each.after) for each in differences(one, two)}
    assert found == {
        "metrics.ndcg": (0.1, 0.2),
        "user_view": ("v1", "v2"),
        "f": ("1" * 12, "3" * 12),
        "g": ("2" * 12, None),
        "h": (None, "2" * 12),
    }


def test_a_removed_release_is_gone_and_an_unknown_one_is_named(folder: Path, tmp_path: Path) -> None:
    publish(folder, str(tmp_path), "a")
    assert size_bytes(str(tmp_path), "a") == sum(p.stat().st_size for p in (tmp_path / "releases/a").rglob("*") if p.is_file())
    remove_release(str(tmp_path), "a")
    assert release_ids(str(tmp_path)) == []
    assert not (tmp_path / "releases/a").exists()
    with pytest.raises(ArtifactError, match="release 'a': found none"):
        read_manifest(str(tmp_path), "a")


def test_lineage_names_what_a_release_was_made_of() -> None:
    facts = {
        "commit": "c",
        "parents": ["z"],
        "lake_versions": {"events": 3},
        "metrics": {"ndcg@10": 0.5},
        "inputs": {"train_ranker": "t"},
    }
    assert lineage(Manifest("a", "v1", facts | {"parents": ["z"]}, {})) == {
        "release": "a",
        "user_view": "v1",
        "commit": "c",
        "parents": "z",
        "lake.events": "3",
        "input.train_ranker": "t",
        "metric.ndcg_at_10": "0.5",
    }


def test_aliases_move_with_the_roles_and_versions_are_made_once(folder: Path, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), TrackingConfig())
    for name in ("a", "b"):
        publish(folder, str(tmp_path), name)
        registry.register(read_manifest(str(tmp_path), name))
    assert registry.register(read_manifest(str(tmp_path), "a")) == "1"
    assert registry.point({"champion": "a", "candidate": "b", "previous": "nobody"}) == {"champion": "a", "candidate": "b"}
    again = Registry(str(tmp_path), TrackingConfig())
    assert again.point({"champion": "b", "previous": "a"}) == {"champion": "b", "previous": "a"}
    aliases = again._client.get_registered_model("reco_ray").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": "2", "previous": "1"}
    again.forget("a")
    assert again.point({"previous": "a"}) == {}


@pytest.fixture(scope="module")
def world(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, OnlineStore]]:
    root = str(tmp_path_factory.mktemp("root"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in "abcdefg":
        publish(folder, root, name, metrics={"reranked_ndcg10": 0.25})
    config = compose_config([f"root={root}", f"store.port={port}", "releases.keep=2", "store.namespace=releases"])
    with embedded_store(config) as url, OnlineStore(url, "releases") as store:
        yield config, store


@pytest.fixture
def reco(world: tuple[PipelineConfig, OnlineStore]) -> Callable[..., Result]:
    config, _ = world

    def run(*words: str) -> Result:
        given = [f"root={config.root}", f"store.port={config.store.port}", "releases.keep=2", "store.namespace=releases"]
        return CliRunner().invoke(app, ["releases", *words, *given])

    return run


def test_releases_are_listed_shown_compared_verified_and_pruned(
    reco: Callable[..., Result], world: tuple[PipelineConfig, OnlineStore]
) -> None:
    config, store = world
    store.set_traffic({"b": 1.0, "c": 0.0, "a": 0.0}, {"a": "v1", "b": "v1", "c": "v1"})
    commands.start(RolloutStore(store), "c", DEFAULT_POLICY, 0.0, "me")
    assert read_roles(config, store).by_name() == {"champion": "b", "candidate": "c", "previous": "a"}
    listed = reco("list").output
    assert all(word in listed for word in ("champion", "candidate", "previous", "100%", "0.2500"))
    assert '"release_id": "b"' in reco("show", "b").output
    assert "made_ts" in reco("diff", "b", "c").output
    assert "files as published" in reco("verify", "b").output
    dry = reco("prune").output
    assert [line.split()[0] for line in dry.splitlines() if "would go" in line] == ["d", "e"]
    assert release_ids(config.root) == list("abcdefg")
    assert prune(config, store, dry_run=False) == ["d", "e"]
    assert release_ids(config.root) == list("abcfg")
    assert "nothing to remove" in reco("prune", "--yes").output
    assert "champion: b" in reco("sync").output
