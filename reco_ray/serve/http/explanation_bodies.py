"""What ``GET /v1/explanations/{request_id}`` answers; written by `path.explanations`, described here."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from reco_ray.serve.http.contract import ItemId

__all__ = ["AskedItem", "ExplainedItem", "ExplanationAnswer", "ReasonAnswer", "SourcePlaceAnswer", "WhyItemAnswer"]


class AskedItem(BaseModel):
    """The item that is asked about, in the query."""

    item: ItemId


class ReasonAnswer(BaseModel):
    """One column of the ranker; the effects of all columns add up to the score less the mean score of the candidates."""

    column: str
    value: float | None
    effect: Annotated[float, Field(description="On the score, against the average candidate of the same request.")]
    text: str


class SourcePlaceAnswer(BaseModel):
    """Where a recall source has the item, from 1, and how many items it brought."""

    source: str
    place: int | None
    brought: int


class WhyItemAnswer(BaseModel):
    """What became of an item."""

    item_id: str
    stage: Annotated[
        Literal["shown", "catalogue", "request", "recall", "rank", "rerank"],
        Field(description="'shown', or where the item was lost."),
    ]
    detail: Annotated[str, Field(description="By how much, in words.")]
    place: Annotated[int | None, Field(description="After that stage, from 1.")]
    score: float | None
    probability: Annotated[
        float | None, Field(description="That the user turns to it, where the ranker is calibrated and had a part.")
    ]
    behind: Annotated[float | None, Field(description="What was missing to the score of the last item shown.")]
    sources: list[SourcePlaceAnswer]
    reasons: list[ReasonAnswer]


class ExplainedItem(WhyItemAnswer):
    """One place of the slate: what was recorded, and what became of it when the stages ran again."""

    position: int
    recorded_score: float | None
    recorded_sources: list[str]
    rules: list[str]


class ExplanationAnswer(BaseModel):
    """A decision explained.

    ``ranker`` is the model that the recorded scores are of, if one had a part. ``user_row`` says which features of the user
    were taken: those of then, those of now where the record holds none (only a share of them does), or of nobody.
    ``same_slate`` tells whether the stages gave the recorded slate again; they need not where the row is of now, the item
    features have moved, or the request had a session, filters or exclusions, which no record keeps.
    """

    request_id: str
    release: str
    rung: str
    ranker: str | None
    ts: str
    user_row: Literal["then", "now", "nobody"]
    same_slate: bool
    items: list[ExplainedItem]
    item: WhyItemAnswer | None
