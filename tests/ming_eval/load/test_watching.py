"""The server's and the GPUs' own figures while a point runs."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ming_eval.load import watching
from ming_eval.load.watching import Watcher
from ming_eval.targets import Target
from ming_eval.types import GpuSample, ServerSample
from tests.fakes import FakeServer

PAGE = "ming:num_requests_running 3\n"


def watch(server: FakeServer, *, sleep_s: float = 0.12) -> tuple[tuple[ServerSample, ...], tuple[GpuSample, ...]]:
    async def play() -> tuple[tuple[ServerSample, ...], tuple[GpuSample, ...]]:
        async with server, Watcher(Target.at(server.url), 0.0) as watcher:
            await asyncio.sleep(sleep_s)
            await watcher.look_again(may_ask=True)
            return watcher.server_samples(), watcher.gpu_samples()

    return asyncio.run(play())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PERIOD_S", 0.05)


def test_samples_before_during_and_after() -> None:
    samples, _ = watch(FakeServer(metrics=PAGE))
    assert len(samples) >= 3
    assert {sample.running for sample in samples} == {3.0}
    assert [sample.time_s for sample in samples] == sorted(sample.time_s for sample in samples)


@pytest.mark.parametrize("page", [None, "up 1\n"])
def test_a_server_that_says_nothing_useful_is_asked_once(page: str | None) -> None:
    server = FakeServer(metrics=page)
    samples, _ = watch(server)
    assert samples == ()
    assert [request.path for request in server.seen] == ["/metrics"]


def fake_nvml() -> Any:
    """Two GPUs of 100 W, one busy."""
    found = SimpleNamespace(NVMLError=RuntimeError, is_open=False)
    found.nvmlInit = lambda: setattr(found, "is_open", True)
    found.nvmlShutdown = lambda: setattr(found, "is_open", False)
    found.nvmlDeviceGetCount = lambda: 2
    found.nvmlDeviceGetHandleByIndex = lambda index: index
    found.nvmlDeviceGetPowerUsage = lambda handle: 100_000
    found.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=100 * handle)
    found.looks = 0

    def energy(handle: int) -> int:
        found.looks += 1
        return 1_000 * found.looks

    found.nvmlDeviceGetTotalEnergyConsumption = energy
    return found


def test_gpus_of_this_host_are_watched_where_nvml_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    _, gpus = watch(FakeServer())
    assert gpus
    assert {(sample.power_w, sample.busy) for sample in gpus} == {(200.0, 0.5)}
    assert [sample.energy_j for sample in gpus][:2] == [1.0 + 2.0, 3.0 + 4.0]
    assert len(gpus) >= 3  # before, during, after
    assert not nvml.is_open


def test_without_nvml_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert watch(FakeServer())[1] == ()
