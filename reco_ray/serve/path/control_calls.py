"""The calls about rollouts, fallback and flags: what the commands of the same names do, over HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from reco_ray.errors import ConfigError, NotReadyError
from reco_ray.release.shelf import gates_said
from reco_ray.rollout import DEFAULT_POLICY, Policy, State, commands
from reco_ray.serve.http import problems
from reco_ray.serve.http.control_bodies import (
    FallbackAnswer,
    FallbackBody,
    FlagBody,
    FlagsAnswer,
    RolloutAnswer,
    RolloutBody,
    RolloutsAnswer,
)
from reco_ray.store import FLAGS, FlagStore, RolloutStore

__all__ = ["ControlCalls"]

T = TypeVar("T")


class ControlCalls:
    """Answers them, off the event loop. MLflow's aliases follow with the next command, or ``reco releases sync``.

    Args:
        root: where the gates keep their results.
        follow: lets this replica look at once for what was changed.
    """

    def __init__(
        self,
        rollouts: RolloutStore,
        flags: FlagStore,
        root: str,
        follow: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rollouts, self._flags, self._root, self._follow, self._clock = rollouts, flags, root, follow, clock

    async def rollouts(self, n: int) -> RolloutsAnswer:
        """Answer ``GET /v1/rollouts``.

        Raises: HttpProblem: the store is away.
        """
        found, history = await _answered(lambda: (self._rollouts.load(), self._rollouts.history(n)))
        return RolloutsAnswer(rollout=None if found is None else RolloutAnswer.of(State.from_json(found)), history=history)

    async def change(self, body: RolloutBody, by: str) -> RolloutAnswer:
        """Answer ``POST /v1/rollouts``.

        Raises: HttpProblem: the policy is wrong, what runs does not allow it, no gates let it in, or the store is away.
        """
        try:
            policy = DEFAULT_POLICY if body.policy is None else Policy.from_json(body.policy)
        except ConfigError as exc:
            raise problems.field_refused("policy", str(exc)) from exc
        return RolloutAnswer.of(await self._changed(lambda: self._change(body, policy, by)))

    async def fall_back(self, body: FallbackBody, by: str) -> FallbackAnswer:
        """Answer ``POST /v1/fallback``.

        Raises: HttpProblem: there is no such release, it has to be named, or the store is away.
        """
        now = self._clock()
        to = await self._changed(lambda: commands.fall_back(self._rollouts, body.release, now, by, body.why))
        return FallbackAnswer(release=to)

    async def flags(self) -> FlagsAnswer:
        """Answer ``GET /v1/flags``.

        Raises: HttpProblem: the store is away.
        """
        return FlagsAnswer.of(await _answered(self._flags.load))

    async def switch(self, body: FlagBody, by: str) -> FlagsAnswer:
        """Answer ``POST /v1/flags``.

        Raises: HttpProblem: there is no such flag, or the store is away.
        """
        if body.name not in FLAGS:
            raise problems.field_refused("name", f"found {body.name!r}, expected one of {sorted(FLAGS)}")
        return FlagsAnswer.of(await self._changed(lambda: self._flags.switch(body.name, off=body.off, by=by, why=body.why)))

    def _change(self, body: RolloutBody, policy: Policy, by: str) -> State:
        now = self._clock()
        match body.action:
            case "pause":
                return commands.pause(self._rollouts, now, by, body.why)
            case "resume":
                return commands.resume(self._rollouts, now, by, body.why)
            case "abort":
                return commands.abort(self._rollouts, now, by, body.why)
        self._require_gates(body.release)
        return commands.start(self._rollouts, body.release, policy, now, by, body.why)

    def _require_gates(self, release: str) -> None:
        """A gateway cannot ask the gates: that they let the release in stands beside the others' reports."""
        report = gates_said(self._root, release)
        said = report["action"] if report is not None else "no report"
        if said not in ("gates", "gates_forced"):
            raise ConfigError(
                f"release {release}: found {said} of its gates, expected that they let it in; `reco rollouts start` asks them"
            )

    async def _changed(self, call: Callable[[], T]) -> T:
        found = await _answered(call)
        await self._follow()
        return found


async def _answered(call: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(call)
    except NotReadyError as exc:
        raise problems.not_ready("the online store does not answer; ask again") from exc
    except ConfigError as exc:
        raise problems.change_refused(str(exc)) from exc
