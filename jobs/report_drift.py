"""See `python jobs/report_drift.py --help`. Fails, and names the columns, where features drift.

With ``drift.retrain=true`` it runs the pipeline instead, which takes the same overrides here as there.
"""

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.store import OnlineStore
from reco_ray.workflow.drift import report_drift, require_none, retrain, wants_retraining


@job("report_drift")
def main(config: PipelineConfig) -> None:
    """Compare the features that decisions were made with against those that the ranker was trained on."""
    with embedded_store(config) as url, OnlineStore(url, config.store.namespace) as store:
        report = report_drift(config, store)
    if wants_retraining(config, report):
        with ray_session(config.cluster) as dashboard:
            retrain(config, report, dashboard)
    else:
        require_none(config, report)


if __name__ == "__main__":
    main()
