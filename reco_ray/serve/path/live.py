"""The ranker's item features, kept as they are now while a release is loaded."""

import threading

from reco_ray.rank import RankFeatures
from reco_ray.release import user_view
from reco_ray.store import OnlineStore
from reco_ray.streaming.items import LiveItems, follow_items

__all__ = ["keep_items_fresh"]


def keep_items_fresh(stage: object, root: str, release_id: str, store_url: str, namespace: str) -> threading.Event:
    """Refresh a rank stage's item features until the returned event is set; a stage without features stays as it is."""
    stop = threading.Event()
    features = getattr(stage, "features", None)
    if store_url and isinstance(features, RankFeatures):
        store = OnlineStore(store_url, namespace)
        items = LiveItems(store, user_view(root, release_id), features.catalogue)
        follow_items(items, features.refresh_items, stop)
    return stop
