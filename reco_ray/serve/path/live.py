"""What a release's stages know of the items, kept as it is now while the release is loaded."""

import threading
from collections.abc import Callable

from reco_ray.features import Catalogue
from reco_ray.rank import RankFeatures
from reco_ray.release import user_view
from reco_ray.rerank import Rerank
from reco_ray.store import OnlineStore
from reco_ray.streaming.items import ItemsNow, LiveItems, follow_items

__all__ = ["keep_items_fresh"]


def keep_items_fresh(stage: object, root: str, release_id: str, store_url: str, namespace: str) -> threading.Event:
    """Refresh a ranker's item features, and by how often items were met what a rerank stage explores, until the event is set.

    A stage that looks at neither stays as it is.
    """
    stop = threading.Event()
    if store_url and (found := _taker(stage)) is not None:
        catalogue, take = found
        store = OnlineStore(store_url, namespace)
        follow_items(LiveItems(store, user_view(root, release_id), catalogue), take, stop)
    return stop


def _taker(stage: object) -> tuple[Callable[[], Catalogue], Callable[[ItemsNow], None]] | None:
    features = getattr(stage, "features", None)
    if isinstance(features, RankFeatures):
        return lambda: features.catalogue, lambda now: features.refresh_items(now.features)
    if isinstance(stage, Rerank) and stage.explores:
        return lambda: stage.catalogue, lambda now: stage.refresh_met(now.met)
    return None
