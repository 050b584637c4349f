"""Users in the other files under ``root``: outputs of steps, batches of slates, reports, tracking.

Parquet files with a column of users are written anew without the rows, and a manifest beside them learns of the new content.
All other files are searched for the id as bytes: nothing of ours writes one there; what is found is for people to look at.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from reco_ray.errors import NotReadyError
from reco_ray.lake import storage
from reco_ray.privacy.lake import Found
from reco_ray.privacy.needles import Needle, holders
from reco_ray.privacy.rows import count_users, without_users
from reco_ray.release.bundle import MANIFEST

__all__ = ["nobody_at_work", "remove_from_parquet", "search"]

_ELSEWHERE = ("lake/", "store/")  # `privacy.lake`; the store's own files, which it writes anew


def nobody_at_work(root: str) -> None:
    """Make sure that no step of the workflow runs, which would write down what it read before the erasure.

    Raises: NotReadyError: a step has its folder for temporary files.
    """
    if found := storage.listing(storage.join(root, "tmp")):
        raise NotReadyError(
            f"{root}/tmp: found {', '.join(found[:3])}, expected no step at work; wait for it, or remove what a killed one left"
        )


def remove_from_parquet(root: str, user_ids: Collection[str]) -> Found:
    """Remove the users' rows from Parquet files outside of the lake; counts rows."""
    found: Counter[str] = Counter()
    looked_at = 0
    for path in _files(root):
        if not path.endswith(".parquet"):
            continue
        where = storage.join(root, path)
        try:
            looked_at += 1
            users = count_users(where, user_ids)
        except (pa.ArrowInvalid, FileNotFoundError):  # not finished, or gone: `search` looks at the bytes
            continue
        if users:
            sink = pa.BufferOutputStream()
            pq.write_table(without_users(where, user_ids), sink, compression="zstd", write_statistics=False)
            storage.write_bytes(where, sink.getvalue().to_pybytes())
            _note_content(root, path)
            found.update(users)
    return Found(looked_at, found)


def search(root: str, needles: Mapping[str, Needle]) -> tuple[int, dict[str, list[str]]]:
    """Search all files outside of the lake and the store; returns how many, and by user id the paths that hold it."""
    found: dict[str, list[str]] = {}
    paths = _files(root)
    for path in paths:
        for user_id in holders(chain((path.encode(), b"\n"), storage.read_parts(storage.join(root, path))), needles):
            found.setdefault(user_id, []).append(path)
    return len(paths), found


def _files(root: str) -> list[str]:
    return [path for path, _ in storage.walk(root) if not path.startswith(_ELSEWHERE)]


def _note_content(root: str, path: str) -> None:
    """Write the new SHA-256 of a file into the manifest of the folder above it that lists it."""
    at = PurePosixPath(path)
    for folder in at.parents:
        manifest = storage.join(root, str(folder / MANIFEST))
        if not storage.exists(manifest):
            continue
        content = json.loads(storage.read_bytes(manifest))
        name = str(at.relative_to(folder))
        if name in content.get("files", {}):
            content["files"][name] = hashlib.sha256(storage.read_bytes(storage.join(root, path))).hexdigest()
            storage.write_bytes(manifest, json.dumps(content, indent=1, sort_keys=True).encode())
        return
