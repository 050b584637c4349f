"""Pseudonyms: stable under a key, different under another, and never without a key unless that is allowed."""

import logging

import pytest

from reco_ray.consent import pseudonym, pseudonym_key
from reco_ray.errors import ConfigError

KEY = b"0123456789abcdef"


def test_a_pseudonym_is_that_of_rfc_2104_and_says_nothing_of_the_user() -> None:
    # printf user-1 | openssl dgst -sha256 -hmac 0123456789abcdef
    assert pseudonym("user-1", KEY) == "9671a70114c638ee"
    assert pseudonym("user-1", KEY) != pseudonym("user-2", KEY)
    assert pseudonym("user-1", KEY) != pseudonym("user-1", KEY[::-1])


def test_the_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("RECO_TEST_KEY_1", KEY.decode())
    assert pseudonym_key("RECO_TEST_KEY_1") == pseudonym_key("RECO_TEST_KEY_1", required=True) == KEY
    assert not caplog.records


def test_without_a_key_one_is_made_up_for_the_process_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, second = pseudonym_key("RECO_TEST_KEY_2"), pseudonym_key("RECO_TEST_KEY_2")
    assert first == second
    assert len(first) == 32
    assert [record.message[:25] for record in caplog.records] == ["RECO_TEST_KEY_2 is not se"]


@pytest.mark.parametrize("value", ["", "short"])
def test_where_a_key_is_required_a_missing_or_short_one_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECO_TEST_KEY_3", value)
    with pytest.raises(ConfigError, match=f"found {len(value)} bytes in RECO_TEST_KEY_3, expected at least 16"):
        pseudonym_key("RECO_TEST_KEY_3", required=True)
