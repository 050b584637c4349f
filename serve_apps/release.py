"""The application of one release; takes the fields of `reco_ray.serve.app.ReleaseArgs`."""

from reco_ray.serve.app import build_release as build

__all__ = ["build"]
