"""The rules in force: a document of some version, and what people decided on single items."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from reco_ray.rules.document import Block, Document, parse
from reco_ray.store import RuleRecord

__all__ = ["NO_RULES", "Standing"]

_HARD = ("block", "allow", "review", "cap", "exclusive")


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
    def of(cls, record: RuleRecord) -> "Standing":
        """Take what the store holds.

        Raises: RulesRefused: its rules are none that this version of the code knows.
        """
        document = parse({"rules": list(record.rules)})
        return cls(record.version, document, frozenset(record.held), frozenset(record.approved))

    def hidden_everywhere(self, now: float) -> frozenset[str]:
        """Ids that no request may be shown, as far as that can be said without a catalogue.

        Args:
            now: unix time in seconds.
        """
        at = datetime.fromtimestamp(now, UTC)
        found = set(self.held)
        for rule in self.document.rules:
            if isinstance(rule, Block) and rule.where.by_id_alone and rule.of_all and rule.holds_at(at):
                found.update(rule.where.item_id or ())
        return frozenset(found)

    def narrows(self, now: float) -> bool:
        """Whether a rule that never gives way holds for some request, beyond `hidden_everywhere`.

        Args:
            now: unix time in seconds.
        """
        at = datetime.fromtimestamp(now, UTC)
        hard = [rule for rule in self.document.rules if rule.kind in _HARD and rule.holds_at(at)]
        return any(not (isinstance(rule, Block) and rule.where.by_id_alone and rule.of_all) for rule in hard)

    def times(self) -> list[float]:
        """Starts and ends of campaigns, ascending, unix time in seconds: between two of them the same rules hold."""
        rules = self.document.rules
        return sorted({time.timestamp() for rule in rules for time in (rule.starts, rule.ends) if time is not None})


NO_RULES = Standing()
