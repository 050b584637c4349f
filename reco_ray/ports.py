"""Ports of this machine that something of ours is about to listen on: Ray's and HAProxy's own messages on one that is taken are
pages long.
"""

import errno
import socket
import threading
import time

from reco_ray.errors import NotReadyError

__all__ = ["require_free"]

_LINGERS_S = 5.0  # what was just shut down may hold its ports for that long


def require_free(host: str, port: int, instead: str) -> None:
    """Wait some seconds until nothing listens on a port.

    Args:
        host: empty for all interfaces. instead: another way out than to stop what listens there.
    Raises: NotReadyError: something still does.
    """
    pause, deadline = threading.Event(), time.monotonic() + _LINGERS_S
    while _taken(host, port):
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"port {port}: found another process that listens on it, expected none; "
                f"see which with `ss -ltnp 'sport = :{port}'` and stop it, or {instead}"
            )
        pause.wait(0.2)


def _taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is in nobody's way
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.errno == errno.EADDRINUSE
    return False
