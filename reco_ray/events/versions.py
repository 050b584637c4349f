"""Which schema versions of an event are read.

A minor version only adds: fields that this release does not know are kept in ``extra``. A major version may change what fields
mean, so that a newer one is refused, with the range that is read.
"""

import re

__all__ = ["CURRENT", "OLDEST", "requires", "unsupported"]

OLDEST, CURRENT = "1.0", "1.1"
_MAJOR = 1
_FORM = re.compile(r"(0|[1-9]\d{0,3})\.(0|[1-9]\d{0,3})")

# Type -> the minor version since which it must have fields that others need not, and these.
_REQUIRED = {"purchase": (1, ("order_id", "quantity", "price", "currency")), "refund": (1, ("order_id",))}


def unsupported(version: str) -> str | None:
    """Say why an event of this version is not read, or None."""
    found = _FORM.fullmatch(version)
    if found is None:
        return f"schema_version: found {version[:20]!r}, expected MAJOR.MINOR, such as {CURRENT!r}"
    if int(found[1]) != _MAJOR:
        return f"schema_version: found {version!r}, expected {OLDEST} to {_MAJOR}.x; send the fields as they are in {CURRENT}"
    return None


def requires(event_type: str, version: str) -> tuple[str, ...]:
    """Name the optional fields that an event of this type and (supported) version must have."""
    if event_type not in _REQUIRED:
        return ()
    since, names = _REQUIRED[event_type]
    return names if int(version.partition(".")[2]) >= since else ()
