"""Groups of a training set stay whole, however they are cut into batches and workers."""

import numpy as np
import polars as pl
import pytest

from reco_ray.errors import DataError
from reco_ray.rank.trainer import grouped, worker_part


@pytest.fixture
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    users = [f"u{user}" for user in range(20) for _ in range(user + 1)]
    places = [place for user in range(20) for place in range(user + 1)]
    features = rng.random((len(users), 3), np.float32).tolist()
    return pl.DataFrame({"user_id": users, "place": places, "label": rng.integers(0, 4, len(users)), "features": features})


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_the_groups_and_cut_none(rows: pl.DataFrame, world: int) -> None:
    batches = rows.sample(fraction=1, shuffle=True, seed=1)
    parts = [worker_part(batches, rank, world) for rank in range(world)]
    sizes = []
    for part in parts:
        found = np.diff(grouped(part).get_uint_info("group_ptr"))
        assert found.tolist() == part.group_by("user_id", maintain_order=True).len()["len"].to_list()
        sizes += found.tolist()
    assert sorted(sizes) == list(range(1, 21))
    assert pl.concat(parts).sort("user_id", "place").equals(rows.sort("user_id", "place"))


def test_a_group_in_two_pieces_is_refused(rows: pl.DataFrame) -> None:
    torn = pl.concat([rows.tail(5), rows.head(200)])
    with pytest.raises(DataError, match="found 21 groups of 20 users, expected one each"):
        grouped(torn)
