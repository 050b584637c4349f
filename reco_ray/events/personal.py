"""Personal data where none should be: found in free text and redacted, found as an id and refused; locations made coarse.

Patterns are narrow: a number of an order, an EAN or a version is no telephone number and no address. A telephone number has a
``+`` or ``00`` and a country, or groups set apart by spaces, dots, slashes, hyphens or brackets; a run of digits is a number.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import TypeGuard

__all__ = ["MAYBE_PERSONAL", "NEVER_PERSONAL_ID", "coarse_location", "is_personal", "maybe_personal", "redact"]

_EMAIL = re.compile(r"[A-Za-z0-9._%+'-]{1,64}(?:@|%40)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.)+[A-Za-z]{2,24}")
_IPV4 = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w+])(?:"
    r"(?:\+|00)[1-9]\d{0,2}[ ./-]?(?:\(0\)[ ./-]?)?(?:\(?\d{1,5}\)?[ ./-]?){1,5}\d{2,}"
    r"|\(?0\d{1,5}\)?[ /-](?:\d{2,}[ /-]?)+\d{2,}"
    r"|\(?[2-9]\d{2}\)?[ -][2-9]\d{2}[ -]\d{4}"
    r")(?!\w)"
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
MAYBE_PERSONAL = r"@|%40|\d[\d ./()-]{5}|\d\.\d|:[0-9A-Fa-f]{0,4}:"
"""Pattern that occurs in every text with something personal, and in others; without lookaround, as engines for columns want."""

NEVER_PERSONAL_ID = r"^(?:[^@%:]*[A-Za-z_][^@%:]*|0?[1-9][0-9]*|0)$"
"""Pattern of ids that cannot be personal: a letter and no sign of an address, or a plain number. Others may be harmless too."""

_MAYBE = re.compile(MAYBE_PERSONAL)
_COUNTRY = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
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
    text = _IPV6.sub(_if(_is_ipv6, "[ip]"), text)
    text = _IPV4.sub("[ip]", text)
    return _PHONE.sub(_if(_is_phone, "[phone]"), text)


def is_personal(identifier: str) -> bool:
    """Whether an id is itself an e-mail address, a telephone number or an IP address."""
    if not _MAYBE.search(identifier):
        return False
    return redact(identifier.strip()) in ("[email]", "[phone]", "[ip]")


def coarse_location(value: object) -> str | None:
    """Make a location coarse: a point to a tenth of a degree (about 11 km), a region's ISO 3166 code as it is; else None.

    Args:
        value: ``"lat,lon"``, ``{"lat": .., "lon": ..}``, or a code such as ``"DE"`` or ``"DE-BY"``.
    """
    if isinstance(value, dict):
        lat, lon = value.get("lat"), value.get("lon")
        if (
            isinstance(lat, bool)
            or not isinstance(lat, int | float)
            or isinstance(lon, bool)
            or not isinstance(lon, int | float)
        ):
            return None
        return _tenth(float(lat), float(lon))
    if not isinstance(value, str):
        return None
    if found := _POINT.fullmatch(value):
        return _tenth(float(found[1]), float(found[2]))
    return value if _COUNTRY.fullmatch(value) else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tenth(lat: float, lon: float) -> str | None:
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        return None
    return f"{round(lat, 1) + 0.0:.1f},{round(lon, 1) + 0.0:.1f}"


def _if(test: Callable[[str], bool], mark: str) -> Callable[[re.Match[str]], str]:
    return lambda found: mark if test(found[0]) else found[0]


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6 and text != "::"
    except ValueError:
        return False


def _is_phone(text: str) -> bool:
    digits = sum(c.isdigit() for c in text)
    return 7 <= digits <= 15 and not _DATE.fullmatch(text)
