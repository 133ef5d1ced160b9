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
from typing import TypeVar

import msgspec

from ming_eval.errors import DataError
from ming_eval.media import suffix_of
from ming_eval.types import Media, Phase, Reply, RequestRecord, Task, TokenLogprob
from ming_eval.worker_files import combine, join_parts, part_files, read_lines, split_files, worker_file

REQUESTS_FILE = "requests.jsonl"
PHASES_FILE = "phases.jsonl"
SAMPLES_FOLDER = "samples"
_MASK = "***"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Redactor:
    """Takes secrets out of texts that a server could echo."""

    secrets: tuple[str, ...] = ()

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, _MASK)
        return text


class SavedReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a file in `outputs/`; `logprobs` where they were asked for and came."""

    id: str
    finish_reason: str | None
    text: str
    reasoning: str
    logprobs: tuple[TokenLogprob, ...] = ()


def create(out: Path, command: str, names: Iterable[str], now: datetime | None = None) -> Path:
    """Make `<out>/<UTC time>-<command>-<names>[-2]/` and return it.

    Raises:
        DataError: `out` cannot be written to.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    stem = "-".join([stamp, command, *(re.sub(r"[^A-Za-z0-9._]+", "_", name)[:40] for name in names)])
    try:
        out.mkdir(parents=True, exist_ok=True)
        return next(path for path in _numbered(out / stem) if _make(path))
    except OSError as exc:
        raise DataError(f"cannot create a run folder in {out}: {exc.strerror}; choose another with --out") from exc


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

    A kill therefore loses only what was still in flight. A `worker` that shares a load has files of its own
    (`requests.<worker>.jsonl`), which `merge_workers` joins.
    """

    def __init__(self, folder: Path, redact: Redactor, worker: int | None = None) -> None:
        self.folder = folder
        self._worker = worker
        self.redact = redact
        self._encode = msgspec.json.Encoder().encode
        self._files: dict[str, FileIO] = {}

    def __enter__(self) -> RequestLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()

    def add(self, reply: Reply) -> Reply:
        """Write one finished request and return it as written, secrets masked; a warm-up's texts are not kept.

        Raises:
            DataError: the disk is full or the folder is gone.
        """
        reply = self._redacted(reply)
        record = reply.record
        self._append(REQUESTS_FILE, record)
        if not record.warmup:
            saved = SavedReply(record.id, record.finish_reason, reply.text, reply.reasoning, reply.logprobs)
            self._append(outputs_file(record.backend, record.concurrency, record.rate_per_s, record.task), saved)
        return reply

    def add_phase(self, phase: Phase) -> None:
        """Write how one phase went, and how the client fared in it.

        Raises:
            DataError: the disk is full or the folder is gone.
        """
        self._append(PHASES_FILE, phase)

    def save_audio(self, reply: Reply) -> str:
        """Write the speech of a reply; its path below the run folder.

        Raises:
            DataError: the disk is full or the folder is gone.
        """
        name = audio_file(reply.record)
        self._write(name, reply.audio)
        return name

    def save_sample(self, task: Task, media: Media) -> None:
        """Write what the first request of a task sends, for people who read the report.

        Raises:
            DataError: the disk is full or the folder is gone.
        """
        name = f"{SAMPLES_FOLDER}/{task.value.lower()}{suffix_of(media.mime)}"
        if not (self.folder / name).exists():
            self._write(name, media.data)

    def _redacted(self, reply: Reply) -> Reply:
        error = reply.record.error
        record = reply.record if error is None else replace(reply.record, error=self.redact(error))
        return replace(reply, record=record, text=self.redact(reply.text), reasoning=self.redact(reply.reasoning))

    def _append(self, name: str, value: object) -> None:
        self._write(worker_file(name, self._worker), self._encode(value) + b"\n")

    def _write(self, name: str, data: bytes) -> None:
        try:
            if name not in self._files:
                self._files[name] = self._open(name)
            if self._files[name].write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as exc:
            raise DataError(f"cannot write {self.folder / name}: {exc.strerror}") from exc

    def _open(self, name: str) -> FileIO:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        return path.open("ab", buffering=0)  # what is written has left this process


def outputs_file(backend: str, concurrency: int, rate_per_s: float | None = None, task: Task = Task.T2T) -> str:
    """Where the texts of one point go, below the run folder."""
    load = f"c{concurrency}" if rate_per_s is None else f"r{rate_per_s:g}"
    kind = "" if task is Task.T2T else f"{task.value.lower()}-"
    return f"outputs/{_file_name(backend)}-{kind}{load}.jsonl"


def audio_file(record: RequestRecord) -> str:
    """Where the speech of one request goes, below the run folder: a WAV file, unless its format is unknown."""
    suffix = "bin" if record.audio_s is None else "wav"
    return f"outputs/{_file_name(record.backend)}-{_file_name(record.id)}.{suffix}"


def _file_name(name: str) -> str:
    """`name` with nothing that a file system could mind."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def read_records(folder: Path) -> tuple[RequestRecord, ...]:
    """Every record of `requests.jsonl`, and of processes that share the load, but for lines that a kill cut short.

    Raises:
        DataError: the file cannot be read, or a line inside it is not a record.
    """
    return tuple(_read_lines(folder / REQUESTS_FILE, RequestRecord))


