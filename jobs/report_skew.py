"""See `python jobs/report_skew.py --help`. Fails, and names the columns, where rows differ."""

from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.skew import report_skew


@job("report_skew")
def main(config: PipelineConfig) -> None:
    """Compare the features that decisions were made with against the lake."""
    report_skew(config)


if __name__ == "__main__":
    main()
