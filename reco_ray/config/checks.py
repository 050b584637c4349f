"""What the schemas check their values with."""

import ipaddress

from reco_ray.errors import ConfigError

__all__ = ["between", "loopback"]


def between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}: found {value}, expected {low} to {high}")


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
