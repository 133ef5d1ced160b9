"""The bundled cases: `suites/coverage/cases.toml` and its media, checked before anything is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated

import msgspec

from ming_eval.errors import DataError, UsageError
from ming_eval.media import Kind, media_type
from ming_eval.types import Media, Message, Part, Request, Task, Text

DEFAULT_TASKS = tuple(Task)  # what is asked for unless the command line says otherwise

SEED = 0
_WARMUP_TOKENS = 8
_MEDIA_OF_INPUT: dict[str, Kind | None] = {"T": None, "I": "image", "A": "audio", "V": "video"}


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A bundled file; `media` is what is sent. Pixels and seconds are None where this kind of media has none."""

    name: str
    media: Media
    width: int | None
    height: int | None
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to ask. `mentions` are what a good answer names, alternatives separated by `|`."""

    id: str
    task: Task
    prompt: str
    media: tuple[MediaFile, ...]
    max_tokens: int
    mentions: tuple[str, ...] = ()

    def request(self) -> Request:
        """The request that is measured: media in order, then the prompt."""
        parts: tuple[Part, ...] = (*(file.media for file in self.media), Text(self.prompt))
        return Request(self.id, (Message("user", parts),), self.task, self.max_tokens, seed=SEED)

    def control(self) -> Request:
        """The same without its media; one token, because only the size of its prompt is of interest."""
        message = Message("user", (Text(self.prompt),))
        return replace(self.request(), id=f"{self.id}-control", messages=(message,), max_tokens=1)


@dataclass(frozen=True, slots=True)
class CaseSet:
    """Everything in one cases file: cases in its order, and one warm-up per task."""

    version: int
    cases: tuple[Case, ...]
    warmups: dict[Task, Case]

    def of(self, task: Task) -> tuple[Case, ...]:
        """The cases of one task."""
        return tuple(case for case in self.cases if case.task is task)


def parse_tasks(text: str | None) -> tuple[Task, ...]:
    """The tasks in `T2T,I2T`, in the order of `Task`, each once; the default ones for None.

    Raises:
        UsageError: a name is not that of a task, or there is none.
    """
    if text is None:
        return DEFAULT_TASKS
    names = [name.strip().upper() for name in text.split(",")]
    for name in names:
        if name not in Task.__members__:
            raise UsageError(f"unknown modality {name!r} in {text!r}: choose from {','.join(Task)}")
    return tuple(task for task in Task if task in names)


def load_cases(folder: Traversable | None = None) -> CaseSet:
    """The cases in `folder`, by default the bundled ones.

    Raises:
        DataError: cases, media or their index are not what they should be.
    """
    folder = folder or resources.files("suites").joinpath("coverage")
    path = folder.joinpath("cases.toml")
    try:
        source = msgspec.toml.decode(_read(path), type=_CasesFile)
        files = _load_media(folder.joinpath("media"))
        cases = tuple(_case(entry, files) for entry in source.case)
        warmups = tuple(_warmup(entry, files) for entry in source.warmup)
        _check(cases, warmups)
    except ValueError as exc:  # not TOML, a wrong or unknown key, or what the functions below complain about
        raise DataError(f"{path}: {exc}") from exc
    return CaseSet(source.version, cases, {warmup.task: warmup for warmup in warmups})


# --- Files -------------------------------------------------------------------------------------------------------

_Words = Annotated[str, msgspec.Meta(min_length=1)]


class _WarmupEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    task: Task
    prompt: _Words
    media: tuple[_Words, ...] = ()


class _CaseEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    task: Task
    prompt: _Words
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    media: tuple[_Words, ...] = ()
    mentions: tuple[_Words, ...] = ()


class _CasesFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    version: int
    case: tuple[_CaseEntry, ...]
    warmup: tuple[_WarmupEntry, ...]


class _MediaFacts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    width: int | None
    height: int | None
    duration_s: float | None


def _read(path: Traversable) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc


def _load_media(folder: Traversable) -> dict[str, MediaFile]:
    """Every file that the index names."""
    path = folder.joinpath("index.json")
    try:
        index = msgspec.json.decode(_read(path), type=dict[str, _MediaFacts])
    except msgspec.DecodeError as exc:
        raise DataError(f"{path}: {exc}") from exc
    return {name: _media_file(folder.joinpath(name), name, facts) for name, facts in index.items()}


def _media_file(path: Traversable, name: str, facts: _MediaFacts) -> MediaFile:
    found = media_type(name)
    if found is None:
        raise DataError(f"{path}: unknown kind of media file")
    kind, mime = found
    return MediaFile(name, Media(kind, _read(path), mime), facts.width, facts.height, facts.duration_s)


def _case(entry: _CaseEntry, files: Mapping[str, MediaFile]) -> Case:
    media = _pick(entry.media, entry.task, entry.id, files)
    return Case(entry.id, entry.task, entry.prompt, media, entry.max_tokens, entry.mentions)


def _warmup(entry: _WarmupEntry, files: Mapping[str, MediaFile]) -> Case:
    name = f"{entry.task.value.lower()}-warmup"
    return Case(name, entry.task, entry.prompt, _pick(entry.media, entry.task, name, files), _WARMUP_TOKENS)


def _pick(names: Sequence[str], task: Task, case: str, files: Mapping[str, MediaFile]) -> tuple[MediaFile, ...]:
    """The files of one case, of the kind that its task takes."""
    kind = _MEDIA_OF_INPUT[task.value[0]]
    if bool(names) != (kind is not None):
        raise ValueError(f"{case}: {task} takes {f'at least one {kind} file' if kind else 'no media'}")
    for name in names:
        if name not in files:
            raise ValueError(f"{case}: no media file {name!r} in the index")
        if files[name].media.kind != kind:
            raise ValueError(f"{case}: {name} is no {kind}, which {task} takes")
    return tuple(files[name] for name in names)


def _check(cases: Sequence[Case], warmups: Sequence[Case]) -> None:
    """What cannot be seen from one case alone."""
    if twice := _repeated(case.id for case in (*cases, *warmups)):
        raise ValueError(f"{twice} is there twice")
    cold = {case.task for case in cases} - {warmup.task for warmup in warmups}
    if cold:
        raise ValueError(f"no warm-up for {', '.join(sorted(cold))}")
    spent = {file.name for warmup in warmups for file in warmup.media}
    if twice := _repeated([*spent, *(file.name for case in cases for file in case.media)]):
        raise ValueError(f"{twice} is sent twice: the second time, the server may know it")


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
