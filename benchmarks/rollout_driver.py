"""Starts a rollout, as `reco rollouts start` does: gates, the release beside the champion, its first share.

``python benchmarks/rollout_driver.py --policy JSON RELEASE OVERRIDE...``, on the cluster of ``RAY_ADDRESS``. Prints a line of
JSON when the rollout has begun, or was refused, and then stays until it is killed: nobody may miss it.
"""

import argparse
import json
import signal
import time

import synthetic
from injuries import FaultyApi
from rollout_bad import LOADER

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import compose_config
from reco_ray.errors import RecoError
from reco_ray.rollout import Policy, commands
from reco_ray.serve.app import serve_client
from reco_ray.serve.deploy import deploy
from reco_ray.store import OnlineStore, RolloutStore
from reco_ray.workflow.gates import pass_gates


def main() -> None:
    """Start, say so, stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release")
    parser.add_argument("--policy", required=True)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    config = compose_config(args.overrides)
    config.release = args.release
    began = time.time()
    with (
        embedded_store(config) as url,
        ray_session(config.cluster) as dashboard,
        OnlineStore(url, config.store.namespace) as store,
    ):
        try:
            pass_gates(config, store, args.release)
            api = FaultyApi(serve_client(dashboard), LOADER)
            deploy(config, args.release, url, dashboard, user_view=synthetic.USER_VIEW, beside=True, api=api)
            policy = Policy.from_json(json.loads(args.policy))
            state = commands.start(RolloutStore(store), args.release, policy, time.time(), "benchmark")
        except RecoError as exc:
            print(json.dumps({"refused": str(exc), "seconds": time.time() - began}), flush=True)
        else:
            print(json.dumps({"rollout_id": state.rollout_id, "seconds": time.time() - began}), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
