"""The problems that /v1 answers with, RFC 9457: one factory each, so that kinds, titles and statuses stand in one place."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson
from pydantic import ValidationError

from reco_ray.rules import RulesRefused
from reco_ray.serve.http.contract import MAX_BODY_BYTES

__all__ = [
    "KEY_KINDS",
    "KINDS",
    "HttpProblem",
    "being_erased",
    "change_refused",
    "cursor_expired",
    "cursor_refused",
    "events_refused",
    "field_refused",
    "forbidden",
    "invalid",
    "item_not_kept",
    "method_not_allowed",
    "not_found",
    "not_ready",
    "overloaded",
    "rate_limited",
    "rules_changed",
    "rules_refused",
    "stage_failed",
    "too_large",
    "unauthorized",
    "unexpected",
    "unexplained",
    "unknown_item",
    "unknown_receipt",
    "unknown_request",
    "unknown_rules",
    "unknown_user",
]

# kind -> (status, title); the docs page lists them
KINDS: Mapping[str, tuple[int, str]] = {
    "invalid-json": (400, "The body is not JSON"),
    "invalid-header": (400, "A header cannot be used"),
    "unauthorized": (401, "A valid API key is needed"),
    "forbidden": (403, "The API key has not the scope of this call"),
    "not-found": (404, "There is no such resource"),
    "unknown-item": (404, "The item is not in the catalogue"),
    "method-not-allowed": (405, "The resource does not answer this method"),
    "being-erased": (409, "The user is being erased"),
    "change-refused": (409, "What runs does not allow the change"),
    "rules-changed": (409, "Other rules are in force than were expected"),
    "cursor-expired": (410, "The cursor has expired"),
    "too-large": (413, "The body is too large"),
    "invalid-request": (422, "The request does not fit the contract"),
    "rate-limited": (429, "The API key is used faster than it may be"),
    "unexpected": (500, "An unexpected error"),
    "not-ready": (503, "The service is not ready"),
    "overloaded": (503, "Too much to do just now"),
    "bus-unavailable": (503, "The bus does not take events just now"),
    "stage-unavailable": (503, "A stage that has no substitute failed or was late"),
}

KEY_KINDS = ("unauthorized", "forbidden", "rate-limited", "not-ready")  # of every call that needs a key


@dataclass(eq=False)
class HttpProblem(Exception):
    """A problem to answer with; raised anywhere below the router."""

    kind: str
    detail: str
    errors: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return KINDS[self.kind][0]

    def body(self, request_id: str) -> bytes:
        """Write the problem details; ``instance`` names the request."""
        found = {
            "type": f"/docs#{self.kind}",
            "title": KINDS[self.kind][1],
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:request:{request_id}",
            "errors": [{"field": name, "detail": detail} for name, detail in self.errors],
        }
        return orjson.dumps(found)


def invalid(exc: ValidationError) -> HttpProblem:
    """Say what is wrong with each field; a body that is no JSON is a problem of its own."""
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return HttpProblem("invalid-json", found[0]["msg"])
    errors = tuple((".".join(str(part) for part in each["loc"]), each["msg"]) for each in found[:20])
    return HttpProblem("invalid-request", f"{len(found)} field(s) cannot be used; see errors", errors)


def too_large() -> HttpProblem:
    """The body exceeds the limit."""
    return HttpProblem("too-large", f"expected at most {MAX_BODY_BYTES} bytes; send less", headers={"connection": "close"})


def unauthorized(detail: str, *, sent: bool = True) -> HttpProblem:
    """No key was sent, or one that does not work; RFC 6750 has an error code for the latter only."""
    challenge = 'Bearer error="invalid_token"' if sent else "Bearer"
    return HttpProblem("unauthorized", detail, headers={"www-authenticate": challenge})


def forbidden(needed: str, held: Iterable[str]) -> HttpProblem:
    """The key works, but not for this call."""
    detail = f"found a key for {', '.join(held)}, expected the scope {needed}; send a key that has it"
    return HttpProblem(
        "forbidden", detail, headers={"www-authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'}
    )


def rate_limited(rate: float, burst: int, wait_s: float) -> HttpProblem:
    """The key's bucket is empty for ``wait_s`` more."""
    detail = f"expected at most {rate:g} requests per second and {burst} at once from this key; try again later"
    return HttpProblem("rate-limited", detail, headers={"retry-after": str(max(1, math.ceil(wait_s)))})


def not_found(path: str) -> HttpProblem:
    """No call has this path."""
    return HttpProblem("not-found", f"found no call at {path[:200]!r}; /openapi.json lists them")


