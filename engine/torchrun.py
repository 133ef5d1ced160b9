"""The same command under `torchrun`, on one host or several: who this process is, and noticing that its agent is gone.

`torchrun` starts every rank and tells it its place in variables. Rank 0 serves HTTP, the others follow it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping

from engine.config import HostRank
from engine.errors import RANK_DIED, ConfigError

log = logging.getLogger(__name__)

_MARK = "TORCHELASTIC_RUN_ID"
_LOOK_S = 0.5


def read_place(environ: Mapping[str, str]) -> HostRank | None:
    """This process's place among the ranks that `torchrun` started, or None where it did not start it.

    Raises:
        ConfigError: its variables are incomplete.
    """
    if _MARK not in environ:
        return None
    try:
        return HostRank(
            rank=int(environ["RANK"]),
            size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ["LOCAL_RANK"]),
            local_size=int(environ["LOCAL_WORLD_SIZE"]),
            master=environ["MASTER_ADDR"],
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{_MARK} is set, but not as torchrun sets its variables: {error}; unset it") from None


def choose_tp(tp: int, place: HostRank | None) -> int:
    """The number of ranks: `--tp`, or all that `torchrun` started.

    Raises:
        ConfigError: they differ.
    """
    if place is None or tp in (1, place.size):
        return tp if place is None else place.size
    raise ConfigError(
        f"--tp {tp}, but torchrun started {place.size} ranks: leave --tp out, or make it nnodes x nproc-per-node"
    )


def end_with_agent() -> None:
    """From now on, end at once when the agent that started this process is gone: it can no longer end us."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="agent").start()


def _watch(agent: int) -> None:
    while os.getppid() == agent:
        time.sleep(_LOOK_S)
    log.critical("the torchrun agent of this host is gone: ending without it")
    os._exit(RANK_DIED)
