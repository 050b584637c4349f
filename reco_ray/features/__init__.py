"""Features: events and items of the lake come in, user rows, item rows and item pairs per snapshot go out.

`transform` and `pairs` define each feature once, `flow` computes them by Ray Data, `catalogue` holds the items as the stages
need them.
"""

from reco_ray.features.catalogue import Catalogue
from reco_ray.features.rows import user_row
from reco_ray.features.views import ITEM_COLUMNS, SNAPSHOTS, USER_COLUMNS, user_view_version

__all__ = ["ITEM_COLUMNS", "SNAPSHOTS", "USER_COLUMNS", "Catalogue", "user_row", "user_view_version"]
