"""Starting the model side as the operator configured it: one rank here, or this one and its companions."""

from __future__ import annotations

from engine.config import EngineConfig, EngineInfo
from engine.core.loop import EngineLoop
from engine.errors import ConfigError
from engine.runtime.build import load_engine
from engine.runtime.model_runner import LocalRunner
from engine.runtime.ranks import RankedRunner, RankGroup, join


def build_engine(config: EngineConfig) -> tuple[EngineLoop, EngineInfo]:
    """Load the model on every rank and put the scheduler in front of it.

    Raises:
        ConfigError: configuration, checkpoint and machine do not fit together.
        WeightError: the checkpoint does not fill the model.
    """
    if config.tp < 1:
        raise ConfigError(f"--tp {config.tp}: want at least 1")
    if config.tp == 1:
        loaded = load_engine(config)
        return loaded.make_loop(), loaded.info
    group = RankGroup(config)
    loaded = join(config, 0, group.store)
    return loaded.make_loop(RankedRunner(group, LocalRunner(loaded.runner))), loaded.info
