"""``evaluate_policy``: what another policy would have earned, from exposures or from a table of one's own."""

import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import PipelineConfig
from reco_ray.errors import DataError
from reco_ray.evaluation.off_policy import Draws
from reco_ray.evaluation.policy_report import PolicyReport, judge
from reco_ray.evaluation.policy_table import draws_of
from reco_ray.lake import storage, tables
from reco_ray.rank import load as load_rank
from reco_ray.recall import load as load_recall
from reco_ray.release import newest, open_release, user_view
from reco_ray.rerank import load as load_rerank
from reco_ray.store import BanditStore, unpack_user
from reco_ray.types import Request
from reco_ray.workflow.online import online_store

__all__ = ["evaluate_policy", "judge_release"]

log = logging.getLogger(__name__)

_AT_ONCE = 64


def evaluate_policy(config: PipelineConfig, now: datetime | None = None) -> PolicyReport:
    """Judge a policy and write ``reports/policy/<time>``: report.json and report.html.

    Args:
        now: the present time, for tests.
    Raises: DataError: a column is wrong, nothing was left to chance, or the logs cannot say anything of the policy; in the last
        case the report is there all the same.
    """
    c, at = config.policy, now or datetime.now(UTC)
    if c.table:
        draws, policy, logs, outcome = draws_of(_read(c.table), c, c.table), "the policy", c.table, c.reward
    else:
        release = config.release or newest(config.root)
        draws, policy = _from_exposures(config, release, at), f"release {release}"
        logs, outcome = f"the exposures of {c.hours:g} hours", c.outcome
    report = judge(draws, policy, logs, outcome, c.confidence, c.min_effective, at)
    folder = storage.join(config.root, "reports", "policy", at.isoformat())
    storage.write_bytes(storage.join(folder, "report.json"), report.to_json().encode())
    storage.write_bytes(storage.join(folder, "report.html"), report.to_html().encode())
    if report.support.refused:
        raise DataError(f"{policy}: {report.support.refused}; see {folder}/report.html")
    for each in report.estimates:
        log.info("%s: %s %.5g (%.5g to %.5g)", policy, each.estimator, each.value.mean, each.value.low, each.value.high)
    log.info("report: %s/report.html", folder)
    return report


def judge_release(config: PipelineConfig, release: str) -> PolicyReport:
    """What a release would have earned on the draws of ``policy.hours``; nothing is written.

    Raises: DataError: nothing was left to chance, or nothing of it is joined.
    """
    for name, job in (("exposures", "set rerank.explore.kind"), ("feedback", "run join_feedback")):
        if not tables.exists(config.root, name):
            raise DataError(f"{name}: found no such table, expected one; {job}")
    c, now = config.policy, datetime.now(UTC)
    draws = _from_exposures(config, release, now)
    return judge(
        draws, f"release {release}", f"the exposures of {c.hours:g} hours", c.outcome, c.confidence, c.min_effective, now
    )


def _read(uri: str) -> pl.DataFrame:
    if not storage.exists(uri):
        raise DataError(f"{uri}: found no such file, expected a table of logged decisions; give policy.table=URI")
    raw = storage.read_bytes(uri)
    try:
        return pl.read_parquet(raw) if uri.endswith(".parquet") else pl.read_csv(raw, infer_schema_length=None)
    except pl.exceptions.PolarsError as exc:
        raise DataError(f"{uri}: found what cannot be read ({exc}), expected CSV or a .parquet file") from exc


def _from_exposures(config: PipelineConfig, release: str, now: datetime) -> Draws:
    """Draws of the lake, each once: the decision that a slate was drawn for. Showings of it from a cache are no draws."""
    view, since = user_view(config.root, release), now - timedelta(hours=config.policy.hours)
    kept = (pl.col("ts") >= since) & (pl.col("draw_id") == pl.col("request_id")) & (pl.col("rung") == "full")
    kept &= pl.col("first_position").fill_null(1) == 1  # the odds of later pages hang on what was shown before
    columns = ["request_id", "user_id", "ts", "surface", "context", "item_ids", "propensities", "user_view", "user_row"]
    rows = tables.read(config.root, "exposures", columns, kept)
    drawn = rows.filter(pl.col("propensities").list.drop_nulls().list.len() > 0)
    mine = drawn.filter((pl.col("user_view") == view) & pl.col("user_row").is_not_null())
    if mine.is_empty():
        raise DataError(
            f"exposures of the last {config.policy.hours:g} hours: found {rows.height} full slates, {drawn.height} of them "
            f"drawn by chance, and none with the user's row in the view of release {release}, expected some; deploy a release "
            "with rerank.explore.kind, and see exposures.features_share"
        )
    outcomes = tables.read(config.root, "feedback", ["request_id", "position", config.policy.outcome])
    joined = mine.join(outcomes.select("request_id").unique(), on="request_id", how="semi").unique("request_id")
    if joined.is_empty():
        raise DataError(f"feedback: found nothing of {mine.height} drawn slates, expected what followed; run join_feedback")
    joined = joined.sort("request_id").sample(min(joined.height, config.policy.draws), seed=config.seed)
    log.info("%d slates were drawn by chance, %d of them are joined and can be judged", drawn.height, joined.height)
    k = int(joined["item_ids"].list.len().max())  # type: ignore[arg-type]
    rewards, place = np.zeros((joined.height, k)), {name: i for i, name in enumerate(joined["request_id"])}
    for request_id, position, value in outcomes.iter_rows():
        if request_id in place and position <= k:
            rewards[place[request_id], position - 1] = value or 0.0
    logged = _padded(joined["propensities"].to_list(), k)
    target = _padded(_target_odds(config, release, joined), k)
    names = [user or request for user, request in joined.select("user_id", "request_id").iter_rows()]
    return Draws(rewards, logged, target, np.asarray(np.unique(names, return_inverse=True)[1], np.int64))


def _target_odds(config: PipelineConfig, release: str, rows: pl.DataFrame) -> list[list[float]]:
    """With which odds a release would have shown what was shown."""
    folder = open_release(config.root, release)
    recall, rank, rerank = load_recall(folder), load_rank(folder), load_rerank(folder)
    if rerank.learns:
        with online_store(config) as store:
            parts = () if store is None else BanditStore(store).read().parts
        rerank.learn(parts)
        log.info("release %s chooses its sources by %s", release, "what is learned by now" if parts else "nothing learned yet")
    requests = [
        Request(
            request_id=row["request_id"],
            user_id=row["user_id"],
            k=len(row["item_ids"]),
            surface=row["surface"] or "home",
            context={name: value for name, value in (row["context"] or {}).items() if value},
            user=unpack_user(row["user_row"]),
            at_us=int(row["ts"].timestamp() * 1e6),
        )
        for row in rows.iter_rows(named=True)
    ]
    shown, found = rows["item_ids"].to_list(), list[list[float]]()
    for start in range(0, len(requests), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        candidates = recall.recall(requests[part])
        odds = rerank.odds(requests[part], candidates, rank.score(requests[part], candidates), shown[part])
        found += [each.tolist() for each in odds]
    return found


def _padded(rows: list[list[float]], k: int) -> NDArray[np.float64]:
    """Odds side by side, 1 behind the end of a short slate, shape (n, k)."""
    found = np.ones((len(rows), k))
    for i, row in enumerate(rows):
        found[i, : len(row)] = np.minimum(row, 1.0)  # what is above is rounding
    return found
