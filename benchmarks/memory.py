"""Memory of Serve's replicas on this machine, read from /proc by process title."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from processes import processes

__all__ = ["Memory", "replica_memory"]

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
    for pid in processes("ray::ServeReplica", own=own):
        with contextlib.suppress(OSError):  # it ended meanwhile
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20)
    return Memory(len(sizes), round(sum(sizes), 1))
