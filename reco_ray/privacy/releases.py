"""Which releases were trained on users' data."""

import json
from collections.abc import Collection
from datetime import datetime

import polars as pl

from reco_ray.lake import storage, tables
from reco_ray.release import release_ids, release_uri
from reco_ray.release.bundle import MANIFEST

__all__ = ["trained_on"]


def trained_on(root: str, user_ids: Collection[str]) -> dict[str, list[str]]:
    """Ids of the releases by user id, oldest first; asked before the users leave the lake.

    A release names the features it was trained on: the users are in them or not. Where the lake has those features no longer, a
    release counts that was made after the first event of a user came in.
    """
    features = _features(root, user_ids)
    first = _first_received(root, user_ids)
    found: dict[str, list[str]] = {user_id: [] for user_id in user_ids}
    for release in release_ids(root):
        facts = json.loads(storage.read_bytes(storage.join(release_uri(root, release), MANIFEST)))["facts"]
        users = features.get(str(facts.get("features_key", "")))
        if users is None:
            made = facts.get("made_ts")
            users = {each for each, ts in first.items() if not made or ts <= datetime.fromisoformat(str(made))}
        for user_id in users:
            found[user_id].append(release)
    return found


def _features(root: str, user_ids: Collection[str]) -> dict[str, set[str]]:
    """The users in each set of features that the lake holds, by its key."""
    if not tables.exists(root, "features_users"):
        return {}
    rows = pl.scan_delta(tables.table_uri(root, "features_users")).with_columns(
        key=pl.col("snapshot").str.replace(r"-[^-]*$", "")
    )
    theirs = pl.col("user_id").filter(pl.col("user_id").is_in(list(user_ids))).unique()
    return {key: set(users) for key, users in rows.group_by("key").agg(theirs).collect().iter_rows()}


def _first_received(root: str, user_ids: Collection[str]) -> dict[str, datetime]:
    if not tables.exists(root, "events"):
        return {}
    rows = pl.scan_delta(tables.table_uri(root, "events")).filter(pl.col("user_id").is_in(list(user_ids)))
    return dict(rows.group_by("user_id").agg(pl.col("received_ts").min()).collect().iter_rows())
