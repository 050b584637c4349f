"""An id is found in every form that a file may hold it in, and another id that begins like it is not."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.privacy.needles import Needle, holders

IDS = ["user-1", "jürgen/ä 7", "42", "00012345", "abcdef", 'a"b\\c', "x=y&z", "u_1234567"]


def _forms(user_id: str, before: str = "") -> list[bytes]:
    text = before + json.dumps({"user_id": user_id, "n": 1})
    plain = before + json.dumps({"user_id": user_id}, ensure_ascii=False)
    nested = json.dumps({"stats": json.dumps({"min": {"user_id": user_id}})})
    return [text.encode(), plain.encode(), nested.encode(), f"/v1/users/{quote(user_id, safe='')}/x".encode()]


@pytest.mark.parametrize("user_id", IDS)
@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_an_id_is_found_in_text_json_urls_and_base64(user_id: str, before: str) -> None:
    needle = Needle(user_id)
    for form in _forms(user_id, before):
        assert needle.within(form), form
    if len(user_id) >= 6:
        for form in _forms(user_id, before)[:2]:
            assert needle.within(b'{"raw_b64":"' + base64.b64encode(form) + b'"}'), form
            assert needle.within(b'{"raw_b64":"' + base64.urlsafe_b64encode(form) + b'"}'), form


@pytest.mark.parametrize("user_id", IDS)
def test_an_id_that_another_one_begins_with_is_not_found(user_id: str) -> None:
    for other in (f"{user_id}0", f"0{user_id}"):
        for form in _forms(other):
            assert not Needle(user_id).within(form), form
            assert not Needle(user_id).within(base64.b64encode(form)), form


def test_a_number_stands_in_other_files_by_chance() -> None:
    assert not Needle("42").within(b'{"n":42,"seconds":142.42,"x":"142"}')
    assert Needle("42").within(b'{"n":"42"}')


def test_a_record_of_the_append_only_file_is_found() -> None:
    assert Needle("user-1").within(b"*3\r\n$4\r\nHSET\r\n$6\r\nuser-1\r\n")


@given(st.text(min_size=6, max_size=20), st.integers(0, 400), st.integers(1, 60))
def test_an_id_is_found_wherever_a_file_is_cut(user_id: str, place: int, part: int) -> None:
    data = b"." * place + b'"' + json.dumps(user_id).encode() + b"." * 50
    parts = [data[i : i + part] for i in range(0, len(data), part)]
    assert holders(parts, {user_id: Needle(user_id), "nobody-here": Needle("nobody-here")}) == {user_id}
