"""See `python jobs/deploy_release.py --help`. Wants a running cluster: a local one ends with the job."""

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.deploy import deploy_release


@job("deploy_release")
def main(config: PipelineConfig) -> None:
    """Run a release behind the gateway and send all traffic to it."""
    with embedded_store(config) as store, ray_session(config.cluster) as dashboard:
        deploy_release(config, store, dashboard)


if __name__ == "__main__":
    main()
