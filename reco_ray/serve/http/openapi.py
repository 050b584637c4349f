"""The OpenAPI document and the page for people, both made from the table of calls.

The page is one self-contained HTML file: it works where there is no internet.
"""

import functools
import html
import json
import shlex
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from reco_ray import __version__
from reco_ray.serve.http.calls import CALLS, Call
from reco_ray.serve.http.contract import MAX_ID_BYTES, Problem, RecommendationsBody
from reco_ray.serve.http.problems import KEY_KINDS, KINDS

__all__ = ["document", "page", "schema"]

_REF = "#/components/schemas/{model}"
_ID = {"type": "string", "maxLength": 64}
_ITEM = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}
_PLAIN = {
    "n": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20},
    "request_id": {"type": "string", "maxLength": 128},
    "item": _ITEM,
    "item_id": _ITEM,
}
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "reco_<key_id>_<secret>",
    "description": "An API key that has the scope named with the call. Asked for unless the gateway runs with serve.auth=off.",
}


@functools.cache
def document() -> bytes:
    """Return ``/openapi.json``."""
    return orjson.dumps(schema())


@functools.cache
def schema() -> dict[str, Any]:
    """Make the OpenAPI 3.1 document."""
    models = {m: None for call in CALLS for m in (call.body, call.answer) if m is not None} | {Problem: None}
    sides = [(m, "validation" if m.__name__.endswith("Body") else "serialization") for m in models]
    _, definitions = models_json_schema(sides, ref_template=_REF)  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {"title": "reco_ray", "version": __version__, "description": "Recommendations and events over HTTP."},
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": {"key": _KEY}},
    }


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": call.name, "summary": call.summary, "responses": _responses(call)}
    parameters = [_parameter(call.path_field, "path")] if call.path_field else []
    parameters += [_parameter(name, "query") for name in call.query_fields]
    if "invalid-header" in call.problems:
        budget = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
        parameters.append({"name": "X-Request-Timeout-Ms", "in": "header", "required": False, "schema": budget})
    if parameters:
        operation["parameters"] = parameters
    if call.scope is not None:
        operation["security"] = [{"key": [call.scope.value]}]
    if call.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(call.body)}}}
    return operation


def _responses(call: Call) -> dict[str, Any]:
    answer = _ref(call.answer) if call.answer is not None else {"type": "object" if call.media.endswith("json") else "string"}
    found: dict[str, Any] = {str(call.status): {"description": "The answer.", "content": {call.media: {"schema": answer}}}}
    if call.name == "recommend_user":
        found["304"] = {"description": "The slate is the one that If-None-Match names."}
    if call.name == "readyz":
        found["503"] = {"description": "Not ready.", "content": {call.media: {"schema": answer}}}
    for kind in dict.fromkeys((*call.problems, *(KEY_KINDS if call.scope is not None else ()), "unexpected")):
        status, title = KINDS[kind]
        at = found.setdefault(str(status), {"content": {"application/problem+json": {"schema": _ref(Problem)}}})
        at["description"] = f"{at['description']}; {title}" if "description" in at else title
    return dict(sorted(found.items()))


def _parameter(name: str, where: str) -> dict[str, Any]:
    """Describe a field that stands in the path or the query: one of `RecommendationsBody`, or an id of ours."""
    described = dict(RecommendationsBody.model_json_schema()["properties"].get(name, _PLAIN.get(name, _ID)))
    if where == "path":
        described.pop("default", None)
        described["minLength"] = 1
    return {"name": name, "in": where, "required": where == "path", "schema": described}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def page(base: str, *, keys: bool) -> bytes:
    """Return ``/docs``: each call with its fields and a curl line that works against ``base``.

    Args:
        keys: whether the gateway asks for API keys; then the lines send the one in ``$RECO_KEY``.
    """
    calls = "".join(_section(call, base, keys) for call in CALLS)
    kinds = "".join(f'<tr id="{kind}"><td>{kind}<td>{status}<td>{title}' for kind, (status, title) in KINDS.items())
    return _PAGE.format(version=__version__, calls=calls, kinds=kinds, keys=_KEYS_ON if keys else _KEYS_OFF).encode()


def _section(call: Call, base: str, keys: bool) -> str:
    path = call.path.replace("{user_id}", "42?k=5" if call.query_fields else "42").replace("{item_id}", "1")
    path = path.replace("{request_id}", "REQUEST_ID?item=1")
    method = f" -X {call.method}" if call.method not in ("GET", "POST") else ""
    data = f" \\\n  -d {shlex.quote(json.dumps(call.example))}" if call.body is not None else ""
    key = ' \\\n  -H "Authorization: Bearer $RECO_KEY"' if keys and call.scope is not None else ""
    curl = html.escape(f"curl{method} {shlex.quote(base + path)}{key}{data}")
    scope = f" Scope: <code>{call.scope}</code>." if call.scope is not None else ""
    fields = _fields(call.body) if call.body is not None else ""
    head = f"<h2><b>{call.method}</b> {html.escape(call.path)}</h2><p>{html.escape(call.summary)}{scope}"
    return f"{head}<pre>{curl}</pre>{fields}"


def _fields(model: type[BaseModel]) -> str:
    rows = []
    for name, described in model.model_json_schema()["properties"].items():
        default = "required" if "default" not in described else json.dumps(described["default"])
        kinds = [each for each in described.get("anyOf", [described]) if each.get("type") != "null"]
        kind = " or ".join(each.get("type") or each.get("$ref", "").rsplit("/", 1)[-1] for each in kinds)
        rows.append(f"<tr><td>{name}<td>{kind}<td>{html.escape(default)}<td>{html.escape(described.get('description', ''))}")
    return f"<table><tr><th>field<th>type<th>default<th>meaning{''.join(rows)}</table>"


_KEYS_ON = (
    "Calls with a scope need an API key that has it, sent as <code>Authorization: Bearer &lt;key&gt;</code>. Each gateway "
    "replica counts a key's requests per second for itself; beyond the limit it answers 429 with <code>Retry-After</code>."
)
_KEYS_OFF = "API keys are off here: the scopes named below are not asked for."

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>reco_ray API</title>
<style>
:root{{color-scheme:light dark}} body{{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}}
h2{{font-size:1.1rem;margin-top:2.5rem;border-top:1px solid #8884;padding-top:1rem}} h2 b{{color:#2a7}}
pre{{background:#8882;padding:.8rem;overflow:auto;border-radius:6px}} table{{border-collapse:collapse;width:100%}}
td,th{{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8883;vertical-align:top}}
</style>
<h1>reco_ray API <small>{version}</small></h1>
<p>JSON over HTTP; the machine-readable contract is <a href="/openapi.json">/openapi.json</a>. Errors are problem details
(RFC 9457); every slate carries its <code>request_id</code>, its release, and in <code>degraded</code> what is less than
full in it.
A budget in milliseconds may be given as <code>X-Request-Timeout-Ms</code>, an id as <code>X-Request-Id</code>.
<p>{keys}
{calls}
<h2>Problems</h2><table><tr><th>type<th>status<th>title{kinds}</table></html>
"""
