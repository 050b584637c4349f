"""The online store: what a request needs to know of its user, and which releases get traffic.

User rows and traffic records come in from jobs; the gateway reads them, one round trip per request. Valkey protocol only.
"""

from reco_ray.store.online import OnlineStore, Traffic
from reco_ray.store.packing import pack_user, unpack_user

__all__ = ["OnlineStore", "Traffic", "pack_user", "unpack_user"]
