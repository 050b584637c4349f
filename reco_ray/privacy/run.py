"""`erase_users`: what ``jobs/erase_user.py`` runs."""

import logging
import time
from collections.abc import Callable
from functools import partial

from reco_ray.config import PipelineConfig
from reco_ray.events.open import open_reader
from reco_ray.lake import tables
from reco_ray.privacy.erasure import Person, erase
from reco_ray.privacy.receipts import Receipt, audit, new_receipt
from reco_ray.privacy.requests import find_receipt, request_erasure
from reco_ray.privacy.steps import Erasing, OpenReader
from reco_ray.store import ErasureStore, OnlineStore

__all__ = ["bus_of", "erase_users"]

log = logging.getLogger(__name__)


def erase_users(
    config: PipelineConfig,
    store_url: str,
    open_partition: OpenReader | None = None,
    told: Callable[[Receipt], None] = lambda _: None,
) -> list[Receipt]:
    """Erase the users of ``privacy.user_ids``, or where it names none all who wish it; returns their receipts.

    What a killed run began is gone on with, and who is erased twice gets a second receipt that says what there was to find.

    Args:
        open_partition: of the bus; None for the one that is configured.
        told: of each change of a receipt, once it is saved.
    Raises:
        NotReadyError: the store or bus is away, somebody does not follow the fence, or another job is at work.
        DataError: the root has no lake.
    """
    tables.require(config.root)
    with OnlineStore(store_url, config.store.namespace) as store:
        erasures = ErasureStore(store)
        with erasures.alone():
            asked = [request_erasure(erasures, user_id).receipt_id for user_id in dict.fromkeys(config.privacy.user_ids)]
            pending = erasures.pending()
            people = [_person(config, erasures, each, pending[each], told) for each in (asked or sorted(pending))]
            if not people:
                log.info("nobody wishes to be erased")
                return []

            def finish(person: Person) -> None:
                receipt = person.receipt
                audit(config.root, receipt)
                erasures.finish(receipt.user, receipt.receipt_id, receipt.dump(), time.time_ns() // 1000)

            erase(people, Erasing(config, store, store_url, open_partition or bus_of(config, store_url)).steps, finish)
            return [person.receipt for person in people]


def bus_of(config: PipelineConfig, store_url: str) -> OpenReader:
    """How to open a partition of the configured bus."""
    return partial(open_reader, config.events, config.store.namespace, store_url)


def _person(
    config: PipelineConfig, erasures: ErasureStore, receipt_id: str, user_id: str, told: Callable[[Receipt], None]
) -> Person:
    receipt = find_receipt(erasures, receipt_id) or new_receipt(receipt_id, user_id)
    audit(config.root, receipt)  # a wish leaves a trace, whatever becomes of it

    def save(changed: Receipt) -> None:
        erasures.save(receipt_id, changed.dump())
        told(changed)

    return Person(user_id, receipt, save)
