"""The folder of one run: made once, appended to while the run goes on, safe to read after a kill."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType

import msgspec

from ming_eval.errors import DataError, UsageError
from ming_eval.types import Reply, RequestRecord

REQUESTS_FILE = "requests.jsonl"
_MASK = "***"


@dataclass(frozen=True, slots=True)
class Redactor:
    """Takes secrets out of texts that a server could echo."""

    secrets: tuple[str, ...] = ()

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, _MASK)
        return text


@dataclass(frozen=True, slots=True)
class SavedReply:
    """One line of a file in `outputs/`."""

    id: str
    finish_reason: str | None
    text: str
    reasoning: str


def create(out: Path, command: str, names: Iterable[str], now: datetime | None = None) -> Path:
    """Make `<out>/<UTC time>-<command>-<names>[-2]/` and return it.

    Raises:
        UsageError: `out` cannot be written to.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    stem = "-".join([stamp, command, *(re.sub(r"[^A-Za-z0-9._]+", "_", name)[:40] for name in names)])
    try:
        out.mkdir(parents=True, exist_ok=True)
        return next(path for path in _numbered(out / stem) if _make(path))
    except OSError as exc:
        raise UsageError(f"cannot create a run folder in {out}: {exc.strerror}; choose another with --out") from exc


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def _make(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


class RequestLog:
    """Appends to `requests.jsonl` and `outputs/`, one line per finished request.

    A kill therefore loses only what was still in flight.
    """

    def __init__(self, folder: Path, redact: Redactor) -> None:
        self._folder = folder
        self._redact = redact
        self._encode = msgspec.json.Encoder().encode
        self._files: dict[str, FileIO] = {}

    def __enter__(self) -> RequestLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()

    def add(self, reply: Reply) -> None:
        """Write one finished request; the texts of warm-up requests are not kept.

        Raises:
            DataError: the disk is full or the folder is gone.
        """
        record = reply.record
        if record.error is not None:
            record = replace(record, error=self._redact(record.error))
        self._append(REQUESTS_FILE, record)
        if not record.warmup:
            saved = SavedReply(record.id, record.finish_reason, self._redact(reply.text), self._redact(reply.reasoning))
            self._append(outputs_file(record.backend, record.concurrency), saved)

    def _append(self, name: str, value: object) -> None:
        try:
            if name not in self._files:
                self._files[name] = self._open(name)
            line = self._encode(value) + b"\n"
            if self._files[name].write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as exc:
            raise DataError(f"cannot write {self._folder / name}: {exc.strerror}") from exc

    def _open(self, name: str) -> FileIO:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        return path.open("ab", buffering=0)  # what is written has left this process


def outputs_file(backend: str, concurrency: int) -> str:
    """Where the texts of one point go, below the run folder."""
    return f"outputs/{re.sub(r'[^A-Za-z0-9._-]+', '_', backend)}-c{concurrency}.jsonl"


def read_records(folder: Path) -> tuple[RequestRecord, ...]:
    """Every record of `requests.jsonl`; a last line that a kill cut short is left out.

    Raises:
        DataError: the file cannot be read, or a line inside it is not a record.
    """
    path = folder / REQUESTS_FILE
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    del rest  # empty after a whole line
    return tuple(_record(path, number, line) for number, line in enumerate(lines, start=1))


def _record(path: Path, number: int, line: bytes) -> RequestRecord:
    try:
        return msgspec.json.decode(line, type=RequestRecord)
    except msgspec.DecodeError as exc:
        raise DataError(f"{path}, line {number}: {exc}") from exc


def stored_runs(out: Path) -> Sequence[Path]:
    """Run folders in `out`, oldest first."""
    return sorted(path for path in out.glob("*/") if (path / "manifest.json").exists())


def find_run(name: str, out: Path) -> Path:
    """The folder of a run given by its path or by its name in `out`.

    Raises:
        DataError: there is none.
    """
    for path in (Path(name), out / name):
        if (path / "manifest.json").exists():
            return path
    raise DataError(f"no run {name!r} here or in {out}: `ming-eval runs` lists what there is")
