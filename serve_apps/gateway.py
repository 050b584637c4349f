"""The gateway application; takes the fields of `reco_ray.serve.app.GatewayArgs`."""

from reco_ray.serve.app import build_gateway as build

__all__ = ["build"]
