"""Where the media and the questions of a load come from: made ones, a folder, or a published data set by name.

A named set is read from a local folder in the layout that its authors publish, or from the hub through the package
`datasets`; nothing is read that is not sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ming_eval.errors import DataError, UsageError
from ming_eval.evals.data import DataOptions
from ming_eval.evals.data import load as load_suite
from ming_eval.evals.prompt import render
from ming_eval.evals.streaming import stream_files
from ming_eval.evals.suite import find_suite
from ming_eval.load.media import MediaShape, check_can_make, make_media, to_mp4
from ming_eval.media import MEDIA_TYPES, media_type
from ming_eval.types import Media, Task

Kind = Literal["text", "image", "audio", "video"]
KIND_OF_INPUT: dict[str, Kind] = {"T": "text", "I": "image", "A": "audio", "V": "video"}
MOST_FROM_HUB = 1_000  # items; more requests use them again

_CONVERTED = frozenset({".avi"})  # what few servers read is converted before it is sent
_QUESTION_FILES = ("*.parquet", "*.jsonl", "*.json", "*.csv")


@dataclass(frozen=True, slots=True)
class Ask:
    """What goes into one request; `text` None leaves the words to the prompt set of the task."""

    media: tuple[Media, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Things to ask by number; `count` how many are different, None for as many as one likes.

    Reading or making one may take milliseconds: it is done before the clock starts.
    """

    ask: Callable[[int], Ask]
    count: int | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository whose rows hold the files."""

    repo: str
    config: str | None
    split: str
    column: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A published data set. `prompt` goes with each file; `suite` names the suite that has its questions."""

    name: str
    title: str
    task: Task
    prompt: str
    layout: str
    hub: Hub | None = None
    suite: str | None = None

    @property
    def kind(self) -> Kind:
        """What it holds."""
        return KIND_OF_INPUT[self.task.value[0]]


NAMED_SETS: dict[str, NamedSet] = {
    each.name: each
    for each in (
        NamedSet(
            "food101",
            "Food-101 (Bossard et al., ECCV 2014), 101,000 photographs of dishes",
            Task.I2T,
            "Which dish is this, and what is it made of?",
            "images/<class>/<number>.jpg",
            Hub("ethz/food101", None, "validation", "image"),
        ),
        NamedSet(
            "librispeech",
            "LibriSpeech test-clean (Panayotov et al., ICASSP 2015), 2,620 utterances of read speech",
            Task.A2T,
            "Transcribe the speech. Reply with the transcript only.",
            "test-clean/<speaker>/<chapter>/<utterance>.flac",
            Hub(
                "openslr/librispeech_asr",
                "clean",
                "test",
                "audio",
                revision="71cacbfb7e2354c4226d01e70d77d5fca3d04ba1",
            ),
        ),
        NamedSet(
            "ucf101",
            "UCF101 (Soomro et al., 2012), 13,320 clips of human actions",
            Task.V2T,
            "What is the person in this video doing?",
            "<action>/v_<action>_g<group>_c<clip>.avi",
        ),
        NamedSet(
            "videomme",
            "Video-MME (Fu et al., CVPR 2025), 900 videos; with its questions where their file lies in the folder",
            Task.V2T,
            "Describe what happens in this video.",
            "data/<video>.mp4, and the questions' .parquet or .jsonl beside it",
            suite="videomme",
        ),
        NamedSet(
            "seed-tts",
            "Seed-TTS-eval (Anastassiou et al., 2024), texts to be spoken",
            Task.T2S,
            "Read this aloud, word for word: {text}",
            "meta.lst, in the folder of a language",
            suite="seed-tts",
        ),
    )
}


def default_task(dataset: str | None) -> Task:
    """What a data set is for; text to text without one."""
    if dataset is None:
        return Task.T2T
    named = NAMED_SETS.get(dataset)
    if named is None:
        raise UsageError(f"--dataset {dataset} is a folder, which may serve several tasks: name one with --task")
    return named.task


def check_source(tasks: Sequence[Task], dataset: str | None, dataset_dir: str | None) -> None:
    """Find out before anything is measured whether there will be something to send.

    Raises:
        UsageError: the data set does not fit a task, or a package is missing.
        DataError: a folder is not there.
    """
    if dataset_dir is not None and dataset is None:
        raise UsageError("--dataset-dir says where --dataset NAME lies, which is not given")
    if dataset is None:
        for task in tasks:
            check_can_make(KIND_OF_INPUT[task.value[0]])
        return
    named = NAMED_SETS.get(dataset)
    if named is None and not Path(dataset).is_dir():
        raise UsageError(f"no data set {dataset!r}: choose one of {', '.join(NAMED_SETS)}, or name a folder of media")
    if named is None and dataset_dir is not None:
        raise UsageError("--dataset-dir goes with the name of a set, not with a folder")
    for task in tasks:
        kind = KIND_OF_INPUT[task.value[0]]
        if named is not None and named.kind != kind:
            raise UsageError(f"{dataset} holds {named.kind}, which {task} does not take: use it with {named.task}")
        if named is None and kind == "text":
            raise UsageError(f"{task} sends no media: leave --dataset {dataset} out")
    if dataset_dir is not None and not Path(dataset_dir).is_dir():
        raise DataError(f"no folder {dataset_dir}")
    if named is not None and named.hub is None and dataset_dir is None:
        raise UsageError(
            f"{named.name} is read from a folder only: download it, unpack it and name the folder with "
            f"--dataset-dir (its files: {named.layout})"
        )


