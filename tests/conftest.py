"""What every test may use; GPU tests are skipped where there is no such device."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import pytest


def _num_gpus() -> int:
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    num_gpus = _num_gpus()
    for item in items:
        needed = 2 if item.get_closest_marker("multi_gpu") else 1 if item.get_closest_marker("gpu") else 0
        if num_gpus < needed:
            item.add_marker(pytest.mark.skip(reason=f"needs {needed} CUDA device(s), {num_gpus} here"))


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
