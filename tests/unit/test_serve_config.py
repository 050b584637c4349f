"""The Serve config: what is rendered, that the committed copy is it, what the builders wire, and how a deployment proceeds.

Regenerate the committed copy: ``RECO_REGENERATE=1 pytest tests/unit/test_serve_config.py``.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_port
from pydantic import BaseModel, ValidationError
from ray.serve._private.application_state import get_app_code_version
from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.serve.app import GatewayArgs, ReleaseArgs, RolloutArgs, build_gateway, build_release
from reco_ray.serve.deploy import deploy
from reco_ray.serve.render import render, to_yaml
from reco_ray.store import OnlineStore

COMMITTED = Path(__file__).parents[2] / "serve_apps" / "serve.yaml"
HEADER = """\
# What `serve deploy` takes, rendered from conf/ with profile=local. Put your root, store and a published release's id in.
# Regenerate: RECO_REGENERATE=1 pytest tests/unit/test_serve_config.py
"""


def committed() -> str:
    config = compose_config(["profile=local", "root=/var/lib/reco_ray"])
    return HEADER + to_yaml(render(config, ["RELEASE_ID"], "redis://127.0.0.1:6390"))


def test_the_committed_config_is_what_is_rendered() -> None:
    if os.environ.get("RECO_REGENERATE"):
        COMMITTED.write_text(committed())
    assert COMMITTED.read_text() == committed(), "conf/ and serve_apps/serve.yaml differ; regenerate it as its head says"


def test_the_committed_config_is_valid_and_holds_no_key_that_serve_would_ignore() -> None:
    rendered = yaml.safe_load(COMMITTED.read_text())
    ServeDeploySchema.model_validate(rendered)
    unknown(rendered, ServeDeploySchema)
    unknown(rendered["http_options"], HTTPOptionsSchema)
    unknown(rendered["logging_config"], LoggingConfig)
    for app in rendered["applications"]:
        unknown(app, ServeApplicationSchema)
        for deployment in app.get("deployments", []):
            unknown(deployment, DeploymentSchema)
        {"gateway": GatewayArgs, "rollouts": RolloutArgs}.get(app["name"], ReleaseArgs).model_validate(app["args"])


def unknown(found: Mapping[str, Any], model: type[BaseModel]) -> None:
    assert set(found) <= set(model.model_fields), f"{model.__name__} ignores {set(found) - set(model.model_fields)}"


def test_the_local_profile_binds_the_loopback_interface() -> None:
    assert yaml.safe_load(COMMITTED.read_text())["http_options"]["host"] == "127.0.0.1"


def test_keys_are_off_on_the_loopback_interface_and_on_in_a_cluster() -> None:
    remote = ["root=s3://bucket/reco", "store.url=redis://h:1", "tracking.uri=http://h:2"]
    for overrides, auth in ([[f"serve.host={host}"], "off"] for host in ("localhost", "127.0.0.2", "'::1'")):
        assert gateway_args(overrides).auth == auth
    assert gateway_args(["serve.host=0.0.0.0", "serve.auth=keys"]).auth == "keys"
    found = gateway_args(["profile=cluster", *remote, "serve.key_rate=7"])
    assert (found.auth, found.key_rate, found.key_burst) == ("keys", 7.0, 200)


def gateway_args(overrides: list[str]) -> GatewayArgs:
    rendered = render(compose_config(["root=/data", *overrides]), [], "redis://h:1")
    return GatewayArgs.model_validate(rendered["applications"][0]["args"])


def test_the_fused_topology_has_no_release_applications() -> None:
    config = compose_config(["root=/data", "serve.topology=fused"])
    assert [app["name"] for app in render(config, ["r1", "r2"], "redis://h:1")["applications"]] == ["gateway", "rollouts"]


def test_arguments_with_an_unknown_key_or_turned_around_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="deadline"):
        GatewayArgs.model_validate({"root": "/r", "store_url": "redis://h:1", "deadline": 3})
    with pytest.raises(ValidationError, match="below min_replicas"):
        ReleaseArgs.model_validate({"root": "/r", "release_id": "a", "recall": {"min_replicas": 3, "max_replicas": 2}})


def test_a_release_is_three_deployments_with_the_reranker_as_root() -> None:
    args = ReleaseArgs.model_validate(
        {
            "root": "/r",
            "release_id": "rel",
            "recall": {"min_replicas": 2, "max_replicas": 5},
            "ranker": {"num_cpus": 0.5, "max_ongoing_requests": 9},
            "label_selector": {"tier": "serve"},
        }
    )
    root = build_release(args)._bound_deployment
    recall, ranker = (bound._bound_deployment for bound in root.init_args[5])
    assert [each.name for each in (recall, ranker, root)] == ["Recall", "Ranker", "Reranker"]
    assert root.init_args[:5] == recall.init_args == ranker.init_args
    assert recall.init_args == ("/r", "rel", "reco_ray.serve.path.loading:ReleaseLoader", "", "reco")
    scaling = recall._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.initial_replicas) == (2, 5, None)
    assert scaling.policy.get_policy()(**scaling.policy.policy_kwargs)  # as the controller makes it
    assert ranker.max_ongoing_requests == 9
    for each in (recall, ranker, root):
        assert each._deployment_config.max_surge_percent == 100
        assert each.ray_actor_options["label_selector"] == {"tier": "serve"}
        assert each.logging_config["enable_access_log"] is False
    assert ranker.ray_actor_options["num_cpus"] == 0.5


def test_the_gateway_has_two_replicas_and_no_label_unless_one_is_given() -> None:
    gateway = build_gateway(GatewayArgs(root="/r", store_url="redis://h:1"))._bound_deployment
    scaling = gateway._deployment_config.autoscaling_config
    assert (gateway.name, gateway.max_ongoing_requests) == ("Gateway", 256)
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 2)
    assert "label_selector" not in gateway.ray_actor_options


def test_another_size_is_applied_to_what_runs_and_builds_nothing_anew() -> None:
    rendered = [
        render(
            compose_config(["root=/data", f"serve.ranker.max_replicas={n}", f"serve.gateway.max_replicas={n}"]),
            ["r"],
            "redis://h:1",
        )
        for n in (2, 3)
    ]
    versions = [
        [get_app_code_version(ServeApplicationSchema.model_validate(app)) for app in each["applications"]] for each in rendered
    ]
    assert versions[0] == versions[1]
    assert rendered[0] != rendered[1]


def test_a_stage_that_may_go_to_zero_starts_with_one_replica() -> None:
    size = {"min_replicas": 0, "max_replicas": 2}
    args = ReleaseArgs.model_validate({"root": "/r", "release_id": "rel", "reranker": size, "scaling": {"idle_to_zero_s": 90}})
    scaling = build_release(args)._bound_deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.downscale_to_zero_delay_s) == (0, 1, 90)


def test_a_gateway_never_goes_to_zero() -> None:
    with pytest.raises(ConfigError, match=r"serve\.gateway\.min_replicas: found 0"):
        compose_config(["root=/data", "serve.gateway.min_replicas=0"])


def test_profiles_combine_and_sporadic_lets_all_stages_go_to_zero() -> None:
    serve = compose_config(["root=/data", "profile=[local,sporadic]"]).serve
    assert [size.min_replicas for size in (serve.gateway, serve.recall, serve.ranker, serve.reranker)] == [2, 0, 0, 0]


class FakeServe:
    """Serve's REST API: an application runs at once, or fails, or never comes up."""

    def __init__(self) -> None:
        self.puts: list[list[str]] = []
        self.apps: dict[str, dict[str, Any]] = {}
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self.http: dict[str, Any] = {}

    def deploy_applications(self, config: dict[str, Any]) -> None:
        ServeDeploySchema.model_validate(config)
        self.puts.append(sorted(app["name"] for app in config["applications"]))
        self.http = config["http_options"]
        self.apps = {app["name"]: app for app in config["applications"]}

    def get_serve_details(self) -> dict[str, Any]:
        return {"http_options": self.http, "applications": {name: self._app(name) for name in self.apps}}

    def _app(self, name: str) -> dict[str, Any]:
        status = "DEPLOY_FAILED" if name in self.failing else "DEPLOYING" if name in self.hanging else "RUNNING"
        said = "RuntimeError: no such index" if status == "DEPLOY_FAILED" else ""
        replicas = [{"state": "RUNNING"}, {"state": "RUNNING"}]
        deployment = {"Gateway" if name == "gateway" else "Ranker": {"message": said, "replicas": replicas}}
        return {"status": status, "message": "", "deployed_app_config": self.apps[name], "deployments": deployment}


