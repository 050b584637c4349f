"""Files under ``root``, wherever that is: a folder, ``s3://`` or ``gs://``, through pyarrow's filesystems."""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from reco_ray.errors import ArtifactError, NotReadyError

__all__ = [
    "exists",
    "fetch",
    "is_local",
    "join",
    "listing",
    "make_durable",
    "parquet_batches",
    "parquet_columns",
    "publish",
    "read_bytes",
    "read_parquet",
    "read_parts",
    "remove",
    "sizes",
    "walk",
    "write_bytes",
    "write_parquet",
]


def join(root: str, *parts: str) -> str:
    """Append path parts to a URI or folder."""
    return "/".join((root.rstrip("/"), *parts))


def is_local(uri: str) -> bool:
    """Whether the URI is a plain folder of this machine."""
    return "://" not in uri


def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    system, path = _open(uri)
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def read_bytes(uri: str) -> bytes:
    """Read a whole file.

    Raises: ArtifactError: there is none.
    """
    system, path = _open(uri)
    try:
        with system.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError as exc:
        raise ArtifactError(f"{uri}: found nothing, expected a file; run the job that writes it") from exc


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one step: readers see the old one or the new one, never a part.

    Raises: NotReadyError: the disk is full.
    """
    system, path = _open(uri)
    system.create_dir(path.rpartition("/")[0], recursive=True)
    if not is_local(uri):  # an object store's PUT is atomic already
        with system.open_output_stream(path) as stream:
            stream.write(data)
        return
    partial = f"{path}.{uuid.uuid4().hex[:8]}.partial"
    with _room(uri):
        Path(partial).write_bytes(data)
        Path(partial).replace(path)


def write_parquet(uri: str, table: pa.Table, **options: object) -> int:
    """Write a Parquet file and make it durable; returns its size in bytes.

    Args:
        options: of `pyarrow.parquet.write_table`.
    Raises: NotReadyError: the disk is full.
    """
    system, path = _open(uri)
    if is_local(uri):  # an object store has no folders
        system.create_dir(path.rpartition("/")[0], recursive=True)
    with _room(uri):
        pq.write_table(table, path, filesystem=system, **options)
        make_durable(uri)
    return int(system.get_file_info(path).size)


@contextlib.contextmanager
def _room(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NotReadyError(f"{uri}: found no room left on its disk, expected some; free some and run again") from exc


def read_parquet(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Raises: FileNotFoundError: there is none.
    """
    system, path = _open(uri)
    with system.open_input_file(path) as file:
        return pq.ParquetFile(file).read(None if columns is None else list(columns))


def parquet_batches(uri: str, size: int) -> Iterator[pa.RecordBatch]:
    """Read a Parquet file, or the files of a folder, ``size`` rows at most at a time, in their order."""
    system, path = _open(uri)
    yield from ds.dataset(path, filesystem=system, format="parquet").to_batches(batch_size=size)


def parquet_columns(uri: str) -> list[str]:
    """Names of a Parquet file's columns.

    Raises: FileNotFoundError: there is none. pa.ArrowInvalid: it is no Parquet file.
    """
    system, path = _open(uri)
    with system.open_input_file(path) as file:
        return list(pq.ParquetFile(file).schema_arrow.names)


def make_durable(uri: str) -> None:
    """Return when a file outlives a power cut: on a local disk, once it and its folder are synchronised."""
    if is_local(uri):
        for path in (Path(uri), Path(uri).parent):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def listing(uri: str) -> list[str]:
    """Names of what lies directly in a folder, sorted; none when there is no folder."""
    system, path = _open(uri)
    return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)))


def walk(uri: str) -> list[tuple[str, float]]:
    """All files below a folder: path within it, and unix time of its last change; sorted, none when there is no folder."""
    system, path = _open(uri)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    files = [info for info in found if info.type == fs.FileType.File]
    return sorted((info.path[len(path.rstrip("/")) + 1 :], (info.mtime_ns or 0) / 1e9) for info in files)


def sizes(uri: str) -> dict[str, int]:
    """Bytes of each file below a folder, by its path within it; none when there is no folder."""
    system, path = _open(uri)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return {i.path[len(path.rstrip("/")) + 1 :]: int(i.size or 0) for i in found if i.type == fs.FileType.File}


def read_parts(uri: str, size: int = 2**24) -> Iterator[bytes]:
    """Read a file in parts of ``size`` bytes; one that has gone is an empty one."""
    system, path = _open(uri)
    try:
        with system.open_input_stream(path) as stream:
            while part := stream.read(size):
                yield bytes(part)
    except FileNotFoundError:
        return


def remove(uri: str) -> None:
    """Remove a file or folder if it is there."""
    system, path = _open(uri)
    kind = system.get_file_info(path).type
    if kind == fs.FileType.Directory:
        system.delete_dir(path)
    elif kind == fs.FileType.File:
        system.delete_file(path)


def publish(folder: Path, uri: str, last: str) -> None:
    """Move a finished local folder to ``uri``; its file ``last`` arrives last, so that its presence means completeness.

    What stood at ``uri`` without that file is the rest of a killed run, and is replaced.
    """
    remove(uri)
    if is_local(uri):
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(uri)
        except OSError:  # another filesystem: copy, the last file last
            shutil.copytree(folder, uri, ignore=lambda _, names: [n for n in names if n == last])
            shutil.copy2(folder / last, Path(uri) / last)
        return
    system, path = _open(uri)
    fs.copy_files(str(folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)


def fetch(uri: str) -> Path:
    """Return a local folder with the content of ``uri``: itself when local, else a copy in this node's cache.

    Raises: ArtifactError: there is no such folder.
    """
    if not exists(uri):
        raise ArtifactError(f"{uri}: found nothing, expected a folder; run the job that writes it")
    if is_local(uri):
        return Path(uri)
    target = Path(tempfile.gettempdir()) / "reco_ray" / uri.split("://", 1)[1]
    if not target.exists():
        system, path = _open(uri)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.partial")
        partial.mkdir(parents=True)
        fs.copy_files(path, str(partial), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
        partial.rename(target)
    return target


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    return (fs.LocalFileSystem(), uri) if is_local(uri) else fs.FileSystem.from_uri(uri)
