"""The cases file: the bundled one is whole, and mistakes in one are named."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import pytest

from ming_eval.coverage.cases import DEFAULT_TASKS, CaseSet, load_cases, parse_tasks
from ming_eval.errors import DataError, UsageError
from ming_eval.types import Media, Task, Text

GOOD = """
version = 3
[[warmup]]
task = "I2T"
prompt = "How many circles?"
media = ["warmup.png"]
[[case]]
id = "i2t-shapes"
task = "I2T"
prompt = "Describe the shapes."
media = ["shapes.png", "bars.jpg"]
max_tokens = 20
mentions = ["red", "circle|disc"]
"""


def load(folder: Path, text: str = GOOD) -> CaseSet:
    with resources.as_file(resources.files("suites") / "coverage" / "media") as media:
        shutil.copytree(media, folder / "media")
    (folder / "cases.toml").write_text(text, encoding="utf-8")
    return load_cases(folder)


# --- The bundled cases -------------------------------------------------------------------------------------------


def test_every_task_has_two_to_four_cases_and_a_warmup() -> None:
    cases = load_cases()
    for task in Task:
        assert 2 <= len(cases.of(task)) <= 4
        assert cases.warmups[task].task is task
    assert sum(len(cases.of(task)) for task in Task) == len(cases.cases)


def test_inputs_are_of_the_kind_that_the_task_names_and_all_files_are_used() -> None:
    kinds = {"T": set(), "I": {"image"}, "A": {"audio"}, "V": {"video"}}
    cases = load_cases()
    for case in (*cases.cases, *cases.warmups.values()):
        assert {file.media.kind for file in case.media} == kinds[case.task.value[0]], case.id
    used = {file.name for case in (*cases.cases, *cases.warmups.values()) for file in case.media}
    folder = resources.files("suites") / "coverage" / "media"
    assert used == {path.name for path in folder.iterdir()} - {"index.json"}


def test_common_formats_are_among_them() -> None:
    mimes = {file.media.mime for case in load_cases().cases for file in case.media}
    assert mimes >= {"image/png", "image/jpeg", "audio/wav", "audio/flac", "audio/mpeg", "video/mp4", "video/webm"}


# --- What is sent ------------------------------------------------------------------------------------------------


def test_a_request_is_media_in_order_and_then_the_prompt(tmp_path: Path) -> None:
    (case,) = load(tmp_path).cases
    request = case.request()
    (message,) = request.messages
    first, second, text = message.parts
    assert isinstance(first, Media)
    assert isinstance(second, Media)
    assert (first.mime, first.data) == ("image/png", (tmp_path / "media" / "shapes.png").read_bytes())
    assert (second.mime, second.data) == ("image/jpeg", (tmp_path / "media" / "bars.jpg").read_bytes())
    assert text == Text("Describe the shapes.")
    assert (request.id, request.task, request.max_tokens) == ("i2t-shapes", Task.I2T, 20)
    assert (request.temperature, request.stream, request.ignore_eos) == (0.0, True, False)


def test_a_control_is_the_same_without_its_media(tmp_path: Path) -> None:
    (case,) = load(tmp_path).cases
    control = case.control()
    assert [message.parts for message in control.messages] == [(Text("Describe the shapes."),)]
    assert (control.id, control.task, control.max_tokens) == ("i2t-shapes-control", Task.I2T, 1)


def test_facts_come_from_the_index(tmp_path: Path) -> None:
    (case,) = load(tmp_path).cases
    assert [(file.width, file.height, file.duration_s) for file in case.media] == [(320, 240, None), (400, 300, None)]


# --- Mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('mentions = ["red"', 'mention = ["red"', "mention"),
        ('prompt = "How many', 'max_tokens = 3\nprompt = "How many', "max_tokens"),
        ("version = 3", "version = 3\nlicence = 'x'", "licence"),
        ("max_tokens = 20", "max_tokens = 0", "max_tokens"),
        ("max_tokens = 20", "max_tokens = '20'", "max_tokens"),
        ("max_tokens = 20\n", "", "max_tokens"),
        ('prompt = "Describe the shapes."', 'prompt = ""', "prompt"),
        ('id = "i2t-shapes"\ntask = "I2T"', 'id = "i2t-shapes"\ntask = "I2X"', "I2X"),
        ('id = "i2t-shapes"', 'id = "a/b"', "id"),
        ('"shapes.png"', '"nothing.png"', "nothing.png"),
        ('"shapes.png"', '"beeps.wav"', "beeps.wav is no image"),
        ('media = ["shapes.png", "bars.jpg"]\n', "", "I2T takes at least one image file"),
        ('id = "i2t-shapes"\ntask = "I2T"', 'id = "i2t-shapes"\ntask = "T2T"', "T2T takes no media"),
        ('"bars.jpg"', '"shapes.png"', "shapes.png is sent twice"),
        ('"bars.jpg"', '"warmup.png"', "warmup.png is sent twice"),
        ('task = "I2T"\nprompt = "How', 'task = "I2S"\nprompt = "How', "no warm-up for I2T"),
        ('id = "i2t-shapes"', 'id = "i2t-warmup"', "i2t-warmup is there twice"),
        ("[[case]]", "[[case", "cases.toml"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(DataError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert complaint in str(caught.value)
    assert "cases.toml" in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*cases\.toml"):
        load_cases(tmp_path)
    load(tmp_path)
    (tmp_path / "media" / "bars.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot read .*bars\.jpg"):
        load_cases(tmp_path)


# --- --modalities ------------------------------------------------------------------------------------------------


def test_modalities_come_in_one_order_and_once() -> None:
    assert parse_tasks("v2t, T2T,V2T") == (Task.T2T, Task.V2T)
    assert parse_tasks(None) == DEFAULT_TASKS == tuple(Task)


@pytest.mark.parametrize("text", ["", "T2T,", "T2X", "T2T I2T"])
def test_unknown_modalities_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="T2T,I2T,A2T,V2T,T2S,I2S,A2S,V2S"):
        parse_tasks(text)
