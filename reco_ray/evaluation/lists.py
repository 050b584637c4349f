"""What the stages answered, as the report reads it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["StageLists"]


@dataclass(frozen=True, slots=True, eq=False)
class StageLists:
    """What each stage answered.

    Attributes:
        relevant: catalogue rows that each user really turned to, per user.
        lists: stage -> per user the rows it put first.
        candidates: source or "union" -> per user the rows that recall brought, best first.
        history: how many items each user's request carried, shape (U,); empty where nobody counted.
        users: their ids, in the same order; empty where nobody kept them.
        spread: kind of diversity and place of its knob -> per user the rows that would be served.
        auc: stage -> how well its scores order the candidates of each user, shape (U,); NaN where all or none are relevant.
    """

    relevant: list[NDArray[np.int32]]
    lists: dict[str, list[NDArray[np.int32]]]
    candidates: dict[str, list[NDArray[np.int32]]]
    history: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    auc: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    spread: dict[tuple[str, float], list[NDArray[np.int32]]] = field(default_factory=dict)
