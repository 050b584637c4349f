"""The releases of the benchmark: one as good as the champion, one truly worse by a fifth, one that is damaged on its way."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import synthetic
from numpy.typing import NDArray
from rollout_world import K

from reco_ray.config import RecallConfig, RerankConfig, SourceName
from reco_ray.features import ITEM_COLUMNS
from reco_ray.release import release_uri
from reco_ray.release.bundle import MANIFEST
from reco_ray.simulation import World
from reco_ray.slate import Pipeline
from reco_ray.store import OnlineStore
from reco_ray.types import Request, UserRow

__all__ = ["copy_release", "damage", "publish", "true_ctr", "true_ctr_of", "worse_by", "write_users"]

_QUOTAS = {SourceName.two_tower: 80, SourceName.popular: 40}
_GRADES = 30
_CTR = [column.name for column in ITEM_COLUMNS].index("item_ctr")
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def publish(root: str, release_id: str, world: World, noise: float, number: int) -> Path:
    """Publish a release whose ranker goes by the items' click rates, and got these with an error.

    Args:
        noise: deviation of the error, in deviations of the items' quality; fewer good items are found with more of it.
        number: of the publication.
    """
    ids = [item.item_id for item in world.items]
    n = len(ids)
    table = pl.DataFrame(
        {
            "item_id": ids,
            "title": [item.title for item in world.items],
            "categories": [list(item.categories) for item in world.items],
            "year": np.full(n, 2026, np.int32),
            "available": np.ones(n, bool),
        }
    )
    counts = np.random.default_rng(3).permutation(n) + 1
    features = {c.name: np.random.default_rng(4).random(n, np.float32) for c in ITEM_COLUMNS} | {
        "item_ctr": click_rates(world, noise)
    }
    rows = pl.DataFrame({"item_id": ids, "n": counts, "n_positive": counts, **features})
    recall = RecallConfig(quotas=_QUOTAS, candidates=sum(_QUOTAS.values()))
    made_ts = (_FIRST + timedelta(hours=number)).isoformat()
    return synthetic.publish_items(
        root, release_id, table, rows, recall, RerankConfig(diversity=0.0), _by_click_rate, 60, 4, made_ts
    )


def click_rates(world: World, noise: float, seed: int = 5) -> NDArray[np.float32]:
    """Estimates of the items' click rates, as shares of the items that are below; shape (n,)."""
    sample = range(0, len(world.user_ids), 50)
    rows = world.items_at(0.0)
    true = np.mean([np.log(p / (1 - p)) for p in (world.attraction(user, rows, 0.0) for user in sample)], axis=0)
    found = true + noise * true.std() * np.random.default_rng(seed).standard_normal(true.size)
    return np.asarray(found.argsort().argsort() / true.size, np.float32)


def true_ctr(pipeline: Pipeline, world: World, users: Sequence[tuple[str, UserRow]]) -> float:
    """Share of the visits that have a click, as a rollout counts them."""
    row = {user_id: at for at, user_id in enumerate(world.user_ids)}
    worth = []
    for user_id, user in users:
        (slate,) = pipeline.run([Request(request_id=f"true-{user_id}", user_id=user_id, k=K, user=user)])
        rows = world.find(slate.item_ids)
        worth.append(1 - np.prod(1 - world.examined(rows.size) * world.attraction(row[user_id], rows, 0.0)))
    return float(np.mean(worth))


def worse_by(share: float, folder: Path, world: World, users: Sequence[tuple[str, UserRow]]) -> float:
    """Find the error with which a release like that in ``folder`` has a click rate that is lower by ``share`` of it."""
    pipeline = Pipeline.load(folder)
    features = pipeline.rank.features  # type: ignore[attr-defined]
    base, order = true_ctr(pipeline, world, users), world.find(features.catalogue.item_ids)
    low, high = 0.0, 4.0
    for _ in range(10):
        middle = (low + high) / 2
        spoiled = features.catalogue.features.copy()
        spoiled[:, _CTR] = click_rates(world, middle)[order]
        features.refresh_items(spoiled)
        low, high = (low, middle) if true_ctr(pipeline, world, users) < (1 - share) * base else (middle, high)
    return high


def copy_release(root: str, source: str, release_id: str, number: int) -> Path:
    """Publish the same stages under another id."""
    target = Path(release_uri(root, release_id))
    shutil.copytree(release_uri(root, source), target)
    (target / MANIFEST).unlink()
    made_ts = (_FIRST + timedelta(hours=number)).isoformat()
    synthetic.seal_release(target, release_id, made_ts)
    return target


def damage(folder: Path) -> None:
    """Turn one bit of a sealed release."""
    file = folder / "ranker.ubj"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def write_users(store: OnlineStore, world: World) -> list[tuple[str, UserRow]]:
    """Give every user of a world a row online; returns them."""
    users = list(synthetic.users(len(world.user_ids), len(world.items), history=5))
    store.write_users(users, synthetic.USER_VIEW)
    return users


def _by_click_rate(x: NDArray[np.float32], columns: list[str], _: np.random.Generator) -> NDArray[np.int64]:
    return (x[:, columns.index("item_ctr")] * _GRADES).astype(np.int64)


def true_ctr_of(root: str, release_id: str, world: World, users: Sequence[tuple[str, UserRow]]) -> float:
    """As `true_ctr`, of a published release."""
    return true_ctr(Pipeline.load(Path(release_uri(root, release_id))), world, users)
