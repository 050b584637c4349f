"""From rows of the tables ``features_users`` and ``labels`` to what the stages take."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from reco_ray.features.finish import had_items
from reco_ray.hashing import item_keys
from reco_ray.types import Request, UserRow

__all__ = ["past_request", "user_row"]


def user_row(row: Mapping[str, Any]) -> UserRow:
    """Turn ids into keys and lists into arrays.

    Args:
        row: history, weights, seen, seen_days, features and as_of, as `transform.user_rows` makes them.
    """
    seen, had = had_items(item_keys(row["seen"]), np.asarray(row["seen_days"], np.int64))
    return UserRow(
        history=item_keys(row["history"]),
        weights=np.asarray(row["weights"], np.float32),
        seen=seen,
        had=had,
        features=np.asarray(row["features"], np.float32),
        as_of=int(row["as_of"]),
    )


def past_request(row: Mapping[str, Any], k: int = 10) -> Request:
    """The request that a row of labels answers: at the instant and in the context of the first event that they hold.

    Args:
        row: of `schema.LABELS`, joined with the row of the user view from before it.
    """
    said = {name: value for name, value in (row["context"] or {}).items() if value is not None}
    return Request(
        request_id="",
        user_id=row["user_id"],
        k=k,
        surface=said.get("surface", ""),
        context=said,
        user=user_row(row),
        at_us=round(row["ts"].timestamp() * 1e6),
    )
