"""See `python jobs/join_feedback.py --help`. Prints what came of the decisions, and where the report lies."""

import sys

from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.feedback.flow import join_feedback


@job("join_feedback")
def main(config: PipelineConfig) -> None:
    """Join events to the decisions they follow; a date stays open for ``feedback.delay_hours``."""
    report = join_feedback(config)
    sys.stdout.write(f"{report.text}{report.report}\n")


if __name__ == "__main__":
    main()
