"""What a change of the rules would do: requests of the last hour are answered again, by both the old and the new rules."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from reco_ray.errors import SchemaError
from reco_ray.hashing import hash64
from reco_ray.lake import tables
from reco_ray.rules import RuleProblem, RulesRefused, Standing
from reco_ray.slate.pipeline import Pipeline
from reco_ray.slate.stages import RuledStage
from reco_ray.store import unpack_user
from reco_ray.types import EMPTY_USER, Request

__all__ = ["Change", "Trial", "recent_requests", "try_rules"]

_TABLE = "exposures"
_CALLS = ("recommend", "recommend_user")
_EXAMPLES = 5
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One slate before and after."""

    request_id: str
    surface: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes:
        requests: how many were answered again. changed, shorter, emptied: how many slates would be so.
        hits: by rule and effect, under the rules to come.
        examples: of changed slates, at most 5.
    """

    requests: int
    changed: int
    shorter: int
    emptied: int
    hits: Mapping[str, Mapping[str, int]]
    examples: tuple[Change, ...]

    def check(self) -> None:
        """Refuse what would leave somebody with nothing.

        Raises: RulesRefused: names the rules that hide most.
        """
        if not self.emptied:
            return
        found = f"{self.emptied} of {self.requests} recent slates left empty"
        hiding = sorted(self.hits, key=lambda name: -self.hits[name].get("hidden", 0))
        names = [name for name in hiding if self.hits[name].get("hidden")][:_NAMED] or [""]
        raise RulesRefused([RuleProblem(name, "where", found, "at least one item in each of them") for name in names])


def recent_requests(root: str, hours: float = 1.0, most: int = 100, now: float | None = None) -> list[Request]:
    """Requests of the last hours, from the exposures: at most so many, by a lot that falls the same each time.

    A user's row is that of then where it was recorded; others are answered as those of a user without a history.
    """
    if not tables.exists(root, _TABLE):
        return []
    end = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    start = end - timedelta(hours=hours)
    dates = sorted(date for date in tables.partitions(root, _TABLE) if date <= f"{end:%Y-%m-%d}")[-2:]
    wanted = ["request_id", "call", "user_id", "ts", "surface", "context", "consent", "item_ids", "user_row"]
    then = pl.col("call").is_in(_CALLS) & (pl.col("ts") > start) & (pl.col("ts") <= end)
    then &= pl.col("first_position").fill_null(1) == 1  # no later pages, which hang on what was shown before
    frames = [tables.read(root, _TABLE, wanted, where=(pl.col("date") == date) & then) for date in dates]
    if not frames:
        return []
    rows = pl.concat(frames)
    lots = pl.Series("lot", [hash64(each, "trial") for each in rows["request_id"]], dtype=pl.UInt64)
    return [_request(row) for row in rows.with_columns(lots).sort("lot").head(most).iter_rows(named=True)]


def try_rules(pipeline: Pipeline, requests: Sequence[Request], before: Standing, after: Standing) -> Trial:
    """Answer requests under both; the pipeline is left under those to come.

    Args:
        pipeline: of the release in use; not shared with anybody.
    """
    stage = pipeline.rerank
    if not isinstance(stage, RuledStage):
        raise TypeError(f"rerank is a {type(stage).__name__}, expected that of a release; only such keeps to rules")
    found = pipeline.recall.recall(requests) if requests else []
    scores = pipeline.rank.score(requests, found) if requests else []
    stage.obey(before)
    old = pipeline.rerank.arrange(requests, found, scores)
    stage.obey(after)
    stage.rule_hits()
    new = pipeline.rerank.arrange(requests, found, scores)
    hits: dict[str, dict[str, int]] = {}
    for (rule, effect), n in stage.rule_hits().items():
        hits.setdefault(rule, {})[effect] = n
    changes = [
        Change(request.request_id, request.surface, one.item_ids, other.item_ids)
        for request, one, other in zip(requests, old, new, strict=True)
        if one.item_ids != other.item_ids
    ]
    return Trial(
        requests=len(requests),
        changed=len(changes),
        shorter=sum(len(each.after) < len(each.before) for each in changes),
        emptied=sum(bool(each.before) and not each.after for each in changes),
        hits=hits,
        examples=tuple(changes[:_EXAMPLES]),
    )


def _request(row: Mapping[str, Any]) -> Request:
    user = EMPTY_USER
    if row["user_row"] is not None:
        with contextlib.suppress(SchemaError):  # recorded before the format changed
            user = unpack_user(row["user_row"])
    return Request(
        request_id=row["request_id"],
        user_id=row["user_id"],
        k=max(1, len(row["item_ids"])),
        surface=row["surface"] or "",
        context={name: value for name, value in (row["context"] or {}).items() if value is not None},
        consent=row["consent"],
        user=user,
    )
