"""Actors that follow the bus, one for each partition, detached, restarted for ever: started, asked and stopped here."""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray

from reco_ray import __version__
from reco_ray.config import PipelineConfig
from reco_ray.errors import NotReadyError
from reco_ray.events.feed import Feed
from reco_ray.hashing import digest
from reco_ray.streaming.follower import FeatureState, SinkActor, SinkState

__all__ = ["feature_status", "sink_status", "start_sinks", "stop_sinks"]

log = logging.getLogger(__name__)

_RAY_NAMESPACE = "reco"
_READY_S = 60.0
_STOP_S = 15.0
_ANSWER_S = 5.0


def start_sinks(config: PipelineConfig, store_url: str, feeds: Sequence[Feed], code: str = "") -> list[SinkState]:
    """Start the sinks that are not there, and replace those of another version; returns when all are at work.

    Args:
        code: names the version of the code, with the configuration the version of a sink.
    Raises: NotReadyError: one does not come up, with its reason; it goes on trying.
    """
    # only what a sink works by: another release or another k is no reason to replace it
    parts = (config.root, config.lake, config.events, config.store, *(feed.topic for feed in feeds))
    version = digest(__version__, code, store_url, *map(str, parts))
    wanted = range(config.events.bus.partitions)
    for name, actor in _find(config).items():
        if name not in {_name(config, partition) for partition in wanted} or _version(actor) != version:
            _end(name, actor)
    actors = [_start(config, store_url, feeds, partition, version) for partition in wanted]
    deadline = time.monotonic() + _READY_S
    pause = threading.Event()
    while True:
        try:
            states = _states(actors, _READY_S)
        except ray.exceptions.GetTimeoutError as exc:
            raise NotReadyError(
                f"sinks: found no answer within {_READY_S:.0f} s, expected {len(actors)} actors, "
                f"which need {config.events.sink_cpus} CPUs each; free some, or give events.sink_cpus=0.01"
            ) from exc
        waiting = [state for state in states if not state.running]
        if not waiting:
            log.info("%d sinks at work, version %s", len(states), version)
            return states
        if time.monotonic() > deadline:
            found = "; ".join(f"{state.topic} {state.partition}: {state.error or 'not started yet'}" for state in waiting)
            raise NotReadyError(f"sinks: found {found}; expected all at work; they go on trying")
        pause.wait(0.2)


def stop_sinks(config: PipelineConfig) -> int:
    """Stop the sinks of this store's namespace; returns how many there were."""
    found = _find(config)
    for name, actor in found.items():
        _end(name, actor)
    return len(found)


def sink_status(config: PipelineConfig) -> list[SinkState]:
    """State of the sinks that there are; one that does not answer within seconds is left out."""
    states: list[SinkState] = []
    for name, actor in sorted(_find(config).items()):
        try:
            states += _states([actor], _ANSWER_S)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as exc:
            log.warning("%s does not answer: %s", name, exc)
    return states


def feature_status(config: PipelineConfig) -> list[FeatureState]:
    """State of the online features of each partition and view; an actor that does not answer within seconds is left out."""
    states: list[FeatureState] = []
    for name, actor in sorted(_find(config).items()):
        try:
            states += [FeatureState(**each) for each in ray.get(actor.features.remote(), timeout=_ANSWER_S)]
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as exc:
            log.warning("%s does not answer: %s", name, exc)
    return states


def _name(config: PipelineConfig, partition: int | str) -> str:
    return f"reco_sink:{config.store.namespace}:{partition}"


def _find(config: PipelineConfig) -> dict[str, Any]:
    """The actors of this namespace, by name."""
    found = {}
    for each in ray.util.list_named_actors(all_namespaces=True):
        if each["namespace"] == _RAY_NAMESPACE and each["name"].startswith(_name(config, "")):
            with contextlib.suppress(ValueError):  # gone since
                found[each["name"]] = ray.get_actor(each["name"], _RAY_NAMESPACE)
    return found


def _start(config: PipelineConfig, store_url: str, feeds: Sequence[Feed], partition: int, version: str) -> Any:
    options = {
        "name": _name(config, partition),
        "namespace": _RAY_NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_concurrency": 4,  # it answers while it stops
        "num_cpus": config.events.sink_cpus,
        "runtime_env": {"env_vars": {"POLARS_MAX_THREADS": "1"}},
    }
    return ray.remote(SinkActor).options(**options).remote(config, store_url, list(feeds), partition, version)


def _states(actors: Sequence[Any], timeout_s: float) -> list[SinkState]:
    answers = ray.get([actor.status.remote() for actor in actors], timeout=timeout_s)
    return [SinkState(**each) for answer in answers for each in answer]


def _version(actor: Any) -> str:
    """Version of an actor; empty for one that does not answer, which is no loss to replace."""
    try:
        return str(ray.get(actor.version.remote(), timeout=_ANSWER_S))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        return ""


def _end(name: str, actor: Any) -> None:
    """Stop and kill an actor; returns when its name is free.

    Raises: NotReadyError: it does not go.
    """
    with contextlib.suppress(ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        ray.get(actor.stop.remote(), timeout=_STOP_S)
    ray.kill(actor, no_restart=True)
    deadline, pause = time.monotonic() + _STOP_S, threading.Event()
    while time.monotonic() < deadline:
        try:
            ray.get_actor(name, _RAY_NAMESPACE)
        except ValueError:
            log.info("%s ended", name)
            return
        pause.wait(0.1)
    raise NotReadyError(f"{name}: found it alive {_STOP_S:.0f} s after it was killed, expected its name free; look at its node")
