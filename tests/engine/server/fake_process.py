"""`python -m tests.engine.server.fake_process MODE --fd N`: an engine process without a model, real in all else."""

from __future__ import annotations

import argparse
import socket
import sys
import time

from engine.config import EngineConfig, EngineInfo
from engine.core.blocks import BlockManager
from engine.core.loop import EngineLoop
from engine.core.request import SchedulerLimits, StepResult
from engine.core.scheduler import Scheduler
from engine.errors import ConfigError, WorkerDied
from engine.runtime.process import serve
from tests.engine.core.fakes import FakeRunner
from tests.engine.server.fake_engine import INFO

MODES = ("ok", "slow-start", "refused", "crashed", "dies", "hangs")
STEP_S = 0.01
NUM_GOOD_STEPS = 5


class SlowRunner(FakeRunner):
    """Takes its time for each step, and after a few of them may die or hang."""

    def __init__(self, mode: str) -> None:
        super().__init__(INFO.block_size, 64)
        self._mode = mode

    def collect(self) -> StepResult:
        time.sleep(STEP_S)
        result = super().collect()
        if result.step_id >= NUM_GOOD_STEPS and self._mode == "dies":
            raise WorkerDied("rank 1 is gone")
        if result.step_id >= NUM_GOOD_STEPS and self._mode == "hangs":
            time.sleep(60)
        return result


def build(mode: str, config: EngineConfig) -> tuple[EngineLoop, EngineInfo]:
    """An engine loop, or the failure that the mode asks for."""
    if mode == "slow-start":
        time.sleep(60)
    if mode == "refused":
        raise ConfigError(f"{config.model}: head_dim 7 does not divide")
    if mode == "crashed":
        raise ZeroDivisionError("a bug")
    scheduler = Scheduler(SchedulerLimits(2048, 64, INFO.max_model_len), BlockManager(INFO.num_blocks, INFO.block_size))
    return EngineLoop(scheduler, SlowRunner(mode)), INFO


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args()
    return serve(socket.socket(fileno=options.fd), lambda config, _: build(options.mode, config))


if __name__ == "__main__":
    sys.exit(main())
