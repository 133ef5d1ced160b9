"""The worker's end of a link: lines in on standard input, news out on standard output."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import msgspec

from ming_eval.errors import MingEvalError, TargetError

_LONGEST_LINE = 2**26


class News(msgspec.Struct, omit_defaults=True):
    """What a worker says. `ended` and what follows are of the point since its beginning."""

    kind: str  # gate, point, progress, point_ended, say, error or end
    text: str = ""
    exit_code: int = 0
    num_requests: int = 0
    warmup: bool = False
    ended: int = 0
    failed: int = 0
    tokens: int = 0


class Wire:
    """The two pipes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    @classmethod
    async def connect(cls) -> Wire:
        """Over this process's own."""
        reader = asyncio.StreamReader(limit=_LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        return cls(reader)

    async def read(self) -> bytes:
        """The next line; empty when nobody is there any more."""
        return await self._reader.readline()

    @staticmethod
    def say(news: News) -> None:
        """One line, at once."""
        os.write(1, msgspec.json.encode(news) + b"\n")

    def end(self, result: Any) -> None:
        """The last line: how the work has ended. `result` is what it returned or raised.

        Raises:
            BaseException: `result`, where it is an error that nobody expects.
        """
        if isinstance(result, MingEvalError):
            self.say(News("error", text=str(result), exit_code=result.exit_code))
        elif isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
        else:
            self.say(News("end"))


def error_of(news: News) -> MingEvalError:
    """The worker's error as this process would have raised it."""
    kinds = {kind.exit_code: kind for kind in MingEvalError.__subclasses__()}
    return kinds.get(news.exit_code, TargetError)(news.text)
