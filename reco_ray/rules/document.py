"""The rule document: what a merchandiser writes, checked field by field.

A rule says what it does (``kind``), to which items (``where``), for which requests (``surface``, ``segment``) and when
(``starts``, ``ends``). All of a rule's conditions must hold; of a list, one value.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from reco_ray.rules.problems import RuleProblem, RulesRefused, shown

__all__ = [
    "Allow",
    "Block",
    "Boost",
    "Cap",
    "Document",
    "Exclusive",
    "Exposure",
    "Pin",
    "Quota",
    "Review",
    "Rule",
    "Segment",
    "Where",
    "parse",
    "read_text",
]

MAX_RULES = 2_000

ItemId = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Label = Annotated[str, Field(min_length=1, max_length=64)]
Surface = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")]
Price = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Year = Annotated[int, Field(ge=1, le=9999)]
Place = Annotated[int, Field(ge=1, le=200)]
Window = Annotated[int, Field(ge=0, le=200, description="The first so many places; 0 means the whole slate.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Where(_Strict):
    """Which items. At least one condition; an item without a year fits none on years, one without a price none on prices."""

    item_id: Annotated[tuple[ItemId, ...] | None, Field(min_length=1, max_length=10_000)] = None
    category: Annotated[tuple[Label, ...] | None, Field(min_length=1, max_length=64)] = None
    year: Annotated[tuple[Year, ...] | None, Field(min_length=1, max_length=200)] = None
    year_from: Year | None = None
    year_to: Year | None = None
    price_from: Price | None = None
    price_to: Price | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Where":
        if not self.model_dump(exclude_none=True):
            raise ValueError("expected at least one of " + ", ".join(type(self).model_fields))
        if self.year_from and self.year_to and self.year_from > self.year_to:
            raise ValueError(f"found year_from={self.year_from} behind year_to={self.year_to}, expected it before")
        if self.price_from is not None and self.price_to is not None and self.price_from > self.price_to:
            raise ValueError(f"found price_from={self.price_from:g} above price_to={self.price_to:g}, expected it below")
        return self

    @property
    def by_id_alone(self) -> bool:
        """Whether it names items by their ids and by nothing else."""
        return set(self.model_dump(exclude_none=True)) == {"item_id"}


class Segment(_Strict):
    """Which requests, by what they say of their circumstances and whether their user has a history."""

    device: tuple[Label, ...] = ()
    locale: tuple[Label, ...] = ()
    location: tuple[Label, ...] = ()
    history: Literal["known", "none"] | None = None


class _Scoped(_Strict):
    name: Name
    note: Annotated[str, Field(max_length=500, description="For people.")] = ""
    surface: Annotated[tuple[Surface, ...], Field(max_length=32, description="All where it is empty.")] = ()
    segment: Segment = Segment()
    starts: AwareDatetime | None = None
    ends: AwareDatetime | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "_Scoped":
        if self.starts and self.ends and self.starts >= self.ends:
            raise ValueError(f"found ends {self.ends.isoformat()} not behind starts {self.starts.isoformat()}")
        return self

    @property
    def of_all(self) -> bool:
        """Whether it is for all requests."""
        return not self.surface and self.segment == Segment()

    def holds_at(self, now: datetime) -> bool:
        """Whether its campaign runs."""
        return (self.starts is None or self.starts <= now) and (self.ends is None or now < self.ends)


class Block(_Scoped):
    """These items are not shown."""

    kind: Literal["block"]
    where: Where


class Allow(_Scoped):
    """No other items are shown."""

    kind: Literal["allow"]
    where: Where


class Review(_Scoped):
    """These items are not shown until somebody approves each of them."""

    kind: Literal["review"]
    where: Where


class Boost(_Scoped):
    """These items move up, or with a negative amount down, by so many deviations of the request's scores."""

    kind: Literal["boost"]
    where: Where
    amount: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Pin(_Scoped):
    """This item stands at this place, the first being 1, whether recall brought it or not."""

    kind: Literal["pin"]
    item_id: ItemId
    position: Place


class Cap(_Scoped):
    """At most so many of these items, or, with ``per``, of each value of that attribute; without ``where``, of all items."""

    kind: Literal["cap"]
    where: Where | None = None
    per: Literal["category", "year"] | None = None
    most: Annotated[int, Field(ge=1, le=200)]
    window: Window = 0

    @model_validator(mode="after")
    def _of_something(self) -> "Cap":
        if self.where is None and self.per is None:
            raise ValueError("expected where, per, or both")
        return self


