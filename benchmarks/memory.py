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


def replica_memory() -> Memory:
    """Sum over all replicas of this machine, those of other clusters included; none on another machine or system."""
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(_TITLE):
                sizes.append(int((folder / "statm").read_text().split()[1]) * _PAGE / 2**20)
        except OSError:  # it ended meanwhile
            continue
    return Memory(len(sizes), round(sum(sizes), 1))
