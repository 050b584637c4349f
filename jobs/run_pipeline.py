"""See `python jobs/run_pipeline.py --help`."""

from reco_ray.cluster import ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.deploy import run_pipeline


@job("run_pipeline")
def main(config: PipelineConfig) -> None:
    """Run every step that is not fresh, in order; on a cluster that stays, deploy the release too."""
    with ray_session(config.cluster) as dashboard:
        run_pipeline(config, dashboard)


if __name__ == "__main__":
    main()
