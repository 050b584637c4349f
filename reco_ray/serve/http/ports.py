"""What the table of calls needs behind it, as protocols; tests put others there."""

from collections.abc import Sequence
from typing import Any, Protocol

from reco_ray.privacy import Receipt
from reco_ray.rules import Document
from reco_ray.serve.events.intake import Taken
from reco_ray.serve.http.answers import Answer
from reco_ray.serve.http.contract import RankBody, ReadinessAnswer, RecommendationsBody, ReleasesAnswer, SimilarItemsBody
from reco_ray.serve.http.item_bodies import ItemBody
from reco_ray.serve.http.rule_bodies import RulesAnswer, RulesBody
from reco_ray.serve.http.user_bodies import UserBody
from reco_ray.store import Item, LiveItem, Profile

__all__ = ["Erasures", "Events", "Explanations", "Items", "Profiles", "Rules", "Service"]


class Service(Protocol):
    """What the calls need; `service.GatewayService` in production."""

    async def recommend(self, body: RecommendationsBody, request_id: str, budget_s: float) -> Answer:
        """Answer a wish for a slate."""

    async def similar(self, body: SimilarItemsBody, request_id: str, budget_s: float) -> Answer:
        """Answer a wish for the neighbours of an item."""

    async def rank(self, body: RankBody, request_id: str, budget_s: float) -> Answer:
        """Rank the caller's own items."""

    def releases(self) -> ReleasesAnswer:
        """What runs."""

    async def readiness(self) -> ReadinessAnswer:
        """Whether requests can be answered."""


class Erasures(Protocol):
    """What the calls about erasures need; `erasures.ErasureCalls` in production."""

    async def erase(self, user_id: str) -> Receipt:
        """Note that a user is to be erased."""

    async def receipt(self, receipt_id: str) -> Receipt:
        """How far an erasure is."""


class Profiles(Protocol):
    """What the calls about profiles need; `profiles.ProfileCalls` in production."""

    async def keep(self, user_id: str, body: UserBody) -> Profile:
        """Replace what is kept of a user."""

    async def show(self, user_id: str) -> Profile:
        """What is kept of a user."""


class Items(Protocol):
    """What the calls about items need; `item_calls.ItemCalls` in production."""

    async def put(self, item_id: str, body: ItemBody) -> LiveItem:
        """Replace what is kept of an item."""

    async def show(self, item_id: str) -> tuple[LiveItem, Item]:
        """What is kept of an item."""

    async def delete(self, item_id: str) -> int:
        """Delete an item; returns the version."""


class Rules(Protocol):
    """What the calls about rules need; `rule_calls.RuleCalls` in production."""

    async def show(self, version: int = 0) -> RulesAnswer:
        """The rules in force, or of a version."""

    async def put(self, document: Document, body: RulesBody) -> RulesAnswer:
        """Bring checked rules into force, or try them."""


class Explanations(Protocol):
    """What the call about explanations needs; `explanations.ExplanationCalls` in production."""

    async def explain(self, request_id: str, item_id: str = "") -> dict[str, Any]:
        """Why a request was answered so."""


class Events(Protocol):
    """What ``POST /v1/events`` needs; `intake.EventIntake` in production."""

    async def take(self, raw: Sequence[object]) -> Taken:
        """Take a batch of parsed events."""
