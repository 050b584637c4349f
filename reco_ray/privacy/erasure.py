"""The order of an erasure: steps one after the other, each for all users that have not had it, each remembered when it is done.

Nothing here knows of files or stores. A run that is killed anywhere is taken up by the next one behind the last step finished;
a step that was begun is done again, which does no harm.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from reco_ray.privacy.receipts import RUNNING, Place, Receipt, ended

__all__ = ["Person", "Step", "Tell", "erase"]

log = logging.getLogger(__name__)


class Person:
    """Somebody who is being erased.

    Attributes:
        user_id: "" once it was forgotten, as after the last step that needs it.
    """

    def __init__(self, user_id: str, receipt: Receipt, save: Callable[[Receipt], None]) -> None:
        self.user_id, self.receipt, self._save = user_id, receipt, save

    def tell(self, place: Place) -> None:
        """Write down what a place holds or held."""
        self.keep(self.receipt.with_place(place))

    def keep(self, receipt: Receipt) -> None:
        """Take another state, and save it."""
        self.receipt = receipt
        self._save(receipt)


Step = Callable[[Sequence[Person]], None]
Tell = Callable[[Person], None]


def erase(people: Sequence[Person], steps: Sequence[tuple[str, Step]], finish: Tell) -> None:
    """Run the steps.

    Args:
        steps: name and body, in order.
        finish: told of each whose erasure is done.
    Raises: whatever a step raises; what was done stays done.
    """
    for person in people:
        person.keep(replace(person.receipt, state=RUNNING, runs=person.receipt.runs + 1))
    for name, body in steps:
        todo = [person for person in people if name not in person.receipt.steps]
        if not todo:
            continue
        log.info("erasure of %d: %s", len(todo), name)
        body(todo)
        for person in todo:
            person.keep(replace(person.receipt, steps=(*person.receipt.steps, name)))
    for person in people:
        person.receipt = ended(person.receipt)
        finish(person)
        log.info("erasure %s: done, %s", person.receipt.receipt_id, _line(person.receipt))


def _line(receipt: Receipt) -> str:
    removed = sum(place.removed for place in receipt.places.values())
    left = sum(place.found - place.removed for place in receipt.places.values())
    return f"{removed} removed at {len(receipt.places)} places, {left} left"
