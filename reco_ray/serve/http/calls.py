"""The calls that the gateway answers: what `asgi.py` dispatches and guards, and what `openapi.py` describes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from reco_ray.serve.http.contract import (
    Health,
    RankBody,
    ReadinessAnswer,
    RecommendationsAnswer,
    RecommendationsBody,
    ReleasesAnswer,
    SimilarItemsBody,
)
from reco_ray.serve.http.control_bodies import (
    FallbackAnswer,
    FallbackBody,
    FlagBody,
    FlagsAnswer,
    RolloutAnswer,
    RolloutBody,
    RolloutsAnswer,
)
from reco_ray.serve.http.erasure_bodies import ErasureAnswer
from reco_ray.serve.http.event_bodies import EventsAnswer, EventsBody
from reco_ray.serve.http.explanation_bodies import ExplanationAnswer
from reco_ray.serve.http.item_bodies import DeletedItemAnswer, ItemAnswer, ItemBody
from reco_ray.serve.http.rule_bodies import RulesAnswer, RulesBody
from reco_ray.serve.http.user_bodies import UserAnswer, UserBody
from reco_ray.store import Scope

__all__ = ["CALLS", "Call"]


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one path.

    Attributes:
        name: of its handler, of its metric label, and in OpenAPI.
        body: model of the JSON body, if there is one.
        answer: model of the JSON answer; None for other media.
        status: of the answer.
        path_field, query_fields: where a field, mostly of `RecommendationsBody`, stands instead of in a body.
        problems: kinds of `problems.KINDS` it may answer with, beside "unexpected" and, with a scope, `problems.KEY_KINDS`.
        scope: that a key needs to have for it; None where no key is needed.
        example: a body for the docs page.
    """

    name: str
    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    media: str = "application/json"
    path_field: str = ""
    query_fields: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    scope: Scope | None = None
    example: Mapping[str, object] = field(default_factory=dict)


_RANK_PROBLEMS = ("invalid-header", "invalid-request", "not-ready")
_SLATE_PROBLEMS = (*_RANK_PROBLEMS, "stage-unavailable")
_EXAMPLE_EVENT = {
    "event_id": "0198c0de-1",
    "schema_version": "1.1",
    "type": "click",
    "user_id": "42",
    "item_id": "1",
    "ts": "2026-05-01T12:00:00Z",
    "request_id": "the request_id of the slate",
    "position": 1,
}