@pytest.fixture(scope="module")
def store_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PipelineConfig, str]]:
    overrides = [f"root={tmp_path_factory.mktemp('root')}", f"store.port={free_port()}", "serve.ready_timeout_s=1"]
    config = compose_config(overrides)
    with embedded_store(config) as url:
        yield config, url


class World:
    """A Serve of fakes, a real store, and two gateway replicas that load what the record names."""

    def __init__(self, config: PipelineConfig, url: str) -> None:
        self.config, self.url, self.api = config, url, FakeServe()
        self.store = OnlineStore(url, config.store.namespace)
        self.store.set_traffic({}, {})
        self._asked = 0

    def ready(self, url: str) -> dict[str, Any]:
        self._asked += 1
        return {"ready": True, "replica": f"r{self._asked % 2}", "releases": sorted(self.store.traffic().weights)}

    def deploy(self, release: str, *, beside: bool = False) -> Any:
        view = f"view-{release}"
        return deploy(self.config, release, self.url, "", user_view=view, beside=beside, api=self.api, ready=self.ready)


@pytest.fixture
def world(store_config: tuple[PipelineConfig, str]) -> World:
    return World(*store_config)


def test_deploying_moves_all_traffic_and_doing_it_again_changes_nothing(world: World) -> None:
    report = world.deploy("a")
    assert (report.changed, report.kept, report.removed, report.url) == (True, (), (), "http://127.0.0.1:8000")
    assert world.api.puts == [["gateway", "release-a", "rollouts"]]
    again = world.deploy("a")
    assert (again.changed, again.traffic_version) == (False, report.traffic_version)
    assert len(world.api.puts) == 1


