"""See `python jobs/recommend_batch.py --help`."""

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow import STEPS, Output, run_one
from reco_ray.workflow.deploy import load_precomputed


@job("recommend_batch")
def main(config: PipelineConfig) -> Output:
    """Run the step on the outputs of the steps before it; a fresh output is left as it is. Its slates go into the store."""
    with embedded_store(config) as store, ray_session(config.cluster):
        output = run_one(STEPS, config, "recommend_batch")
        load_precomputed(config, output, store)
        return output


if __name__ == "__main__":
    main()
