"""Receipts of erasures: what was looked at, found and removed where, and when; without the user's id.

While an erasure runs its receipt lies in the online store, saved after each place; it is the memory from which a killed run
goes on. Begun and ended it is also written under ``root/reports/erasures``, which outlives the store.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from reco_ray.hashing import user_digest
from reco_ray.lake import storage

__all__ = ["DONE", "REQUESTED", "RUNNING", "Place", "Receipt", "audit", "audited", "ended", "new_receipt"]

REQUESTED, RUNNING, DONE = "requested", "running", "done"


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the data.

    Attributes:
        name: as ``lake events`` or ``store user:<view>``.
        looked_at: number of what was searched; ``unit`` says of what.
        found, removed: rows, records, keys or files with the user's data.
        note: what people should know, as of what is left.
    """

    name: str
    looked_at: int = 0
    unit: str = "files"
    found: int = 0
    removed: int = 0
    note: str = ""
    ts: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """An erasure.

    Attributes:
        user: the user's digest.
        state: requested, running or done.
        steps: those that are finished.
        places: by name.
        releases: ids of those that were trained on the user's data.
        runs: how many times it was begun or taken up again.
    """

    receipt_id: str
    user: str
    state: str
    requested_ts: str
    done_ts: str = ""
    steps: tuple[str, ...] = ()
    places: dict[str, Place] = field(default_factory=dict)
    releases: tuple[str, ...] = ()
    runs: int = 0

    def with_place(self, place: Place) -> "Receipt":
        """Add what was found at a place now.

        A place may be told of twice, before and after the removal, or once more by a run that takes up what another one began:
        what is no longer there was removed.
        """
        before = self.places.get(place.name, Place(place.name))
        found = max(before.found, before.removed + place.found)
        present = place.found - place.removed
        merged = replace(
            place,
            looked_at=max(before.looked_at, place.looked_at),
            found=found,
            removed=max(before.removed, found - present),
            note=place.note or before.note,
            ts=_now(),
        )
        return replace(self, places={**self.places, place.name: merged})

    def to_json(self) -> dict[str, Any]:
        """The JSON that is stored and answered."""
        return {**asdict(self), "places": [asdict(place) for place in self.places.values()]}

    def dump(self) -> bytes:
        """Write it."""
        return json.dumps(self.to_json()).encode()

    @classmethod
    def parse(cls, raw: bytes | str) -> "Receipt":
        """Read what `dump` wrote."""
        found = json.loads(raw)
        places = {each["name"]: Place(**each) for each in found["places"]}
        changed = {"places": places, "steps": tuple(found["steps"]), "releases": tuple(found["releases"])}
        return cls(**{**found, **changed})


def new_receipt(receipt_id: str, user_id: str) -> Receipt:
    """The receipt of a wish that nobody has worked on."""
    return Receipt(receipt_id, user_digest(user_id), REQUESTED, _now())


def ended(receipt: Receipt) -> Receipt:
    """The receipt of what is done."""
    return replace(receipt, state=DONE, done_ts=_now())


def audit(root: str, receipt: Receipt) -> None:
    """Write the record that outlives the online store, over that of an earlier state."""
    storage.write_bytes(_uri(root, receipt.receipt_id), json.dumps(receipt.to_json(), indent=1).encode())


def audited(root: str) -> Sequence[Receipt]:
    """The records under ``root``, oldest wish first."""
    folder = storage.join(root, "reports", "erasures")
    found = [Receipt.parse(storage.read_bytes(storage.join(folder, name))) for name in storage.listing(folder)]
    return sorted(found, key=lambda receipt: receipt.requested_ts)


def _uri(root: str, receipt_id: str) -> str:
    return storage.join(root, "reports", "erasures", f"{receipt_id}.json")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
