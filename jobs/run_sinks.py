"""See `python jobs/run_sinks.py --help`. Wants a running cluster: a local one ends with the job."""

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.sinks import start_sinks


@job("run_sinks")
def main(config: PipelineConfig) -> None:
    """Start the sinks that are not there, and replace those of another version."""
    with embedded_store(config) as store, ray_session(config.cluster):
        start_sinks(config, store)


if __name__ == "__main__":
    main()
