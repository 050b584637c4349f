"""Releases and what they do now: roles from the online store, aliases in MLflow after them, and old ones removed."""

import logging

from reco_ray.config import PipelineConfig
from reco_ray.release import release_ids
from reco_ray.release.registry import Registry
from reco_ray.release.shelf import prunable, read_manifest, remove_release
from reco_ray.rollout import State
from reco_ray.rollout.roles import Roles, roles_of
from reco_ray.store import OnlineStore, RolloutStore

__all__ = ["point_aliases", "prune", "read_roles"]

log = logging.getLogger(__name__)


def read_roles(config: PipelineConfig, store: OnlineStore) -> Roles:
    """Who is who now.

    Raises: NotReadyError: the store is away.
    """
    found = RolloutStore(store).load()
    return roles_of(store.traffic(), State.from_json(found) if found is not None else None, release_ids(config.root))


def point_aliases(config: PipelineConfig, store: OnlineStore) -> dict[str, str]:
    """Register the releases that have a role, and point MLflow's aliases at them; returns role -> release.

    Whatever keeps MLflow from answering is logged and no more: traffic has moved already, and may not depend on it.
    """
    roles = read_roles(config, store).by_name()
    try:
        registry, known = Registry(config.root, config.tracking), set(release_ids(config.root))
        for release in roles.values():
            if release in known:
                registry.register(read_manifest(config.root, release))
        return registry.point(roles)
    except Exception as exc:  # MLflow's, SQLAlchemy's and the network's have nothing in common
        log.warning("aliases in MLflow stay as they are: %s; run `reco releases sync` once it answers", exc)
        return {}


def prune(config: PipelineConfig, store: OnlineStore, *, dry_run: bool) -> list[str]:
    """Remove the releases that are in no use and not among the ``releases.keep`` published last; returns their ids.

    Before each removal the roles are read again, so that one that was deployed meanwhile stays.

    Args:
        dry_run: only say which ones.
    Raises: NotReadyError: the store is away, so that nobody knows what is in use; nothing is removed.
    """
    going = prunable(release_ids(config.root), _in_use(config, store), config.releases.keep)
    if dry_run or not going:
        return going
    removed = []
    for release in going:
        if release in _in_use(config, store):
            log.info("release %s came into use, and stays", release)
            continue
        remove_release(config.root, release)
        removed.append(release)
        log.info("release %s was removed", release)
    try:
        registry = Registry(config.root, config.tracking)
        for release in removed:
            registry.forget(release)
    except Exception as exc:  # the mirror may lag; see `point_aliases`
        log.warning("MLflow still names removed releases: %s", exc)
    return removed


def _in_use(config: PipelineConfig, store: OnlineStore) -> frozenset[str]:
    # whatever the traffic record names is loaded somewhere, and a replica that starts again reads its files
    return read_roles(config, store).in_use | frozenset(store.traffic().weights)
