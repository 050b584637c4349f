"""The application of the controller of rollouts; takes the fields of `reco_ray.serve.app.RolloutArgs`."""

from reco_ray.serve.app import build_rollouts as build

__all__ = ["build"]
