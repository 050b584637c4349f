"""The schemas of the configuration: one dataclass per group of ``conf/``.

Defaults live here; YAML under ``conf/`` holds only what differs. A field without a default is required. `compose.to_config`
turns a composed Hydra configuration into these classes once, at the door of a job; from there on they travel as they are.
The classes check themselves and do nothing else.
"""

from reco_ray.config.benchmark import BenchmarkConfig, DatasetFormat, ProtocolName
from reco_ray.config.cluster import ClusterConfig, StoreConfig, TrackingConfig
from reco_ray.config.data import (
    ColumnsConfig,
    DateUnit,
    DriftConfig,
    FeaturesConfig,
    LakeConfig,
    SkewConfig,
    SourceConfig,
    SourceKind,
    SplitConfig,
    SplitKind,
)
from reco_ray.config.evaluation import BatchConfig, EvaluationConfig, PolicyConfig, ReplayConfig
from reco_ray.config.events import BusConfig, BusKind, EventsConfig, ExposuresConfig, FeedbackConfig, PrivacyConfig
from reco_ray.config.pipeline import PipelineConfig
from reco_ray.config.rank import GroupKind, HybridConfig, NeuralConfig, RankConfig, RankKind, TuneConfig
from reco_ray.config.recall import (
    ContentConfig,
    EncoderName,
    MfConfig,
    RecallConfig,
    SequentialConfig,
    SourceName,
    TwoTowerConfig,
)
from reco_ray.config.releases import GateName, GatesConfig, ReleasesConfig, RetrainConfig, RetrainMode
from reco_ray.config.rerank import Diversify, ExploreConfig, ExploreKind, RerankConfig
from reco_ray.config.serving import Auth, CacheConfig, DeploymentConfig, ServeConfig, ServedConfig, Topology, UnprofiledConfig

__all__ = [
    "Auth",
    "BatchConfig",
    "BenchmarkConfig",
    "BusConfig",
    "BusKind",
    "CacheConfig",
    "ClusterConfig",
    "ColumnsConfig",
    "ContentConfig",
    "DatasetFormat",
    "DateUnit",
    "DeploymentConfig",
    "Diversify",
    "DriftConfig",
    "EncoderName",
    "EvaluationConfig",
    "EventsConfig",
    "ExploreConfig",
    "ExploreKind",
    "ExposuresConfig",
    "FeaturesConfig",
    "FeedbackConfig",
    "GateName",
    "GatesConfig",
    "GroupKind",
    "HybridConfig",
    "LakeConfig",
    "MfConfig",
    "NeuralConfig",
    "PipelineConfig",
    "PolicyConfig",
    "PrivacyConfig",
    "ProtocolName",
    "RankConfig",
    "RankKind",
    "RecallConfig",
    "ReleasesConfig",
    "ReplayConfig",
    "RerankConfig",
    "RetrainConfig",
    "RetrainMode",
    "SequentialConfig",
    "ServeConfig",
    "ServedConfig",
    "SkewConfig",
    "SourceConfig",
    "SourceKind",
    "SourceName",
    "SplitConfig",
    "SplitKind",
    "StoreConfig",
    "Topology",
    "TrackingConfig",
    "TuneConfig",
    "TwoTowerConfig",
    "UnprofiledConfig",
]
