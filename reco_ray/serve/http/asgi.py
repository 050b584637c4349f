"""HTTP: one table of calls, dispatched as a plain ASGI application.

FastAPI's routing takes 55 us a request here and with models in its signatures 355 us, this 8 us (measured with the same
body and answer); the table also gives the OpenAPI document (`openapi.py`), so that the two cannot disagree.
"""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic import ValidationError

from reco_ray.privacy import Receipt
from reco_ray.rules import RulesRefused
from reco_ray.rules import parse as parse_rules
from reco_ray.serve.events.backpressure import EventsRefused
from reco_ray.serve.guard.gate import Gate
from reco_ray.serve.http import openapi, problems
from reco_ray.serve.http.answers import Answer, server_timing
from reco_ray.serve.http.calls import CALLS, Call
from reco_ray.serve.http.contract import (
    Health,
    RankBody,
    RecommendationsBody,
    SimilarItemsBody,
)
from reco_ray.serve.http.control_handlers import Control, control_handlers
from reco_ray.serve.http.event_bodies import parse_events, published_schema
from reco_ray.serve.http.explanation_bodies import AskedItem
from reco_ray.serve.http.item_bodies import DeletedItemAnswer, ItemAnswer, ItemBody, NamedItem
from reco_ray.serve.http.messages import Handler, Header, Incoming, Receive, Reply, query_of, reply_of
from reco_ray.serve.http.ports import Erasures, Events, Explanations, Items, Profiles, Rules, Service
from reco_ray.serve.http.problems import HttpProblem
from reco_ray.serve.http.rule_bodies import AskedVersion, RulesBody, parted
from reco_ray.serve.http.user_bodies import DescribedUser, UserAnswer, UserBody
from reco_ray.serve.served import Served

