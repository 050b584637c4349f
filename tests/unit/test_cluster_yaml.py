"""cluster.yaml against Ray's own schema, conf/profile/cluster.yaml and `serve_environment`. No cloud is called."""

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from reco_ray.cluster import serve_environment

ROOT = Path(__file__).parents[2]
TIERS = {"head", "data", "serve", "train"}
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")

# Stands in for the `ray` command: keeps the arguments and the environment of `ray start`.
FAKE_RAY = """#!/bin/sh
[ "$1" = start ] || exit 0
printf '%s\\n' "$@" > "$HOME/arguments"
env -0 > "$HOME/environment"
"""


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def profile() -> dict:
    return yaml.safe_load((ROOT / "conf/profile/cluster.yaml").read_text())


@pytest.fixture(params=START_COMMANDS)
def started(request: pytest.FixtureRequest, cluster: dict, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of `ray start`, from running the start commands as the launcher does: one shell for each."""
    fake = tmp_path / "reco_venv/bin/ray"
    fake.parent.mkdir(parents=True)
    fake.write_text(FAKE_RAY)
    fake.chmod(0o755)
    for command in cluster[request.param]:
        shell = ["bash", "-c", f"export RAY_HEAD_IP=10.0.0.1; ({command})"]
        subprocess.run(shell, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=True, timeout=20)
    environment = (tmp_path / "environment").read_text().rstrip("\0").split("\0")
    return (tmp_path / "arguments").read_text().split(), dict(pair.split("=", 1) for pair in environment)


def test_the_launcher_accepts_it(cluster: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_every_node_type_has_a_tier(cluster: dict) -> None:
    tiers = {name: node["labels"]["tier"] for name, node in cluster["available_node_types"].items()}
    assert set(tiers.values()) == TIERS
    assert tiers[cluster["head_node_type"]] == "head"


def test_resources_are_integers_and_bounds_are_in_order(cluster: dict) -> None:
    for name, node in cluster["available_node_types"].items():
        assert all(type(amount) is int and amount >= 0 for amount in node["resources"].values()), name
        assert 0 <= node.get("min_workers", 0) <= node.get("max_workers", 0) <= cluster["max_workers"], name
    assert cluster["idle_timeout_minutes"] > 0


def test_some_node_that_may_run_meets_every_label_selector_of_the_profile(cluster: dict, profile: dict) -> None:
    types = cluster["available_node_types"]
    available = [n["labels"] for name, n in types.items() if name == cluster["head_node_type"] or n["max_workers"] > 0]
    selectors = list(_selectors(profile))
    assert selectors, "conf/profile/cluster.yaml asks for no label; expected training and serving to have their own nodes"
    for where, selector in selectors:
        assert any(_meets(labels, selector) for labels in available), f"{where}: no node type has {selector}"


@pytest.mark.parametrize(
    ("wanted", "met"),
    [("serve", True), ("train", False), ("in(train,serve)", True), ("!serve", False), ("!in(train, data)", True)],
)
def test_a_label_selector_is_read_as_ray_reads_it(wanted: str, met: bool) -> None:
    assert _meets({"tier": "serve"}, {"tier": wanted}) is met


def test_ray_starts_with_the_environment_of_serve(started: tuple[list[str], dict[str, str]]) -> None:
    _, environment = started
    wanted = serve_environment()
    assert {name: environment.get(name) for name in wanted} == wanted


def test_ray_starts_with_the_token_that_file_mounts_bring(cluster: dict, started: tuple[list[str], dict[str, str]]) -> None:
    _, environment = started
    assert environment["RAY_AUTH_MODE"] == "token"
    path = Path(environment["RAY_AUTH_TOKEN_PATH"]).relative_to(environment["HOME"])
    assert f"~/{path}" in cluster["file_mounts"]


def test_ray_starts_with_pinned_ports_and_a_private_dashboard(started: tuple[list[str], dict[str, str]]) -> None:
    arguments, _ = started
    assert "--metrics-export-port=8080" in arguments
    if "--head" in arguments:
        assert "--dashboard-host=127.0.0.1" in arguments
        assert any(argument.startswith("--autoscaling-config=") for argument in arguments)
    else:
        assert "--address=10.0.0.1:6379" in arguments


def test_every_node_installs_the_package_that_file_mounts_bring(cluster: dict) -> None:
    own = [node.get("worker_setup_commands") for node in cluster["available_node_types"].values()]
    for commands in [cluster["setup_commands"], *filter(None, own)]:
        assert any(command.endswith("-c ~/reco_ray/constraints.txt ~/reco_ray") for command in commands)
    assert cluster["file_mounts"]["~/reco_ray"] == "."


def test_labels_of_a_node_type_reach_ray_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec
    from ray.autoscaler._private.constants import LABELS_ENVIRONMENT_VARIABLE  # which the launcher exports

    monkeypatch.setenv(LABELS_ENVIRONMENT_VARIABLE, json.dumps({"tier": "serve"}))
    assert ResourceAndLabelSpec().resolve(is_head=False, node_ip_address="10.0.0.2").labels["tier"] == "serve"


def _selectors(node: object, where: str = "profile") -> Iterator[tuple[str, dict[str, str]]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key.endswith("label_selector"):
                yield f"{where}.{key}", value
            else:
                yield from _selectors(value, f"{where}.{key}")


def _meets(labels: dict[str, str], selector: dict[str, str]) -> bool:
    """Whether a node with ``labels`` meets a selector: ``value``, ``!value``, ``in(a,b)`` or ``!in(a,b)`` for each key."""
    for key, wanted in selector.items():
        negated, value = wanted.startswith("!"), wanted.removeprefix("!")
        values = value[3:-1].split(",") if value.startswith("in(") else [value]
        if (labels.get(key) in [v.strip() for v in values]) is negated:
            return False
    return True
