"""What a host must have for a load."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from ming_eval.errors import UsageError
from ming_eval.load import host
from ming_eval.load.host import make_room, warn_if_busy
from tests.ming_eval.factories import make_plan


def limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> list[tuple[int, int]]:
    """Pretend these limits of open files; what is set instead is collected."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, pair: found.append(pair))
    return found


def test_the_soft_limit_of_open_files_is_raised_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = limits(monkeypatch, 256, 4096)
    make_room(make_plan(concurrencies=(1, 1024)))
    assert raised == [(1088, 4096)]


def test_enough_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = limits(monkeypatch, 256, 4096)
    make_room(make_plan(concurrencies=(128,)))
    assert raised == []


def test_a_hard_limit_that_is_too_low_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 256, 512)
    with pytest.raises(UsageError, match="1024 connections need 1088 open files, 512 are allowed"):
        make_room(make_plan(concurrencies=(1024,)))


def test_too_few_ports_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 100_000, 100_000)
    path = tmp_path / "range"
    path.write_text("60000\t60999\n")
    monkeypatch.setattr(host, "_PORT_RANGE", path)
    make_room(make_plan(concurrencies=(1000,)))
    with pytest.raises(UsageError, match="1000 are there"):
        make_room(make_plan(concurrencies=(1001,)))


def test_a_busy_host_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    warnings: list[str] = []
    warn_if_busy(warnings.append)
    assert warnings == ["this host is busy: 2.0 processes per core are ready to run; expect lag"]
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    warn_if_busy(pytest.fail)
