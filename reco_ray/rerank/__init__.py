"""Rerank: scored candidates come in, the slate goes out; the only stage that drops and orders for good.

`inventory` says which candidates may be shown, `diversity` and `greedy` arrange them, `exploration` leaves a part to chance,
`policy` puts these together, `marks` say why; `stage` is the whole, the rules included; `popular` writes the list for when
nothing answers.
"""

from reco_ray.rerank.diversity import mmr
from reco_ray.rerank.popular import POPULAR, write_popular
from reco_ray.rerank.stage import Rerank, build, load

__all__ = ["POPULAR", "Rerank", "build", "load", "mmr", "write_popular"]
