"""`responses.jsonl`: every answer as it came, appended line by line, and read again to go on with a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import TracebackType

import msgspec

from ming_eval.errors import DataError
from ming_eval.run_folder import Redactor
from ming_eval.types import Failure
from ming_eval.worker_files import join_parts, part_files, read_lines, worker_file

RESPONSES_FILE = "responses.jsonl"

# An empty reply is an answer without content, and some servers give no finish reason.
USABLE = frozenset({Failure.EMPTY.value, Failure.NO_FINISH_REASON.value})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to get an answer. `failure` None is a complete reply; `waited_s` is the pause before the next try."""

    latency_s: float
    failure: str | None = None
    http_status: int | None = None
    error: str | None = None
    waited_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One line: what came for one sample. `key` is a digest of all that decides the answer, the server included.

    `choice_logprobs` are there instead of a text where the model was asked how likely each choice is. `audio` names the
    file with spoken output below the run's folder.
    """

    key: str
    suite: str
    backend: str
    id: str
    repeat: int
    rotation: int
    text: str
    reasoning: str = ""
    finish_reason: str | None = None
    attempts: tuple[Attempt, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    choice_logprobs: tuple[float, ...] | None = None
    audio: str | None = None
    audio_s: float | None = None
    sample_rate_hz: int | None = None
    announced_rate_hz: int | None = None
    transcript: str | None = None
    missing: str | None = None

    @property
    def failure(self) -> str | None:
        """The failure of the last attempt that leaves no usable reply; None for a reply, also for an empty one."""
        failure = self.attempts[-1].failure if self.attempts else None
        return None if failure in USABLE else failure

    @property
    def first_latency_s(self) -> float | None:
        """How long the first attempt took; None where that failed."""
        first = self.attempts[0] if self.attempts else None
        return first.latency_s if first is not None and (first.failure is None or first.failure in USABLE) else None


def read_responses(folder: Path) -> dict[str, Response]:
    """The last line of every key in the folder's file and its parts; last lines that a kill cut short are left out.

    Raises:
        DataError: a file cannot be read, or a line inside it is no response.
    """
    return {response.key: response for response in _decoded(_whole_lines(folder / RESPONSES_FILE))}


def read_parts(folder: Path) -> list[Response]:
    """What several processes have written since their files were last joined.

    Raises:
        DataError: a file cannot be read, or a line inside it is no response.
    """
    path = folder / RESPONSES_FILE
    return list(_decoded(line for line in _whole_lines(path) if line[0] != path))


def _decoded(lines: Iterable[tuple[Path, int, bytes]]) -> Iterator[Response]:
    decode = msgspec.json.Decoder(Response).decode
    for file, number, line in lines:
        try:
            yield decode(line)
        except msgspec.DecodeError as exc:
            raise DataError(f"{file}, line {number}: {exc}") from exc


def join_responses(folder: Path) -> None:
    """Make one file of what several processes have written; does nothing where one has.

    Raises:
        DataError: a file cannot be read or written.
    """
    path = folder / RESPONSES_FILE
    if not part_files(path):
        return
    try:
        join_parts(path, [line for _, _, line in _whole_lines(path)])
    except OSError as exc:
        raise DataError(f"cannot write {path}: {exc.strerror}") from exc


def _whole_lines(path: Path) -> list[tuple[Path, int, bytes]]:
    if not path.exists() and not part_files(path):
        return []
    try:
        return list(read_lines(path))
    except OSError as exc:
        raise DataError(f"cannot read {exc.filename}: {exc.strerror}") from exc


class ResponseLog:
    """Appends to a folder's `responses.jsonl`; `known` are the answers that were there before.

    One of several processes (`worker`) reads what there is and appends to a file of its own. Opening cuts off a torn
    last line. A line is written in one piece and has left this process when `add` returns.
    """

    def __init__(self, folder: Path, redact: Redactor, worker: int | None = None) -> None:
        self.known: Mapping[str, Response] = read_responses(folder)
        self._path = folder / worker_file(RESPONSES_FILE, worker)
        self._redact = redact
        self._encode = msgspec.json.Encoder().encode
        self._file = self._open()

    def __enter__(self) -> ResponseLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def add(self, response: Response) -> Response:
        """Write one answer and return it as written, without secrets that a server has echoed.

        Raises:
            DataError: it cannot be written.
        """
        response = self._cleaned(response)
        line = self._encode(response) + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise DataError(f"cannot write {self._path}: the disk is full")
        except OSError as exc:
            raise DataError(f"cannot write {self._path}: {exc.strerror}") from exc
        return response

    def save_audio(self, key: str, data: bytes) -> str:
        """Write spoken output; its path below the folder.

        Raises:
            DataError: it cannot be written.
        """
        name = f"audio/{key[:32]}.wav"
        path = self._path.parent / name
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        except OSError as exc:
            raise DataError(f"cannot write {path}: {exc.strerror}") from exc
        return name

    def _cleaned(self, response: Response) -> Response:
        attempts = tuple(
            replace(attempt, error=None if attempt.error is None else self._redact(attempt.error))
            for attempt in response.attempts
        )
        return replace(response, text=self._redact(response.text), attempts=attempts)

    def _open(self) -> FileIO:
        try:
            if self._path.exists():
                data = self._path.read_bytes()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    with self._path.open("r+b") as file:
                        file.truncate(whole)
            return self._path.open("ab", buffering=0)
        except OSError as exc:
            raise DataError(f"cannot write {self._path}: {exc.strerror}") from exc
