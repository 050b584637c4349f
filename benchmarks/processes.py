"""Processes of this machine by title, read from /proc; of the cluster that this process started, or of all."""

import os
from pathlib import Path

__all__ = ["processes"]


def processes(title: str, *, own: bool) -> list[int]:
    """Find processes whose command line starts with ``title``, or whose program has it as its name; ascending.

    Args:
        own: only descendants of this process: driver, raylet, replica. Other clusters of the machine are left alone.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            if (command.startswith(title) or command.endswith(f"/{title}")) and (not own or _descends(folder)):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile
            continue
    return sorted(found)


def _descends(folder: Path) -> bool:
    pid = int(folder.name)
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid > 1
