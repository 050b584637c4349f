"""See `python jobs/check_feature_parity.py --help`. Fails, and names the columns, where rows differ."""

from reco_ray.cluster import embedded_store
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.skew import check_feature_parity


@job("check_feature_parity")
def main(config: PipelineConfig) -> None:
    """Compare the rows of the online store against the lake."""
    with embedded_store(config) as store:
        check_feature_parity(config, store)


if __name__ == "__main__":
    main()
