"""Where profiling is switched off a request is one of nobody, whoever sends it, and so is all that is kept of it."""

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ladder import World, run
from test_serve_exposures import Recorded

from reco_ray.compose import compose_config
from reco_ray.config import UnprofiledConfig
from reco_ray.errors import ConfigError
from reco_ray.serve.caching.cache_key import cache_key
from reco_ray.serve.guard.profiling import region_of, unprofiled
from reco_ray.serve.http.contract import Context, RecommendationsBody
from reco_ray.serve.render import render
from reco_ray.types import EMPTY_USER

OFF = UnprofiledConfig(surfaces=["kids"], regions=["DE", "US-CA"])
POST = "/v1/recommendations"
GERMAN = {"locale": "de-DE"}
WISH = {"user_id": "known", "session": ["s"], "k": 3}

UNPROFILED = [
    ("POST", POST, {"json": {**WISH, "surface": "kids"}}),
    ("POST", POST, {"json": {**WISH, "context": {"surface": "kids"}}}),
    ("POST", POST, {"json": {**WISH, "context": GERMAN}}),
    ("POST", POST, {"json": {**WISH, "context": {"location": "DE-BY", "locale": "fr-FR"}}}),
    ("GET", "/v1/recommendations/known?surface=kids", {}),
    ("POST", "/v1/rank", {"json": {"user_id": "known", "session": ["s"], "items": [{"item_id": "a0"}], "context": GERMAN}}),
]


@pytest.mark.parametrize(
    ("locale", "location", "region"),
    [
        ("de-DE", None, "DE"),
        ("de_de", None, "DE"),
        ("de_DE.UTF-8", None, "DE"),
        ("zh-Hant-TW", None, "TW"),
        ("zh-yue-HK", None, "HK"),
        ("sl-IT-nedis", None, "IT"),
        ("de", None, ""),
        ("de-1996", None, ""),
        ("es-419", None, ""),
        ("en-u-ca-buddhist", None, ""),
        (None, None, ""),
        ("fr-FR", "DE-BY", "DE-BY"),
        ("fr-FR", "DE", "DE"),
        ("fr-FR", "52.5,13.4", "FR"),
        ("fr-FR", "Main Street 5", "FR"),
    ],
)
def test_a_region_is_that_of_the_location_or_else_of_the_locale(locale: str | None, location: str | None, region: str) -> None:
    assert region_of(Context(locale=locale, location=location)) == region


@pytest.mark.parametrize(
    ("location", "off"), [("DE", True), ("DE-BY", True), ("US-CA", True), ("US", False), ("US-NY", False), ("FR", False)]
)
def test_a_country_holds_its_regions_and_a_region_is_not_its_country(location: str, off: bool) -> None:
    assert unprofiled(OFF, "home", Context(location=location)) == off


@given(
    st.sampled_from(["home", "kids"]),
    st.sampled_from([None, "kids"]),
    st.sampled_from([None, "de-DE", "de", "fr-FR", "DE"]),
    st.sampled_from([None, "DE", "DE-BY", "de", "FR", "52.51,13.41", "somewhere"]),
    st.data(),
)
def test_requests_of_one_cache_key_are_treated_alike(
    surface: str, inner: str | None, locale: str | None, location: str | None, data: st.DataObject
) -> None:
    other = data.draw(st.sampled_from([location, None, "DE", "de", "52.52,13.42", "nowhere"]))
    bodies = [
        RecommendationsBody(surface=surface, context=Context(surface=inner, locale=locale, location=place))
        for place in (location, other)
    ]
    if len({cache_key(body, "rel", "main") for body in bodies}) == 1:
        assert len({unprofiled(OFF, body.surface, body.context) for body in bodies}) == 1


