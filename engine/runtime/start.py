"""Starting the model side as the operator configured it: one rank here, or this one and its companions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from engine.config import EngineConfig, EngineInfo
from engine.core.loop import EngineLoop
from engine.errors import ConfigError
from engine.model_config import load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.runtime.build import LoadedEngine, load_engine, pick_device
from engine.runtime.hosts import lead
from engine.runtime.model_runner import LocalRunner
from engine.runtime.ranks import RankedRunner, RankGroup, join

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


def build_engine(config: EngineConfig, tell: Tell = log.critical) -> tuple[EngineLoop, EngineInfo]:
    """Load the model on every rank and put the scheduler in front of it.

    `tell` takes, in a thread, why another rank of this host cannot start, before this process ends.

    Raises:
        ConfigError: configuration, checkpoint and machine do not fit together.
        WeightError: the checkpoint does not fill the model.
        WorkerDied: a rank on another host is gone.
    """
    loaded, loop = start_engine(config, tell)
    return loop, loaded.info


def start_engine(config: EngineConfig, tell: Tell = log.critical) -> tuple[LoadedEngine, EngineLoop]:
    """As `build_engine`, with this rank's own model at hand: for what looks at it between steps."""
    if config.tp < 1:
        raise ConfigError(f"--tp {config.tp}: want at least 1")
    if config.tp == 1:
        loaded = load_engine(config)
        return loaded, loaded.make_loop()
    _check_shares(config)
    if config.torchrun is not None:
        loaded, runner = lead(config, config.torchrun)
        return loaded, loaded.make_loop(runner)
    group = RankGroup(config, tell)
    loaded = join(config, 0, group.store)
    return loaded, loaded.make_loop(RankedRunner(group, LocalRunner(loaded.runner)))


def _check_shares(config: EngineConfig) -> None:
    """Refuse a tp that does not divide the model here, once, before every rank would say so."""
    with torch.device("meta"):
        Ming(load_model_config(Path(config.model)), TensorParallel(0, config.tp), vision=False, audio=False)
    pick_device(config, TensorParallel(0, config.tp))
