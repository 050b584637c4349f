"""See `python jobs/materialize_features.py --help`. Run it after an import, and for an emptied store.

Fails, and names the columns, where what it wrote differs from what the lake says.
"""

from reco_ray.cluster import embedded_store, ray_session
from reco_ray.compose import job
from reco_ray.config import PipelineConfig
from reco_ray.release import newest, open_release, verify
from reco_ray.workflow.deploy import materialize_features
from reco_ray.workflow.skew import check_feature_parity


@job("materialize_features")
def main(config: PipelineConfig) -> None:
    """Fill the online features of a release, or of the newest one, anew from the lake, and compare them with it."""
    manifest = verify(open_release(config.root, config.release or newest(config.root)))  # before a cluster starts for nothing
    with embedded_store(config) as store, ray_session(config.cluster):
        materialize_features(config, store, manifest, again=True)
        check_feature_parity(config, store)


if __name__ == "__main__":
    main()
