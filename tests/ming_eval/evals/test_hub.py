"""Every suite reads its set in the hub's layout: folders of parquet files with a card, loaded by `datasets` itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from ming_eval.errors import DataError
from ming_eval.evals.asking import build_request, read_attachments
from ming_eval.evals.data import DataOptions, load
from ming_eval.evals.item import Instruction
from ming_eval.evals.plan import AskOptions, make_plan
from ming_eval.evals.suite import Suite, find_suite
from ming_eval.types import Media
from tests.ming_eval.evals.test_speaking import wav

pytestmark = pytest.mark.slow  # `datasets` takes a second to import

Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def snapshot(folder: Path, splits: Mapping[tuple[str, str], Rows], features: Mapping[str, Any] | None = None) -> Path:
    """A repository as the hub stores it: `config/split-00000-of-00001.parquet`, and a card that says so."""
    from datasets import Dataset

    entries: dict[str, list[str]] = {}
    for (config, split), rows in splits.items():
        table = Dataset.from_list([dict(row) for row in rows])
        for column, feature in (features or {}).items():
            table = table.cast_column(column, feature)
        name = f"{config}/{split}-00000-of-00001.parquet"
        (folder / config).mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / name)
        entries.setdefault(config, []).append(f"  - split: {split}\n    path: {config}/{split}-*")
    card = "".join(f"- config_name: {name}\n  data_files:\n" + "\n".join(each) + "\n" for name, each in entries.items())
    (folder / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    return folder


def png() -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def mmlu_row(number: int, **values: Any) -> dict[str, Any]:
    plain = {"question": f"question {number}", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 2}
    return plain | values


def test_mmlu_with_its_solved_examples(tmp_path: Path) -> None:
    from datasets import ClassLabel

    dev = [mmlu_row(0)] + [mmlu_row(100 + number) for number in range(5)]
    splits = {("all", "test"): [mmlu_row(0, answer=3), mmlu_row(1)], ("all", "dev"): dev}
    folder = snapshot(tmp_path / "mmlu", splits, {"answer": ClassLabel(names=["A", "B", "C", "D"])})
    plan = make_plan(find_suite("mmlu"), AskOptions(protocol="mcq-5shot", data=DataOptions(str(folder))))
    items = [sample.item for sample in plan.samples]
    assert [(item.id, item.answer) for item in items] == [("virology-0", 3), ("virology-1", 2)]
    assert items[0].group == {"subject": "virology", "category": "other"}
    assert [each.question for each in plan.examples_for(items[0])] == [f"question {n}" for n in range(100, 105)]
    assert (plan.origin.kind, plan.origin.full_rows, plan.name) == ("file", 14042, "mmlu")


CHOICE = {"question": "Which?", "options": ["A. x", "B. y", "C. z", "D. w"], "answer": "C"}
SOUND = {"bytes": wav(0.5), "path": "a.wav"}
PICTURE = {"bytes": png(), "path": "a.png"}

# One row of each set, in the columns of the protocol page.
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 1,007"},
    "mmlu-pro": {
        "question_id": 70,
        "question": "Which?",
        "options": ["x", "y", "z"],
        "answer": "C",
        "answer_index": 2,
        "category": "law",
    },
    "ifeval": {
        "key": 1000,
        "prompt": "Write.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"relation": None, "num_words": None},
            {"relation": "at least", "num_words": 3},
        ],
    },
    "librispeech": {
        "file": "a.flac",
        "audio": SOUND,
        "text": "A MAN SAID TO THE UNIVERSE",
        "speaker_id": 6930,
        "chapter_id": 75918,
        "id": "6930-75918-0000",
    },
    "fleurs": {"id": 1904, "audio": SOUND, "transcription": "however", "raw_transcription": "However,", "gender": 1},
    "fleurs-zh": {
        "id": 1,
        "audio": SOUND,
        "transcription": "这 并 不 是",
        "raw_transcription": "这并不是",
        "gender": 0,
    },
    "omnibench": {
        "index": 0,
        "task type": "Object",
        "audio type": "speech",
        "question": "Which?",
        "options": ["x", "y", "z", "w"],
        "answer": "z",
        "image": PICTURE,
        "audio": SOUND,
    },
    "videomme": CHOICE
    | {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "url": "https://example.org",
        "videoID": "fFjv",
        "question_id": "001-1",
        "task_type": "Counting Problem",
    },
    "worldsense": {
        "index": 7,
        "video_path": "videos/a.mp4",
        "question": "Which?",
        "candidates": ["A. x", "B. y", "C. z", "D. w"],
        "answer": "C",
        "task_domain": "Recognition",
        "task_type": "Attribute",
        "duration": "<1min",
        "audio_class": "Speech",
    },
}
ROWS["librispeech-other"] = ROWS["librispeech"]
ANSWERS: dict[str, Any] = {
    "gsm8k": "1007",
    **dict.fromkeys(("librispeech", "librispeech-other"), "A MAN SAID TO THE UNIVERSE"),
    "fleurs": "however",
    "fleurs-zh": "这 并 不 是",
    "ifeval": (
        Instruction("punctuation:no_comma"),
        Instruction("length_constraints:number_words", {"relation": "at least", "num_words": 3}),
    ),
}


def write_set(name: str, folder: Path, row: Mapping[str, Any]) -> Path:
    from datasets import Audio, Image

    source = find_suite(name).source
    features = {"image": Image(), "audio": Audio()}
    used = {column: feature for column, feature in features.items() if column in row}
    return snapshot(folder, {(str(source.config or "default"), str(source.split)): [row]}, used)


def media_of(suite: Suite, folder: Path) -> tuple[Media, ...]:
    """What a request would carry of the first item."""
    plan = make_plan(suite, AskOptions(data=DataOptions(str(folder))))
    request = build_request(plan, plan.samples[0], read_attachments(plan, plan.samples[0]))
    return tuple(part for part in request.messages[-1].parts if isinstance(part, Media))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_published_set(tmp_path: Path, name: str) -> None:
    folder = write_set(name, tmp_path / name, ROWS[name])
    for clip in ("data/fFjv.mp4", "videos/a.mp4"):
        (folder / clip).parent.mkdir(exist_ok=True)
        (folder / clip).write_bytes(b"clip")
    suite = find_suite(name)
    (item,) = load(suite, DataOptions(str(folder))).items
    assert item.answer == ANSWERS.get(name, 2)
    assert not item.choices or item.choices[:3] == ("x", "y", "z")
    assert [part.kind for part in media_of(suite, folder)] == [fields.type for fields in suite.media]
    if "audio" in ROWS[name]:  # as it is stored, not decoded and encoded again
        assert media_of(suite, folder)[-1].data == SOUND["bytes"]


def test_mmmu_over_its_configurations(tmp_path: Path) -> None:
    from datasets import Image

    suite = find_suite("mmmu")
    configs = suite.source.config
    assert isinstance(configs, tuple)
    assert len(configs) == 30
    plain = {"question": "<image 1> Which?", "topic_difficulty": "Easy", "subfield": "s"}
    images = {f"image_{n}": PICTURE if n == 1 else None for n in range(1, 8)}
    choice = plain | images | {"options": "['x', 'y', 'z']", "answer": "C", "question_type": "multiple-choice"}
    open_one = plain | images | {"options": "[]", "answer": "7", "question_type": "open"}
    splits = {
        (config, "validation"): [
            choice | {"id": f"validation_{config}_1"},
            open_one | {"id": f"validation_{config}_2"},
        ]
        for config in configs
    }
    folder = snapshot(tmp_path / "mmmu", splits, {name: Image() for name in images})
    items = load(suite, DataOptions(str(folder))).items
    assert [item.id for item in items[:2]] == ["validation_Accounting_1", "validation_Accounting_2"]
    assert (len(items), items[0].answer, items[1].answer, items[1].kind) == (60, 2, "7", "text")
    assert {item.group["subject"] for item in items} == set(configs)
    assert [part.data for part in media_of(suite, folder)] == [PICTURE["bytes"]]


def test_daily_omni_as_its_repository_lies(tmp_path: Path) -> None:
    """`qa.json` is a map of entries; the clips lie in folders of their own below `Videos`."""
    entry = {"Question": "Which?", "Choice": ["A. x", "B. y"], "Answer": "B", "video_id": "v1", "Type": "Context"}
    entry |= {"video_duration": "30s", "video_category": "News"}
    (tmp_path / "qa.json").write_text(json.dumps({"Entry_1": entry, "Entry_2": entry | {"video_id": "v2"}}))
    (tmp_path / "Videos" / "v1").mkdir(parents=True)
    (tmp_path / "Videos" / "v1" / "v1_video.mp4").write_bytes(b"clip")
    loaded = load(find_suite("daily-omni"), DataOptions(str(tmp_path / "qa.json")))
    assert [(item.id, item.answer) for item in loaded.items] == [("v1-0", 1)]
    assert loaded.origin.available == {"Context": (1, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"split": "train"}, "cannot load .*test, a folder"), ({"columns": {}}, "no column .choices.")],
)
def test_what_is_not_as_the_suite_says_is_named(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    row = change.get("columns", mmlu_row(0)) or {"other": 1}
    folder = snapshot(tmp_path / "mmlu", {("all", change.get("split", "test")): [row]})
    with pytest.raises(DataError, match=message):
        load(find_suite("mmlu"), DataOptions(str(folder)))
