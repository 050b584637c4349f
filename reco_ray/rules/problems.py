"""What is wrong with a rule document, so that the one who wrote it can mend it."""

from collections.abc import Sequence
from dataclasses import dataclass

from reco_ray.errors import DataError

__all__ = ["RuleProblem", "RulesRefused", "shown"]

_MOST = 20


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """One thing that is wrong.

    Attributes:
        rule: its name, or its number where it has none; empty for the document as a whole.
        field: dotted path in it. found, allowed: in words.
    """

    rule: str
    field: str
    found: str
    allowed: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (f"rule {self.rule}" if self.rule else "", self.field) if part)
        return f"{where or 'document'}: found {self.found}, allowed: {self.allowed}"


class RulesRefused(DataError):
    """A document that may not come into force; what is in force stays."""

    def __init__(self, problems: Sequence[RuleProblem]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - _MOST
        lines = [str(each) for each in self.problems[:_MOST]] + ([f"and {more} more"] if more > 0 else [])
        super().__init__("; ".join(lines))


def shown(value: object) -> str:
    """A value as messages show it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
