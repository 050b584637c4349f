"""See `python jobs/compact_lake.py --help`. Sinks may run meanwhile; run it daily, when the sinks have left the day before."""

from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.lake.compact import compact


@job("compact_lake")
def main(config: PipelineConfig) -> None:
    """Merge the small files of each date; a second run changes nothing."""
    for name in ("events", "exposures", "dead_letters"):
        compact(config.root, name)


if __name__ == "__main__":
    main()
