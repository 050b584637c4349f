"""Shared by all tests: one Ray cluster, the order of the folders, and seeds.

A free seed for Hypothesis: ``RECO_TEST_FREE_SEED=1 pytest``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from ports import free_port

from reco_ray.cluster import ray_session, serve_environment
from reco_ray.config import ClusterConfig

TESTS = Path(__file__).parent
ORDER = ["unit", "ray", "serve"]

# With ports of their own the tests run beside a `reco serve` on the same machine.
REPLICA_PORTS = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "20000",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "21000",
    "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": "21001",
    "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": "22000",
}
PROXY_PORTS = [
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
]

hypothesis.settings.register_profile("reco", deadline=None, derandomize="RECO_TEST_FREE_SEED" not in os.environ)
hypothesis.settings.load_profile("reco")


def pytest_configure() -> None:
    """Set what Ray reads from the environment when it is imported, before a test imports it. Nothing starts here."""
    os.environ.pop("RAY_ADDRESS", None)  # tests never attach to a cluster of the user's
    os.environ["RAY_AUTH_MODE"] = "disabled"  # nor write a token to the home folder
    os.environ["RAY_SERVE_PORT_QUARANTINE_S"] = "0"  # ports of stopped replicas are free for the next test
    os.environ.update({name: str(free_port()) for name in PROXY_PORTS})
    os.environ.update(REPLICA_PORTS)
    folders = [str(TESTS / "ray"), str(TESTS / "serve"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))  # workers find functions of test modules
    os.environ.update(serve_environment())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run unit tests first and Serve's last; mark those that need the cluster."""
    items.sort(key=_folder_order)
    for item in items:
        if _folder(item) in ("ray", "serve"):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local Ray cluster for the whole session; yields its dashboard's HTTP address."""
    with ray_session(ClusterConfig(num_cpus=4, dashboard_port=free_port(), auth_mode="disabled")) as address:
        yield address


def _folder(item: pytest.Item) -> str:
    parents = item.path.relative_to(TESTS).parts if item.path.is_relative_to(TESTS) else ()
    return parents[0] if parents else ""


def _folder_order(item: pytest.Item) -> int:
    folder = _folder(item)
    return ORDER.index(folder) if folder in ORDER else len(ORDER)
