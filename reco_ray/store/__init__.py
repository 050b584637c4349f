"""The online store: what a request needs to know of its user, slates made before, releases and their traffic, keys, live items.

User rows, precomputed slates and traffic records come in from jobs, finished answers and profiles from gateways, keys from the
command line; the gateway reads them, one round trip per request. Valkey protocol only.
"""

from reco_ray.store.bandit import BanditState, BanditStore
from reco_ray.store.erasures import ErasureStore
from reco_ray.store.features import LAKE_ITEMS, Change, FeatureStore, fresh_until, registered_views
from reco_ray.store.fence import Fence, FenceEntry, FenceReader, FenceStore
from reco_ray.store.flags import EXPLORE, FLAGS, FLAGS_BEHIND, NO_FLAGS, RANKER, Flags, FlagStore, off_in, source_flag
from reco_ray.store.items import NO_SLOT, Cursor, Item, ItemChanges, ItemStore, LiveItem
from reco_ray.store.keys import KeyRecord, KeyStore, Scope, new_key, rotated
from reco_ray.store.online import MOST_OVERRIDES, Holdout, OnlineStore, Shadow, Traffic
from reco_ray.store.packing import (
    NO_INTERESTS,
    FinishedSlate,
    Interests,
    Profile,
    pack_profile,
    pack_slate,
    pack_user,
    unpack_interests,
    unpack_profile,
    unpack_slate,
    unpack_user,
)
from reco_ray.store.precomputed import Precomputed, pack_precomputed, unpack_precomputed
from reco_ray.store.profiles import ProfileStore
from reco_ray.store.rollouts import RolloutStore
from reco_ray.store.rules import Decided, RuleRecord, RuleStore
from reco_ray.store.shadows import ShadowStore
from reco_ray.store.shown import NOT_SERVED, ServedItems
from reco_ray.store.slates import Purges, SlateStore

__all__ = [
    "EXPLORE",
    "FLAGS",
    "FLAGS_BEHIND",
    "LAKE_ITEMS",
    "MOST_OVERRIDES",
    "NOT_SERVED",
    "NO_FLAGS",
    "NO_INTERESTS",
    "NO_SLOT",
    "RANKER",
    "BanditState",
    "BanditStore",
    "Change",
    "Cursor",
    "Decided",
    "ErasureStore",
    "FeatureStore",
    "Fence",
    "FenceEntry",
    "FenceReader",
    "FenceStore",
    "FinishedSlate",
    "FlagStore",
    "Flags",
    "Holdout",
    "Interests",
    "Item",
    "ItemChanges",
    "ItemStore",
    "KeyRecord",
    "KeyStore",
    "LiveItem",
    "OnlineStore",
    "Precomputed",
    "Profile",
    "ProfileStore",
    "Purges",
    "RolloutStore",
    "RuleRecord",
    "RuleStore",
    "Scope",
    "ServedItems",
    "Shadow",
    "ShadowStore",
    "SlateStore",
    "Traffic",
    "fresh_until",
    "new_key",
    "off_in",
    "pack_precomputed",
    "pack_profile",
    "pack_slate",
    "pack_user",
    "registered_views",
    "rotated",
    "source_flag",
    "unpack_interests",
    "unpack_precomputed",
    "unpack_profile",
    "unpack_slate",
    "unpack_user",
]
