"""A config file (YAML) read into validated, frozen settings, and their JSON Schema.

Settings may be overridden from the environment: `ASSETMILL_STORE__URL=s3://bucket/prefix` sets `store.url`.
Relative paths resolve against the nearest ancestor folder of the config that holds a `pyproject.toml`, else
against the config's own folder.
"""

from __future__ import annotations

from assetmill.config.base import Fraction, Size
from assetmill.config.curation import CutConfig, GatesConfig, SelectConfig
from assetmill.config.cutouts import CutoutConfig, CutoutGatesConfig
from assetmill.config.delivery import AtlasConfig, ChannelConfig, PublishConfig, StoreConfig
from assetmill.config.engines import (
    AdapterConfig,
    JudgeConfig,
    JudgePartConfig,
    ModelConfig,
    SafetyConfig,
    StageConfig,
    UpscaleConfig,
)
from assetmill.config.execution import RayConfig
from assetmill.config.experiments import ArmConfig, ExperimentConfig
from assetmill.config.family import FamilyConfig
from assetmill.config.feeds import FeedConfig
from assetmill.config.intake import PromptsConfig, ReferencesConfig, Setting, SheetConfig
from assetmill.config.licences import LicencesConfig
from assetmill.config.operation import BudgetConfig, NotifyConfig, RunConfig, ScheduleConfig
from assetmill.config.production import Config
from assetmill.config.provenance import CredentialsConfig, ProvenanceConfig
from assetmill.config.ranker import RankerConfig
from assetmill.config.reading import ENVIRONMENT_PREFIX, config_schema, find_base, read_config
from assetmill.config.rehearsal import RehearsalConfig
from assetmill.config.renditions import RenditionConfig
from assetmill.config.retention import RetentionConfig
from assetmill.config.review import ReviewConfig

__all__ = [
    "AtlasConfig",
    "ChannelConfig",
    "RenditionConfig",
    "AdapterConfig",
    "BudgetConfig",
    "Config",
    "CredentialsConfig",
    "CutConfig",
    "CutoutConfig",
    "CutoutGatesConfig",
    "ArmConfig",
    "ENVIRONMENT_PREFIX",
    "ExperimentConfig",
    "FamilyConfig",
    "FeedConfig",
    "Fraction",
    "GatesConfig",
    "JudgeConfig",
    "JudgePartConfig",
    "LicencesConfig",
    "ModelConfig",
    "NotifyConfig",
    "PromptsConfig",
    "ProvenanceConfig",
    "PublishConfig",
    "RankerConfig",
    "RayConfig",
    "ReferencesConfig",
    "RehearsalConfig",
    "ReviewConfig",
    "RetentionConfig",
    "RunConfig",
    "SafetyConfig",
    "ScheduleConfig",
    "SelectConfig",
    "Setting",
    "SheetConfig",
    "Size",
    "StageConfig",
    "StoreConfig",
    "UpscaleConfig",
    "config_schema",
    "find_base",
    "read_config",
]
