"""See `python jobs/evaluate_policy.py --help`. Fails where the logs cannot say anything of the policy."""

from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.policy import evaluate_policy


@job("evaluate_policy")
def main(config: PipelineConfig) -> None:
    """Say what another policy would have earned."""
    evaluate_policy(config)


if __name__ == "__main__":
    main()
