"""See `python jobs/run_pipeline.py --help`."""

from reco_ray.cluster import ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow import STEPS, run_all


@job("run_pipeline")
def main(config: PipelineConfig) -> None:
    """Run every step that is not fresh, in order."""
    with ray_session(config.cluster):
        run_all(STEPS, config, upto=config.only)


if __name__ == "__main__":
    main()
