"""The context view: the circumstances of one decision, by one transform in training, evaluation and serving.

At serving the decision is the request; in training it is the one that a row of labels stands for (`rows.past_request`). Hour
and weekday are UTC, because nobody sends a time zone. Texts become codes of a vocabulary, which the ranker carries; what is
absent or outside of it is NaN, for which a tree learns a branch of its own.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.features.views import CONTEXT_COLUMNS
from reco_ray.types import Request

__all__ = ["ContextRows", "Vocabulary", "vocabulary_of"]

Vocabulary = Mapping[str, Sequence[str]]
"""Field of the context -> its values, the most frequent first: a value's place is its code."""

_TIMES = 2
_FIELDS = tuple(column.name.removeprefix("context_") for column in CONTEXT_COLUMNS[_TIMES:])
_MOST_VALUES = 32
_LEAST_PEOPLE = 10  # what fewer people say may tell who they are, and teaches nothing
_HOUR_US = 3_600_000_000
_THURSDAY = 3  # of the first day of 1970
_PLACE = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?(?=$|[-:])")


class ContextRows:
    """Makes rows of the context view.

    Args:
        vocabulary: of `vocabulary_of`; without a field's values its column is NaN.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._codes = {field: {value: code for code, value in enumerate(vocabulary.get(field, ()))} for field in _FIELDS}

    def row(self, request: Request) -> NDArray[np.float32]:
        """Return the view's columns for a request, float32, shape (len(CONTEXT_COLUMNS),): 5 us."""
        hour = weekday = math.nan
        if request.at_us > 0:
            hours = request.at_us // _HOUR_US
            hour, weekday = hours % 24, (hours // 24 + _THURSDAY) % 7
        said = {"surface": request.surface, **request.context}
        codes = [known.get(_coarse(field, said.get(field)), math.nan) for field, known in self._codes.items()]
        return np.array([hour, weekday, *codes], np.float32)


def vocabulary_of(contexts: pl.Series) -> Vocabulary:
    """Return the values that get a code: per field the 32 most frequent of those that 10 people or more have.

    Args:
        contexts: structs or nulls, one per person: column ``context`` of `schema.LABELS`.
    """
    return {field: _frequent(field, contexts.struct.field(field)) for field in _FIELDS}


def _frequent(field: str, values: pl.Series) -> list[str]:
    people: Counter[str] = Counter()
    for value, n in values.value_counts().iter_rows():
        people[_coarse(field, value)] += n
    del people[""]
    frequent = [value for value, n in people.items() if n >= _LEAST_PEOPLE]
    return sorted(frequent, key=lambda value: (-people[value], value))[:_MOST_VALUES]


def _coarse(field: str, value: str | None) -> str:
    """What a value counts as; "" for none. Of a place the country and region: ``DE-BY-M`` is DE-BY, a point is none."""
    if field != "location" or not value:
        return value or ""
    found = _PLACE.match(value)
    return found[0] if found else ""
