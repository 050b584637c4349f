"""See `python jobs/apply_retention.py --help`."""

from reco_ray.cluster import embedded_store
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.privacy.retention import RetentionReport, apply_retention
from reco_ray.privacy.run import bus_of
from reco_ray.store import OnlineStore


@job("apply_retention")
def main(config: PipelineConfig) -> RetentionReport:
    """Remove what is past its days; needs no cluster."""
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        return apply_retention(config, store, bus_of(config, url))


if __name__ == "__main__":
    main()
