"""Rows of files in both forms -> items, with errors that name what is wrong."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ming_eval.errors import DataError, UsageError
from ming_eval.evals.columns import items_of
from ming_eval.evals.data import DataOptions, load
from ming_eval.evals.item import Instruction, Item, Kind
from ming_eval.evals.prompt import render
from ming_eval.evals.sources import LOADERS
from ming_eval.evals.suite import Suite, find_suite
from tests.ming_eval.evals.builders import CHOICES, MCQ_SUITE, mcq_rows, write_rows, write_suite

COLUMNS = """
[source]
repo = "someone/fruit"
split = "test"
revision = "abc"
rows = 2

[fields]
id = "{shelf}-{row}"
question = "stem"
choices = "options"
answer = "key"
answer_form = "letter"
strip_letters = true
"""


def columns_suite(folder: Path, *changes: tuple[str, str]) -> Suite:
    text = MCQ_SUITE + COLUMNS
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return write_suite(folder / "suite", text)


def row(**values: Any) -> dict[str, Any]:
    plain = {"stem": "Which?", "options": ["A. Apples", "B. Pears"], "key": "B", "shelf": "top"}
    return plain | values


def load_rows(folder: Path, suite: Suite, *rows: Mapping[str, Any]) -> Any:
    return load(suite, DataOptions(str(write_rows(folder / "data.jsonl", rows))))


# --- the normalised form -----------------------------------------------------------------------------------------


def test_normalised_lines(tmp_path: Path) -> None:
    rows = mcq_rows(3)
    rows[0] |= {"cluster": "v1", "media": [{"type": "video", "path": "clips/a.mp4"}], "subtitles": "a.srt"}
    found = load_rows(tmp_path, write_suite(tmp_path / "suite"), *rows)
    first = found.items[0]
    assert (first.id, first.question, first.choices, first.answer) == ("q0", "question 0", CHOICES, 0)
    assert (first.cluster, first.group) == ("v1", {"shelf": "s0"})
    assert first.media[0].path == str(tmp_path / "clips" / "a.mp4")  # beside the data
    assert first.subtitles == str(tmp_path / "a.srt")
    assert (found.origin.kind, found.origin.rows, found.origin.is_sample) == ("file", 3, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, "line 2: answer 4 is no index of the 4 choices"),
        ({"answer": -1}, "no index"),
        ({"answer": "B"}, "no index"),
        ({"answer": None}, "line 2"),
        ({"question": 3}, r"line 2.*question"),
        ({"media": [{"type": "smell", "path": "x"}]}, "smell"),
        ({"id": "q0"}, "2 items have the id 'q0'"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = mcq_rows(2)
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        load_rows(tmp_path, write_suite(tmp_path / "suite"), *rows)


def test_answers_of_other_kinds(tmp_path: Path) -> None:
    number = write_suite(tmp_path / "n", MCQ_SUITE.replace('"mcq"', '"number"'))
    found = load_rows(
        tmp_path, number, {"id": "a", "question": "?", "answer": "1,200"}, {"id": "b", "question": "?", "answer": 3}
    )
    assert [item.answer for item in found.items] == ["1200", "3"]
    with pytest.raises(DataError, match="line 1"):
        load_rows(tmp_path, number, {"id": "a", "question": "?", "answer": "many"})
    verify = write_suite(tmp_path / "v", MCQ_SUITE.replace('"mcq"', '"verify"'))
    found = load_rows(tmp_path, verify, {"id": "a", "question": "?", "answer": [{"id": "x:y", "arguments": {"k": 1}}]})
    assert found.items[0].answer == (Instruction("x:y", {"k": 1}),)
    text = write_suite(tmp_path / "t", MCQ_SUITE.replace('"mcq"', '"text"'))
    found = load_rows(tmp_path, text, {"id": "a", "question": "?", "answer": ["one", "1"]})
    assert found.items[0].gold_texts == ("one", "1")


# --- published columns -------------------------------------------------------------------------------------------


def test_columns_become_items(tmp_path: Path) -> None:
    found = load_rows(tmp_path, columns_suite(tmp_path), row(), row(key="a", shelf="low"))
    first, second = found.items
    assert (first.id, first.choices, first.answer, first.group) == ("top-0", ("Apples", "Pears"), 1, {"shelf": "top"})
    assert (second.id, second.answer) == ("low-1", 0)
    assert (found.origin.rows, found.origin.full_rows) == (2, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"key": "C"}, "answer 2 is no index"),
        ({"key": "first"}, "no letter"),
        ({"options": "none"}, "no list"),
    ],
)
def test_bad_values_in_columns(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_rows(tmp_path, columns_suite(tmp_path), row(**values))


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'stem'; the data has options, key, shelf"):
        load_rows(tmp_path, columns_suite(tmp_path), {name: value for name, value in row().items() if name != "stem"})


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"id": "q", "question": "?"}, "in the normalised form it lacks 'answer'"),
        ({"id": "q", "question": "?", "answer": 1, "hint": "x"}, "the normalised form has no key 'hint', only id, "),
    ],
)
def test_a_row_that_is_nearly_normalised_is_told_what_it_lacks(tmp_path: Path, keys: dict[str, Any], hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        load_rows(tmp_path, columns_suite(tmp_path), keys)


@pytest.mark.parametrize(
    ("form", "value", "answer"),
    [("index", 1, 1), ("index", "1", 1), ("letter", "(b)", 1), ("text", "Pears", 1), ("text", "B. Pears", 1)],
)
def test_answer_forms(tmp_path: Path, form: str, value: Any, answer: int) -> None:
    suite = columns_suite(tmp_path, ('answer_form = "letter"', f'answer_form = "{form}"'))
    assert load_rows(tmp_path, suite, row(key=value)).items[0].answer == answer


def test_the_answer_after_a_marker(tmp_path: Path) -> None:
    found = load_rows(tmp_path, find_suite("gsm8k"), {"question": "?", "answer": "5 + 7 = <<5+7=12>>12\n#### 1,012"})
    assert found.items[0].answer == "1012"
    with pytest.raises(DataError, match="####"):
        load_rows(tmp_path, find_suite("gsm8k"), {"question": "?", "answer": "12"})


def test_choices_in_columns_of_their_own_and_as_text(tmp_path: Path) -> None:
    suite = columns_suite(tmp_path, ('choices = "options"', 'choices = ["a", "b"]'))
    assert load_rows(tmp_path, suite, row(a="A) red", b="B) blue")).items[0].choices == ("red", "blue")
    suite = columns_suite(tmp_path)
    assert load_rows(tmp_path, suite, row(options="['red', 'blue']")).items[0].choices == ("red", "blue")
    assert load_rows(tmp_path, suite, row(options='["red", "blue"]')).items[0].choices == ("red", "blue")


def test_mmlu_columns_with_their_categories(tmp_path: Path) -> None:
    rows = [{"question": "?", "subject": "virology", "choices": list(CHOICES), "answer": 3}]
    item = load_rows(tmp_path, find_suite("mmlu"), *rows).items[0]
    assert (item.id, item.answer, item.group) == ("virology-0", 3, {"subject": "virology", "category": "other"})
    with pytest.raises(DataError, match="astrology"):
        load_rows(tmp_path, find_suite("mmlu"), rows[0] | {"subject": "astrology"})


def test_ifeval_columns(tmp_path: Path) -> None:
    source = {
        "key": 7,
        "prompt": "Write.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{"keywords": None}, {"keywords": ["tea"], "num_words": None}],
    }
    item = load_rows(tmp_path, find_suite("ifeval"), source).items[0]
    assert item.id == "7"
    assert item.answer == (
        Instruction("punctuation:no_comma"),
        Instruction("keywords:existence", {"keywords": ["tea"]}),
    )
    with pytest.raises(DataError, match="kwargs"):
        load_rows(tmp_path, find_suite("ifeval"), {"key": 7, "prompt": "Write.", "instruction_id_list": []})


# --- files -------------------------------------------------------------------------------------------------------


def test_csv_in_the_columns_of_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["stem", "options", "key", "shelf"])
        writer.writeheader()
        writer.writerow(row(stem="Which,\nor what?", options=["A. x", "B. y"]))
    item = load(columns_suite(tmp_path), DataOptions(str(path))).items[0]
    assert (item.question, item.choices, item.answer) == ("Which,\nor what?", ("x", "y"), 1)
    path.write_text("stem,options,key,shelf\nonly,two\n")
    with pytest.raises(DataError, match="not as many cells"):
        load(columns_suite(tmp_path), DataOptions(str(path)))


@pytest.mark.slow
def test_parquet_in_the_columns_of_the_hub(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([row(), row(key="A")]), tmp_path / "data.parquet")
    items = load(columns_suite(tmp_path), DataOptions(str(tmp_path / "data.parquet"))).items
    assert [item.answer for item in items] == [1, 0]


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    lines, rows = json.dumps(row()) + "\r\n", json.dumps([row()])
    for name, text in (("data.jsonl", lines), ("data.json", rows)):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert len(load(columns_suite(tmp_path), DataOptions(str(tmp_path / name))).items) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    suite = columns_suite(tmp_path)
    with pytest.raises(DataError, match=r"no data at .*nothing\.jsonl"):
        load(suite, DataOptions(str(tmp_path / "nothing.jsonl")))
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"name it \.jsonl"):
        load(suite, DataOptions(str(tmp_path / "data.xlsx")))
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        load(suite, DataOptions(str(tmp_path / "bad.jsonl")))
    (tmp_path / "other.lst").write_bytes("id|wort|a.wav|größe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"other\.lst is no UTF-8"):
        load(suite, DataOptions(str(tmp_path / "other.lst")))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no item"):
        load(suite, DataOptions(str(tmp_path / "empty.jsonl")))


def test_a_map_of_rows_is_a_list_of_them(tmp_path: Path) -> None:
    entry = {
        "Question": "?",
        "Choice": ["A. x", "B. y"],
        "Answer": "B",
        "video_id": "v1",
        "Type": "AV",
        "video_duration": "30s",
    }
    path = tmp_path / "qa.json"
    path.write_text(
        json.dumps({"Entry_1": entry | {"video_category": "Sport"}, "Entry_2": entry | {"video_category": "Art"}})
    )
    video = tmp_path / "Videos" / "v1" / "v1_video.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"x")
    first, second = load(find_suite("daily-omni"), DataOptions(str(path))).items
    assert (first.id, first.choices, first.answer, first.cluster) == ("v1-0", ("x", "y"), 1, "v1")
    assert first.media[0].path == str(video)
    assert second.group == {"type": "AV", "duration": "30s", "category": "Art"}


def test_lists_between_vertical_bars(tmp_path: Path) -> None:
    path = tmp_path / "meta.lst"
    path.write_text("a1|hello there|wavs/p1.wav|speak this\na2|hi|wavs/p2.wav|and this|wavs/a2.wav\n")
    first, second = load(find_suite("seed-tts"), DataOptions(str(path))).items
    assert (first.id, first.question, first.answer, first.cluster) == ("a1", "speak this", "speak this", "wavs/p1.wav")
    assert second.media[0].path == str(tmp_path / "wavs" / "p2.wav")
    path.write_text("a1|only three|fields\n")
    with pytest.raises(DataError, match=r"line 1: 3 fields"):
        load(find_suite("seed-tts"), DataOptions(str(path)))


def test_mmmu_has_choices_and_open_questions(tmp_path: Path) -> None:
    images = dict.fromkeys([f"image_{n}" for n in range(1, 8)]) | {"image_1": {"bytes": b"png", "path": "1.png"}}
    plain = {"question": "?", "topic_difficulty": "Hard"} | images
    choice = {
        "id": "validation_Art_Theory_3",
        "question_type": "multiple-choice",
        "options": "['red', 'blue']",
        "answer": "B",
    }
    open_one = {"id": "validation_Math_7", "question_type": "open", "options": "[]", "answer": "['0.5', '1/2']"}
    first, second = columns_of("mmmu", plain | choice, plain | open_one)
    assert (first.kind, first.choices, first.answer) == (Kind.MCQ, ("red", "blue"), 1)
    assert (second.kind, second.choices, second.gold_texts) == (Kind.TEXT, (), ("0.5", "1/2"))
    assert (first.group, second.group["subject"]) == ({"subject": "Art_Theory", "difficulty": "Hard"}, "Math")
    assert [ref.data for ref in first.media] == [b"png"]
    _, protocol = find_suite("mmmu").protocol(None)
    assert "Answer with just the letter (A or B)" in render(protocol, first)
    assert "letter" not in render(protocol, second)


def columns_of(name: str, *rows: dict[str, Any]) -> list[Item]:
    suite = find_suite(name)
    return list(items_of([LOADERS[suite.source.loader or ""](each) for each in rows], suite, None))


def test_omnibench_answers_by_text(tmp_path: Path) -> None:
    source = {"index": 5, "question": "?", "options": ["a dog", "a cat"], "answer": "a cat"}
    media = {"image": {"bytes": b"i", "path": "i.png"}, "audio": {"bytes": b"a", "path": "a.mp3"}}
    (item,) = items_of([source | media], find_suite("omnibench"), None)
    assert (item.id, item.answer, [ref.type for ref in item.media]) == ("5", 1, ["image", "audio"])


def test_librispeech_has_speakers(tmp_path: Path) -> None:
    source = {
        "id": "6930-75918-0000",
        "text": "CONCORD RETURNED",
        "speaker_id": 6930,
        "audio": {"bytes": b"f", "path": "x.flac"},
    }
    (item,) = items_of([source], find_suite("librispeech"), None)
    assert (item.id, item.answer, item.cluster, item.question) == ("6930-75918-0000", "CONCORD RETURNED", "6930", "")


# --- the hub -----------------------------------------------------------------------------------------------------


class FakeHub(ModuleType):
    """Stands in for the `datasets` package, and for `huggingface_hub` where a revision is looked up."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__("datasets")
        self.rows = rows
        self.asked: list[tuple[Any, ...]] = []

    def load_dataset(self, repo: str, config: str | None, *, split: str | None, revision: str | None) -> list[Any]:
        self.asked.append((repo, config, split, revision))
        return self.rows

    def HfApi(self) -> FakeHub:  # noqa: N802
        return self

    def dataset_info(self, repo: str) -> SimpleNamespace:
        return SimpleNamespace(sha=f"sha of {repo}")


