from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ming_eval.errors import UsageError
from ming_eval.evals.asking import Attachments, Server, build_request, response_key
from ming_eval.evals.data import DataOptions
from ming_eval.evals.ordering import OptionOrder
from ming_eval.evals.plan import AskOptions, Method, Plan, make_plan
from ming_eval.evals.suite import Protocol, Scoring, find_suite
from ming_eval.types import Media, Task, Text
from tests.ming_eval.evals.builders import MCQ_SUITE, mcq_plan, mcq_rows, write_rows, write_suite

SERVER = Server("m", "http://a/v1")


def key(plan: Plan, server: Server = SERVER, index: int = 0, media: tuple[Media, ...] = ()) -> str:
    sample = plan.samples[index]
    return response_key(plan, sample, build_request(plan, sample, Attachments(media)), server)


def test_samples_by_repeat_and_rotation(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 3, repeats=2, order=OptionOrder.CYCLIC)
    assert len(plan.samples) == 3 * 2 * 4
    assert len({sample.key for sample in plan.samples}) == len(plan.samples)
    assert plan.num_items == 3


def test_the_request_of_a_sample(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 2, repeats=2, seed=5)
    request = build_request(plan, plan.samples[3], Attachments())
    assert (request.id, request.max_tokens, request.temperature, request.stream) == ("fruit/q1#1.0", 8, 0.0, False)
    assert request.seed == 5 + 1  # a repeat draws anew
    part = request.messages[0].parts[0]
    assert isinstance(part, Text)
    assert part.text.startswith("question 1\n\nA. Apples")


