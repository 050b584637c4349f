"""The ports that Serve is about to listen on; HAProxy's own message on one that is taken is a page long and names none."""

import errno
import os
import socket

from reco_ray.errors import NotReadyError

__all__ = ["check_free"]


def check_free(host: str, port: int) -> None:
    """Check on this machine that nothing listens on the gateway's address and on HAProxy's two ports of statistics.

    Raises: NotReadyError: something does.
    """
    statistics = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
    wanted = {"serve.port": (host, port)} | {n: ("", int(os.environ.get(n, default))) for n, default in statistics.items()}
    for name, address in wanted.items():
        if _taken(*address):
            raise NotReadyError(
                f"port {address[1]}: found another process that listens on it, expected none before Serve starts; "
                f"see which with `ss -ltnp 'sport = :{address[1]}'` and stop it, or give another port by {name}"
            )


def _taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is in nobody's way
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.errno == errno.EADDRINUSE
    return False
