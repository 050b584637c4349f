"""Personal data where none should be: found in free text and redacted, found as an id and refused; locations made coarse.

Patterns are narrow: a number of an order, an EAN, a UUID, a date or a version is no telephone number and no address. A
telephone number has ``+`` or ``00`` and a country, or groups set apart as people write them; a run of digits is a number. Text
comes from anyone, so that each pattern takes time linear in it: a repeated part starts with what none before it ends with.
"""

import ipaddress
import re
from collections.abc import Mapping

__all__ = ["MAYBE_PERSONAL", "NEVER_PERSONAL_ID", "coarse_location", "is_personal", "maybe_personal", "redact"]

MAYBE_PERSONAL = r"@|%40|\d[\d ./()-]{5}|\d\.\d|:[0-9A-Fa-f]{0,4}:"
"""Pattern that occurs in every text with something personal, and in others; without lookaround, as engines for columns want."""

NEVER_PERSONAL_ID = r"^(?:[^@%:]*[A-Za-z_][^@%:]*|[0-9]+)$"
"""Pattern of ids that cannot be personal: with a letter and no sign of an address, or plain digits. Others may be harmless."""

_MAYBE = re.compile(MAYBE_PERSONAL)
_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]+(?:@|%40)(?:[^\W_][\w-]{0,62}\.)+[^\W\d_]{2,24}")
_IPV4 = re.compile(
    r"(?<![\d.])(?<![vV])(?<![vV]ersion[ /:=])(?<![A-Za-z]/)"  # no version, nor that of a product: Chrome/120.0.0.0
    r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\d|\.\d)"
)
_COLONS = re.compile(r"(?<![\w.:])[\w.]*:[\w.]*:[\w.:]*")
_PHONE = re.compile(
    r"\b(?P<uuid>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\b"
    r"|(?<![\w+])(?:"
    r"(?:\+|%2[Bb]|(?<!\d[./])00[ -]?)[1-9]\d{0,14}(?:[ ./-]?\(\d{1,5}\)\d{0,12}|[ ./-]\d{1,12}){0,7}"
    r"|(?<!\w-)(?<!\d[./])(?:"  # without a country
    r"(?!0\d[ /-]\d\d?[ /-](?:19|20)\d\d(?!\d))"  # dates
    r"(?:0[1-9]\d{0,4}[ /-]|\(0[1-9]\d{0,4}\)[ /-]?)\d{2,12}(?:[ /-]\d{1,12}){0,5}"
    r"|0[1-9](?:\.\d\d){4}"
    r"|(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}"
    r"))(?![^\W_xX])(?!-\w)"  # an extension may follow: x12
)
_MOST_DIGITS = 15  # E.164
_LAST_GROUP = re.compile(r"[ ./(-]+\d+\)?$")
_DECIMAL = re.compile(r"\+\d+\.\d+")
_ORDER = re.compile(r"0\d+(?:-\d+)+")
_REGION = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
_NUMBER = r"\s*(-?\d{1,3}(?:\.\d{1,15})?)\s*"
_POINT = re.compile(f"{_NUMBER},{_NUMBER}")


def maybe_personal(text: str) -> bool:
    """Whether a text is worth a closer look; False means that there is nothing to redact."""
    return _MAYBE.search(text) is not None


def redact(text: str) -> str:
    """Replace e-mail addresses, telephone numbers and IP addresses by ``[email]``, ``[phone]`` and ``[ip]``."""
    if not _MAYBE.search(text):
        return text
    text = _EMAIL.sub("[email]", text)
    text = _COLONS.sub(_without_ipv6, text)
    text = _IPV4.sub("[ip]", text)
    return _PHONE.sub(_without_phone, text)


def is_personal(identifier: str) -> bool:
    """Whether an id holds an e-mail address, or is a telephone number or an IP address.

    Refusing an id costs the event, so that here only-digits is a number even behind ``00``, and ``0123-456789`` an order.
    """
    if not _MAYBE.search(identifier):
        return False
    text = identifier.strip()
    if _EMAIL.search(text):
        return True
    if text.isdecimal() or _ORDER.fullmatch(text):
        return False
    return redact(text) in ("[phone]", "[ip]")


def coarse_location(value: object) -> str | None:
    """Make a location coarse: a point to a tenth of a degree (about 11 km), a region's ISO 3166 code as it is; else None.

    Args:
        value: ``"lat,lon"``, ``{"lat": .., "lon": ..}``, or a code such as ``"DE"`` or ``"DE-BY"``.
    """
    if isinstance(value, Mapping):
        numbers = [value.get(name) for name in ("lat", "lon")]
        lat, lon = (float(n) if isinstance(n, int | float) and not isinstance(n, bool) else 999.0 for n in numbers)
        return _tenth(lat, lon)
    if not isinstance(value, str):
        return None
    if found := _POINT.fullmatch(value):
        return _tenth(float(found[1]), float(found[2]))
    return value if _REGION.fullmatch(value) else None


def _tenth(lat: float, lon: float) -> str | None:
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        return None
    return f"{round(lat, 1) + 0.0:.1f},{round(lon, 1) + 0.0:.1f}"


def _without_ipv6(found: re.Match[str]) -> str:
    """A word with colons: an address, or one behind labels, as in ``ip:2001:db8::1``."""
    word = found[0]
    end = len(word.rstrip("."))
    if word[:end].endswith(":") and not word[:end].endswith("::"):
        end -= 1
    start = 0
    for _ in range(8):
        if end - start <= 45 and _is_ipv6(word[start:end]):
            return f"{word[:start]}[ip]{word[end:]}"
        start = word.find(":", start, end) + 1
        if not start:
            break
    return word


def _is_ipv6(text: str) -> bool:
    """Whether a text is an address that a person's machine can have; ``a::b`` is none."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    number = int(address)
    of_a_person = number >> 125 == 0b001 or number >> 121 == 0b1111110 or number >> 118 == 0b1111111010
    return of_a_person or address.ipv4_mapped is not None


def _without_phone(found: re.Match[str]) -> str:
    text = found[0]
    if found["uuid"]:
        return text
    head = text
    while sum(map(str.isdigit, head)) > _MOST_DIGITS and (last := _LAST_GROUP.search(head)):
        head = head[: last.start()]  # what follows the number is another one
    return f"[phone]{text[len(head) :]}" if _is_phone(head) else text


def _is_phone(text: str) -> bool:
    digits = "".join(filter(str.isdigit, text))
    if len(digits) > _MOST_DIGITS:
        return False
    if text == digits:  # 00 and a country, unless it is the number of an article
        return len(digits) >= 12 and not _is_gtin(digits)
    if text.startswith("+"):
        return len(digits) >= 8 and not _DECIMAL.fullmatch(text)
    return len(digits) >= (10 if text.startswith("00") else 9)


def _is_gtin(digits: str) -> bool:
    """Whether the last digit is the check digit of an EAN, a UPC or another GTIN."""
    if len(digits) not in (12, 13, 14):
        return False
    return sum(int(digit) * (1 if place % 2 == 0 else 3) for place, digit in enumerate(reversed(digits))) % 10 == 0
