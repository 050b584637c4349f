"""The online store: what a request needs to know of its user, which releases get traffic, and which keys may call.

User rows and traffic records come in from jobs, keys from the command line; the gateway reads them. Valkey protocol only.
"""

from reco_ray.store.keys import KeyRecord, KeyStore, Scope, new_key, rotated
from reco_ray.store.online import OnlineStore, Traffic
from reco_ray.store.packing import pack_user, unpack_user

__all__ = ["KeyRecord", "KeyStore", "OnlineStore", "Scope", "Traffic", "new_key", "pack_user", "rotated", "unpack_user"]
