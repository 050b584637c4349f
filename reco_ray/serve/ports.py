"""The ports that Serve is about to listen on; HAProxy's own message on one that is taken is a page long and names none."""

import errno
import os
import socket

__all__ = ["taken"]


def taken(host: str, port: int) -> str:
    """Say what is wrong where something on this machine listens on the gateway's address or a port of HAProxy's statistics."""
    statistics = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
    wanted = {"serve.port": (host, port)} | {n: ("", int(os.environ.get(n, default))) for n, default in statistics.items()}
    for name, address in wanted.items():
        if _listens(*address):
            return (
                f"port {address[1]}: found another process that listens on it, expected none before Serve starts; "
                f"see which with `ss -ltnp 'sport = :{address[1]}'` and stop it, or give another port by {name}"
            )
    return ""


def _listens(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is in nobody's way
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.errno == errno.EADDRINUSE
    return False
