"""Names for users where no external id may stand but people must be able to follow one user: logs and the command line.

A pseudonym is a keyed hash: without the key nobody can tell whose it is, not even by trying all ids, as with a plain hash.
"""

import hashlib
import hmac
import logging
import os
import secrets
from functools import lru_cache

from reco_ray.errors import ConfigError

__all__ = ["pseudonym", "pseudonym_key"]

log = logging.getLogger(__name__)

_LEAST_BYTES = 16


def pseudonym(user_id: str, key: bytes) -> str:
    """Name a user: 16 hexadecimal characters, the same for the same key."""
    return hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()[:16]


@lru_cache
def pseudonym_key(variable: str, *, required: bool = False) -> bytes:
    """Read the key from an environment variable; without one, make one up that lasts as long as this process.

    Called at start, it says once that names will not outlast the process.

    Args:
        variable: ``privacy.pseudonym_key``.
        required: whether a key must be there, as outside of the local profile.
    Raises: ConfigError: it is missing, or too short to keep ids from being guessed.
    """
    found = os.environ.get(variable, "").encode()
    if not found and not required:
        log.warning(
            "%s is not set: pseudonyms of users hold for this process only; set it to a secret to compare them", variable
        )
        return secrets.token_bytes(32)
    if len(found) < _LEAST_BYTES:
        raise ConfigError(
            f"privacy.pseudonym_key: found {len(found)} bytes in {variable}, expected at least {_LEAST_BYTES}; "
            f"put a secret there, such as the output of `openssl rand -hex 32`"
        )
    return found
