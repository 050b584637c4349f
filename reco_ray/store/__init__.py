"""The online store: what a request needs to know of its user, slates made before, and which releases get traffic.

User rows, precomputed slates and traffic records come in from jobs, finished answers from gateways; the gateway reads them,
one round trip per request. Valkey protocol only.
"""

from reco_ray.store.online import OnlineStore, Traffic
from reco_ray.store.packing import FinishedSlate, pack_slate, pack_user, unpack_slate, unpack_user
from reco_ray.store.precomputed import Precomputed, pack_precomputed, unpack_precomputed
from reco_ray.store.slates import Purges, SlateStore

__all__ = [
    "FinishedSlate",
    "OnlineStore",
    "Precomputed",
    "Purges",
    "SlateStore",
    "Traffic",
    "pack_precomputed",
    "pack_slate",
    "pack_user",
    "unpack_precomputed",
    "unpack_slate",
    "unpack_user",
]
