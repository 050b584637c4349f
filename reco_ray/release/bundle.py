"""The release bundle: a folder whose manifest names the SHA-256 of every file, under ``root/releases/<release_id>``.

A bundle is refused when a file is missing, changed or not in the manifest, or when its parts disagree. Nothing in it is
pickled; a file outside the manifest is refused above all because ScaNN would unpickle one of a certain name.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reco_ray.config import FeaturesConfig
from reco_ray.errors import ArtifactError
from reco_ray.lake import storage

__all__ = [
    "MANIFEST",
    "Manifest",
    "features_of",
    "file_hashes",
    "newest",
    "open_release",
    "read_part",
    "release_ids",
    "release_uri",
    "seal",
    "user_view",
    "verify",
]

MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        release_id: hash of what it was made from.
        user_view: version of the user view that its models expect.
        facts: configuration, lake versions, commit, metrics; for people and gates.
        files: path within the bundle -> SHA-256.
    """

    release_id: str
    user_view: str
    facts: Mapping[str, object]
    files: Mapping[str, str]


def file_hashes(folder: Path, leave_out: str = MANIFEST) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path, sorted."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and str(p.relative_to(folder)) != leave_out)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def seal(folder: Path, release_id: str, user_view: str, facts: Mapping[str, object]) -> Manifest:
    """Write the manifest of a finished folder."""
    manifest = Manifest(release_id, user_view, dict(facts), file_hashes(folder))
    content = {"format": _FORMAT, "release_id": release_id, "user_view": user_view, "facts": facts, "files": manifest.files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, sort_keys=True, default=str))
    return manifest


def verify(folder: Path) -> Manifest:
    """Check a bundle's files against its manifest.

    Raises: ArtifactError: no manifest, or a file is missing, changed or not listed.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError as exc:
        raise ArtifactError(f"{folder}: found no {MANIFEST}, expected a sealed release; run publish_release") from exc
    if content.get("format") != _FORMAT:
        raise ArtifactError(f"{folder}: found bundle format {content.get('format')}, expected {_FORMAT}; publish it again")
    found, expected = file_hashes(folder), content["files"]
    for name in sorted(set(found) | set(expected)):
        if name not in found:
            raise ArtifactError(f"{folder}: {name} is missing, expected by the manifest; publish the release again")
        if name not in expected:
            raise ArtifactError(f"{folder}: {name} is not in the manifest; remove it, or publish the release again")
        if found[name] != expected[name]:
            raise ArtifactError(
                f"{folder}: {name} has SHA-256 {found[name][:12]}, expected {expected[name][:12]}; publish the release again"
            )
    return Manifest(content["release_id"], content["user_view"], content["facts"], expected)


def release_uri(root: str, release_id: str) -> str:
    """Where a release lies."""
    return storage.join(root, "releases", release_id)


def release_ids(root: str) -> list[str]:
    """Ids of the sealed releases under ``root``, oldest publication first."""
    found = []
    for name in storage.listing(storage.join(root, "releases")):
        uri = storage.join(release_uri(root, name), MANIFEST)
        if storage.exists(uri):
            made = json.loads(storage.read_bytes(uri))["facts"].get("made_ts", "")
            found.append((made, name))
    return [name for _, name in sorted(found)]


def newest(root: str) -> str:
    """Id of the release published last.

    Raises: ArtifactError: there is none.
    """
    found = release_ids(root)
    if not found:
        raise ArtifactError(f"releases: found none under {root}, expected one; run publish_release or run_pipeline")
    return found[-1]


def open_release(root: str, release_id: str) -> Path:
    """Return a local, verified folder of a release.

    Raises: ArtifactError: there is no such release, or it is damaged.
    """
    uri = release_uri(root, release_id)
    if not storage.exists(uri):
        known = release_ids(root)[-5:]
        raise ArtifactError(f"release {release_id!r}: found none under {root}, expected one of {known}; run publish_release")
    folder = storage.fetch(uri)
    manifest = verify(folder)
    if manifest.release_id != release_id:
        raise ArtifactError(f"{folder}: the manifest names release {manifest.release_id}, expected {release_id}; publish again")
    return folder


def read_part(root: str, release_id: str, name: str) -> bytes:
    """Read one file of a release, checked against the manifest, without fetching the bundle.

    Raises: ArtifactError: there is no such release or file, or it is damaged.
    """
    uri, content = release_uri(root, release_id), _content(root, release_id)
    if name not in content["files"]:
        raise ArtifactError(f"{uri}: found no {name} in the manifest, expected it; publish the release again")
    raw = storage.read_bytes(storage.join(uri, name))
    found, expected = hashlib.sha256(raw).hexdigest(), content["files"][name]
    if found != expected:
        raise ArtifactError(f"{uri}: {name} has SHA-256 {found[:12]}, expected {expected[:12]}; publish the release again")
    return raw


def features_of(manifest: Manifest) -> FeaturesConfig:
    """The settings that a release's features were made with.

    Raises: ArtifactError: it was published before releases named them.
    """
    found = manifest.facts.get("features")
    if not isinstance(found, dict):
        raise ArtifactError(f"release {manifest.release_id}: found no settings of its features, expected some; publish anew")
    return FeaturesConfig(**found)


def user_view(root: str, release_id: str) -> str:
    """Version of the user view that a release was trained on, by the word of its manifest.

    Raises: ArtifactError: there is no such release.
    """
    return str(_content(root, release_id)["user_view"])


def _content(root: str, release_id: str) -> dict[str, Any]:
    uri = release_uri(root, release_id)
    content: dict[str, Any] = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
    if content.get("format") != _FORMAT or content["release_id"] != release_id:
        raise ArtifactError(
            f"{uri}: found release {content.get('release_id')} of format {content.get('format')}, "
            f"expected {release_id} of {_FORMAT}; publish it again"
        )
    return content
