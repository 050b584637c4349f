"""The HTTP contract of ``/v1/rollouts``, ``/v1/fallback`` and ``/v1/flags``: who gets which release, what is switched off."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from reco_ray.rollout import State
from reco_ray.serve.http.contract import Body
from reco_ray.store import FLAGS, Flags

__all__ = [
    "AskedHistory",
    "FallbackAnswer",
    "FallbackBody",
    "FlagAnswer",
    "FlagBody",
    "FlagsAnswer",
    "RolloutAnswer",
    "RolloutBody",
    "RolloutsAnswer",
]

Author = Annotated[str, Field(min_length=1, max_length=100, description="Who answers for the change; kept with the key's id.")]
Why = Annotated[str, Field(max_length=500, pattern=r"\S", description="For the audit record.")]

Release = Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z0-9._-]*$")]


class AskedHistory(Body):
    """How many audit records ``GET /v1/rollouts`` shows."""

    n: Annotated[int, Field(ge=1, le=1000)] = 20


class RolloutBody(Body):
    """Body of ``POST /v1/rollouts``: what is to happen."""

    action: Annotated[
        Literal["start", "pause", "resume", "abort"],
        Field(
            description="start: of a release that is loaded, beside one that has all the traffic, and that its gates let in."
        ),
    ]
    author: Author
    why: Why
    release: Annotated[Release, Field(description="Of a start.")] = ""
    policy: Annotated[
        dict[str, Any] | None, Field(description="Of a start: steps, guards, holdout as in docs/rollouts.md; else the default.")
    ] = None

    @model_validator(mode="after")
    def _start_names_a_release(self) -> "RolloutBody":
        if (self.action == "start") != bool(self.release):
            raise ValueError(f"found action {self.action!r} and release {self.release!r}, expected a release of a start only")
        if self.policy is not None and self.action != "start":
            raise ValueError(f"found a policy with action {self.action!r}, expected it with a start only")
        return self


class RolloutAnswer(BaseModel):
    """A rollout as it stands."""

    rollout_id: str
    release: str
    champion: str
    status: Literal["running", "waiting", "paused", "promoted", "rolled_back", "aborted"]
    step: Annotated[int, Field(description="Index into the policy's steps.")]
    share: Annotated[float, Field(ge=0, le=1, description="Of the users, that the release is to have now.")]
    shadow: Annotated[float, Field(ge=0, le=1, description="Of the requests, whose copies it is to have now.")]
    reason: str
    by: str
    started_ts: Annotated[float, Field(description="Seconds since 1970, as the other times.")]
    since_ts: float
    policy: dict[str, Any]

    @classmethod
    def of(cls, state: State) -> "RolloutAnswer":
        """Show a state."""
        return cls.model_validate({**state.to_json(), "share": state.share, "shadow": state.shadow})


class RolloutsAnswer(BaseModel):
    """The last rollout, and the audit trail."""

    rollout: Annotated[RolloutAnswer | None, Field(description="Null where there was none.")]
    history: Annotated[list[dict[str, Any]], Field(description="Audit records with their numbers, newest first.")]


class FallbackBody(Body):
    """Body of ``POST /v1/fallback``."""

    author: Author
    why: Why
    release: Annotated[Release, Field(description="Where to; else the champion, or the only other release that is loaded.")] = (
        ""
    )


class FallbackAnswer(BaseModel):
    """Where all traffic goes."""

    release: str


class FlagBody(Body):
    """Body of ``POST /v1/flags``: one that is switched."""

    name: Annotated[str, Field(description=f"One of {', '.join(FLAGS)}.")]
    off: bool
    author: Author
    why: Why


class FlagAnswer(BaseModel):
    """One flag; ``by``, ``why`` and ``ts`` of one that is off."""

    what: str
    off: bool
    by: str = ""
    why: str = ""
    ts: str = ""


class FlagsAnswer(BaseModel):
    """All flags."""

    version: int
    flags: dict[str, FlagAnswer]

    @classmethod
    def of(cls, flags: Flags) -> "FlagsAnswer":
        """Show them."""
        nobody: Mapping[str, str] = {}
        found = {
            name: FlagAnswer(what=what, off=name in flags.off, **flags.off.get(name, nobody)) for name, what in FLAGS.items()
        }
        return cls(version=flags.version, flags=found)
