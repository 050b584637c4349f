"""See `python jobs/erase_user.py --help`."""

from reco_ray.cluster import embedded_store
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.privacy import Receipt
from reco_ray.privacy.run import erase_users


@job("erase_user")
def main(config: PipelineConfig) -> list[Receipt]:
    """Erase the users named, or all who wished it; needs no cluster."""
    with embedded_store(config) as store:
        return erase_users(config, store)


if __name__ == "__main__":
    main()
