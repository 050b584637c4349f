"""Features: events and items of the lake come in, user rows, item rows and item pairs per snapshot go out.

`sums` and `finish` define each feature once, `transform` and `flow` compute them for whole tables, `online` for each event that
comes; `skew` compares the two, `drift` what requests read with what a model was trained on. `context` describes the request
itself. `catalogue` holds the items as the stages need them, `growth` those that come
while it is loaded.
"""

from reco_ray.features.catalogue import Catalogue
from reco_ray.features.context import ContextRows, Vocabulary, vocabulary_of
from reco_ray.features.growth import Growth
from reco_ray.features.rows import past_request, user_row
from reco_ray.features.views import CONTEXT_COLUMNS, ITEM_COLUMNS, SNAPSHOTS, USER_COLUMNS, VIEWS, user_view_version

__all__ = [
    "CONTEXT_COLUMNS",
    "ITEM_COLUMNS",
    "SNAPSHOTS",
    "USER_COLUMNS",
    "VIEWS",
    "Catalogue",
    "ContextRows",
    "Growth",
    "Vocabulary",
    "past_request",
    "user_row",
    "user_view_version",
    "vocabulary_of",
]
