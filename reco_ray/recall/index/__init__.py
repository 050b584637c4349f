"""Search for the nearest vectors: by ScaNN's tree in large catalogues, exact in small ones."""

from reco_ray.recall.index.nearest import nearest
from reco_ray.recall.index.vectors import VectorIndex, vectors_file

__all__ = ["VectorIndex", "nearest", "vectors_file"]
