"""See `python jobs/evaluate.py --help`. The last line printed is the path of report.json."""

import sys

from reco_ray.cluster import ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow import STEPS, run_one


@job("evaluate")
def main(config: PipelineConfig) -> None:
    """Evaluate every stage on the test part."""
    with ray_session(config.cluster):
        output = run_one(STEPS, config, "evaluate")
    sys.stdout.write(f"{output.uri}/report.json\n")


if __name__ == "__main__":
    main()