def test_the_hub_is_asked_at_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([row(), row(key="A")])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    suite = columns_suite(tmp_path)
    for data in ("hub", "someone/fruit"):
        found = load(suite, DataOptions(data))
        assert (found.origin.kind, found.origin.name, found.origin.revision) == ("hub", "someone/fruit", "abc")
    assert load(suite, DataOptions("other/fruit")).origin.revision == "sha of other/fruit"
    for data in ("hub@d0e", "other/fruit@d0e"):
        assert load(suite, DataOptions(data)).origin.revision == "d0e"
    assert hub.asked == [
        ("someone/fruit", None, "test", "abc"),
        ("someone/fruit", None, "test", "abc"),
        ("other/fruit", None, "test", "sha of other/fruit"),
        ("someone/fruit", None, "test", "d0e"),
        ("other/fruit", None, "test", "d0e"),
    ]


def test_configurations_are_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([row()])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    suite = columns_suite(tmp_path, ('split = "test"', 'split = "test"\nconfig = ["north", "south"]'))
    assert len(load(suite, DataOptions("hub")).items) == 2
    assert [asked[1] for asked in hub.asked] == ["north", "south"]


def test_another_number_of_rows_names_expected_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub([row()]))
    with pytest.raises(DataError, match="expected 2 rows at revision abc, found 1"):
        load(columns_suite(tmp_path), DataOptions("hub"))