__all__ = ["HttpApp"]

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class HttpApp:
    """The ASGI application.

    Args:
        deadline_ms: budget of a request that names none in ``X-Request-Timeout-Ms``.
        max_deadline_ms: what that header may ask for at most.
        record: told of each answered request.
        gate: asked before each call that has a scope; None lets everybody pass.
        erasures, profiles, items, rules: note and show erasures, what is said of users and items, and rules; None where there
            is no store.
        behind: whether the event loop has fallen so far behind that calls with a scope are refused unread.
        events: takes events; None where there is no bus.
        explanations: of answered requests; None where there is no lake.
        control: starts and ends rollouts, and switches flags; None where there is no store.
        expose: told of each decision once it is answered.
    """

    def __init__(
        self,
        service: Service,
        *,
        deadline_ms: int,
        max_deadline_ms: int,
        record: Callable[[Served], None] | None = None,
        gate: Gate | None = None,
        erasures: Erasures | None = None,
        profiles: Profiles | None = None,
        items: Items | None = None,
        rules: Rules | None = None,
        behind: Callable[[], bool] = lambda: False,
        events: Events | None = None,
        explanations: Explanations | None = None,
        control: Control | None = None,
        expose: Callable[[str, Answer], None] | None = None,
    ) -> None:
        self._service, self._record, self._gate, self._behind = service, record, gate, behind
        self._erasures, self._profiles, self._events, self._expose = erasures, profiles, events, expose
        self._items, self._rules = items, rules
        self._explanations = explanations
        self._deadline_ms, self._max_deadline_ms = deadline_ms, max_deadline_ms
        self._exact = {(call.method, call.path): call for call in CALLS if "{" not in call.path}
        self._prefixed = [call for call in CALLS if "{" in call.path]
        self._handlers: Mapping[str, Handler] = {
            **control_handlers(control),
            "recommend": self._recommend,
            "recommend_user": self._recommend_user,
            "similar_items": self._similar,
            "rank": self._rank,
            "put_item": self._put_item,
            "item": self._item,
            "delete_item": self._delete_item,
            "rules": self._show_rules,
            "put_rules": self._put_rules,
            "describe_user": self._describe_user,
            "user": self._user,
            "erase_user": self._erase_user,
            "erasure": self._erasure,
            "explanation": self._explanation,
            "events": self._take_events,
            "event_schema": self._event_schema,
            "releases": self._releases,
            "healthz": self._healthz,
            "readyz": self._readyz,
            "openapi": self._openapi,
            "docs": self._docs,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or follow the server's start and end."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"found a {scope['type']} connection, expected http")
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        name = "unknown"
        try:
            call, tail = self._find(scope)
            name = call.name
            key_id = ""
            if call.scope is not None:
                if self._behind():
                    raise problems.overloaded()
                if self._gate is not None:
                    key_id = self._gate.admit(headers.get(b"authorization"), call.scope)
            incoming = Incoming(scope, headers, request_id, tail, receive, self._budget_s(headers), key_id)
            reply = await self._handlers[name](incoming)
        except HttpProblem as exc:
            reply = _problem(exc, request_id)
        except ValidationError as exc:
            reply = _problem(problems.invalid(exc), request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            reply = _problem(problems.unexpected(), request_id)
        start: list[Header] = [(b"content-type", reply.media), (b"content-length", b"%d" % len(reply.body)), *reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": start})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})
        if self._expose is not None and reply.answer is not None and scope["method"] != "HEAD":
            self._expose(name, reply.answer)
        if self._record is not None:
            served = Served(request_id, name, reply.status, (time.perf_counter() - started) * 1e3)
            if reply.answer is not None:
                reply.answer.describe(served)
            served.traceparent = headers.get(b"traceparent")
            self._record(served)

    def _find(self, scope: Scope) -> tuple[Call, str]:
        """Find the call of a path, and what stands for the path's parameter."""
        method, path = ("GET" if scope["method"] == "HEAD" else scope["method"]), scope["path"]
        call = self._exact.get((method, path))
        if call is not None:
            return call, ""
        raw = scope.get("raw_path") or path.encode()
        allowed = {each.method for each in CALLS if each.path == path}
        for each in self._prefixed:
            stem = each.path[: each.path.index("{")].encode()
            tail = raw[len(stem) :]
            if raw.startswith(stem) and tail and b"/" not in tail:  # an id may hold an escaped slash: %2F
                if each.method == method:
                    return each, unquote(tail.decode("latin-1"))
                allowed.add(each.method)
        if allowed:
            raise problems.method_not_allowed(method, ", ".join(sorted(allowed)))
        raise problems.not_found(path)

    def _budget_s(self, headers: Mapping[bytes, bytes]) -> float:
        given = headers.get(b"x-request-timeout-ms")
        if given is None:
            return self._deadline_ms / 1e3
        if not given.isdigit() or not 1 <= len(given) <= 9 or int(given) < 1:
            found = given[:40].decode("latin-1")
            raise HttpProblem("invalid-header", f"X-Request-Timeout-Ms: found {found!r}, expected whole milliseconds from 1")
        return min(int(given), self._max_deadline_ms) / 1e3

    async def _recommend(self, incoming: Incoming) -> Reply:
        body = RecommendationsBody.model_validate_json(await incoming.body(), strict=True)
        return _slate(await self._service.recommend(body, incoming.request_id, incoming.budget_s))

    async def _recommend_user(self, incoming: Incoming) -> Reply:
        fields = query_of(incoming, ("k", "surface", "consent", "cursor"))
        body = RecommendationsBody.model_validate({"user_id": incoming.tail, **fields})
        answer = await self._service.recommend(body, incoming.request_id, incoming.budget_s)
        reply = _slate(answer)
        etag = answer.slate.etag.encode()
        reply.headers += [(b"etag", etag), (b"cache-control", b"private, max-age=0, must-revalidate")]
        wanted = incoming.headers.get(b"if-none-match", b"")
        if wanted == b"*" or etag in [tag.strip().removeprefix(b"W/") for tag in wanted.split(b",")]:
            reply.status, reply.body = 304, b""
        return reply

    async def _similar(self, incoming: Incoming) -> Reply:
        body = SimilarItemsBody.model_validate_json(await incoming.body(), strict=True)
        return _slate(await self._service.similar(body, incoming.request_id, incoming.budget_s))

    async def _rank(self, incoming: Incoming) -> Reply:
        body = RankBody.model_validate_json(await incoming.body(), strict=True)
        return _slate(await self._service.rank(body, incoming.request_id, incoming.budget_s))

    async def _put_item(self, incoming: Incoming) -> Reply:
        item_id = _item_id(incoming)
        body = ItemBody.model_validate_json(await incoming.body(), strict=True)
        return reply_of(200, ItemAnswer.of(await self._known_items().put(item_id, body), body.item()))

    async def _item(self, incoming: Incoming) -> Reply:
        return reply_of(200, ItemAnswer.of(*await self._known_items().show(_item_id(incoming))))

    async def _delete_item(self, incoming: Incoming) -> Reply:
        item_id = _item_id(incoming)
        return reply_of(200, DeletedItemAnswer(item_id=item_id, version=await self._known_items().delete(item_id)))

    def _known_items(self) -> Items:
        if self._items is None:
            raise problems.not_ready("this gateway has no store for items")
        return self._items

    async def _show_rules(self, incoming: Incoming) -> Reply:
        query = query_of(incoming, ("version",))
        version = AskedVersion.model_validate(query).version if query else 0
        return reply_of(200, await self._known_rules().show(version))

    async def _put_rules(self, incoming: Incoming) -> Reply:
        raw = await incoming.body()
        try:
            rules, rest = parted(orjson.loads(raw))
        except orjson.JSONDecodeError as exc:
            raise HttpProblem("invalid-json", str(exc)) from exc
        body = RulesBody.model_validate_json(orjson.dumps(rest), strict=True)
        try:
            document = parse_rules(rules)
        except RulesRefused as exc:
            raise problems.rules_refused(exc) from exc
        return reply_of(200, await self._known_rules().put(document, body))

    def _known_rules(self) -> Rules:
        if self._rules is None:
            raise problems.not_ready("this gateway has no store for rules")
        return self._rules

    async def _describe_user(self, incoming: Incoming) -> Reply:
        user_id = DescribedUser.model_validate({"user_id": incoming.tail}).user_id
        body = UserBody.model_validate_json(await incoming.body(), strict=True)
        return reply_of(200, UserAnswer.of(await self._known_profiles().keep(user_id, body)))

    async def _user(self, incoming: Incoming) -> Reply:
        return reply_of(200, UserAnswer.of(await self._known_profiles().show(_user_id(incoming))))

    def _known_profiles(self) -> Profiles:
        if self._profiles is None:
            raise problems.not_ready("this gateway has no store for profiles")
        return self._profiles

    async def _erase_user(self, incoming: Incoming) -> Reply:
        return _receipt(202, await self._known_erasures().erase(_user_id(incoming)))

    async def _erasure(self, incoming: Incoming) -> Reply:
        return _receipt(200, await self._known_erasures().receipt(incoming.tail))

    def _known_erasures(self) -> Erasures:
        if self._erasures is None:
            raise problems.not_ready("this gateway has no store for erasures")
        return self._erasures

    async def _explanation(self, incoming: Incoming) -> Reply:
        if self._explanations is None:
            raise problems.not_ready("this gateway has no lake to explain from")
        query = query_of(incoming, ("item",))
        item_id = AskedItem.model_validate(query).item if query else ""
        found = await self._explanations.explain(incoming.tail, item_id)
        return Reply(200, orjson.dumps(found), [(b"cache-control", b"no-store")])

    async def _take_events(self, incoming: Incoming) -> Reply:
        if self._events is None:
            raise problems.not_ready("this gateway has no event bus")
        try:
            return Reply(200, orjson.dumps(await self._events.take(parse_events(await incoming.body()))), [])
        except EventsRefused as exc:
            raise problems.events_refused(exc.reason, str(exc), exc.retry_after_s) from exc

    async def _event_schema(self, incoming: Incoming) -> Reply:
        return Reply(200, published_schema(), [], b"application/schema+json")

    async def _releases(self, incoming: Incoming) -> Reply:
        return reply_of(200, self._service.releases())

    async def _healthz(self, incoming: Incoming) -> Reply:
        return reply_of(200, Health())

    async def _readyz(self, incoming: Incoming) -> Reply:
        found = await self._service.readiness()
        if self._gate is not None and not self._gate.ready:
            found = found.model_copy(update={"ready": False, "missing": [*found.missing, "API keys"]})
        return reply_of(200 if found.ready else 503, found)

    async def _openapi(self, incoming: Incoming) -> Reply:
        return Reply(200, openapi.document(), [])

    async def _docs(self, incoming: Incoming) -> Reply:
        host = incoming.headers.get(b"host", b"localhost").decode("latin-1")
        page = openapi.page(f"{incoming.scope.get('scheme', 'http')}://{host}", keys=self._gate is not None)
        return Reply(200, page, [], b"text/html; charset=utf-8")


def _user_id(incoming: Incoming) -> str:
    return RecommendationsBody.model_validate({"user_id": incoming.tail}).user_id


def _item_id(incoming: Incoming) -> str:
    return NamedItem.model_validate({"item_id": incoming.tail}).item_id


def _slate(answer: Answer) -> Reply:
    headers = [(b"server-timing", server_timing(answer.timings))]
    return Reply(200, answer.body(time.time()), headers, answer=answer)


def _receipt(status: int, receipt: Receipt) -> Reply:
    return Reply(status, orjson.dumps(receipt.to_json()), [(b"cache-control", b"no-store")])


def _problem(problem: HttpProblem, request_id: str) -> Reply:
    headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    return Reply(problem.status, problem.body(request_id), headers, b"application/problem+json")


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
