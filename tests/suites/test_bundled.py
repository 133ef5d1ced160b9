"""Every bundled suite: its file, its sample, and its fixture against a server that gives the fixture's replies."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ming_eval.coverage import make_suite_samples, make_videomme_sample
from ming_eval.evals.data import DataOptions, load
from ming_eval.evals.item import Kind
from ming_eval.evals.plan import AskOptions, make_plan
from ming_eval.evals.scored import score_all
from ming_eval.evals.scoring.score import scorable
from ming_eval.evals.suite import bundled_names, find_suite, suites_folder
from tests.ming_eval.evals.builders import run_plan, write_rows
from tests.ming_eval.evals.scripted import Say, ScriptedServer

SUITES = bundled_names()


def fixture_of(name: str) -> list[dict[str, Any]]:
    lines = (suites_folder() / name / "fixture.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_holds_no_code_and_is_named_like_its_folder(name: str) -> None:
    assert find_suite(name).name == name
    assert not list((suites_folder() / name).rglob("*.py"))


NOT_PINNED = {"omnibench", "worldsense", "daily-omni"}  # their summaries say so


@pytest.mark.parametrize("name", SUITES)
def test_the_source_is_pinned(name: str) -> None:
    source = find_suite(name).source
    assert (source.rows is not None) == (source.repo is not None)
    if source.repo is not None:
        assert (source.revision is None) == (name in NOT_PINNED)
        assert source.revision is None or len(source.revision) == 40


@pytest.mark.parametrize("name", SUITES)
def test_the_sample_can_be_scored(name: str) -> None:
    suite = find_suite(name)
    items = load(suite, DataOptions()).items
    assert len(scorable(items, suite)) == len(items) >= 16
    assert len({(item.question, item.media) for item in items}) == len(items)
    assert all(Path(ref.path).is_file() for item in items for ref in item.media)
    for item in items:
        assert set(item.group) == set(suite.groups), item.id
        assert len(set(item.choices)) == len(item.choices), item.id


@pytest.mark.parametrize("name", [name for name in SUITES if find_suite(name).kind is not Kind.SPEECH])
def test_the_fixture_ends_as_it_says(name: str, tmp_path: Path) -> None:
    fixture = fixture_of(name)
    assert 3 <= len(fixture) <= 5
    data = write_rows(tmp_path / "fixture.jsonl", [each["item"] for each in fixture])
    plan = make_plan(find_suite(name), AskOptions(data=DataOptions(str(data), media_root=str(suites_folder() / name))))
    questions = [each["item"]["question"] for each in fixture]
    # Utterances are told apart by their order, everything else by its question.
    acts = {
        question: [Say(each["reply"]) for each in fixture if each["item"]["question"] == question]
        for question in questions
    }

    async def go() -> Any:
        async with ScriptedServer(acts) as server:
            return await run_plan(plan, server.url, tmp_path, concurrency=1)

    scores = [each.score for each in score_all(plan, asyncio.run(go()).responses)]
    found = [(score.outcome.value, score.rule, score.reason) for score in scores]
    assert found == [(each["outcome"], each.get("rule"), each.get("reason")) for each in fixture]


@pytest.mark.parametrize("name", [name for name in SUITES if find_suite(name).kind is Kind.MCQ])
def test_gold_letters_vary(name: str) -> None:
    """Always naming one letter must not score well."""
    items = load(find_suite(name), DataOptions()).items
    most = Counter(item.answer for item in items).most_common(1)[0][1]
    assert most / len(items) <= 0.3


def test_the_sample_of_mmlu_covers_its_subjects() -> None:
    suite = find_suite("mmlu")
    subjects = Counter(item.group["subject"] for item in load(suite, DataOptions()).items)
    assert len(subjects) == 57
    assert set(subjects.values()) == {2}
    group = suite.groups["category"]
    assert not isinstance(group, str)
    members = [subject for each in group.values.values() for subject in each]
    assert sorted(members) == sorted(subjects)
    assert {name: len(each) for name, each in group.values.items()} == {
        "STEM": 18,
        "humanities": 13,
        "social sciences": 12,
        "other": 14,
    }
    for item in load(suite, DataOptions()).items:
        assert item.group["category"] == group.name_of(item.group["subject"])


@pytest.mark.slow
def test_the_sample_of_videomme_follows_from_its_generator(tmp_path: Path) -> None:
    pytest.importorskip("av")
    make_videomme_sample.make(tmp_path)
    bundled = suites_folder() / "videomme"
    assert (tmp_path / "sample.jsonl").read_text() == (bundled / "sample.jsonl").read_text()
    assert {path.name for path in (tmp_path / "media").iterdir()} == {
        path.name for path in (bundled / "media").iterdir()
    }
    items = load(find_suite("videomme"), DataOptions()).items
    assert len(items) == 36
    assert Counter(item.group["duration"] for item in items) == {"short": 12, "medium": 12, "long": 12}
    assert len({item.cluster for item in items}) == 12


def test_answers_of_videomme_by_hand() -> None:
    """Clip 9: a red circle up, a blue circle left, a red square down, a green circle right, a red circle left."""
    items = {item.id: item for item in load(find_suite("videomme"), DataOptions()).items}
    answers = [items[f"clip09-{n}"] for n in range(3)]
    assert [item.choices[int(str(item.answer))] for item in answers] == ["3", "red", "upwards"]
    order = items["clip06-0"]
    assert order.choices[int(str(order.answer))] == "black, green, orange"


@pytest.mark.slow
def test_the_samples_of_media_suites_follow_from_their_generator(tmp_path: Path) -> None:
    for module in ("av", "soundfile", "PIL"):
        pytest.importorskip(module)
    make_suite_samples.make(tmp_path)
    for name in make_suite_samples.SAMPLES:
        made, bundled = tmp_path / name, suites_folder() / name
        assert (made / "sample.jsonl").read_bytes() == (bundled / "sample.jsonl").read_bytes()
        assert {path.name for path in (made / "media").iterdir()} == {
            path.name for path in (bundled / "media").iterdir()
        }
