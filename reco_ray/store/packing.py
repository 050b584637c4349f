"""One packed value per user: a fixed header, then the arrays of `types.UserRow` as they lie in memory."""

import struct

import numpy as np

from reco_ray.errors import SchemaError
from reco_ray.types import UserRow

__all__ = ["pack_user", "unpack_user"]

_HEADER = struct.Struct("<HHqIII")  # format, reserved, as_of, len(history), len(seen), len(features)
_FORMAT = 1


def pack_user(row: UserRow) -> bytes:
    """Pack a row: 24 bytes and 12 per history item, 8 per seen item, 4 per feature."""
    return b"".join(
        (
            _HEADER.pack(_FORMAT, 0, row.as_of, row.history.size, row.seen.size, row.features.size),
            row.history.astype("<u8", copy=False).tobytes(),
            row.seen.astype("<u8", copy=False).tobytes(),
            row.weights.astype("<f4", copy=False).tobytes(),
            row.features.astype("<f4", copy=False).tobytes(),
        )
    )


def unpack_user(raw: bytes) -> UserRow:
    """Unpack what `pack_user` made, without copying the arrays.

    Raises: SchemaError: the value has another format or length.
    """
    if len(raw) < _HEADER.size:
        raise SchemaError(f"user row: found {len(raw)} bytes, expected at least {_HEADER.size}; write the rows again")
    version, _, as_of, n_history, n_seen, n_features = _HEADER.unpack_from(raw)
    size = _HEADER.size + 12 * n_history + 8 * n_seen + 4 * n_features
    if version != _FORMAT or len(raw) != size:
        raise SchemaError(
            f"user row: found format {version} and {len(raw)} bytes, expected format {_FORMAT} and {size}; write the rows again"
        )
    at = _HEADER.size
    history = np.frombuffer(raw, "<u8", n_history, at)
    seen = np.frombuffer(raw, "<u8", n_seen, at := at + 8 * n_history)
    weights = np.frombuffer(raw, "<f4", n_history, at := at + 8 * n_seen)
    features = np.frombuffer(raw, "<f4", n_features, at + 4 * n_history)
    return UserRow(history=history, weights=weights, seen=seen, features=features, as_of=as_of)
