"""The typed configuration of every role. YAML composes these; `config_file` reads and checks it.

Every section is frozen, rejects unknown keys, and carries its own bounds. Times say their unit.
"""

from __future__ import annotations

from schema.config.deployment import Config
from schema.config.features import DenseConfig, FeaturesConfig, HistoryConfig, SlotConfig, TaskConfig
from schema.config.kafka import KafkaConfig, TopicConfig, TopicsConfig
from schema.config.models import ModelConfig, PositionConfig, RetrievalConfig
from schema.config.parameter_server import ParameterServerConfig, ReplicaRows, SecurityConfig, ShardConfig
from schema.config.serving import ReplicaConfig, ServingConfig, SyncConfig
from schema.config.streaming import DumpConfig, SamplingConfig, StreamingConfig
from schema.config.tables import (
    AdmissionConfig,
    OptimizerConfig,
    SlotRowsConfig,
    TableConfig,
)
from schema.config.tools import ConsoleConfig, LaunchConfig, SimulationConfig
from schema.config.trainer import GuardConfig, PeriodConfig, TrainerConfig

__all__ = [
    "AdmissionConfig",
    "Config",
    "ConsoleConfig",
    "DenseConfig",
    "DumpConfig",
    "FeaturesConfig",
    "GuardConfig",
    "HistoryConfig",
    "KafkaConfig",
    "LaunchConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParameterServerConfig",
    "PeriodConfig",
    "PositionConfig",
    "ReplicaConfig",
    "ReplicaRows",
    "RetrievalConfig",
    "SamplingConfig",
    "SecurityConfig",
    "ServingConfig",
    "ShardConfig",
    "SimulationConfig",
    "SlotConfig",
    "SlotRowsConfig",
    "StreamingConfig",
    "SyncConfig",
    "TableConfig",
    "TaskConfig",
    "TopicConfig",
    "TopicsConfig",
    "TrainerConfig",
]
