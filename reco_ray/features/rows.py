"""From a row of the table ``features_users`` to the row that requests carry."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from reco_ray.hashing import item_keys
from reco_ray.types import UserRow

__all__ = ["user_row"]


def user_row(row: Mapping[str, Any]) -> UserRow:
    """Turn ids into keys and lists into arrays.

    Args:
        row: history, weights, seen, features and as_of, as `transform.user_rows` makes them.
    """
    return UserRow(
        history=item_keys(row["history"]),
        weights=np.asarray(row["weights"], np.float32),
        seen=np.unique(item_keys(row["seen"])),
        features=np.asarray(row["features"], np.float32),
        as_of=int(row["as_of"]),
    )
