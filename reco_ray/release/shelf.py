"""What lies under ``root/releases``: size and facts of each release, what two differ in, and which may go."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reco_ray.errors import ArtifactError
from reco_ray.lake import storage
from reco_ray.release.bundle import MANIFEST, Manifest, release_ids, release_uri

__all__ = [
    "Change",
    "differences",
    "gates_said",
    "gates_uri",
    "prunable",
    "read_manifest",
    "remove_release",
    "size_bytes",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that two releases differ in; None where one of them lacks it. ``what``: dotted path in the facts, or a file."""

    what: str
    before: object
    after: object


def read_manifest(root: str, release_id: str) -> Manifest:
    """What a release says of itself; its files are not looked at.

    Raises: ArtifactError: there is no such release.
    """
    uri = storage.join(release_uri(root, release_id), MANIFEST)
    if not storage.exists(uri):
        known = release_ids(root)[-5:]
        raise ArtifactError(f"release {release_id!r}: found none under {root}, expected one of {known}; run publish_release")
    content = json.loads(storage.read_bytes(uri))
    return Manifest(content["release_id"], content["user_view"], content["facts"], content["files"])


def gates_uri(root: str, release_id: str) -> str:
    """Where the gates keep what they said last of a release."""
    return storage.join(root, "reports", "gates", f"{release_id}.json")


def gates_said(root: str, release_id: str) -> dict[str, Any] | None:
    """What they said; None where they were not asked, or have to be asked again."""
    uri = gates_uri(root, release_id)
    return json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None


def size_bytes(root: str, release_id: str) -> int:
    """Bytes of all its files."""
    return sum(storage.sizes(release_uri(root, release_id)).values())


def differences(before: Manifest, after: Manifest) -> list[Change]:
    """Facts first, then files, by name; files are named by the start of their SHA-256."""
    one, two = (dict(_flat("", each.facts)) | {"user_view": each.user_view} for each in (before, after))
    files = [{name: hashed[:12] for name, hashed in each.files.items()} for each in (before, after)]
    return [*_changes(one, two), *_changes(*files)]


def prunable(releases: Sequence[str], in_use: Collection[str], keep: int) -> list[str]:
    """Which releases may go: those in no use, but for the ``keep`` published last.

    Args:
        releases: oldest publication first.
        keep: at least 1.
    """
    return [each for each in releases[: max(0, len(releases) - keep)] if each not in in_use]


def remove_release(root: str, release_id: str) -> None:
    """Remove it, its manifest first, so that what a killed run leaves is no release any more."""
    uri = release_uri(root, release_id)
    storage.remove(storage.join(uri, MANIFEST))
    storage.remove(uri)


def _flat(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), each)
    else:
        yield path, value


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))
