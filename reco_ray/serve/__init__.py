"""Serving: requests come in over HTTP, slates go out; the gateway, one application per release, and how they are deployed.

Called by Serve through `serve_apps`, and by whoever deploys a release (`deploy.deploy`). Importing it imports no Ray.
"""

from reco_ray.serve.args import GatewayArgs, ReleaseArgs

__all__ = ["GatewayArgs", "ReleaseArgs"]
