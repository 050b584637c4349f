"""A shop with a past, for `explore_http`: its world, what it has logged, and the releases that are trained on it.

Goods came over the last thirty days, and slates at random showed them: some are well known at the end, some hardly, and the
ranker has seen them at every age. Those that come later are in the catalogue from the start, unavailable until they are born.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import xgboost
from numpy.typing import NDArray

from reco_ray import recall
from reco_ray.config import DateUnit, ExploreConfig, FeaturesConfig, RankConfig, RecallConfig, RerankConfig, SourceName
from reco_ray.events.bus import Record
from reco_ray.events.encoding import encode, rows_to_table
from reco_ray.features import Catalogue, transform, user_view_version
from reco_ray.features.finish import item_features
from reco_ray.features.online import UserState, add_user_events, had_before, unknown
from reco_ray.features.sums import ITEM_SUMS, Sums, added_up, half_lives, item_sums, merged, shown_sums
from reco_ray.rank import RankFeatures
from reco_ray.rank.parameters import parameters
from reco_ray.rank.stage import COLUMNS_FILE, MODEL_FILE, VOCABULARY_FILE, rank_features
from reco_ray.recall.sources.segments import NOBODY
from reco_ray.release import assemble, release_uri, seal
from reco_ray.schema import EVENTS
from reco_ray.simulation import World, WorldConfig
from reco_ray.types import EMPTY_USER, Request, UserRow

__all__ = ["K", "Knowledge", "Shop", "make_shop", "make_world", "publish", "renamed", "table_of"]

K = 10
_DAY_US = 86_400_000_000
_PAST_DAYS, _PAST, _STEP = 30, 6_000, 100  # days and visits of the past; visits between two looks at what was known
_PAIRS = pl.DataFrame(schema={"a": pl.String, "b": pl.String, "score": pl.Float32})

_FEATURES = FeaturesConfig()


def make_world(visits: int, seed: int) -> World:
    """People who agree on much, and goods whose successors are better: 80 come to 250 in the first half of the visits."""
    config = WorldConfig(
        users=150,
        items=250,
        new_items=80,
        horizon_s=visits / 2,
        sharpness=1.0,
        quality=1.0,
        new_quality=1.0,
        position_bias=0.4,
        seed=seed,
    )
    return World(config)


class Knowledge:
    """What the platform knows after some of the events, by the very sums of its streams.

    Args:
        items: rows of `schema.ITEMS`. catalogue: of the same.
    """

    def __init__(self, items: pl.DataFrame, catalogue: Catalogue) -> None:
        self.items, self._catalogue, self._facts = items, catalogue, catalogue.facts()
        self.sums = Sums.none(items.height, half_lives(ITEM_SUMS, _FEATURES))
        self._states: dict[str, UserState] = {}
        self.users: dict[str, UserRow] = {}
        self._order = np.argsort(catalogue.find(items["item_id"].to_list()))

    def add(self, raw: pl.DataFrame) -> None:
        """Take events, rows of `schema.EVENTS`."""
        raw = raw.with_columns(pl.lit(-1, pl.Int64).alias("bus_position"))
        events = unknown(transform.prepare(raw, _FEATURES, ("event_id", "bus_position")), {})
        had = had_before(events, self._states)
        partials = pl.concat([item_sums(events, _FEATURES, had), shown_sums(transform.shown(raw), _FEATURES)])
        self.sums = merged(self.sums, added_up(partials, self.items["item_id"], _FEATURES))
        for user, (state, row) in add_user_events(events, self._states, self._facts, _FEATURES).items():
            self._states[user], self.users[user] = state, row

    @property
    def as_of(self) -> int:
        """Time of the newest event, microseconds."""
        return int(self.sums.last.max(initial=0))

    def features(self) -> NDArray[np.float32]:
        """The item view in the catalogue's order."""
        return item_features(self.sums, self._catalogue.years[np.argsort(self._order)], self.as_of)[self._order]

    def met(self) -> NDArray[np.int64]:
        """How often each item was met, in the catalogue's order; as `streaming.items` has it."""
        at = self.sums.at(self.as_of)[self._order]
        return np.asarray(np.maximum(at[:, ITEM_SUMS.index("n")], np.rint(at[:, ITEM_SUMS.index("impressions")])), np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """A shop as its first day begins.

    Attributes:
        items: rows of `schema.ITEMS`. rows: of the item view. past: rows of `schema.EVENTS`.
        ranker: folder of the model.
        held_out_auc: of the ranker, over visits of the past that it has not seen.
    """

    items: pl.DataFrame
    rows: pl.DataFrame
    past: pl.DataFrame
    ranker: Path
    held_out_auc: float


def make_shop(world: World, folder: Path, seed: int) -> Shop:
    """Let a past happen, and train a ranker on what was known before each of its visits."""
    items = _items(world)
    past = _past(world, seed)
    scratch = folder / "untrained"
    scratch.mkdir(parents=True)
    empty = transform.item_rows(Sums.none(items.height, half_lives(ITEM_SUMS, _FEATURES)), items, 0)
    assemble(scratch, items, empty, NOBODY, _PAIRS, _RECALL, _rerank(ExploreConfig()), None, None)
    features, stage = rank_features(scratch), recall.load(scratch)
    known = Knowledge(items, features.catalogue)
    matrices, labels = [], []
    step = _STEP * K
    clicked = past.filter(pl.col("type") == "click").select("request_id", "item_id").with_columns(label=1)
    shown = past.filter(pl.col("type") == "impression").join(
        clicked, on=["request_id", "item_id"], how="left", maintain_order="left"
    )
    for start in range(0, shown.height, step):
        now = shown[start : start + step]
        if start:
            features.refresh_items(known.features())
            for (_, user), visit in now.group_by("request_id", "user_id", maintain_order=True):
                if (row := known.users.get(str(user), EMPTY_USER)).history.size and visit["label"].sum():
                    x = _seen(features, stage, Request(request_id="r", user_id=str(user), k=K, user=row), visit)
                    matrices.append(x)
                    labels.append(visit["label"].fill_null(0).to_numpy())
        ids = now["request_id"].unique()
        known.add(past.filter(pl.col("request_id").is_in(ids.implode())))
    ranker = folder / "ranker"
    ranker.mkdir()
    auc = _train(matrices, labels, features.columns, ranker, seed)
    rows = transform.item_rows(known.sums, items, known.as_of)
    return Shop(items, rows, past, ranker, auc)


def publish(root: str, release_id: str, shop: Shop, explore: ExploreConfig, prefix: str) -> Path:
    """Publish a release of the shop whose ids of items start with ``prefix``."""
    target = Path(release_uri(root, release_id))
    target.mkdir(parents=True)
    named = pl.concat_str(pl.lit(prefix), "item_id").alias("item_id")
    items, rows = shop.items.with_columns(named), shop.rows.with_columns(named)
    assemble(target, items, rows, NOBODY, _PAIRS, _RECALL, _rerank(explore), None, shop.ranker)
    view = user_view_version(_FEATURES, Catalogue.vocabulary(items))
    facts = {"made_ts": datetime.now(UTC).isoformat(), "synthetic": True, "features": asdict(_FEATURES)}
    seal(target, release_id, view, facts)
    return target


_RECALL = RecallConfig(quotas={SourceName.content: 400}, candidates=400)  # all items, the most alike first


def _rerank(explore: ExploreConfig) -> RerankConfig:
    return RerankConfig(seen_items_return=True, diversity=0.0, explore=explore)


def _items(world: World) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [item.item_id for item in world.items],
            "title": [item.title for item in world.items],
            "categories": [list(item.categories) for item in world.items],
            "year": pl.Series([0] * len(world.items), dtype=pl.Int32),
            "available": world.item_born_s <= 0,
        }
    )


