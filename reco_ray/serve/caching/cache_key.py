"""What makes two requests the same to the slate cache."""

import hashlib
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from reco_ray.events.personal import coarse_location
from reco_ray.hashing import user_digest
from reco_ray.serve.http.contract import RecommendationsBody
from reco_ray.serve.http.cursors import NOTHING_SHOWN

__all__ = ["SlateKey", "cache_key"]

_SORTED = orjson.OPT_SORT_KEYS
_ANONYMOUS = user_digest("")


class SlateKey(NamedTuple):
    """Names one answer; the first four fields tell answers apart, the others decide for what an answer may stand in.

    Attributes:
        user: `hashing.user_digest`, of "" for anonymous requests.
        variant: digest of all in the request that may change the answer.
        release, rules: what answers it. ``rules`` holds whatever else outside of the request shows in the answer.
        scope: surface, filters and the pages before; an answer of another scope never stands in.
        hidden: ids that must not come back whatever the release says: excluded ones and those of the session.
        excludes: whether the request names items to exclude.
    """

    user: str
    variant: str
    release: str
    rules: str
    scope: str
    k: int
    explain: bool
    hidden: tuple[str, ...]
    excludes: bool

    @property
    def anonymous(self) -> bool:
        """Whether the request names nobody."""
        return self.user == _ANONYMOUS

    @property
    def name(self) -> tuple[str, str, str, str]:
        """What tells answers apart."""
        return self[:4]

    @property
    def field(self) -> str:
        """The answer's name among its user's in the online store."""
        return f"{self.release}:{self.rules}:{self.variant}"

    @property
    def filtered(self) -> bool:
        """Whether the request filters, or asks for a later page."""
        return ":" in self.scope


def cache_key(body: RecommendationsBody, release: str, rules: str, shown: NDArray[np.uint64] = NOTHING_SHOWN) -> SlateKey:
    """Make the key of a request: 5 us.

    The order of filters, their values and excluded ids does not matter, that of the session does. Of the context, all
    four fields count: device, locale, surface, and the location as far as it is coarse.

    Args:
        rules: version of the rules, and whatever else outside of the request shows in the answer: "main" or "canary".
        shown: keys of the items of earlier pages.
    """
    exclude, session, context = body.exclude, body.session, body.context
    scope = body.surface
    if body.filters:  # no surface holds a colon
        filters = {name: sorted(values) for name, values in body.filters.items()}
        scope = f"{scope}:{_digest(orjson.dumps(filters, option=_SORTED))}"
    if shown.size:
        scope = f"{scope}:{_digest(shown.tobytes())}"
    place = coarse_location(context.location)
    asked = (context.device, context.locale, context.surface, place, body.k, body.explain, body.consent)
    shape = (scope, *asked, sorted(exclude), session)
    return SlateKey(
        user_digest(body.user_id),
        _digest(orjson.dumps(shape)),
        release,
        rules,
        scope,
        body.k,
        body.explain,
        exclude + session,
        bool(exclude),
    )


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
