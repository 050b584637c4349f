"""A small world with a known answer: a checkerboard of two tastes, as raw frames and as an assembled release folder."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from recall_world import FACTORS, packed

from reco_ray.config import (
    DateUnit,
    FeaturesConfig,
    RecallConfig,
    RerankConfig,
    SequentialConfig,
    SourceConfig,
    SourceKind,
    SourceName,
    TwoTowerConfig,
)
from reco_ray.events.columns import admit_table
from reco_ray.features import Catalogue, pairs, transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.sums import added_up, item_sums
from reco_ray.lake import sources
from reco_ray.recall.sources.mf import save_factors
from reco_ray.recall.sources.sequential import save_model
from reco_ray.recall.sources.two_tower import item_inputs, save_weights
from reco_ray.recall.training.factors import fit_factors
from reco_ray.recall.training.sequence_model import SequenceModel
from reco_ray.recall.training.tower import TwoTower
from reco_ray.release import assemble
from reco_ray.schema import EVENTS

USERS, ITEMS = 24, 40
START = datetime(2026, 1, 1, tzinfo=UTC)
NOW_US = 1_780_000_000_000_000  # behind all events of the world


def taste(number: int) -> str:
    return "even" if number % 2 == 0 else "odd"


@pytest.fixture(scope="session")
def raw_events() -> pl.DataFrame:
    """User u likes the items of u's parity: each had eight of the twenty, in an order of its own."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(USERS):
        own = [item for item in range(ITEMS) if item % 2 == user % 2]
        for place, item in enumerate(rng.permutation(own)[:8]):
            ts = START + timedelta(hours=24 * user / USERS + place)
            rows.append({"user_id": f"user-{user}", "item_id": f"item-{item}", "ts": ts, "type": "like"})
    return pl.DataFrame(rows)


@pytest.fixture(scope="session")
def raw_items() -> pl.DataFrame:
    rows = [
        {"item_id": f"item-{i}", "title": f"Title {i}", "categories": f"{taste(i)}|all", "year": 1990 + i}
        | {"price": None if i % 8 == 7 else 2.5 * i}
        for i in range(ITEMS)
    ]
    return pl.DataFrame(rows)


@pytest.fixture(scope="session")
def source() -> SourceConfig:
    config = SourceConfig(kind=SourceKind.files, events="events.csv", permute_ids=False)
    config.columns.type = "type"
    return config


@pytest.fixture(scope="session")
def admitted() -> Callable[..., pa.Table]:
    """What an import would append of raw rows: ``admitted(raw, source)``."""

    def admit(raw: pl.DataFrame, source: SourceConfig, seed: int = 7) -> pa.Table:
        table, refused = admit_table(sources.map_events(raw, source, source.columns, seed, "world"), NOW_US, DateUnit.month)
        assert not refused
        return sources.number_repeats(pl.DataFrame(table)).to_arrow().cast(EVENTS)

    return admit


@pytest.fixture(scope="session")
def events(raw_events: pl.DataFrame, source: SourceConfig, admitted: Callable[..., pa.Table]) -> pl.DataFrame:
    """Prepared events, with their strength and context."""
    return transform.prepare(pl.DataFrame(admitted(raw_events, source)), FeaturesConfig(), ("context",))


@pytest.fixture(scope="session")
def items(raw_items: pl.DataFrame, source: SourceConfig) -> pl.DataFrame:
    return pl.DataFrame(sources.map_items(raw_items, source, source.columns, 7, "world"))


@pytest.fixture(scope="session")
def as_of(events: pl.DataFrame) -> int:
    return int(events["ts"].dt.epoch("us").max())


def item_view(events: pl.DataFrame, items: pl.DataFrame, as_of: int, config: FeaturesConfig) -> pl.DataFrame:
    """Rows of the item view over events in any number of parts."""
    return transform.item_rows(added_up(item_sums(events, config), items["item_id"], config), items, as_of)


@pytest.fixture(scope="session")
def catalogue(events: pl.DataFrame, items: pl.DataFrame, as_of: int) -> Catalogue:
    return Catalogue.build(items, item_view(events, items, as_of, FeaturesConfig()))


@pytest.fixture(scope="session")
def users(events: pl.DataFrame, items: pl.DataFrame, catalogue: Catalogue) -> pl.DataFrame:
    return transform.user_rows(events, ItemFacts.of(items, catalogue.categories), FeaturesConfig())


@pytest.fixture(scope="session")
def models(events: pl.DataFrame, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all sources that have one; only the factors are fitted."""
    import torch

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    id_rows, content = item_inputs(catalogue, catalogue.keys)
    model = TwoTower(TwoTowerConfig(embedding_size=16, hidden_size=16), int(id_rows.max()), content.shape[1], 50)
    save_weights(folder, {name: tensor.numpy() for name, tensor in model.state_dict().items()}, catalogue.keys)
    nexts = SequenceModel(SequentialConfig(embedding_size=16, hidden_size=16), len(catalogue), 50)
    save_model(folder, {name: tensor.numpy() for name, tensor in nexts.state_dict().items()}, catalogue.keys)
    factors, _ = fit_factors([packed(events, catalogue)], len(catalogue), FACTORS, 7)
    save_factors(folder, factors, catalogue.keys, FACTORS.alpha, FACTORS.regularization)
    return folder


@pytest.fixture(scope="session")
def assembled(
    events: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame, as_of: int, models: Path
) -> Callable[[Path], None]:
    """Writes the stages of a release with all sources into an empty folder."""
    config = FeaturesConfig()

    def assemble_into(target: Path) -> None:
        assemble(
            target,
            items,
            item_view(events, items, as_of, config),
            users,
            pairs.covisit_rows(pairs.covisit_partials(events, items["item_id"], config), items["item_id"], config),
            RecallConfig(quotas=dict.fromkeys(SourceName, 20), candidates=40),
            RerankConfig(),
            models,
            None,
        )

    return assemble_into


@pytest.fixture(scope="session")
def folder(assembled: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of a release with all sources."""
    target = tmp_path_factory.mktemp("release")
    assembled(target)
    return target