def _past(world: World, seed: int) -> pl.DataFrame:
    """Visits at random times of the last thirty days, with random slates of what there was; rows of `schema.EVENTS`."""
    rng = np.random.default_rng((seed, 3))
    start, users = world.items_at(0.0), world.users_at(0.0)
    born = np.maximum(rng.random(start.size) * 4 / 3 - 1 / 3, 0)  # a quarter was there before
    now_us = int(datetime.now(UTC).timestamp() * 1e6)
    look = world.examined(K)
    events: list[dict[str, object]] = []
    for visit, at in enumerate(np.sort(rng.random(_PAST)).tolist()):
        user = int(rng.choice(users))
        rows = rng.choice(start[born <= at], K, replace=False)
        clicked = rng.random(K) < look * world.attraction(user, rows, 0.0)
        ts = now_us - int((1 - at) * _PAST_DAYS * _DAY_US)
        for place, (row, click) in enumerate(zip(rows.tolist(), clicked.tolist(), strict=True), 1):
            for kind in ("impression", "click") if click else ("impression",):
                event = {"event_id": f"past-{visit}-{place}-{kind}", "type": kind, "ts": ts, "request_id": f"past-{visit}"}
                user_id, item_id = world.user_ids[user], world.items[row].item_id
                events.append({**event, "user_id": user_id, "item_id": item_id, "position": place})
    return table_of(events)


