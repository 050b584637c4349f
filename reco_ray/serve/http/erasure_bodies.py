"""What the calls about erasures answer; written by `privacy.Receipt.to_json`, described here."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

__all__ = ["ErasureAnswer", "ErasurePlace"]


class ErasurePlace(BaseModel):
    """One place of the data: what was searched there, found and removed, and when."""

    name: str
    looked_at: Annotated[int, Field(ge=0)]
    unit: Annotated[str, Field(description="Of what ``looked_at`` counts.")]
    found: Annotated[int, Field(ge=0)]
    removed: Annotated[int, Field(ge=0)]
    note: Annotated[str, Field(description="What people should know, as of what is left.")]
    ts: str


class ErasureAnswer(BaseModel):
    """The receipt of an erasure; it names the user by a digest."""

    receipt_id: str
    user: str
    state: Literal["requested", "running", "done"]
    requested_ts: str
    done_ts: Annotated[str, Field(description="Empty until it is done.")]
    steps: list[str]
    places: list[ErasurePlace]
    releases: Annotated[list[str], Field(description="Releases trained on the user's data; bundles hold no user ids.")]
    runs: int