def test_media_decide_the_task(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    clip, sound = Media("video", b"x", "video/mp4"), Media("audio", b"y", "audio/wav")
    assert build_request(plan, plan.samples[0], Attachments((sound, clip))).task is Task.V2T
    assert build_request(plan, plan.samples[0], Attachments((sound,))).task is Task.A2T
    assert build_request(plan, plan.samples[0], Attachments()).task is Task.T2T


def test_a_key_depends_on_all_that_decides_an_answer(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path / "a", 2)
    same = mcq_plan(tmp_path / "b", 2)
    assert key(plan) == key(same)
    clip, other_clip = Media("video", b"x", "video/mp4"), Media("video", b"z", "video/mp4")
    keys = [
        key(plan),
        key(plan, index=1),
        key(plan, Server("other", SERVER.identity)),
        key(plan, Server("m", "http://b/v1")),
        key(mcq_plan(tmp_path / "c", 2, protocol="cot")),
        key(mcq_plan(tmp_path / "d", 2, seed=1)),
        key(mcq_plan(tmp_path / "e", 2, order=OptionOrder.CYCLIC), index=1),
        key(mcq_plan(tmp_path / "f", 2, repeats=2), index=2),
        key(plan, media=(clip,)),
        key(plan, media=(other_clip,)),
    ]
    assert len(set(keys)) == len(keys)


def test_the_protocol_hash_follows_what_moves_a_score(tmp_path: Path) -> None:
    def hash_of(name: str, text: str = MCQ_SUITE, **options: object) -> str:
        suite = write_suite(tmp_path / name, text)
        data = write_rows(tmp_path / f"{name}.jsonl", mcq_rows(2))
        return make_plan(suite, AskOptions(data=DataOptions(str(data)), **options)).protocol_hash  # type: ignore[arg-type]

    base = hash_of("base")
    assert hash_of("again") == base
    assert hash_of("limited", limit=1) == base  # items are not the protocol
    assert hash_of("seeded", seed=3) == base
    others = {
        hash_of("cot", protocol="cot"),
        hash_of("tokens", MCQ_SUITE.replace("max_tokens = 8", "max_tokens = 9")),
        hash_of("text", MCQ_SUITE.replace("Answer with just", "Reply with just")),
        hash_of("version", MCQ_SUITE.replace("version = 1", "version = 2")),
        hash_of("metric", MCQ_SUITE + '\n[score]\nanswer_map = { x = "A" }\n'),
        hash_of("shuffled", order=OptionOrder.SHUFFLED),
        hash_of("reshuffled", order=OptionOrder.SHUFFLED, seed=1),
        hash_of("cyclic", order=OptionOrder.CYCLIC),
    }
    assert len(others | {base}) == 9


def test_the_hash_of_what_is_asked_follows_the_whole_protocol_but_no_scoring(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 2)
    others = {"text": "?", "open_text": "?", "system": "Always answer D.", "extra": {"top_k": 1}, "subtitles": "full"}
    numbers = {"max_tokens": 3, "temperature": 0.5, "examples": 9, "frames": 77, "frame_height": 5}
    values = others | numbers | {"media": not plan.protocol.media, "as_frames": not plan.protocol.as_frames}
    assert values.keys() | {"origin"} == set(Protocol.__struct_fields__)  # a field that is added belongs here
    changed = [replace(plan, protocol=msgspec.structs.replace(plan.protocol, **{k: v})) for k, v in values.items()]
    changed.append(replace(plan, options=replace(plan.options, seed=1)))
    changed.append(replace(plan, examples={"all": (plan.samples[0].item,)}))
    assert len({each.asked_hash for each in (plan, *changed)}) == len(values) + 3
    scored = msgspec.structs.replace(plan.suite, score=Scoring(answer_map={"x": "A"}))
    sourced = msgspec.structs.replace(plan.protocol, origin="elsewhere")
    same = replace(plan, suite=scored, protocol=sourced)
    assert (same.asked_hash, same.protocol_hash == plan.protocol_hash) == (plan.asked_hash, False)


FEW_SHOT = MCQ_SUITE.replace(
    "[prompt.cot]", '[prompt.shots]\ntext = "{question}"\nmax_tokens = 8\nexamples = 2\n\n[prompt.cot]'
)


def few_shot(tmp_path: Path, examples: list[dict[str, object]]) -> Plan:
    suite = write_suite(tmp_path / "suite", FEW_SHOT)
    data = write_rows(tmp_path / "data.jsonl", mcq_rows(4, shelves=2))
    solved = write_rows(tmp_path / "dev.jsonl", examples)
    return make_plan(suite, AskOptions(protocol="shots", data=DataOptions(str(data), str(solved))))


def example(number: int, shelf: int, question: str | None = None) -> dict[str, object]:
    rows = mcq_rows(1)[0]
    return rows | {"id": f"e{number}", "question": question or f"example {number}", "group": {"shelf": f"s{shelf}"}}


def test_examples_come_from_the_stratum_in_file_order(tmp_path: Path) -> None:
    plan = few_shot(tmp_path, [example(i, i % 2) for i in range(8)])
    assert [each.id for each in plan.examples_for(plan.samples[0].item)] == ["e0", "e2"]
    assert [each.id for each in plan.examples_for(plan.samples[1].item)] == ["e1", "e3"]


def test_an_example_is_never_a_scored_question(tmp_path: Path) -> None:
    plan = few_shot(tmp_path, [example(0, 0, "question 0"), *(example(i, i % 2) for i in range(1, 8))])
    assert [each.id for each in plan.examples_for(plan.samples[0].item)] == ["e2", "e4"]


def test_too_few_examples_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2 solved examples for shelf s1, found 1"):
        few_shot(tmp_path, [example(0, 0), example(1, 1), example(2, 0)])


def test_examples_that_nobody_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--examples"):
        make_plan(find_suite("mmlu"), AskOptions(protocol="mcq-5shot"))


@pytest.mark.parametrize(
    ("suite", "options", "message"),
    [
        ("gsm8k", {"order": OptionOrder.SHUFFLED}, "no choices"),
        ("gsm8k", {"method": Method.LOGLIKELIHOOD}, "loglikelihood"),
        ("gsm8k", {"per_group": 2}, "no strata"),
        ("mmlu", {"protocol": "poem"}, "poem"),
    ],
)
def test_options_that_do_not_fit(suite: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(find_suite(suite), AskOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 27])
def test_choices_have_the_letters_a_to_z(tmp_path: Path, count: int) -> None:
    row = {"id": "q", "question": "?", "choices": [str(i) for i in range(count)], "answer": count - 1}
    data = DataOptions(str(write_rows(tmp_path / "data.jsonl", [row])))
    with pytest.raises(UsageError, match="2 to 26 of them; 1 do not, such as q"):
        make_plan(find_suite("mmlu"), AskOptions(data=data))


@pytest.mark.parametrize(
    ("suite", "protocol", "package"), [("fleurs", None, "jiwer"), ("videomme", "videomme-frames", "av")]
)
def test_a_missing_package_is_said_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, suite: str, protocol: str | None, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs {package}: run `pip install"):
        make_plan(find_suite(suite), AskOptions(protocol=protocol))


def test_loglikelihood_has_a_protocol_of_its_own() -> None:
    assert make_plan(find_suite("mmlu"), AskOptions(method=Method.LOGLIKELIHOOD)).protocol_name == "mcq-loglikelihood"


def test_a_sample_is_named_as_one(tmp_path: Path) -> None:
    assert make_plan(find_suite("mmlu"), AskOptions()).name == "mmlu-sample"
    assert mcq_plan(tmp_path, 1).name == "fruit"