@pytest.mark.parametrize(("method", "path", "more"), UNPROFILED)
@pytest.mark.parametrize("trouble", [{}, {"recall": "raise"}])
def test_where_profiling_is_off_the_slate_is_nobody_s_and_so_is_its_record(
    method: str, path: str, more: dict[str, Any], trouble: dict[str, str]
) -> None:
    async def story() -> None:
        it = await Recorded(unprofiled=partial(unprofiled, OFF)).start()
        it.world.stages.trouble = trouble
        read: list[str] = []
        sent: list[Any] = []
        user_and_slate, prepare = it.world.store.user_and_slate, it.world.stages.prepare

        async def reading(user_id: str, view: str, field: str) -> Any:
            read.append(user_id)
            return await user_and_slate(user_id, view, field)

        def preparing(request: Any) -> Any:
            sent.append(request)
            return prepare(request)

        it.world.store.user_and_slate, it.world.stages.prepare = reading, preparing  # type: ignore[method-assign]
        it.world.share(age_s=1)
        it.world.precompute("p1")
        for _ in range(2):
            answer = (await it.world.ask(method, path, **more)).json()
            assert answer["degraded"].count("profiling_off") == 1
            assert not {"unknown_user", "no_consent"} & {*answer["degraded"]}
            assert not {"p1", "s1"} & {item["item_id"] for item in answer["items"]}
        assert not [user_id for user_id in read if user_id]
        assert {(request.user_id, request.session) for request in sent} == {("", ())}
        assert all(request.user is EMPTY_USER for request in sent)
        rows = await it.rows()
        assert len(rows) == 2
        for row in rows:
            assert (row["user_id"], row["user_row"], row["user_view"]) == ("", None, None)
            assert row["consent"] is True, "nobody refused"
            assert "profiling_off" in row["degraded"]
            assert "known" not in repr(row)
        assert not [served for served in it.world.served if "known" in repr(served)]

    run(story)


def test_elsewhere_the_same_user_is_known_and_no_cache_mixes_the_two() -> None:
    async def story() -> None:
        world = await World(unprofiled=partial(unprofiled, OFF)).start()
        off = {"context": GERMAN}
        assert (await world.post(user_id="known", **off)).json()["degraded"] == ["profiling_off"]
        assert (await world.post(user_id="other", **off)).json()["degraded"] == ["profiling_off"]
        assert world.stages.calls["recall"] == 1, "one answer for all who come from there"
        assert (await world.get(context={"locale": "fr-FR"}))["degraded"] == []
        assert (await world.post(context={"locale": "fr-FR"})).json()["degraded"] == ["unknown_user"]
        assert (await world.post(user_id="known", consent=False, **off)).json()["degraded"] == ["no_consent"]
        assert {reason for served in world.served for reason in served.degraded} == {
            *("profiling_off", "unknown_user", "no_consent")
        }, "and each is counted by its reason"

    run(story)


def test_a_location_is_recorded_coarse() -> None:
    async def story() -> None:
        it = await Recorded().start()
        for location in ("48.13743,11.57549", "DE-BY", "Main Street 5"):
            await it.world.post(user_id="known", context={"location": location})
        assert [row["context"] and row["context"]["location"] for row in await it.rows()] == ["48.1,11.6", "DE-BY", None]

    asyncio.run(story())


def test_the_setting_reaches_the_gateway_and_is_checked_at_the_door() -> None:
    config = compose_config(["serve.unprofiled.regions=[DE,US-CA]", "serve.unprofiled.surfaces=[kids]"])
    args = render(config, [], "redis://h:1")["applications"][0]["args"]
    assert args["unprofiled"] == {"surfaces": ["kids"], "regions": ["DE", "US-CA"]}
    with pytest.raises(ConfigError, match=r"regions: found \['Germany'\], expected codes of ISO 3166"):
        compose_config(["serve.unprofiled.regions=[DE,Germany]"])
    with pytest.raises(ConfigError, match=r"surfaces: found \['Kids'\], expected names such as home"):
        compose_config(["serve.unprofiled.surfaces=[Kids]"])
