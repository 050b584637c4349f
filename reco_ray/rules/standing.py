"""The rules in force: a document of some version, and what people decided on single items."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from reco_ray.rules.document import Document, parse

__all__ = ["NO_RULES", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Rules in force.

    Attributes:
        version: of what the store holds; 0 where nothing was ever put.
        held: ids that were held back, shown to nobody. approved: ids that ``review`` rules let pass.
    """

    version: int = 0
    document: Document = field(default_factory=Document)
    held: frozenset[str] = frozenset()
    approved: frozenset[str] = frozenset()

    @classmethod
    def of(cls, version: int, content: bytes) -> "Standing":
        """Read what the store holds.

        Raises: RulesRefused: it is no document of this version of the code. ValueError: no JSON.
        """
        found: Mapping[str, Any] = orjson.loads(content)
        return cls(version, parse({"rules": found["rules"]}), frozenset(found["held"]), frozenset(found["approved"]))

    def phase(self, now: float) -> int:
        """How many starts and ends of campaigns lie behind: between two changes of it the same rules hold.

        Args:
            now: unix time in seconds.
        """
        at = datetime.fromtimestamp(now, UTC)
        times = [time for rule in self.document.rules for time in (rule.starts, rule.ends) if time is not None]
        return sum(time <= at for time in times)


NO_RULES = Standing()
