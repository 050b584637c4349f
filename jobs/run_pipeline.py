"""See `python jobs/run_pipeline.py --help`."""

from reco_ray.cluster import attaches, embedded_store, ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow import STEPS, run_all
from reco_ray.workflow.deploy import deploy_release, load_precomputed


@job("run_pipeline")
def main(config: PipelineConfig) -> None:
    """Run every step that is not fresh, in order; on a cluster that stays, deploy the release too."""
    with ray_session(config.cluster) as dashboard:
        outputs = run_all(STEPS, config, upto=config.only)
        if not config.only and attaches(config.cluster):
            config.release = str(outputs["publish_release"].facts["release"])
            with embedded_store(config) as store:
                deploy_release(config, store, dashboard)
                load_precomputed(config, outputs["recommend_batch"], store)


if __name__ == "__main__":
    main()
