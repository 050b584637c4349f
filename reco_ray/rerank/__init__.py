"""Rerank: scored candidates come in, the slate goes out; the only stage that drops and orders for good.

`rules` hides, boosts and caps, `diversity` arranges, `stage` is the whole.
"""

from reco_ray.rerank.stage import Rerank, build, load

__all__ = ["Rerank", "build", "load"]
