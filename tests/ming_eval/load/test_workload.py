import json
from importlib import resources
from itertools import islice

import pytest

from ming_eval.errors import UsageError
from ming_eval.load.workload import Prompt, load_prompts, plan_points, unique_texts
from ming_eval.types import Request, Text
from tests.ming_eval.factories import make_plan

THREE = tuple(Prompt(name, f"{name}?") for name in ("x", "y", "z"))


def text_of(request: Request) -> str:
    (message,) = request.messages
    (part,) = message.parts
    assert isinstance(part, Text)
    return part.text


def test_bundled_prompts_are_many_different_and_of_varied_length() -> None:
    prompts = load_prompts("chat")
    lengths = [len(prompt.text.split()) for prompt in prompts]
    assert len(prompts) >= 120
    assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == len(prompts)
    assert max(lengths) >= 140
    assert sum(length >= 50 for length in lengths) >= 8
    assert sum(not prompt.text.isascii() for prompt in prompts) >= 10  # not only English


def test_prompt_file_is_one_object_a_line_with_id_and_text() -> None:
    lines = resources.files("suites").joinpath("chat/prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line).keys() == {"id", "text"} for line in lines)


def test_first_round_is_the_prompts_themselves_later_rounds_carry_a_number() -> None:
    texts = list(islice(unique_texts(THREE, seed=5), 9))
    assert sorted(texts[:3]) == ["x?", "y?", "z?"]
    assert all(text[:9].isdigit() and text[9] == " " and text[10:] in texts[:3] for text in texts[3:])
    assert sorted(text[10:] for text in texts[3:6]) == ["x?", "y?", "z?"]


def test_no_text_comes_twice_and_numbers_share_no_long_prefix() -> None:
    texts = list(islice(unique_texts(THREE, seed=1), 1000))
    assert len(set(texts)) == 1000
    assert len({text[:6] for text in texts[3:]}) == 997


def test_texts_are_a_function_of_the_seed() -> None:
    draw = [list(islice(unique_texts(load_prompts("chat"), seed), 300)) for seed in (3, 3, 4)]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2]
    assert not set(draw[0][139:]) & set(draw[2][139:])  # another seed, other numbers


def test_points_have_the_planned_requests_and_never_repeat_a_warmup_prompt() -> None:
    plan = make_plan(concurrencies=(1, 2, 32), warmup_waves=2, max_tokens=9, seed=11, ignore_eos=True)
    points = list(plan_points(plan, load_prompts("chat")))
    assert [(p.concurrency, len(p.warmup), len(p.measured)) for p in points] == [(1, 2, 16), (2, 4, 16), (32, 64, 128)]
    texts = [text_of(request) for point in points for request in (*point.warmup, *point.measured)]
    assert len(set(texts)) == len(texts) == 230


def test_requests_are_greedy_seeded_streamed_and_of_fixed_length() -> None:
    (point,) = plan_points(make_plan(max_tokens=9, seed=11, requests=2), THREE)
    assert [request.id for request in (*point.warmup, *point.measured)] == ["c1-warmup-0", "c1-0", "c1-1"]
    request = point.measured[0]
    assert (request.temperature, request.seed, request.max_tokens, request.ignore_eos) == (0.0, 11, 9, True)
    assert request.stream


def test_unknown_prompt_set_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="chat"):
        load_prompts("nope")
