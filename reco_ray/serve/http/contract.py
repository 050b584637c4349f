"""The HTTP contract of /v1: what a body may hold and what an answer holds.

Bodies are checked strictly (``"10"`` is no number, an unknown field is an error that names it); query strings are checked
by the same models with text turned into numbers. Answers are written by `answers.py`; these models describe them in OpenAPI.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from reco_ray.types import MAX_OWN_ITEMS

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_CURSOR",
    "MAX_ID_BYTES",
    "Context",
    "FieldError",
    "Health",
    "OwnItem",
    "Problem",
    "RankBody",
    "ReadinessAnswer",
    "RecommendationsAnswer",
    "RecommendationsBody",
    "RecommendedItem",
    "ReleaseAnswer",
    "ReleasesAnswer",
    "RulesInForce",
    "SimilarItemsBody",
    "once",
]

MAX_BODY_BYTES = 2**20
MAX_ID_BYTES = 256
MAX_CURSOR = 6_500


def _fits(value: str) -> str:
    if len(value) * 4 > MAX_ID_BYTES and (size := len(value.encode())) > MAX_ID_BYTES:
        raise ValueError(f"an id has {size} bytes, expected at most {MAX_ID_BYTES}")
    return value


def _years(filters: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    if strange := [value for value in filters.get("year", ()) if not re.fullmatch(r"\d{1,4}", value)]:
        raise ValueError(f"filters.year: found {strange[:3]}, expected years such as '1999'")
    return filters


def once(values: Sequence[str]) -> Sequence[str]:
    """Return values that must be distinct.

    Raises: ValueError: one comes twice.
    """
    places: dict[str, int] = {}
    for place, value in enumerate(values):
        if (first := places.setdefault(value, place)) != place:
            raise ValueError(f"found {value!r} at {first} and at {place}, expected distinct ones; send each once")
    return values


def _distinct(items: "tuple[OwnItem, ...]") -> "tuple[OwnItem, ...]":
    once([item.item_id for item in items])
    return items


UserId = Annotated[str, Field(max_length=MAX_ID_BYTES), AfterValidator(_fits)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES), AfterValidator(_fits)]
K = Annotated[int, Field(ge=1, le=200, description="Number of items wanted.")]
Surface = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$", description="Where the slate is shown.")]
Label = Annotated[str, Field(max_length=64)]
FilterValue = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES)]
Filters = Annotated[
    dict[Literal["category", "year"], Annotated[tuple[FilterValue, ...], Field(min_length=1, max_length=100)]],
    AfterValidator(_years),
    Field(description="Attribute to values; an item passes when it has one of the values of each attribute."),
]
Session = Annotated[tuple[ItemId, ...], Field(max_length=200, description="Items of the session, oldest first.")]
Consent = Annotated[
    bool,
    Field(
        description="Whether the answer may be personal. Without consent nothing is read or kept under the user_id: "
        "the slate is the anonymous one, marked no_consent, and so is the record of it. The same holds on surfaces and in "
        "regions where profiling is switched off, marked profiling_off."
    ),
]
Cursor = Annotated[
    str,
    Field(
        max_length=MAX_CURSOR,
        pattern="^[A-Za-z0-9_-]*$",
        description="The next_cursor of an answer: the same request with it gets the next page, which repeats no item of "
        "the pages before, whatever was released meanwhile. It holds for the same user (or none), and for an hour.",
    ),
]
Explain = Annotated[bool, Field(description="Add each item's propensity.")]
Exclude = Annotated[tuple[ItemId, ...], Field(max_length=1000, description="Ids that must not come back.")]


class Body(BaseModel):
    """Base of what callers send: an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Context(Body):
    """Circumstances of a request; only these keys are accepted."""

    device: Label | None = None
    locale: Label | None = None
    surface: Label | None = None
    location: Label | None = None


class RecommendationsBody(Body):
    """Body of ``POST /v1/recommendations``. Without a ``user_id`` the request is anonymous."""

    user_id: UserId = ""
    k: K = 10
    surface: Surface = "home"
    context: Context = Context()
    session: Session = ()
    filters: Filters = {}
    exclude: Exclude = ()
    explain: Explain = False
    consent: Consent = True
    cursor: Cursor = ""

    def impersonal(self) -> "RecommendationsBody":
        """The same wish of nobody: without user and session."""
        return self.model_copy(update={"user_id": "", "session": ()})