@lru_cache(maxsize=8)
def find_source(
    task: Task, dataset: str | None, dataset_dir: str | None, shape: MediaShape, seed: int, needed: int
) -> Source:
    """What the requests of a task ask; `needed` is how many there will be.

    Raises:
        UsageError: a package is missing.
        DataError: the data is not there or not what it should be.
    """
    kind = KIND_OF_INPUT[task.value[0]]
    if dataset is None:
        if kind == "text":
            return Source(lambda _index: Ask())
        return Source(lambda index: Ask(make_media(kind, shape, f"{seed} {index}")), about=f"made {kind}")
    named = NAMED_SETS.get(dataset)
    if named is None:
        return _of_folder(Path(dataset), kind, None, shape.count, seed)
    if dataset_dir is None:
        return _of_hub(named, shape.count, needed)
    folder = Path(dataset_dir)
    if named.suite is not None and (questions := _question_file(folder, named)) is not None:
        return _of_suite(named, questions, folder, seed)
    return _of_folder(folder, kind, named.prompt, shape.count, seed)


# --- Folders -----------------------------------------------------------------------------------------------------


def _of_folder(folder: Path, kind: Kind, prompt: str | None, count: int, seed: int) -> Source:
    suffixes = {suffix for suffix, (of, _) in MEDIA_TYPES.items() if of == kind}
    suffixes |= _CONVERTED if kind == "video" else set()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise DataError(f"no {kind} in {folder}: looked for {', '.join(sorted(suffixes))} in it and below it")
    random.Random(f"files {seed}").shuffle(files)

    def ask(index: int) -> Ask:
        chosen = [files[(index * count + i) % len(files)] for i in range(count)]
        return Ask(tuple(read_media(path) for path in chosen), prompt)

    return Source(ask, max(1, len(files) // count), f"{len(files)} files of {folder}")


def read_media(path: Path) -> Media:
    """A file as it is sent.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    if path.suffix.lower() in _CONVERTED:
        return Media("video", to_mp4(data, str(path)), "video/mp4")
    return _as_media(path.name, data)


def _as_media(name: str, data: bytes) -> Media:
    found = media_type(name)
    if found is None:
        raise DataError(f"{name}: unknown kind of media file")
    return Media(found[0], data, found[1])


# --- Published sets ----------------------------------------------------------------------------------------------


def _of_hub(named: NamedSet, count: int, needed: int) -> Source:
    hub = named.hub
    assert hub is not None, "`check_source` has seen to it"
    limit = min(needed * count, MOST_FROM_HUB)
    default = {"image": "x.jpg", "audio": "x.flac"}[hub.column]
    files = [
        _as_media(name if media_type(name) else default, data)
        for name, data in stream_files(hub.repo, hub.config, hub.split, hub.revision, hub.column, limit)
    ]
    if not files:
        raise DataError(f"{hub.repo} holds no {hub.column}")

    def ask(index: int) -> Ask:
        return Ask(tuple(files[(index * count + i) % len(files)] for i in range(count)), named.prompt)

    return Source(ask, max(1, len(files) // count), f"the first {len(files)} of {hub.repo}")


def _question_file(folder: Path, named: NamedSet) -> Path | None:
    patterns = ("meta.lst", "*/meta.lst") if named.kind == "text" else _QUESTION_FILES
    found = next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)
    if found is None and named.kind == "text":
        raise DataError(f"no meta.lst in {folder} or in a folder in it: is this {named.title.partition(',')[0]}?")
    return found


def _of_suite(named: NamedSet, questions: Path, folder: Path, seed: int) -> Source:
    assert named.suite is not None
    suite = find_suite(named.suite)
    is_text = named.kind == "text"
    options = DataOptions(data=str(questions), media_root=str(folder))
    items = list(load_suite(suite, options, needs_media=not is_text).items)
    random.Random(f"items {seed}").shuffle(items)
    _, protocol = suite.protocol(None)

    def ask(index: int) -> Ask:
        item = items[index % len(items)]
        if is_text:
            return Ask((), named.prompt.format(text=item.question))
        media = tuple(
            read_media(Path(ref.path)) if ref.data is None else _as_media(ref.path, ref.data) for ref in item.media
        )
        return Ask(media, render(protocol, item))

    return Source(ask, len(items), f"{len(items)} items of {questions}")