def test_a_port_that_another_process_has_is_named_before_serve_or_ray_starts(
    store_config: tuple[PipelineConfig, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, url = store_config
    monkeypatch.setattr("reco_ray.ports._LINGERS_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = replace(config, serve=replace(config.serve, port=other.getsockname()[1]))
        with pytest.raises(NotReadyError, match=rf"port {taken.serve.port}: found another process.*by serve\.port"):
            deploy(taken, "a", url, "http://127.0.0.1:8265", user_view="v", api=FakeServe())
        cluster = replace(config.cluster, dashboard_port=taken.serve.port)
        with pytest.raises(NotReadyError, match=r"RAY_ADDRESS=auto.*cluster\.dashboard_port"), ray_session(cluster):
            pass


def test_the_release_before_stays_and_older_ones_go_only_after_the_traffic_has_moved(world: World) -> None:
    for release in ("a", "b", "c"):
        report = world.deploy(release)
    assert world.api.puts == [
        ["gateway", "release-a", "rollouts"],
        ["gateway", "release-a", "release-b", "rollouts"],
        ["gateway", "release-a", "release-b", "release-c", "rollouts"],
        ["gateway", "release-b", "release-c", "rollouts"],
    ]
    assert (report.kept, report.removed) == (("b",), ("release-a",))
    traffic = world.store.traffic()
    assert traffic.weights == {"c": 1.0, "b": 0.0}
    assert traffic.user_views == {"c": "view-c", "b": "view-b"}


def test_a_release_that_comes_up_beside_another_one_leaves_it_the_traffic(world: World) -> None:
    world.deploy("a")
    report = world.deploy("b", beside=True)
    assert (report.kept, report.removed) == (("a",), ())
    assert world.store.traffic().weights == {"a": 1.0, "b": 0.0}
    assert sorted(world.api.apps) == ["gateway", "release-a", "release-b", "rollouts"]


@pytest.mark.parametrize("before", [[], ["b"]])
def test_a_release_comes_up_beside_another_one_only(world: World, before: list[str]) -> None:
    for release in before:
        world.deploy(release)
    with pytest.raises(ConfigError, match="expected another release"):
        world.deploy("b", beside=True)


def test_a_release_that_fails_is_withdrawn_with_serves_own_message_and_traffic_stays(world: World) -> None:
    world.deploy("a")
    before = world.store.traffic()
    world.api.failing = {"release-b"}
    with pytest.raises(NotReadyError, match=r"release-b: found DEPLOY_FAILED.*no such index"):
        world.deploy("b")
    assert world.store.traffic() == before
    assert sorted(world.api.apps) == ["gateway", "release-a", "rollouts"]


def test_a_release_that_never_comes_up_is_withdrawn_after_the_time_out(world: World) -> None:
    world.deploy("a")
    world.api.hanging = {"release-b"}
    with pytest.raises(NotReadyError, match=r"release-b is DEPLOYING.*serve\.ready_timeout_s"):
        world.deploy("b")
    assert sorted(world.api.apps) == ["gateway", "release-a", "rollouts"]


def test_a_gateway_replica_that_does_not_load_the_release_fails_the_deployment(world: World) -> None:
    world.ready = lambda url: {"ready": True, "replica": "r0", "releases": ["a"]}  # type: ignore[method-assign]
    with pytest.raises(NotReadyError, match=r"2 gateway replica\(s\).*found \['r0'\]"):
        world.deploy("a")


def test_a_record_that_is_older_than_serve_does_not_bring_its_releases_back(world: World) -> None:
    world.store.set_traffic({"gone": 1.0}, {"gone": "view-gone"})
    assert world.deploy("a").kept == ()
    assert world.api.puts == [["gateway", "release-a", "rollouts"]]
    assert world.store.traffic().weights == {"a": 1.0}


def test_another_port_than_serve_runs_on_is_an_error_and_not_ignored(world: World) -> None:
    world.deploy("a")
    world.api.http = {"host": "127.0.0.1", "port": 9999}
    with pytest.raises(ConfigError, match=r"runs on \('127.0.0.1', 9999\)"):
        world.deploy("b")
