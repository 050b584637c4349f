"""Search for the nearest vectors: by ScaNN's tree in large catalogues, exact in small ones; rows come and go while it answers.

A release's item vectors come in, `nearest` answers queries with hits; the sources that embed items and users call it.
"""

from reco_ray.recall.index.files import index_facts, vectors_file
from reco_ray.recall.index.nearest import nearest
from reco_ray.recall.index.probe import Probe, Report
from reco_ray.recall.index.vectors import VectorIndex

__all__ = ["Probe", "Report", "VectorIndex", "index_facts", "nearest", "vectors_file"]
