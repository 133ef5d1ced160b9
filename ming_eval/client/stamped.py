"""A plain-TCP transport that the client reads itself: a loop's own transport hides the kernel's receive stamps."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from ming_eval.client.stamps import ANCILLARY_BYTES, SO_TIMESTAMPNS, ReceiveStamps

_READ_BYTES = 65_536


class StampedTransport(asyncio.Transport):
    """What a protocol needs of a transport, over `recvmsg`; owns the socket."""

    def __init__(
        self, sock: socket.socket, protocol: asyncio.Protocol, stamps: ReceiveStamps, clock: Callable[[], float]
    ) -> None:
        super().__init__({"socket": sock})
        self._sock = sock
        self._protocol = protocol
        self._stamps = stamps
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._unsent = memoryview(b"")
        self._is_waiting = False
        self._closing = False
        protocol.connection_made(self)
        self._loop.add_reader(sock, self._read)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send at once what the kernel takes, the rest as it makes room."""
        if self._closing:
            return
        if not self._unsent:
            self._unsent = memoryview(bytes(data))
            self._flush()
        else:
            self._unsent = memoryview(bytes(self._unsent) + data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to set: the protocol is always told when bytes are left, and when none are any more."""

    def is_closing(self) -> bool:
        """True once the connection is being dropped."""
        return self._closing

    def abort(self) -> None:
        """Drop the connection and what was not sent."""
        self._drop(None)

    def close(self) -> None:
        """The same as `abort`: nothing is left to say when a connection of the pool is given up."""
        self._drop(None)

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._drop(exc)
            return
        if data:
            self._stamps.add(ancillary, self._clock())
            self._protocol.data_received(data)
        else:
            self._protocol.eof_received()
            self._drop(None)

    def _flush(self) -> None:
        try:
            num_sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            num_sent = 0
        except OSError as exc:
            self._drop(exc)
            return
        self._unsent = self._unsent[num_sent:]
        if self._unsent and not self._is_waiting:
            self._is_waiting = True
            self._loop.add_writer(self._sock, self._flush)
            self._protocol.pause_writing()
        elif not self._unsent and self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._sock)
            self._protocol.resume_writing()

    def _drop(self, exc: OSError | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._protocol.connection_lost, exc)
        self._loop.call_soon(self._sock.close)


async def open_stamped(
    host: str, port: int, protocol: asyncio.Protocol, stamps: ReceiveStamps, clock: Callable[[], float]
) -> None:
    """Connect `protocol` over a socket whose arrivals the kernel stamps.

    Raises:
        OSError: the connection cannot be opened.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    StampedTransport(sock, protocol, stamps, clock)
