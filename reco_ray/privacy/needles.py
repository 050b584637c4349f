"""Finding a user's id in bytes: as text, in JSON, in URLs, and in base64."""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

__all__ = ["Needle", "holders"]

_SHORT = 6
_WORD = rb"[0-9A-Za-z_\-]"
_QUOTE = rb"""(?:["'=/]|%22|%2F)"""
_URL_SAFE, _STANDARD = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}")


class Needle:
    """Looks for one id in bytes.

    An id of six characters or more that is no number is found wherever it is a word of its own. A shorter one or a number,
    which stands in any file by chance, is found where it is a value: between quotes or in a URL.
    """

    def __init__(self, user_id: str) -> None:
        forms = set(_forms(user_id))
        value = len(user_id) < _SHORT or user_id.isdigit()
        before = rb"(?<=[\"'=/])|(?<=%22)|(?<=%2F)" if value else rb"(?<!" + _WORD + rb")|(?<=%[0-9A-F]{2})|(?<=\\[nrt])"
        after = rb"(?=\\*" + _QUOTE + rb")" if value else rb"(?!" + _WORD + rb")"
        body = b"|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        self._forms, self._pattern = forms, re.compile(rb"(?:" + before + rb")(?:" + body + rb")" + after)
        encoded = {user_id.encode(), json.dumps(user_id)[1:-1].encode()}
        cores = [_core(text, shift) for text in encoded for shift in range(3) if len(text) >= _SHORT]
        self._cores = {*cores, *(core.translate(_URL_SAFE) for core in cores)}
        self.reach = 8 * max(map(len, forms)) + 64

    def within(self, data: bytes) -> bool:
        """Whether the id stands in ``data``."""
        if any(form in data for form in self._forms) and self._pattern.search(data):
            return True
        if not any(core in data for core in self._cores):
            return False
        return any(self._pattern.search(text) for token in _BASE64.findall(data) for text in self._decoded(token))

    def _decoded(self, token: bytes) -> Iterable[bytes]:
        """What a token of base64 stands for, wherever in it the first group of four begins."""
        if any(core in token for core in self._cores):
            letters = token.rstrip(b"=").translate(_STANDARD)
            for start in range(4):
                rest = letters[start : len(letters) - ((len(letters) - start) % 4 == 1)]
                yield base64.b64decode(rest + b"=" * (-len(rest) % 4))


def holders(parts: Iterable[bytes], needles: Mapping[str, Needle]) -> set[str]:
    """The users whose ids stand in bytes that come in parts, also across two of them."""
    found: set[str] = set()
    reach = max((needle.reach for needle in needles.values()), default=1)
    tail = b""
    for part in parts:
        data = tail + part
        found |= {user_id for user_id, needle in needles.items() if user_id not in found and needle.within(data)}
        tail = data[-reach:]
    return found


def _forms(user_id: str) -> Iterable[bytes]:
    yield user_id.encode()
    for ascii_only in (True, False):
        once = json.dumps(user_id, ensure_ascii=ascii_only)[1:-1]
        yield once.encode()
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1].encode()  # statistics in a log of Delta: JSON within JSON
    yield quote(user_id).encode()
    yield quote(user_id, safe="").encode()
    yield quote(quote(user_id, safe=""), safe="").encode()


def _core(text: bytes, shift: int) -> bytes:
    """The letters of base64 that only the id decides, when it begins ``shift`` bytes into a group of three."""
    letters = base64.b64encode(b"\0" * shift + text)
    first = -(-8 * shift // 6)
    last = (8 * (shift + len(text))) // 6
    return letters[first:last]
