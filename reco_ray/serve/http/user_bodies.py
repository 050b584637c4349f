"""The HTTP contract of ``PUT`` and ``GET /v1/users/{user_id}``: what an application says of a user, and what is kept of it."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reco_ray.events.personal import is_personal, redact
from reco_ray.serve.http.contract import Body, FilterValue, ItemId, UserId, once
from reco_ray.store import Interests, Profile

__all__ = ["DescribedUser", "InterestsAnswer", "InterestsBody", "UserAnswer", "UserBody"]

_PERSONAL = "found an e-mail address, a telephone number or an IP address, expected"
_UNIQUE = {"uniqueItems": True}


def _own_id(value: str) -> str:
    if is_personal(value):
        raise ValueError(f"{_PERSONAL} an id of yours; send that")
    return value


def _nobodys(value: str) -> str:
    if redact(value) != value:
        raise ValueError(f"{_PERSONAL} nothing that names a person; leave it out")
    return value


Attributes = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")],
        Annotated[str, Field(max_length=64), AfterValidator(_nobodys)],
    ],
    Field(
        max_length=32,
        json_schema_extra={"additionalProperties": False},  # no other names
        description="What else is known of the user: up to 32 short texts. They are kept, and change no slate.",
    ),
]
Categories = Annotated[
    tuple[FilterValue, ...],
    AfterValidator(once),
    Field(max_length=32, json_schema_extra=_UNIQUE, description="Distinct names of categories, in any order."),
]
Items = Annotated[
    tuple[ItemId, ...],
    AfterValidator(once),
    Field(max_length=50, json_schema_extra=_UNIQUE, description="Distinct ids of items, the one liked most first."),
]


class DescribedUser(Body):
    """Whom the body is about; from the path. Such an id is refused here that events with it are refused for."""

    user_id: Annotated[UserId, AfterValidator(_own_id)]


class InterestsBody(Body):
    """What a user says to like, as in an onboarding survey."""

    categories: Categories = ()
    items: Items = ()


class UserBody(Body):
    """Body of ``PUT /v1/users/{user_id}``: at least one of its fields. One that is not sent is kept empty."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    attributes: Attributes = {}  # noqa: RUF012 (pydantic copies it)
    interests: Annotated[
        InterestsBody,
        Field(
            description="They make the slates of a user who has done nothing yet: items of the categories come first among the "
            "popular, trending and fresh ones, and the items stand in for a history, so that what is like them is found. With "
            "the first click, view, purchase, rating or like they count no more. A release ignores what it does not know."
        ),
    ] = InterestsBody()

    @model_validator(mode="after")
    def _says_something(self) -> "UserBody":
        if not self.model_fields_set:
            raise ValueError("found neither attributes nor interests, expected one of them at least; {} as one empties both")
        return self

    def profile(self, now: float) -> Profile:
        """What is kept of it. ``now``: unix time in seconds."""
        return Profile(self.attributes, Interests(self.interests.categories, self.interests.items), now)


class InterestsAnswer(BaseModel):
    """Interests as they are kept."""

    categories: list[str]
    items: list[str]


class UserAnswer(BaseModel):
    """What is kept of a user."""

    attributes: dict[str, str]
    interests: InterestsAnswer
    updated_ts: Annotated[str, Field(description="When it was sent.")]

    @classmethod
    def of(cls, profile: Profile) -> "UserAnswer":
        """Show a profile."""
        interests = InterestsAnswer(categories=list(profile.interests.categories), items=list(profile.interests.items))
        updated_ts = datetime.fromtimestamp(profile.saved, UTC).isoformat(timespec="seconds")
        return cls(attributes=dict(profile.attributes), interests=interests, updated_ts=updated_ts)