CALLS = (
    Call(
        "recommend",
        "POST",
        "/v1/recommendations",
        "A slate for a user; without a user_id, for an anonymous one. The same with the answer's next_cursor as cursor gets "
        "the next page.",
        body=RecommendationsBody,
        answer=RecommendationsAnswer,
        problems=("invalid-json", "too-large", "cursor-expired", *_SLATE_PROBLEMS),
        scope=Scope.recommend,
        example={"user_id": "42", "k": 5, "filters": {"category": ["Comedy"]}},
    ),
    Call(
        "recommend_user",
        "GET",
        "/v1/recommendations/{user_id}",
        "The same for a user by id, with an ETag.",
        answer=RecommendationsAnswer,
        path_field="user_id",
        query_fields=("k", "surface", "consent", "cursor"),
        problems=("cursor-expired", *_SLATE_PROBLEMS),
        scope=Scope.recommend,
    ),
    Call(
        "similar_items",
        "POST",
        "/v1/similar-items",
        "The nearest items of an item.",
        body=SimilarItemsBody,
        answer=RecommendationsAnswer,
        problems=("invalid-json", "too-large", "unknown-item", *_SLATE_PROBLEMS),
        scope=Scope.recommend,
        example={"item_id": "1", "k": 5},
    ),
    Call(
        "rank",
        "POST",
        "/v1/rank",
        "The caller's own items (search results, a campaign) ranked for a user. Blocked and unavailable items drop out; items "
        "that the user has had do not; items that the release does not know come last, with the reason unknown_item.",
        body=RankBody,
        answer=RecommendationsAnswer,
        scope=Scope.recommend,
        problems=("invalid-json", "too-large", *_RANK_PROBLEMS),
        example={"user_id": "42", "query": "space", "items": [{"item_id": "1", "score": 7.5}, {"item_id": "2", "score": 6.1}]},
    ),
    Call(
        "explanation",
        "GET",
        "/v1/explanations/{request_id}",
        "Why each item of an answered recommendation was shown, and with ?item= what became of that one: the stage at which it "
        "was lost, and by how much. The record of the answer is in the lake some seconds after it; the stages are run again.",
        answer=ExplanationAnswer,
        path_field="request_id",
        query_fields=("item",),
        problems=("invalid-request", "not-found", "not-ready"),
        scope=Scope.recommend,
    ),
    Call(
        "events",
        "POST",
        "/v1/events",
        "Up to 1,000 events. When the answer comes each event that it does not reject is durable. Events are known by their "
        "event_id: the same batch may be sent again after an error or no answer, and each event is stored once. 503 refuses a "
        "batch as a whole; send it again after Retry-After.",
        body=EventsBody,
        answer=EventsAnswer,
        problems=("invalid-json", "too-large", "invalid-request", "bus-unavailable", "overloaded"),
        scope=Scope.events,
        example={"events": [_EXAMPLE_EVENT]},
    ),
    Call(
        "event_schema",
        "GET",
        "/v1/events/schema",
        "What an event may hold: a JSON Schema of the current version.",
        media="application/schema+json",
    ),
    Call(
        "releases",
        "GET",
        "/v1/releases",
        "What runs, and with which share of the users.",
        answer=ReleasesAnswer,
        scope=Scope.admin,
    ),
    Call(
        "rollouts",
        "GET",
        "/v1/rollouts",
        "Where the last rollout stands, and the last ?n= audit records: who did what to the traffic, when and why.",
        answer=RolloutsAnswer,
        query_fields=("n",),
        problems=("invalid-request", "not-ready"),
        scope=Scope.admin,
    ),
    Call(
        "change_rollout",
        "POST",
        "/v1/rollouts",
        "Start, pause, resume or abort a rollout, with an audit record. A start needs a release that is loaded beside the one "
        "with all the traffic, and that its gates let in; `reco rollouts start` sees to both. Gateways follow within "
        "a second or so.",
        body=RolloutBody,
        answer=RolloutAnswer,
        problems=("invalid-json", "too-large", "invalid-request", "change-refused", "not-ready"),
        scope=Scope.admin,
        example={"action": "pause", "author": "ana", "why": "a holiday"},
    ),
    Call(
        "fall_back",
        "POST",
        "/v1/fallback",
        "Send all traffic to the champion, or to another loaded release, at once, and end the rollout that runs.",
        body=FallbackBody,
        answer=FallbackAnswer,
        problems=("invalid-json", "too-large", "invalid-request", "change-refused", "not-ready"),
        scope=Scope.admin,
        example={"author": "ana", "why": "slates are odd"},
    ),
    Call(
        "flags",
        "GET",
        "/v1/flags",
        "What can be switched off in every release, and what is, by whom and why.",
        answer=FlagsAnswer,
        problems=("not-ready",),
        scope=Scope.admin,
    ),
    Call(
        "switch_flag",
        "POST",
        "/v1/flags",
        "Switch a source, the ranker, exploration or a rung off or on again, with an audit record. Gateways and stages follow "
        "within a second or two; what is as wished stays.",
        body=FlagBody,
        answer=FlagsAnswer,
        problems=("invalid-json", "too-large", "invalid-request", "not-ready"),
        scope=Scope.admin,
        example={"name": "source.covisit", "off": True, "author": "ana", "why": "its data are stale"},
    ),
    Call(
        "rules",
        "GET",
        "/v1/rules",
        "The rules in force, who put them and when; with ?version= an earlier one of the last 200.",
        answer=RulesAnswer,
        query_fields=("version",),
        problems=("invalid-request", "not-found", "not-ready"),
        scope=Scope.admin,
    ),
    Call(
        "put_rules",
        "POST",
        "/v1/rules",
        "Bring rules into force, in place of those before. They are checked, and tried on requests of the last hour: what "
        "contradicts itself, names what the release does not know, or would leave somebody with an empty slate is refused, and "
        "the rules in force stay. When the answer comes they are durable; each replica has them within a second or so.",
        body=RulesBody,
        answer=RulesAnswer,
        problems=("invalid-json", "too-large", "invalid-request", "rules-changed", "not-ready"),
        scope=Scope.admin,
        example={
            "author": "ana",
            "note": "one film of a kind at the top",
            "rules": [{"name": "mixed-top", "kind": "cap", "per": "category", "most": 2, "window": 5}],
        },
    ),
    Call(
        "put_item",
        "PUT",
        "/v1/items/{item_id}",
        "Keep an item, in place of what was kept of it before. When the answer comes it is durable; within a second or so each "
        "replica brings a new item by what is said of it. Of one that its release knows, title and availability change then, "
        "the rest with the next release. The same again changes nothing.",
        body=ItemBody,
        answer=ItemAnswer,
        path_field="item_id",
        problems=("invalid-json", "too-large", "invalid-request", "not-found", "not-ready"),
        scope=Scope.events,
        example={"title": "Alien", "categories": ["Horror", "Sci-Fi"], "year": 1979, "text": "In space.", "price": 9.99},
    ),
    Call(
        "item",
        "GET",
        "/v1/items/{item_id}",
        "What was put of an item, until a week after every release in use knows it.",
        answer=ItemAnswer,
        path_field="item_id",
        problems=("invalid-request", "not-found", "not-ready"),
        scope=Scope.events,
    ),
    Call(
        "delete_item",
        "DELETE",
        "/v1/items/{item_id}",
        "Show an item no more, in whatever answer, kept ones included: from now on in the replica that answers, in all others "
        "within a second or so. It comes back when it is put again.",
        answer=DeletedItemAnswer,
        path_field="item_id",
        problems=("invalid-request", "not-ready"),
        scope=Scope.events,
    ),
    Call(
        "describe_user",
        "PUT",
        "/v1/users/{user_id}",
        "Keep attributes and interests of a user, in place of those kept before. When the answer comes they are durable. "
        "Slates made with other interests are gone, from the caches of other gateway replicas within a second or so.",
        body=UserBody,
        answer=UserAnswer,
        path_field="user_id",
        problems=("invalid-json", "too-large", "invalid-request", "being-erased", "not-ready"),
        scope=Scope.events,
        example={"attributes": {"plan": "family"}, "interests": {"categories": ["Comedy"], "items": ["1"]}},
    ),
    Call(
        "user",
        "GET",
        "/v1/users/{user_id}",
        "Attributes and interests kept of a user.",
        answer=UserAnswer,
        path_field="user_id",
        problems=("invalid-request", "not-found", "not-ready"),
        scope=Scope.events,
    ),
    Call(
        "erase_user",
        "DELETE",
        "/v1/users/{user_id}",
        "Erase a user everywhere. From now on their events are refused and their requests are those of nobody; jobs/erase_user "
        "removes what is stored. The receipt tells how far it is; while it runs, asking again gives the same one.",
        answer=ErasureAnswer,
        status=202,
        path_field="user_id",
        problems=("invalid-request", "not-ready"),
        scope=Scope.admin,
    ),
    Call(
        "erasure",
        "GET",
        "/v1/erasures/{receipt_id}",
        "The receipt of an erasure: what was found and removed where, and when.",
        answer=ErasureAnswer,
        path_field="receipt_id",
        problems=("not-found", "not-ready"),
        scope=Scope.admin,
    ),
    Call("healthz", "GET", "/healthz", "Whether the process is alive.", answer=Health),
    Call("readyz", "GET", "/readyz", "Whether requests can be answered; 503 says what is missing.", answer=ReadinessAnswer),
    Call("openapi", "GET", "/openapi.json", "This document.", media="application/json"),
    Call("docs", "GET", "/docs", "The page for people.", media="text/html"),
)
