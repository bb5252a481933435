"""A whole deployment."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schema.config.features import FeaturesConfig, TaskConfig
from schema.config.kafka import KafkaConfig
from schema.config.models import ModelConfig, RetrievalConfig
from schema.config.parameter_server import ParameterServerConfig
from schema.config.serving import ServingConfig, SyncConfig
from schema.config.streaming import StreamingConfig
from schema.config.tools import ConsoleConfig, LaunchConfig, SimulationConfig
from schema.config.trainer import TrainerConfig
from schema.config.values import Section


class Config(Section, frozen=True, kw_only=True):
    """A whole deployment. Roles write under `run_dir`; their health and metrics listen on `ops_host`."""

    run_dir: str = "run"
    ops_host: str = "127.0.0.1"
    kafka: KafkaConfig = KafkaConfig()
    features: FeaturesConfig
    tasks: Annotated[tuple[TaskConfig, ...], Meta(min_length=1)]
    streaming: StreamingConfig = StreamingConfig()
    parameter_server: ParameterServerConfig
    model: ModelConfig = ModelConfig()
    retrieval: RetrievalConfig | None = None
    trainer: TrainerConfig = TrainerConfig()
    sync: SyncConfig = SyncConfig()
    serving: ServingConfig
    simulation: SimulationConfig = SimulationConfig()
    console: ConsoleConfig = ConsoleConfig()
    launch: LaunchConfig = LaunchConfig()