def table_of(events: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Events as an application sends them, as rows of `schema.EVENTS`; received when they happened."""
    told = ({**event, "received_us": event["ts"], "schema_version": "1.1", "consent": True} for event in events)
    records = [Record(at, int(str(event["ts"])) // 1000, encode(event)) for at, event in enumerate(told)]
    return pl.DataFrame(rows_to_table(records, DateUnit.month)).with_columns(pl.lit(None, pl.String).alias("bus_position"))


def renamed(past: pl.DataFrame, prefix: str) -> pa.Table:
    """The past with ids that start with ``prefix``; rows of `schema.EVENTS`."""
    named = [pl.concat_str(pl.lit(prefix), name).alias(name) for name in ("event_id", "user_id", "item_id", "request_id")]
    return past.with_columns(named).select(EVENTS.names).to_arrow().cast(EVENTS)


def _seen(features: RankFeatures, stage: recall.Recall, request: Request, visit: pl.DataFrame) -> NDArray[np.float32]:
    """Features of the items of a visit, as a request of that moment had them, shape (k, F)."""
    (found,) = stage.recall([request])
    rows = features.catalogue.find(visit["item_id"].to_list())
    order = np.argsort(found.item_idx)
    at = order[np.searchsorted(found.item_idx, rows, sorter=order)]
    return features.matrix(request, found)[at]


def _train(
    matrices: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]], columns: list[str], folder: Path, seed: int
) -> float:
    """Fit the ranker as the platform does; returns how often a clicked item is above one that was not, on a tenth held out."""
    rng = np.random.default_rng(seed)
    held = rng.random(len(matrices)) < 0.1
    config = RankConfig()

    def matrix(which: NDArray[np.bool_]) -> xgboost.DMatrix:
        at = np.flatnonzero(which)
        x, y = np.concatenate([matrices[i] for i in at]), np.concatenate([labels[i] for i in at])
        return xgboost.DMatrix(x, label=y, qid=np.repeat(np.arange(at.size), K))

    model = xgboost.train({**parameters(config, seed), "nthread": 1}, matrix(~held), config.rounds)
    model.save_model(str(folder / MODEL_FILE))
    (folder / COLUMNS_FILE).write_text(json.dumps(columns))
    (folder / VOCABULARY_FILE).write_text("{}")
    scores = model.predict(matrix(held)).reshape(-1, K)
    right = []
    for score, i in zip(scores, np.flatnonzero(held), strict=True):
        y = labels[i] > 0
        right += [float((score[y][:, None] > score[~y][None, :]).mean())]
    return float(np.mean(right))
