import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from ming_eval.errors import UsageError
from ming_eval.load.plan import Order, Shape
from ming_eval.load.workload import Prompt, Texts, load_prompts, plan_points
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


def first(count: int, texts: Texts) -> list[str]:
    return [texts[i] for i in range(count)]


def test_every_prompt_comes_once_a_round_behind_a_number_of_its_own() -> None:
    texts = first(9, Texts(THREE, seed=5))
    assert all(text[:9].isdigit() and text[9] == " " for text in texts)
    for start in (0, 3, 6):
        assert sorted(text[10:] for text in texts[start : start + 3]) == ["x?", "y?", "z?"]


def test_no_text_comes_twice_and_numbers_share_no_long_prefix() -> None:
    texts = first(1000, Texts(THREE, seed=1))
    assert len({text[:6] for text in texts}) == 1000


def test_without_numbers_the_prompts_are_as_they_are_and_repeat() -> None:
    texts = first(6, Texts(THREE, seed=1, nonce=False))
    assert sorted(texts[:3]) == sorted(texts[3:]) == ["x?", "y?", "z?"]


def test_a_text_does_not_depend_on_what_was_asked_for_before() -> None:
    texts = Texts(load_prompts("chat"), 3)
    late = texts[500]
    assert texts[2] != late
    assert Texts(load_prompts("chat"), 3)[500] == texts[500] == late


def test_texts_are_a_function_of_the_seed() -> None:
    draw = [first(300, Texts(load_prompts("chat"), seed)) for seed in (3, 3, 4)]
    assert draw[0] == draw[1]
    assert not set(draw[0]) & set(draw[2])  # another seed, other numbers


def test_points_have_the_planned_requests_and_never_repeat_a_warmup_prompt() -> None:
    plan = make_plan(concurrencies=(1, 2, 32), warmup_waves=2, max_tokens=9, seed=11, ignore_eos=True)
    points = list(plan_points(plan, load_prompts("chat")))
    assert [(p.level.concurrency, len(p.warmup), len(p.measured)) for p in points] == [
        (1, 2, 16),
        (2, 4, 16),
        (32, 64, 128),
    ]
    texts = [text_of(request) for point in points for request in (*point.warmup, *point.measured)]
    assert len(set(texts)) == len(texts) == 230


def test_a_point_keeps_its_requests_whatever_the_order_of_visits() -> None:
    def asked(order: Order) -> dict[str, str]:
        points = plan_points(make_plan(concurrencies=(1, 2, 4, 8), requests=3, order=order), THREE)
        return {request.id: text_of(request) for point in points for request in (*point.warmup, *point.measured)}

    assert asked(Order.GIVEN) == asked(Order.RANDOM) == asked(Order.INTERLEAVED)


def test_room_for_a_million_requests_costs_nothing_until_they_are_asked_for() -> None:
    (point,) = plan_points(make_plan(concurrencies=(1024,), until_ci=0.02), THREE)
    assert len(point.measured) == 1_024_000
    assert point.measured[1_023_999].id == "c1024-1023999"
    with pytest.raises(IndexError):
        point.measured[1_024_000]


def test_a_trace_brings_its_own_texts_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 500, "text": "recorded", "output_length": 7}\n{"timestamp": 900}\n')
    plan = make_plan(shape=Shape.TRACE, trace=str(path), requests=2, concurrencies=(4,), max_tokens=9)
    (point,) = plan_points(plan, THREE)
    assert [(text_of(r)[-1], r.max_tokens) for r in point.measured] == [("d", 7), ("?", 9)]


def test_requests_are_greedy_seeded_streamed_and_of_fixed_length() -> None:
    (point,) = plan_points(make_plan(max_tokens=9, seed=11, requests=2), THREE)
    assert [request.id for request in (*point.warmup, *point.measured)] == ["c1-warmup-0", "c1-0", "c1-1"]
    request = point.measured[0]
    assert (request.temperature, request.seed, request.max_tokens, request.ignore_eos) == (0.0, 11, 9, True)
    assert request.stream


def test_requests_with_seeds_of_their_own_differ_everywhere_and_are_the_same_each_time() -> None:
    """Warm-up, points and passes share no seed, and neither the order of visits nor the server moves one."""
    plan = make_plan(concurrencies=(1, 4), requests=8, repeats=2, seed=3, temperature=1.0, seed_per_request=True)
    found = [request for point in plan_points(plan, THREE) for request in (*point.warmup, *point.measured)]
    seeds = {request.id: request.seed for request in found}
    assert len(set(seeds.values())) == len(found) == 2 * (1 + 8 + 4 + 8)
    assert all(
        request.temperature == 1.0 and request.seed is not None and 0 <= request.seed < 2**31 for request in found
    )
    again = plan_points(replace(plan, order=Order.INTERLEAVED), THREE)
    assert seeds == {request.id: request.seed for point in again for request in (*point.warmup, *point.measured)}
    other = next(iter(plan_points(replace(plan, seed=4), THREE)))
    assert other.measured[0].seed != seeds["c1-0"]


def test_unknown_prompt_set_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="chat"):
        load_prompts("nope")
