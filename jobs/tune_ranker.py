"""See `python jobs/tune_ranker.py --help`."""

from reco_ray.cluster import ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow import tune_ranker


@job("tune_ranker")
def main(config: PipelineConfig) -> str:
    """Search on the outputs of the steps before; a search that was interrupted goes on."""
    with ray_session(config.cluster):
        return tune_ranker(config)


if __name__ == "__main__":
    main()
