"""Wishes to be erased: put up the fence, hand out a receipt, and show how far it is."""

import secrets
import time
from collections.abc import Iterable

from reco_ray.errors import NotReadyError
from reco_ray.privacy.receipts import Receipt, new_receipt
from reco_ray.store import ErasureStore

__all__ = ["find_receipt", "receipts", "request_erasure"]


def request_erasure(erasures: ErasureStore, user_id: str) -> Receipt:
    """Fence a user and note that they are to be erased; a wish that is worked on already is the same wish.

    Raises: NotReadyError: the store is away.
    """
    receipt_id = secrets.token_hex(8)
    noted = erasures.request(user_id, receipt_id, new_receipt(receipt_id, user_id).dump(), time.time_ns() // 1000)
    found = find_receipt(erasures, noted)
    if found is None:
        raise NotReadyError(f"erasure {noted}: found no receipt in the online store, expected it; ask again")
    return found


def find_receipt(erasures: ErasureStore, receipt_id: str) -> Receipt | None:
    """Read a receipt; None when there is none, or it ended long ago and only the record under ``root`` is left.

    Raises: NotReadyError: the store is away.
    """
    raw = erasures.load(receipt_id)
    return None if raw is None else Receipt.parse(raw)


def receipts(erasures: ErasureStore) -> Iterable[Receipt]:
    """The receipts in the store, oldest wish first.

    Raises: NotReadyError: the store is away.
    """
    return sorted(map(Receipt.parse, erasures.all()), key=lambda receipt: receipt.requested_ts)
