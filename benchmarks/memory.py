"""Memory of Serve's replicas on this machine, read from /proc by process title."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "replica_memory"]

_TITLE = b"ray::ServeReplica"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory, summed; pages that replicas share count in each."""

    replicas: int
    mb: float


def replica_memory(*, own: bool) -> Memory:
    """Sum over the replicas of this machine; none where it has none.

    Args:
        own: only of a cluster that this process started. Otherwise those of every cluster count, as a URL does not tell.
    """
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(_TITLE) and (not own or _descends(folder)):
                sizes.append(int((folder / "statm").read_text().split()[1]) * _PAGE / 2**20)
        except OSError:  # it ended meanwhile
            continue
    return Memory(len(sizes), round(sum(sizes), 1))


def _descends(folder: Path) -> bool:
    """Whether a process descends from this one: driver, raylet, replica."""
    pid = int(folder.name)
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid > 1
