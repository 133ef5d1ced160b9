"""A process that works for the server at the other end of an inherited socket, and lives as long as it."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from engine.ipc import Channel, Command


@dataclass(frozen=True, slots=True)
class Prepared:
    """Word from a thread of the child itself: the slow part of a request is done."""

    request_id: int


Inbox = queue.SimpleQueue[Command | Prepared | None]  # None: the server is gone

_EXIT_GRACE_S = 2.0


def run_child(sock: socket.socket, work: Callable[[Channel, Inbox], int]) -> int:
    """Do `work`, with commands coming in meanwhile; returns the exit code."""
    channel = Channel(sock)
    inbox: Inbox = queue.SimpleQueue()
    done = threading.Event()
    threading.Thread(target=_receive, args=(channel, inbox, done), daemon=True, name="commands").start()
    try:
        return work(channel, inbox)
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the server went away while it was being told something
    finally:
        done.set()


def leave(code: int) -> NoReturn:
    """End this process after what it registered for its end, and without destructors.

    Tearing down a GPU that shares memory with ranks that are gone can wait for ever.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def inherited_socket(module: str, label: str, argv: Sequence[str] | None) -> socket.socket:
    """The socket that the command line names; signals and logging, as `label`, are set up on the way."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Started by the server.")
    parser.add_argument("--fd", type=int, required=True, help="inherited Unix socket to the server")
    options = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal or supervisor signals the whole group; the server decides
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {label} %(levelname)s %(name)s: %(message)s")
    sock = socket.socket(fileno=options.fd)
    sock.set_inheritable(False)  # processes of the child's own must not keep the link open
    return sock


def _receive(channel: Channel, inbox: Inbox, done: threading.Event) -> None:
    """Thread: commands into `inbox`. Without a server a hung device must not keep the process alive."""
    try:
        for command in channel.receive():
            inbox.put(command)
    finally:
        inbox.put(None)
        if not done.wait(_EXIT_GRACE_S):
            os._exit(1)
