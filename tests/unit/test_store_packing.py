"""The packed user row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.errors import SchemaError
from reco_ray.store import pack_user, unpack_user
from reco_ray.types import EMPTY_USER, UserRow


@given(st.integers(0, 60), st.integers(0, 200), st.integers(0, 50), st.integers(0, 2**60))
def test_a_row_survives_packing(h: int, s: int, f: int, as_of: int) -> None:
    rng = np.random.default_rng(h + s + f)
    row = UserRow(
        rng.integers(0, 2**63, h).astype(np.uint64),
        rng.random(h, np.float32),
        np.sort(rng.integers(0, 2**63, s).astype(np.uint64)),
        rng.random(f, np.float32),
        as_of,
        as_of - 1,
        rng.integers(0, 2**16, (s, 3)).astype(np.uint16),
    )
    raw = pack_user(row)
    back = unpack_user(raw)
    assert len(raw) == 32 + 12 * h + 14 * s + 4 * f
    assert (back.as_of, back.position) == (as_of, as_of - 1)
    for name in ("history", "weights", "seen", "features", "had"):
        np.testing.assert_array_equal(getattr(back, name), getattr(row, name))


@pytest.mark.parametrize("raw", [b"", b"short", pack_user(EMPTY_USER) + b"x", b"\xff" * 32])
def test_damaged_values_are_refused(raw: bytes) -> None:
    with pytest.raises(SchemaError, match="write the rows again"):
        unpack_user(raw)