def method_not_allowed(method: str, allowed: str) -> HttpProblem:
    """The path exists for other methods."""
    return HttpProblem("method-not-allowed", f"found {method}, expected {allowed}", headers={"allow": allowed})


def unknown_item(item_id: str) -> HttpProblem:
    """Similar items of an item that the release does not know."""
    return HttpProblem("unknown-item", f"found no item {item_id!r} in the release that answered; send an id of its catalogue")


def cursor_refused() -> HttpProblem:
    """A cursor that was given to somebody else, or is not one of ours."""
    detail = "found one that was not given to this user, or was changed on the way; expected a next_cursor as it was answered"
    return field_refused("cursor", detail)


def cursor_expired(age_s: float, life_s: float) -> HttpProblem:
    """A cursor of long ago."""
    return HttpProblem(
        "cursor-expired", f"found a cursor {age_s:.0f} s old, expected at most {life_s:.0f} s; ask without cursor"
    )


def item_not_kept(item_id: str) -> HttpProblem:
    """An item was never put, was deleted, or is known to all releases for a week."""
    detail = f"found nothing kept of item {item_id!r}, expected one that was put since the releases were built; PUT it first"
    return HttpProblem("not-found", detail)


def unknown_receipt() -> HttpProblem:
    """No erasure has this id, or it ended long ago."""
    return HttpProblem("not-found", "found no receipt of this id; old ones are on record under root/reports/erasures only")


def unknown_request() -> HttpProblem:
    """The lake has no record of a request."""
    return HttpProblem(
        "not-found", "found no record of this request, expected one of the last 14 days; the newest come within seconds"
    )


def unexplained(what: str) -> HttpProblem:
    """A recorded request that cannot be run again."""
    return HttpProblem("not-found", f"found a request of {what}, expected a recommendation of a release that is there")


def unknown_user() -> HttpProblem:
    """No profile is kept of a user."""
    return HttpProblem("not-found", "found nothing kept of this user, expected a profile; PUT one here first")


def unknown_rules(version: int) -> HttpProblem:
    """A version of the rules that is not kept."""
    return HttpProblem("not-found", f"found no version {version} of the rules, expected one of the last 200; GET /v1/rules")


def rules_refused(exc: RulesRefused) -> HttpProblem:
    """A document that does not come into force; those in force stay."""
    errors = tuple(
        (".".join(part for part in (each.rule, each.field) if part), f"found {each.found}, allowed: {each.allowed}")
        for each in exc.problems[:20]
    )
    return HttpProblem("invalid-request", f"{len(exc.problems)} problem(s) in the rules, which stay as they were", errors)


def rules_changed(detail: str) -> HttpProblem:
    """Somebody else changed the rules meanwhile."""
    return HttpProblem("rules-changed", detail)


def field_refused(name: str, detail: str) -> HttpProblem:
    """A field that fits the contract and still cannot be used."""
    return HttpProblem("invalid-request", "1 field(s) cannot be used; see errors", ((name, detail),))


def change_refused(detail: str) -> HttpProblem:
    """Rollouts and traffic are not as the change expects them."""
    return HttpProblem("change-refused", detail)


def being_erased() -> HttpProblem:
    """Nothing of a user may be kept while their erasure runs."""
    return HttpProblem(
        "being-erased", "found an erasure of this user at work, expected none; send no more of them until it is done"
    )


def not_ready(detail: str) -> HttpProblem:
    """No release is loaded yet, or no keys were read."""
    return HttpProblem("not-ready", detail, headers={"retry-after": "1"})


def overloaded() -> HttpProblem:
    """The queue is too long for the request to be answered in time."""
    return HttpProblem(
        "overloaded", "this gateway has as many requests at work as it can answer in time", headers={"retry-after": "1"}
    )


def events_refused(reason: str, detail: str, retry_after_s: int) -> HttpProblem:
    """A batch of events cannot be taken now: the ``bus`` is away, or there is too much to do."""
    kind = "bus-unavailable" if reason == "bus" else "overloaded"
    return HttpProblem(kind, detail, headers={"retry-after": str(retry_after_s)})


def stage_failed(stage: str, reason: str) -> HttpProblem:
    """Recall or rerank gave nothing."""
    return HttpProblem("stage-unavailable", f"{stage} {reason}; try again", headers={"retry-after": "1"})


def unexpected() -> HttpProblem:
    """A programming error; the log has it under the request's id."""
    return HttpProblem("unexpected", "the error is in the log under this request's id")