def has_records(folder: Path) -> bool:
    """True when there is something for `read_records`."""
    path = folder / REQUESTS_FILE
    return path.exists() or bool(part_files(path))


def read_replies(
    folder: Path, backend: str, concurrency: int, rate_per_s: float | None = None, task: Task = Task.T2T
) -> dict[str, SavedReply]:
    """The stored answers of one point by request; none where none has ended.

    Raises:
        DataError: the file cannot be read, or a line inside it is not an answer.
    """
    path = folder / outputs_file(backend, concurrency, rate_per_s, task)
    is_there = path.exists() or part_files(path)
    return {reply.id: reply for reply in _read_lines(path, SavedReply)} if is_there else {}


def read_phases(folder: Path) -> tuple[Phase, ...]:
    """Every line of `phases.jsonl`; none for a run that was stopped before its first point had ended.

    Raises:
        DataError: the file cannot be read, or a line inside it is not a phase.
    """
    path = folder / PHASES_FILE
    parts = [tuple(_read_lines(part, Phase)) for part in part_files(path)]
    return (*(_read_lines(path, Phase, with_parts=False) if path.exists() else ()), *combine(parts))


def drop_cut_lines(folder: Path) -> None:
    """Take away the last line of each file that a kill cut short, so that more can be appended.

    Raises:
        DataError: a file cannot be changed.
    """
    for path in (*folder.glob("requests*.jsonl"), *folder.glob("phases*.jsonl"), *folder.glob("outputs/*.jsonl")):
        try:
            if path.exists():
                os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        except OSError as exc:
            raise DataError(f"cannot write {path}: {exc.strerror}") from exc


def merge_workers(folder: Path) -> None:
    """Join the files of processes that shared a load, in order of time; nothing where there are none.

    Raises:
        DataError: a file cannot be read or written.
    """
    encode = msgspec.json.encode
    try:
        records = sorted(read_records(folder), key=lambda record: record.sent_s)
        join_parts(folder / REQUESTS_FILE, map(encode, records))
        for path in split_files(folder / "outputs"):
            join_parts(path, [line for _, _, line in read_lines(path)])
        join_parts(folder / PHASES_FILE, map(encode, read_phases(folder)))  # last: until then the parts can be joined
    except OSError as exc:
        raise DataError(f"cannot join the files of {folder}: {exc.strerror}") from exc


def _read_lines(path: Path, kind: type[T], *, with_parts: bool = True) -> Iterator[T]:
    try:
        lines = list(read_lines(path, with_parts=with_parts))
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    for file, number, line in lines:
        try:
            yield msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as exc:
            raise DataError(f"{file}, line {number}: {exc}") from exc


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
