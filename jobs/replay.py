"""See `python jobs/replay.py --help`. Which requests two releases answer differently, and from which stage on."""

from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.workflow.replay import replay


@job("replay")
def main(config: PipelineConfig) -> None:
    """Run logged requests through two releases."""
    replay(config)


if __name__ == "__main__":
    main()
