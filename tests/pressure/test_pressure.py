"""The scripts of this folder, short: they fail where the server does. Times are theirs to print, not for a test."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path

import pytest

from tests.end_to_end.server import running_server
from tests.pressure import fuzz, overload, soak

pytestmark = pytest.mark.slow  # real processes, and a minute of them


def test_a_while_of_ordinary_life(tmp_path: Path) -> None:
    """Valid requests succeed beside clients that leave and clients that send nonsense; nothing is held at the end."""
    options = Namespace(minutes=0.8, clients=64, seed=1, warm_up_s=12.0, no_slope=True)  # a minute in all
    with running_server(tmp_path, *soak.OPTIONS) as server:
        figures = asyncio.run(soak.campaign(int(server.url.rpartition(":")[2]), server.process.pid, options))
        log = server.log.read_text()
    assert figures["failures"] == []
    assert "Traceback" not in log
    assert figures["kinds"].keys() >= {"left", "malformed", "chat-stream", "chat-whole", "completion", "scoring"}


def test_malformed_requests(tmp_path: Path) -> None:
    options = Namespace(requests=1000, clients=16, seed=1, first=0)
    with running_server(tmp_path, *fuzz.OPTIONS) as server:
        figures = asyncio.run(fuzz.campaign(server, options))
        log = server.log.read_text()
    assert figures["broken"] == []
    assert "Traceback" not in log
    assert figures["answers"]["400"] > 500, "most of them should be refused"


def test_more_than_the_server_can_do(tmp_path: Path) -> None:
    options = Namespace(rounds=1, seconds=3.0, factor=10.0)
    with running_server(tmp_path, *overload.OPTIONS) as server:
        figures = asyncio.run(overload.measure(int(server.url.rpartition(":")[2]), options))
    assert figures["only_200_and_429"], figures["statuses"]
    assert figures["statuses"][0].get(429), "the load was not too much"
