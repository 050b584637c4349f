"""The whole configuration of a job."""

from dataclasses import dataclass, field

from reco_ray.config.cluster import ClusterConfig, StoreConfig, TrackingConfig
from reco_ray.config.data import DriftConfig, FeaturesConfig, LakeConfig, SkewConfig, SourceConfig, SplitConfig
from reco_ray.config.evaluation import BatchConfig, EvaluationConfig, PolicyConfig, ReplayConfig
from reco_ray.config.events import EventsConfig, ExposuresConfig, FeedbackConfig, PrivacyConfig
from reco_ray.config.rank import RankConfig, TuneConfig
from reco_ray.config.recall import RecallConfig, SourceName
from reco_ray.config.releases import GatesConfig, ReleasesConfig, RetrainConfig
from reco_ray.config.rerank import RerankConfig
from reco_ray.config.serving import ServeConfig
from reco_ray.errors import ConfigError

__all__ = ["PipelineConfig"]


@dataclass(kw_only=True)
class PipelineConfig:
    """Everything a job may need; each job reads its groups and those of the steps before it.

    Attributes:
        root: the one URI under which all data lie: a folder, ``s3://`` or ``gs://``.
        seed: of every random choice.
        release: id of the release to deploy or score with; empty means the newest one published.
        only: ``run_pipeline`` stops after this step; empty runs all of them.
        warm_start: id of a release whose models the training starts from; empty: anew.
        force: let a release that does not pass its gates take traffic, with an audit record.
    """

    root: str = "~/.reco_ray"
    seed: int = 7
    release: str = ""
    only: str = ""
    warm_start: str = ""
    force: bool = False
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    lake: LakeConfig = field(default_factory=LakeConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    exposures: ExposuresConfig = field(default_factory=ExposuresConfig)
    skew: SkewConfig = field(default_factory=SkewConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    releases: ReleasesConfig = field(default_factory=ReleasesConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)

    def __post_init__(self) -> None:
        if not self.root:
            raise ConfigError("root: found nothing, expected a URI that every node reaches; give root=s3://bucket/reco")
        if (repeat := self.recall.quotas.get(SourceName.repeat, 0)) > 0 and not self.rerank.seen_items_return:
            raise ConfigError(
                f"recall.quotas.repeat: found {repeat} and rerank.seen_items_return=false, expected 0 where nothing returns; "
                "give rerank=repeat where what a user has had may come back"
            )
        days, delay_hours = self.privacy.events_days, self.feedback.delay_hours
        if 0 < days * 24 < delay_hours + 24:  # a day for the last join: an earlier one than that would be undone
            raise ConfigError(
                f"privacy.events_days: found {days}, expected 0 or more than feedback.delay_hours={delay_hours:g} and a day; "
                "events that are gone when their date is joined again count no more: keep them longer"
            )
        if "://" in self.root and not (self.store.url and self.tracking.uri):
            raise ConfigError(
                f"root={self.root} is remote: found store.url={self.store.url!r} and tracking.uri={self.tracking.uri!r}, "
                "expected both, as nothing beside a job outlives it; give store.url=redis://HOST:PORT tracking.uri=URI"
            )