class Exclusive(_Scoped):
    """Items of at most one of these sets."""

    kind: Literal["exclusive"]
    sets: Annotated[tuple[Where, ...], Field(min_length=2, max_length=20)]


class Quota(_Scoped):
    """At least so many of these items, as far as there are."""

    kind: Literal["quota"]
    where: Where
    least: Place
    window: Window = 0

    @model_validator(mode="after")
    def _can_be_met(self) -> "Quota":
        if 0 < self.window < self.least:
            raise ValueError(f"found least={self.least} in a window of {self.window} places, expected no more than that")
        return self


Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Exposure(_Scoped):
    """These items have, over many slates, at least and at most such a share of the exposure; no single slate has to."""

    kind: Literal["exposure"]
    where: Where
    least: Share | None = None
    most: Share | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> "Exposure":
        if self.least is None and self.most is None:
            raise ValueError("expected least, most, or both")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"found least={self.least} above most={self.most}, expected it below")
        return self


Rule = Annotated[
    Block | Allow | Review | Boost | Pin | Cap | Exclusive | Quota | Exposure,
    Field(discriminator="kind"),
]


class Document(_Strict):
    """All rules that are to hold; the order says nothing."""

    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()


def read_text(text: str) -> Any:
    """Read YAML, which JSON is a part of.

    Raises: RulesRefused: it is neither.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise RulesRefused([RuleProblem("", "", shown(str(exc)), "a document in YAML or JSON")]) from exc


def parse(content: object) -> Document:
    """Check what a document's file or body holds.

    Raises: RulesRefused: each problem names the rule, the field, what was found and what is allowed.
    """
    try:
        raw = orjson.dumps(_finite(content), option=orjson.OPT_NON_STR_KEYS)
    except TypeError as exc:
        raise RulesRefused([RuleProblem("", "", shown(str(exc)), "texts, numbers, lists, maps and times")]) from exc
    try:
        return Document.model_validate_json(raw, strict=True)
    except ValidationError as exc:
        raise RulesRefused([_problem(dict(each), content) for each in exc.errors(include_url=False)]) from exc


def _finite(content: object) -> object:
    """The content with what is no number as a text, which is refused where a number is wanted: JSON would leave it out."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def _problem(error: Mapping[str, Any], content: object) -> RuleProblem:
    place = list(error["loc"])
    rule = ""
    if len(place) > 1 and place[0] == "rules":
        rule = _name(content, int(place[1]))
        place = place[3 if len(place) > 2 else 2 :]  # behind the index stands the kind
    context = error.get("ctx", {})
    if error["type"] == "union_tag_not_found":
        return RuleProblem(rule, "kind", "none", "one of " + ", ".join(_KINDS))
    if error["type"] == "union_tag_invalid":
        return RuleProblem(rule, "kind", shown(context["tag"]), "one of " + ", ".join(_KINDS))
    field = ".".join(str(part) for part in place)
    if error["type"] == "extra_forbidden":
        return RuleProblem(rule, field, "a field of that name", _fields_beside(place, content, error))
    if error["type"] == "missing":
        return RuleProblem(rule, field, "nothing", "a value")
    if error["type"] == "value_error":
        return RuleProblem(rule, field, shown(error["input"]), str(context["error"]))
    return RuleProblem(rule, field, shown(error["input"]), error["msg"].removeprefix("Input should be "))


def _fields_beside(place: list[Any], content: object, error: Mapping[str, Any]) -> str:
    """The fields that are allowed where an unknown one stands."""
    model: Any = Document
    if error["loc"][0] == "rules" and len(error["loc"]) > 2:
        model = _KINDS[error["loc"][2]]
        for part, inner in (("where", Where), ("sets", Where), ("segment", Segment)):
            if part in place[:-1]:
                model = inner
    return "one of " + ", ".join(model.model_fields)


def _name(content: object, index: int) -> str:
    try:
        return str(content["rules"][index]["name"])  # type: ignore[index]
    except (KeyError, TypeError, IndexError):
        return f"number {index + 1}"


_KINDS: dict[str, type[_Scoped]] = {
    "block": Block,
    "allow": Allow,
    "review": Review,
    "boost": Boost,
    "pin": Pin,
    "cap": Cap,
    "exclusive": Exclusive,
    "quota": Quota,
    "exposure": Exposure,
}
