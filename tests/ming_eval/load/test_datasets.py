"""Data sets by name and by folder, in the layout that their authors publish."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ming_eval.errors import DataError, MingEvalError, UsageError
from ming_eval.load.datasets import Ask, check_source, default_task, find_source
from ming_eval.load.media import MediaShape, make_media
from ming_eval.types import Task

SHAPE = MediaShape()


def ask_all(task: Task, dataset: str, folder: Path | None, shape: MediaShape = SHAPE) -> list[Ask]:
    """What one round of a data set asks."""
    directory = None if folder is None else str(folder)
    check_source([task], dataset, directory)
    source = find_source(task, dataset, directory, shape, 3, 10)
    assert source.count is not None
    return [source.ask(i) for i in range(source.count)]


def write(path: Path, data: bytes = b"data") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_photographs_of_every_class_with_the_question_of_the_set(tmp_path: Path) -> None:
    for name in ("apple_pie/1.jpg", "apple_pie/2.jpg", "ramen/3.jpg"):
        write(tmp_path / "images" / name, name.encode())
    write(tmp_path / "meta" / "classes.txt")
    asks = ask_all(Task.I2T, "food101", tmp_path)
    assert {ask.media[0].data for ask in asks} == {b"apple_pie/1.jpg", b"apple_pie/2.jpg", b"ramen/3.jpg"}
    assert {(ask.media[0].kind, ask.media[0].mime) for ask in asks} == {("image", "image/jpeg")}
    assert {ask.text for ask in asks} == {"Which dish is this, and what is it made of?"}


def test_utterances_of_every_speaker(tmp_path: Path) -> None:
    for name in ("61/70968/61-70968-0000.flac", "121/121726/121-121726-0000.flac"):
        write(tmp_path / "test-clean" / name)
    asks = ask_all(Task.A2T, "librispeech", tmp_path)
    assert [ask.media[0].mime for ask in asks] == ["audio/flac"] * 2


def test_texts_to_be_spoken_are_read_from_the_list(tmp_path: Path) -> None:
    write(
        tmp_path / "en" / "meta.lst", b"a|hello|prompt-wavs/a.wav|Good morning.\nb|hi|prompt-wavs/b.wav|Good night.\n"
    )
    asks = ask_all(Task.T2S, "seed-tts", tmp_path)
    assert sorted(ask.text or "" for ask in asks) == [
        "Read this aloud, word for word: Good morning.",
        "Read this aloud, word for word: Good night.",
    ]


def test_videos_come_with_their_questions_where_these_lie_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "data" / "abc.mp4", b"clip")
    (asked,) = ask_all(Task.V2T, "videomme", tmp_path)
    assert (asked.media[0].data, asked.text) == (b"clip", "Describe what happens in this video.")
    row = {"question_id": "1-1", "videoID": "abc", "question": "Who runs?", "options": ["A. A cat", "B. A dog"]}
    row |= {"answer": "B", "duration": "short", "task_type": "t", "domain": "d"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    find_source.cache_clear()
    (asked,) = ask_all(Task.V2T, "videomme", tmp_path)
    assert asked.media[0].data == b"clip"
    assert "Who runs?" in (asked.text or "")
    assert "B. A dog" in (asked.text or "")


def test_a_folder_of_ones_own_gives_what_the_task_takes_and_leaves_the_words_to_the_prompts(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "x.wav", "notes.txt"):
        write(tmp_path / name, name.encode())
    assert {ask.media[0].data for ask in ask_all(Task.I2T, str(tmp_path), None)} == {b"a.png", b"b.png", b"c.png"}
    assert [ask.media[0].data for ask in ask_all(Task.A2S, str(tmp_path), None)] == [b"x.wav"]
    assert ask_all(Task.A2S, str(tmp_path), None)[0].text is None
    with pytest.raises(DataError, match=r"no video in .*looked for \.avi"):
        ask_all(Task.V2T, str(tmp_path), None)


def test_several_files_a_request(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png", str(number).encode())
    asks = ask_all(Task.I2T, str(tmp_path), None, MediaShape(count=2))
    assert sorted(file.data for ask in asks for file in ask.media) == [b"0", b"1", b"2", b"3"]


def test_made_media_differ_from_request_to_request() -> None:
    shape = MediaShape(image_size=(16, 16))
    source = find_source(Task.I2T, None, None, shape, 3, 10)
    assert source.count is None
    assert source.ask(0).media == make_media("image", shape, "3 0")
    assert source.ask(0) != source.ask(1)


@pytest.mark.parametrize(
    ("tasks", "dataset", "folder", "message"),
    [
        ([Task.A2T], "food101", None, "food101 holds image, which A2T does not take: use it with I2T"),
        ([Task.V2T], "ucf101", None, "ucf101 is read from a folder only: .* --dataset-dir"),
        ([Task.I2T], "food102", None, "no data set 'food102': choose one of food101, "),
        ([Task.I2T], "food101", "/nowhere", "no folder /nowhere"),
        ([Task.I2T], None, "/tmp", "--dataset-dir says where --dataset NAME lies"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    tasks: list[Task], dataset: str | None, folder: str | None, message: str
) -> None:
    with pytest.raises(MingEvalError, match=message):
        check_source(tasks, dataset, folder)


def test_without_the_package_and_without_a_folder_the_message_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"--dataset-dir\) needs datasets: run `pip install"):
        ask_all(Task.I2T, "food101", None)


def test_a_named_set_is_for_its_task() -> None:
    assert (default_task(None), default_task("librispeech"), default_task("seed-tts")) == ("T2T", "A2T", "T2S")
