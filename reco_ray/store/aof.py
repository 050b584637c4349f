"""The store's append-only file: what was deleted stands in it until it is written anew."""

import time

import redis

from reco_ray.errors import NotReadyError
from reco_ray.store.away import answering

__all__ = ["rewrite_aof"]


def rewrite_aof(url: str, timeout_s: float = 600.0) -> str:
    """Have the server at ``url`` write its append-only file anew and wait for it; returns a remark, "" when all is well.

    With an RDB preamble the file keeps deleted entries of streams: it is switched off where the server lets us.

    Raises: NotReadyError: the server is away, or does not come to an end.
    """
    with redis.Redis.from_url(url, socket_timeout=30) as calls, answering():
        if not calls.info("persistence").get("aof_enabled"):
            return "the server keeps no append-only file"
        try:
            if calls.config_get("aof-use-rdb-preamble").get("aof-use-rdb-preamble") != "no":
                calls.config_set("aof-use-rdb-preamble", "no")
            _rewrite(calls, time.monotonic() + timeout_s, timeout_s)
        except redis.ResponseError as exc:
            return f"the server refuses to write its append-only file anew ({exc}); have its operator do it"
    return ""


def _rewrite(calls: redis.Redis, deadline: float, timeout_s: float) -> None:
    _wait(calls, deadline, timeout_s)  # one at work began before the deletions
    calls.bgrewriteaof()
    if _wait(calls, deadline, timeout_s) != "ok":
        raise NotReadyError("the online store could not write its append-only file anew; see its log, then run it again")


def _wait(calls: redis.Redis, deadline: float, timeout_s: float) -> str:
    while True:
        state = calls.info("persistence")
        if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
            return str(state["aof_last_bgrewrite_status"])
        if time.monotonic() > deadline:
            raise NotReadyError(f"the online store has not written its append-only file anew in {timeout_s:g} s; run it again")
        time.sleep(0.05)
