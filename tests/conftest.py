"""What every test may use; GPU tests are skipped where there is no such device."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
from pathlib import Path

import pytest

MAX_PROCESSES = 4
# What takes longest goes first, or one process would be busy with it alone at the end.
LONGEST_FIRST = ("tests/engine/kernels", "tests/pressure", "tests/end_to_end", "tests/ming_eval/commands")

# A shell's background jobs ignore Ctrl-C, and so would all processes that tests start to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores, also those that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core, for folders of tests; none where files or tests are named, or a GPU would be shared."""
    names_files = any(".py" in argument for argument in config.args)
    return 0 if names_files or Path("/dev/nvidiactl").exists() else min(MAX_PROCESSES, os.cpu_count() or 1)


def _num_gpus() -> int:
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_is_late)  # in each process the same
    num_gpus = _num_gpus()
    for item in items:
        needed = 2 if item.get_closest_marker("multi_gpu") else 1 if item.get_closest_marker("gpu") else 0
        if num_gpus < needed:
            item.add_marker(pytest.mark.skip(reason=f"needs {needed} CUDA device(s), {num_gpus} here"))


def _is_late(item: pytest.Item) -> bool:
    return not item.nodeid.startswith(LONGEST_FIRST)


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """Set aside what the imports left: every full garbage collection would walk through torch's million objects again.

    A measurement thaws it when it ends, hence once for each module.
    """
    gc.collect(1)
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's snapshot, written once per test session."""
    from engine.tiny import ensure_snapshot

    return ensure_snapshot(tmp_path_factory.mktemp("cache"))
