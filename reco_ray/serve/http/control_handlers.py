"""From requests to the calls about rollouts, fallback and flags, and back."""

from collections.abc import Mapping
from typing import Protocol

from reco_ray.serve.http import problems
from reco_ray.serve.http.control_bodies import (
    AskedHistory,
    FallbackAnswer,
    FallbackBody,
    FlagBody,
    FlagsAnswer,
    RolloutAnswer,
    RolloutBody,
    RolloutsAnswer,
)
from reco_ray.serve.http.messages import Handler, Incoming, Reply, query_of, reply_of

__all__ = ["Control", "control_handlers"]


class Control(Protocol):
    """What the calls need; `control_calls.ControlCalls` in production. ``by`` is kept with what was done."""

    async def rollouts(self, n: int) -> RolloutsAnswer:
        """The last rollout and ``n`` audit records."""

    async def change(self, body: RolloutBody, by: str) -> RolloutAnswer:
        """Start, pause, resume or abort."""

    async def fall_back(self, body: FallbackBody, by: str) -> FallbackAnswer:
        """Send all traffic to one release."""

    async def flags(self) -> FlagsAnswer:
        """All flags."""

    async def switch(self, body: FlagBody, by: str) -> FlagsAnswer:
        """Switch one."""


def control_handlers(control: Control | None) -> Mapping[str, Handler]:
    """By name of the call; without ``control`` they answer that there is no store."""

    def known() -> Control:
        if control is None:
            raise problems.not_ready("this gateway has no store for rollouts and flags")
        return control

    async def rollouts(incoming: Incoming) -> Reply:
        n = AskedHistory.model_validate(query_of(incoming, ("n",))).n
        return reply_of(200, await known().rollouts(n))

    async def change_rollout(incoming: Incoming) -> Reply:
        body = RolloutBody.model_validate_json(await incoming.body(), strict=True)
        return reply_of(200, await known().change(body, _by(body.author, incoming)))

    async def fall_back(incoming: Incoming) -> Reply:
        body = FallbackBody.model_validate_json(await incoming.body(), strict=True)
        return reply_of(200, await known().fall_back(body, _by(body.author, incoming)))

    async def flags(incoming: Incoming) -> Reply:
        return reply_of(200, await known().flags())

    async def switch_flag(incoming: Incoming) -> Reply:
        body = FlagBody.model_validate_json(await incoming.body(), strict=True)
        return reply_of(200, await known().switch(body, _by(body.author, incoming)))

    return {
        "rollouts": rollouts,
        "change_rollout": change_rollout,
        "fall_back": fall_back,
        "flags": flags,
        "switch_flag": switch_flag,
    }


def _by(author: str, incoming: Incoming) -> str:
    """Who says to have done it, and the key that shows who may have."""
    return f"{author} (key {incoming.key_id})" if incoming.key_id else author
