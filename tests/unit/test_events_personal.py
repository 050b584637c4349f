"""Personal data in texts and ids: what is found, what is left alone, and that no text takes long."""

import ipaddress
import re
import uuid
from datetime import date, time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from reco_ray.events.personal import MAYBE_PERSONAL, NEVER_PERSONAL_ID, coarse_location, is_personal, maybe_personal, redact

EMAILS = [
    "bob@example.com",
    "bob.b+x@mail.example.co.uk",
    "müller@example.de",
    "bob@müller.de",
    "bob%40example.com",
    "a" * 80 + "@b.de",
]
PHONES = [
    *("+49 170 1234567", "+491701234567", "+49 (0)170 123-45-67", "+1 (415) 555-0123", "+1.415.555.0123", "+33 1 23 45 67 89"),
    *("0049 170 1234567", "00 49 170 1234567", "%2B491701234567"),
    *("0170 1234567", "0170/1234567", "(089) 1234567", "(089)1234567", "020 7946 0958", "01 23 45 67 89", "01.23.45.67.89"),
    *("(212) 555-0123", "(212)555-0123", "212-555-0123", "212.555.0123"),
]
ADDRESSES = [
    *("10.0.0.1", "192.168.0.7", "255.255.255.255", "8.8.8.8"),
    *("2001:db8::ff00:42:8329", "2001:0db8:0000:0000:0000:ff00:0042:8329", "fe80::1", "fd12:3456::9", "::ffff:10.0.0.1"),
]
PERSONAL = dict.fromkeys(EMAILS, "[email]") | dict.fromkeys(PHONES, "[phone]") | dict.fromkeys(ADDRESSES, "[ip]")
HARMLESS = [
    # articles and orders
    *("4006381333931", "0012345678905", "00012345678905", "9780306406157", "978-0-306-40615-7", "0-306-40615-2"),
    *("order 12345-6789", "sku 815-4711", "order 2024-03-000123", "A-0123-456789", "302-1234567-1234567"),
    # times
    *("2026-01-31", "01/02/2026", "01-02-2026 10:30", "05.12.2026", "12:30:45", "2026-01-31T12:30:45Z", "09:15:22:11"),
    *("2026-03-01 10:00:00 +0000", "2026-03-01T10:00:00.123456+01:00", "1772359200000000"),
    # numbers
    *(
        "1234.56",
        "1,000,000",
        "12 345 678",
        "+1.23456789",
        "-0.00012345678",
        "48.1,11.6",
        "48.13743,11.57549",
        "10.5 20.5 30.5",
    ),
    # versions and codes
    *("v1.2.3", "v1.2.3.4", "version 1.2.3.4", "1.2.3.4.5", "Chrome/120.0.0.0", "192.168.1.256", "std::vector", "a::b", "::"),
    *("@home", "bob@localhost", "3@9.99", "lodash@4.17.21", "50% 40", "aa:bb:cc:dd:ee:ff", "0123-4567-890a"),
    *("550e8400-e29b-41d4-a716-446655440000", "00123456-0123-4567-8901-123456789012", "d41d8cd98f00b204e9800998ecf8427e"),
]


@pytest.mark.parametrize(("text", "mark"), PERSONAL.items())
def test_personal_data_is_found_as_an_id_and_within_a_text(text: str, mark: str) -> None:
    assert redact(text) == mark
    assert is_personal(text)
    assert is_personal(f"  {text}\n")
    assert redact(f"from {text}, today") == f"from {mark}, today"
    assert redact(f"It is {text}.") == f"It is {mark}."
    assert redact(f'tel:{text} "{text}"') == f'tel:{mark} "{mark}"'


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_codes_and_times_are_no_personal_data(text: str) -> None:
    assert redact(text) == text
    assert not is_personal(text)


@pytest.mark.parametrize("identifier", ["0012345678", "00491701234567", "0123-456789", "1.2.3.4.5", "user-0170 1234567"])
def test_an_id_is_a_number_in_doubt(identifier: str) -> None:
    assert not is_personal(identifier)


@pytest.mark.parametrize("identifier", ["mailto:bob@example.com", "shop|bob@example.com"])
def test_an_id_that_holds_a_mail_address_is_personal(identifier: str) -> None:
    assert is_personal(identifier)


def test_a_bare_number_behind_00_is_a_telephone_number_in_a_text_unless_it_has_the_check_digit_of_an_article() -> None:
    assert redact("00491701234567") == "[phone]"
    assert redact("00491701234564") == "00491701234564"


def test_what_stands_beside_personal_data_stays() -> None:
    assert redact("+49 170 1234567 4006381333931") == "[phone] 4006381333931"
    assert redact("+49 170 1234567 123456789") == "[phone] 123456789"
    assert redact("+1-415-555-0123x12") == "[phone]x12"
    assert redact("[2001:db8::1]:443 and 10.0.0.1:80/x") == "[[ip]]:443 and [ip]:80/x"


