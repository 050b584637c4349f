"""The HTTP contract of ``/v1/rules``: a document with its author, and what came of it."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from reco_ray.rules import Document
from reco_ray.serve.http.contract import Body
from reco_ray.slate import Trial
from reco_ray.store import RuleRecord

__all__ = ["AskedVersion", "RulesAnswer", "RulesBody", "TrialAnswer", "parted"]

Author = Annotated[str, Field(min_length=1, max_length=100, description="Who answers for the change; kept with it.")]


class RulesBody(Document):
    """Body of ``POST /v1/rules``: all rules that are to hold, in place of those in force."""

    author: Author
    note: Annotated[str, Field(max_length=500)] = ""
    expected: Annotated[
        int | None, Field(ge=0, description="Version that it replaces; where another one is in force it is refused.")
    ] = None
    dry_run: Annotated[bool, Field(description="Say what would change, and change nothing.")] = False


class AskedVersion(Body):
    """Which version ``GET /v1/rules`` is about; without one, that in force."""

    version: Annotated[int, Field(ge=1)]


class DecidedAnswer(BaseModel):
    """Who decided on an item, why, and when."""

    author: str
    reason: str
    ts: str


class ChangeAnswer(BaseModel):
    """One slate before and after."""

    request_id: str
    surface: str
    before: list[str]
    after: list[str]


class TrialAnswer(BaseModel):
    """What the rules would have done to slates of the last hour."""

    requests: int
    changed: int
    shorter: int
    emptied: int
    hits: dict[str, dict[str, int]]
    examples: list[ChangeAnswer]

    @classmethod
    def of(cls, trial: Trial) -> "TrialAnswer":
        """Show a trial."""
        return cls.model_validate(trial, from_attributes=True)


class RulesAnswer(BaseModel):
    """A version of the rules."""

    version: Annotated[int, Field(description="0 where nothing was ever put; of a dry run, that in force.")]
    author: str
    action: str
    note: str
    ts: str
    rules: list[dict[str, Any]]
    held: dict[str, DecidedAnswer]
    approved: dict[str, DecidedAnswer]
    trial: Annotated[TrialAnswer | None, Field(description="Of a document that was sent, where requests are on record.")] = None
    unknown_items: Annotated[
        list[str], Field(description="Ids in a document that was sent which the release does not know.")
    ] = []

    @classmethod
    def of(cls, record: RuleRecord, trial: Trial | None = None, unknown: list[str] | None = None) -> "RulesAnswer":
        """Show a record."""
        found = cls.model_validate(record, from_attributes=True)
        shown = None if trial is None else TrialAnswer.of(trial)
        return found.model_copy(update={"trial": shown, "unknown_items": unknown or []})


def parted(content: Any) -> tuple[Any, Any]:
    """The rules of a body, which have an error report of their own, and the rest of it."""
    if not isinstance(content, dict):
        return None, content
    rest = {name: value for name, value in content.items() if name != "rules"}
    return {"rules": content.get("rules", [])}, rest
