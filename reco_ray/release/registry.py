"""Releases in MLflow's model registry: a version for each, with its lineage as tags, and aliases for who does what.

A mirror for people and tools: nothing here reads it back. What is true lies in the bundle and in the online store's traffic
record. Only a job's driver or the command line writes to it.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

from reco_ray.config import TrackingConfig
from reco_ray.release.bundle import Manifest, release_uri

__all__ = ["ALIASES", "Registry", "lineage"]

ALIASES = ("candidate", "champion", "previous")


class Registry:
    """The registered model of one experiment.

    Args:
        root: where the releases lie, and the SQLite file where ``tracking.uri`` is empty.
    """

    def __init__(self, root: str, tracking: TrackingConfig) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._root, self._name = root, tracking.experiment
        self._client = MlflowClient(tracking_uri=tracking.uri or f"sqlite:///{root}/mlflow.db")
        try:
            self._client.get_registered_model(self._name)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(self._name)

    def register(self, manifest: Manifest) -> str:
        """Version of a release; a new one where it has none yet."""
        if found := self._version(manifest.release_id):
            return found
        uri = release_uri(self._root, manifest.release_id)
        made = self._client.create_model_version(self._name, source=uri, tags=lineage(manifest))
        return str(made.version)

    def point(self, roles: Mapping[str, str]) -> dict[str, str]:
        """Set the aliases: role -> release; a role without one loses its alias. Returns those that could be set.

        A release that was never registered has no version to point at, and its role no alias.
        """
        now, done = self._client.get_registered_model(self._name).aliases, {}
        for alias in ALIASES:
            release = roles.get(alias, "")
            version = self._version(release) if release else ""
            if version:
                done[alias] = release
                if str(now.get(alias, "")) != version:
                    self._client.set_registered_model_alias(self._name, alias, version)
            elif alias in now:
                self._client.delete_registered_model_alias(self._name, alias)
        return done

    def forget(self, release: str) -> None:
        """Delete the version of a release that was removed."""
        if version := self._version(release):
            self._client.delete_model_version(self._name, version)

    def _version(self, release: str) -> str:
        found = self._client.search_model_versions(f"name='{self._name}' and tags.release='{release}'")
        return str(max((int(each.version) for each in found), default=0) or "")


def lineage(manifest: Manifest) -> dict[str, str]:
    """Tags of a release: what it was made from."""
    facts: Mapping[str, Any] = manifest.facts
    found = {
        "release": manifest.release_id,
        "user_view": manifest.user_view,
        **{name: str(facts[name]) for name in ("commit", "made_ts", "features_key", "evaluation_key") if facts.get(name)},
    }
    if parents := facts.get("parents"):
        found["parents"] = " ".join(str(each) for each in parents)
    for group, prefix in (("lake_versions", "lake"), ("inputs", "input"), ("metrics", "metric")):
        of = facts.get(group)
        found |= {f"{prefix}.{name.replace('@', '_at_')}": str(value) for name, value in (of or {}).items()}
    return found