@given(st.uuids())
def test_a_uuid_is_no_personal_data(found: uuid.UUID) -> None:
    for text in (str(found), found.hex, f"id={str(found).upper()};"):
        assert redact(text) == text


@given(st.integers(0, 10**13 - 1), st.sampled_from([7, 11, 12, 13]))
def test_no_article_number_is_personal_data(number: int, length: int) -> None:
    body = f"{number % 10**length:0{length}d}"
    check = -sum(int(d) * (3 if place % 2 == 0 else 1) for place, d in enumerate(reversed(body))) % 10
    assert redact(f"{body}{check}") == f"{body}{check}"


@given(st.integers(0, 10**17))
def test_no_plain_number_is_a_personal_id(number: int) -> None:
    assert not is_personal(str(number))
    assert not is_personal(f"{number:020d}")


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)), st.times())
def test_no_time_is_personal_data(day: date, at: time) -> None:
    for text in (
        f"{day}T{at}Z",
        f"{day} {at}",
        f"{day:%d/%m/%Y}",
        f"{day:%d-%m-%Y}",
        f"{day:%d.%m.%Y}",
        f"{day:%m/%d/%Y} {at}",
    ):
        assert redact(text) == text


@given(st.floats(-1e6, 1e6))
def test_no_decimal_number_is_personal_data(number: float) -> None:
    for text in (f"{number:+.8f}", f"{number:.2f} {number:.3f}", repr(number)):
        assert redact(text) == text


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_found(address: ipaddress.IPv4Address) -> None:
    assert redact(f"client={address};") == "client=[ip];"


@given(st.ip_addresses(v=6, network="2000::/3"))
def test_every_global_ipv6_address_is_found_in_each_of_its_forms(address: ipaddress.IPv6Address) -> None:
    for text in (str(address), address.exploded, str(address).upper()):
        assert redact(f"ip:{text}, [{text}]:443") == "ip:[ip], [[ip]]:443"


@given(st.text(), st.sampled_from(sorted(PERSONAL)), st.text())
def test_what_is_personal_passes_the_first_look_whatever_stands_around_it(before: str, planted: str, after: str) -> None:
    assert maybe_personal(f"{before}{planted}{after}")


@given(st.text("0123456789 +-./()@%:abcxA_", max_size=40) | st.text(max_size=20))
def test_what_columns_pass_over_holds_nothing_personal(text: str) -> None:
    if not re.search(MAYBE_PERSONAL, text):
        assert redact(text) == text
    if re.search(NEVER_PERSONAL_ID, text):
        assert not is_personal(text)


@given(st.text("0123456789 +-./()@%:abcx", max_size=60))
def test_no_mail_address_is_left(text: str) -> None:
    assert not re.search(r"[\w.%+'-]@(?:[a-z0-9][a-z0-9-]*\.)+[a-z]{2,}", redact(text))


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "01 " + "1" * 60 + "a ",
            "1",
            "a",
            "+1 ",
            "0",
            "001 ",
            "a@",
            "a.",
            "a:",
            ":",
            "1:2",
            "+1(1)",
            "0123 ",
            "0-",
            "1.",
            "%40",
        ),
        *("01.23.", "999 ", "2001:" * 7 + " ", "(0", "[", "x@a.", "+1" + "1" * 30 + "a"),
    ],
)
def test_no_text_takes_for_ever(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    assert redact(f"{text} , a@b.de").endswith("[email]")
    assert is_personal(f"{text} , a@b.de")


def test_locations_become_coarse() -> None:
    assert coarse_location("48.13743,11.57549") == "48.1,11.6"
    assert coarse_location(" -0.04 , 0.04 ") == "0.0,0.0"
    assert coarse_location({"lat": -33.8688, "lon": 151}) == "-33.9,151.0"
    assert [coarse_location(code) for code in ("DE", "DE-BY", "GB-ENG")] == ["DE", "DE-BY", "GB-ENG"]


@pytest.mark.parametrize(
    "value",
    ["Main Street 5", "95.0,11.0", "de", "", {"lat": "48", "lon": 11}, {"lat": True, "lon": 1}, {"lat": 1}, {}, 7, None],
)
def test_what_is_no_location_is_dropped(value: object) -> None:
    assert coarse_location(value) is None


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_a_point_moves_by_no_more_than_half_a_tenth_and_stays_there(lat: float, lon: float) -> None:
    found = coarse_location({"lat": lat, "lon": lon})
    assert found is not None
    north, east = map(float, found.split(","))
    assert abs(north - lat) <= 0.05 + 1e-9
    assert abs(east - lon) <= 0.05 + 1e-9
    assert coarse_location(found) == found
