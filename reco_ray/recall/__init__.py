"""Recall: a batch of requests comes in, candidates of several sources go out; the rank stage and training read them.

Each source brings its best items, `merge` unites them under quotas, `stage` is the whole.
"""

from reco_ray.recall.stage import Recall, build, load

__all__ = ["Recall", "build", "load"]
