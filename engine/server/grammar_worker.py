"""The process that compiles schemas of clients: `python -m engine.server.grammar_worker`, started by `GrammarCheck`.

Its only connection is the socket that it gets as standard input. A schema that takes too long or too much memory costs
this process, and nothing else. The time is that of the processor: on a busy machine a schema is no slower than on a
quiet one.
"""

from __future__ import annotations

import signal
import socket

import msgspec

from engine.grammar import GrammarCompiler, GrammarError
from engine.inputs.decode_wire import receive_frame, send_frame
from engine.inputs.decode_worker import confine

_MEMORY_BYTES = 1 << 30


COMPILE_LIMIT_S = 2.0


class Vocabulary(msgspec.Struct):
    """The first frame to the worker; `limit_s` of processor time is what a schema may take."""

    tokenizer_json: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    limit_s: float = COMPILE_LIMIT_S


class Schema(msgspec.Struct):
    """A schema to try."""

    text: str


class Verdict(msgspec.Struct):
    """Answer to either; `problem` is empty where there is none."""

    problem: str = ""


def main() -> None:
    """Try schemas until the other side closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    sock = socket.socket(fileno=0)
    frame = receive_frame(sock)
    if frame is None:
        return
    words = msgspec.msgpack.decode(frame, type=Vocabulary)
    compiler = GrammarCompiler(words.tokenizer_json, words.vocab_size, words.eos_token_ids)
    confine(_MEMORY_BYTES)
    send_frame(sock, Verdict())
    while (frame := receive_frame(sock)) is not None:
        signal.setitimer(signal.ITIMER_PROF, words.limit_s)  # then the kernel ends this process, by SIGPROF
        verdict = _try(compiler, msgspec.msgpack.decode(frame, type=Schema).text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send_frame(sock, verdict)


def _try(compiler: GrammarCompiler, schema: str) -> Verdict:
    try:
        compiler.probe(schema)
    except GrammarError as error:
        return Verdict(str(error) or "unknown")
    return Verdict()


if __name__ == "__main__":
    main()