def test_without_the_package_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs datasets: run `pip install 'ming-eval\[suites\]'`"):
        load(columns_suite(tmp_path), DataOptions("hub"))


def test_the_bundled_sample_is_not_the_benchmark() -> None:
    found = load(find_suite("mmlu"), DataOptions())
    assert found.origin.is_sample
    assert found.origin.full_rows is None


def test_a_suite_without_sample_asks_for_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data"):
        load(columns_suite(tmp_path), DataOptions())


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite")
    rows = mcq_rows(3)
    before = load_rows(tmp_path, suite, *rows).origin.digest
    assert load_rows(tmp_path, suite, *rows).origin.digest == before
    rows[2]["answer"] = 0
    assert load_rows(tmp_path, suite, *rows).origin.digest != before


# --- media -------------------------------------------------------------------------------------------------------

VIDEO_COLUMNS = ("video_id", "duration", "domain", "sub_category", "url", "videoID", "question_id", "task_type")


def video_row(number: int, duration: str, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(VIDEO_COLUMNS, "x")
    options = ["A. Apples.", "B. Pears.", "C. Nuts.", "D. Figs."]
    own = {"question_id": f"{number}-1", "duration": duration, "videoID": name, "question": "?", "options": options}
    return plain | own | {"answer": "D"}


def test_a_partial_download_keeps_the_items_with_a_file(tmp_path: Path) -> None:
    media = tmp_path / "media" / "data"
    media.mkdir(parents=True)
    for name in ("one.mp4", "two.MP4", "three.mkv"):
        (media / name).write_bytes(b"x")
    names = [("short", "one"), ("short", "two"), ("short", "gone"), ("long", "three"), ("long", "lost")]
    rows = [video_row(number, *each) for number, each in enumerate(names)]
    options = DataOptions(str(write_rows(tmp_path / "data.jsonl", rows)), media_root=str(tmp_path / "media"))
    found = load(find_suite("videomme"), options)
    assert [Path(item.media[0].path).name for item in found.items] == ["one.mp4", "two.MP4", "three.mkv"]
    assert found.origin.available == {"short": (2, 3), "long": (1, 2)}
    first = found.items[0]
    assert (first.id, first.answer, first.cluster, first.choices[3]) == ("0-1", 3, "one", "Figs.")
    assert first.subtitles == str(tmp_path / "media" / "subtitle" / "one.srt")
    blind = load(find_suite("videomme"), options, needs_media=False)
    assert (len(blind.items), blind.origin.available) == (5, None)


def test_no_media_at_all_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    options = DataOptions(str(write_rows(tmp_path / "data.jsonl", [video_row(0, "short", "one")])))
    with pytest.raises(DataError, match="--media-root"):
        load(find_suite("videomme"), options)


def test_files_that_the_hub_holds_as_bytes(tmp_path: Path) -> None:
    media = '\n[media]\ntype = "image"\ncolumn = "picture"\n'
    suite = write_suite(tmp_path / "suite", MCQ_SUITE + COLUMNS + media)
    hub_row = row(picture={"bytes": b"png", "path": "a.png"})
    (item,) = items_of([hub_row], suite, None)
    assert (item.media[0].type, item.media[0].path, item.media[0].data) == ("image", "a.png", b"png")
    (without,) = items_of([row(picture=None)], suite, None)
    assert without.media == ()
