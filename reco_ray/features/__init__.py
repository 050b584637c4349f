"""Features: events and items of the lake come in, user rows, item rows and item pairs per snapshot go out.

`sums` and `finish` define each feature once, `transform` and `flow` compute them for whole tables, `online` for each event that
comes; `skew` compares the two, `drift` what requests read with what a model was trained on. `catalogue` holds the items as the
stages need them.
"""

from reco_ray.features.catalogue import Catalogue
from reco_ray.features.rows import user_row
from reco_ray.features.views import ITEM_COLUMNS, SNAPSHOTS, USER_COLUMNS, VIEWS, user_view_version

__all__ = ["ITEM_COLUMNS", "SNAPSHOTS", "USER_COLUMNS", "VIEWS", "Catalogue", "user_row", "user_view_version"]
