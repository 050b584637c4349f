"""What the stages answered, as the report reads it."""

from dataclasses import dataclass

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
    """

    relevant: list[NDArray[np.int32]]
    lists: dict[str, list[NDArray[np.int32]]]
    candidates: dict[str, list[NDArray[np.int32]]]
