"""The HTTP contract of ``/v1/items/{item_id}``: what an application says of an item, and what is kept of it."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from reco_ray.serve.http.contract import Body, FilterValue, ItemId, once
from reco_ray.store import Item, LiveItem

__all__ = ["DeletedItemAnswer", "ItemAnswer", "ItemBody", "NamedItem"]

Categories = Annotated[
    tuple[FilterValue, ...],
    AfterValidator(once),
    Field(
        max_length=64,
        json_schema_extra={"uniqueItems": True},
        description="Distinct names. A release knows those that were frequent when it was built, and ignores others.",
    ),
]


class NamedItem(Body):
    """Which item the call is about; from the path."""

    item_id: ItemId


class ItemBody(Body):
    """Body of ``PUT /v1/items/{item_id}``; a field that is not sent is kept empty."""

    title: Annotated[str, Field(min_length=1, max_length=1024)]
    categories: Categories = ()
    year: Annotated[int, Field(ge=0, le=9999, description="0 where it is not known.")] = 0
    text: Annotated[str, Field(max_length=20_000, description="What the item says of itself; sources go by it.")] = ""
    available: Annotated[bool, Field(description="Whether it may be shown.")] = True
    price: Annotated[
        Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None,
        Field(description="Of one unit, in the one currency of all items; null where it is not known. Rules go by it."),
    ] = None

    def item(self) -> Item:
        """What is kept of it."""
        return Item(self.title, self.categories, self.year, self.text, self.available, self.price)


class ItemAnswer(BaseModel):
    """What is kept of an item."""

    item_id: str
    version: Annotated[int, Field(description="Of its last change; grows with each change of any item.")]
    title: str
    categories: list[str]
    year: int
    text: str
    available: bool
    price: float | None
    updated_ts: Annotated[str, Field(description="When it was changed last.")]

    @classmethod
    def of(cls, live: LiveItem, item: Item) -> "ItemAnswer":
        """Show an item."""
        return cls(
            item_id=live.item_id,
            version=live.version,
            title=item.title,
            categories=list(item.categories),
            year=item.year,
            text=item.text,
            available=item.available,
            price=item.price,
            updated_ts=datetime.fromtimestamp(live.changed, UTC).isoformat(timespec="milliseconds"),
        )


class DeletedItemAnswer(BaseModel):
    """An item is deleted, whether it was there or not."""

    item_id: str
    version: Annotated[int, Field(description="Of the deletion; the same when it is deleted again.")]
