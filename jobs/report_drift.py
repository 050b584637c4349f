"""See `python jobs/report_drift.py --help`. Fails, and names the columns, where features drift."""

from reco_ray.cluster import embedded_store
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.store import OnlineStore
from reco_ray.workflow.drift import report_drift, require_none


@job("report_drift")
def main(config: PipelineConfig) -> None:
    """Compare the features that decisions were made with against those that the ranker was trained on."""
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        require_none(config, report_drift(config, store))


if __name__ == "__main__":
    main()
