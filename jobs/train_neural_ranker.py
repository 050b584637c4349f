"""See `python jobs/train_neural_ranker.py --help`."""

from reco_ray.cluster import ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow import STEPS, Output, run_one


@job("train_neural_ranker")
def main(config: PipelineConfig) -> Output:
    """Run the step on the outputs of the steps before it; a fresh output is left as it is."""
    with ray_session(config.cluster):
        return run_one(STEPS, config, "train_neural_ranker")


if __name__ == "__main__":
    main()
