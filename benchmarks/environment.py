"""What the benchmarks run against: a synthetic release, its users in an embedded store, and Serve on ports of its own.

`case` is everything but Ray; `environment` adds a local cluster with the release behind the gateway. Both clean up.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import synthetic

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig, SourceName, Topology
from reco_ray.serve.deploy import deploy
from reco_ray.store import OnlineStore

__all__ = ["RELEASE", "Case", "Environment", "case", "deploy_release", "environment", "write_bodies"]

RELEASE = "bench"
_ONE_REPLICA = [  # of each stage: the cores are the limit, not the configuration
    f"serve.{stage}.{bound}_replicas=1" for stage in ("recall", "ranker", "reranker") for bound in ("min", "max")
]
_OWN_PORTS = ["store.port=6395", "store.namespace=bench", "serve.port=8010", "cluster.dashboard_port=8275"]


@dataclass(frozen=True, slots=True)
class Case:
    """A published release and its users, without anything that serves them.

    Attributes:
        folder: of the release.
        bodies: one request body a line, each of another user.
    """

    config: PipelineConfig
    folder: Path
    bodies: Path
    store_url: str


@dataclass(frozen=True, slots=True)
class Environment(Case):
    """A case that answers at ``url``. ``dashboard`` is Ray's HTTP address, also of Serve's REST API."""

    url: str
    dashboard: str


@contextlib.contextmanager
def case(
    overrides: Sequence[str] = (),
    *,
    items: int = 100_000,
    candidates: int = 500,
    users: int = 1_000,
    quotas: Mapping[SourceName, int] | None = None,
) -> Iterator[Case]:
    """Publish a release of this size under a temporary root and write its users to an embedded store.

    Args:
        overrides: of the configuration, ``serve.deadline_ms=5000``; they win over what is set here.
        quotas: of the recall sources; see `synthetic.publish`.
    """
    with tempfile.TemporaryDirectory(prefix="reco-bench-", ignore_cleanup_errors=True) as root:
        config = compose_config([f"root={root}", *_OWN_PORTS, *_ONE_REPLICA, *overrides])
        folder = synthetic.publish(config.root, RELEASE, items, candidates, quotas=quotas)
        bodies = write_bodies(Path(root) / "bodies.jsonl", users)
        with embedded_store(config) as store_url:
            with OnlineStore(store_url, config.store.namespace) as store:
                store.write_users(synthetic.users(users, items), synthetic.USER_VIEW)
            yield Case(config, folder, bodies, store_url)


@contextlib.contextmanager
def environment(
    topology: Topology = Topology.staged,
    overrides: Sequence[str] = (),
    *,
    items: int = 100_000,
    candidates: int = 500,
    users: int = 1_000,
) -> Iterator[Environment]:
    """Serve a synthetic release on a local Ray cluster; store, cluster and files are gone afterwards."""
    with (
        case([f"serve={topology.value}", *overrides], items=items, candidates=candidates, users=users) as given,
        ray_session(given.config.cluster) as dashboard,
    ):
        url = deploy_release(given, dashboard)
        yield Environment(given.config, given.folder, given.bodies, given.store_url, url, dashboard)


def deploy_release(given: Case, dashboard: str) -> str:
    """Deploy a case's release as its configuration says; returns the gateway's URL."""
    return deploy(given.config, RELEASE, given.store_url, dashboard, user_view=synthetic.USER_VIEW).url


def write_bodies(path: Path, users: int) -> Path:
    """Write the request bodies of that many synthetic users."""
    path.write_text("\n".join(json.dumps({"user_id": f"user-{i}", "k": 20}) for i in range(users)))
    return path
