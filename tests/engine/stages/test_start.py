"""Where the talker runs, by what the operator asks for and what there is."""

from __future__ import annotations

import pytest
import torch

from engine.errors import ConfigError
from engine.stages.start import pick_device


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("asked", "count", "device"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, asked: str, count: int, device: str) -> None:
    with_gpus(monkeypatch, count)
    assert pick_device(asked) == torch.device(device)


@pytest.mark.parametrize(
    ("asked", "count", "message"), [("cuda", 0, "has no usable GPU"), ("cuda:2", 2, "has 2 usable GPUs")]
)
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, asked: str, count: int, message: str) -> None:
    with_gpus(monkeypatch, count)
    with pytest.raises(ConfigError, match=f"--talker-device {asked}: this machine {message}"):
        pick_device(asked)
