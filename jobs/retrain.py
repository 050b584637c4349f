"""See `python jobs/retrain.py --help`. For cron or a RayJob: it does nothing where there is no reason to."""

from reco_ray.cluster import embedded_store
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.retrain import retrain


@job("retrain")
def main(config: PipelineConfig) -> None:
    """Train on drift, volume or age, pass the gates, and start a rollout."""
    with embedded_store(config) as store:
        retrain(config, store)


if __name__ == "__main__":
    main()
