"""Stable hashes: golden values, because a change would move every user and every stored key."""

from hypothesis import given
from hypothesis import strategies as st

from reco_ray.hashing import USER_BUCKETS, digest, hash64, hash64_many, item_keys, unit_interval, user_bucket


def test_hashes_never_change() -> None:
    assert hash64("user-1", "salt") == 9513444321697079628
    assert item_keys(["item-1"]).tolist() == [hash64("item-1", "item")]
    assert digest("a", "b") == "a8e8207a89c6"


def test_parts_of_a_digest_do_not_run_into_each_other() -> None:
    assert digest("ab", "c") != digest("a", "bc")


@given(st.text(max_size=30))
def test_buckets_and_shares_stay_in_range(text: str) -> None:
    assert 0 <= user_bucket(text) < USER_BUCKETS
    assert 0 <= unit_interval(text, "s") < 1
    assert hash64_many([text], "x").tolist() == [hash64(text, "x")]


def test_buckets_are_even() -> None:
    counts = [0] * USER_BUCKETS
    for i in range(6400):
        counts[user_bucket(str(i))] += 1
    assert min(counts) > 60
    assert max(counts) < 150