class SimilarItemsBody(Body):
    """Body of ``POST /v1/similar-items``."""

    item_id: ItemId
    k: K = 10
    filters: Filters = {}
    exclude: Exclude = ()


class OwnItem(Body):
    """An item that the caller brings, and its score there: larger is better, on any scale."""

    item_id: ItemId
    score: Annotated[float | None, Field(ge=-1e15, le=1e15, allow_inf_nan=False)] = None


class RankBody(Body):
    """Body of ``POST /v1/rank``. Without a ``user_id`` the request is anonymous and keeps the caller's order."""

    user_id: UserId = ""
    items: Annotated[
        tuple[OwnItem, ...],
        AfterValidator(_distinct),
        Field(
            min_length=1,
            max_length=MAX_OWN_ITEMS,
            description="Distinct items to rank, 1 to 1000, best first. Where scores are given they decide that order instead: "
            "largest first, then the items without one. Items that the release does not know come last.",
        ),
    ]
    query: Annotated[
        str,
        Field(
            max_length=256,
            description="What the user searched for. "
            "It goes with the request, is never logged, and no feature of the ranker uses it yet.",
        ),
    ] = ""
    k: Annotated[
        int | None,
        Field(ge=1, le=MAX_OWN_ITEMS, description="Number of items wanted, 1 to 1000; all of them where it is not given."),
    ] = None
    surface: Surface = "home"
    context: Context = Context()
    session: Session = ()
    explain: Explain = False
    consent: Consent = True

    def impersonal(self) -> "RankBody":
        """The same wish of nobody: without user and session."""
        return self.model_copy(update={"user_id": "", "session": ()})


class RecommendedItem(BaseModel):
    """One place of a slate; ``propensity`` is there when the request asked to explain."""

    item_id: str
    title: str
    score: float | None
    position: Annotated[int, Field(ge=1)]
    reasons: list[str]
    propensity: float | None = None


class RulesInForce(BaseModel):
    """The rules that a slate was arranged by."""

    version: int
    missed: Annotated[list[str], Field(description="Pins that are not at their place, and quotas that are not met.")]


class RecommendationsAnswer(BaseModel):
    """A slate. ``degraded`` names what is less than full in it; empty for a full answer."""

    request_id: str
    next_cursor: Annotated[
        str | None,
        Field(
            description="Asks for the next page; absent behind an empty page, where 600 items were shown, and of other calls."
        ),
    ] = None
    age_s: Annotated[float, Field(ge=0, description="Seconds since the slate was made; 0 when it was made for this request.")]
    release: str
    variant: Annotated[
        str,
        Field(
            description="'main' for the release with most traffic, 'canary' for another one; 'holdout' for a user who is in no "
            "rollout, 'override' for a test user who was sent to a release by name."
        ),
    ]
    rung: Annotated[
        Literal["full", "fewer_sources", "recall_order", "anonymous", "caller_order", "cached", "precomputed", "popular"],
        Field(description="What could be done in time, from everything to a popular list."),
    ]
    items: list[RecommendedItem]
    degraded: list[str]
    rules: Annotated[RulesInForce | None, Field(description="Absent where there are none.")] = None
    ranker: Annotated[
        str | None, Field(description="Model that the scores are of, such as 'xgboost'; absent where none had a part.")
    ] = None


class ReleaseAnswer(BaseModel):
    """One release as this gateway sees it."""

    release: str
    weight: float
    loaded: bool


class ReleasesAnswer(BaseModel):
    """What runs and with which share of the users; ``version`` grows with each change."""

    version: int
    topology: str
    releases: list[ReleaseAnswer]


class ReadinessAnswer(BaseModel):
    """Whether this gateway replica can answer, and what is missing if not."""

    ready: bool
    replica: str
    releases: list[str]
    missing: list[str]


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class FieldError(BaseModel):
    """What is wrong with one field; ``field`` is a dotted path, empty for the body as a whole."""

    field: str
    detail: str


class Problem(BaseModel):
    """Problem details for HTTP APIs, RFC 9457. ``instance`` carries the request's id."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    errors: list[FieldError] = []
