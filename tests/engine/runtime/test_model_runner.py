"""Greedy tokens do not depend on how the work was cut into steps, nor on the neighbours."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from engine.core.request import FinishReason, GenerationRequest
from engine.kernels.paths import Paths, current
from engine.models.thinker import Ming
from tests.engine.runtime.helpers import make_loop, media_request, run, text_request, tokens

TEXT = [text_request(i, length) for i, length in enumerate([1, 2, 17, 40, 90, 33, 16, 5], start=1)]
MEDIA = [
    media_request(21, [(1, 4, 6), (1, 8, 4)], [61]),
    media_request(22, [], [40, 9]),
    media_request(23, [(1, 6, 6)], []),
]


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> dict[int, list[int]]:
    """Each request in an engine of its own with whole prompts."""
    return {r.id: tokens(make_loop(tiny_model), [r])[r.id] for r in TEXT + MEDIA}


def test_the_model_says_different_things(alone: dict[int, list[int]]) -> None:
    """The comparisons below could not fail if every prompt gave the same tokens."""
    assert len({tuple(found) for found in alone.values()}) == len(alone)
    assert all(len(set(found)) > 3 for found in alone.values())


@pytest.mark.parametrize("requests", [TEXT, MEDIA, TEXT + MEDIA], ids=["text", "media", "mixed"])
@pytest.mark.slow
def test_batched_equals_alone(tiny_model: Path, alone: dict[int, list[int]], requests: list[GenerationRequest]) -> None:
    loop = make_loop(tiny_model, kv_tokens=4000)  # an engine that has not yet seen the media
    assert tokens(loop, requests) == {r.id: alone[r.id] for r in requests}


@pytest.mark.parametrize("step_tokens", [4, 13])
@pytest.mark.slow
def test_chunked_prefill_equals_whole(tiny_model: Path, alone: dict[int, list[int]], step_tokens: int) -> None:
    found = tokens(make_loop(tiny_model, step_tokens=step_tokens, step_requests=3), TEXT + MEDIA)
    assert found == alone


@pytest.mark.slow
def test_preempted_equals_not_preempted(tiny_model: Path, alone: dict[int, list[int]]) -> None:
    loop = make_loop(tiny_model, kv_tokens=160, block_size=4, max_model_len=128)
    found = tokens(loop, TEXT + MEDIA)
    assert loop.stats().preemptions > 0
    assert found == alone
    assert loop.stats().num_free_blocks == loop.stats().num_blocks


@pytest.mark.slow
def test_prefix_cache_changes_nothing(tiny_model: Path, alone: dict[int, list[int]]) -> None:
    loop = make_loop(tiny_model, block_size=4)
    again = [GenerationRequest(r.id + 100, r.prompt_ids, r.sampling, r.media) for r in TEXT + MEDIA]
    assert tokens(loop, TEXT + MEDIA) == alone
    found = tokens(loop, again)
    assert loop.stats().prefix_hits > 0
    assert {i - 100: found[i] for i in found} == alone


def test_long_steps_multiply_fp8_as_it_is(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short ones wait for launches, of which that takes more."""
    seen: list[tuple[int, Paths]] = []
    embed = Ming.embed

    def spy(self: Ming, ids: Tensor, *rest: Any) -> Tensor:
        seen.append((len(ids), current()))
        return embed(self, ids, *rest)

    monkeypatch.setattr(Ming, "embed", spy)
    run(make_loop(tiny_model), [text_request(31, 300, 2)])
    run(make_loop(tiny_model), [text_request(32, 20, 2)])
    assert seen == [(300, Paths(split_fp8=True)), (1, Paths()), (20, Paths()), (1, Paths())]
    assert current() == Paths()


def test_media_changes_the_answer(tiny_model: Path, alone: dict[int, list[int]]) -> None:
    request = MEDIA[0]
    without = GenerationRequest(90, request.prompt_ids, request.sampling)
    assert tokens(make_loop(tiny_model), [without])[90] != alone[request.id]


@pytest.mark.slow
def test_seeded_sampling_is_the_same_in_any_batch(tiny_model: Path) -> None:
    drawn = [text_request(i, 9, seed=i, temperature=1.0) for i in range(1, 5)]
    together = tokens(make_loop(tiny_model), drawn)
    apart = {r.id: tokens(make_loop(tiny_model, step_tokens=4), [r])[r.id] for r in drawn}
    assert together == apart
    other = tokens(make_loop(tiny_model), [text_request(1, 9, seed=99, temperature=1.0)])
    assert other[1] != together[1]


def test_prompt_logprobs_equal_those_of_generation(tiny_model: Path) -> None:
    """Scoring prompt + reply gives the reply's tokens the values that generating it gave."""
    loop = make_loop(tiny_model)
    said = run(loop, [text_request(1, 20, logprobs=2)])[1]
    generated = [entry for output in said for entry in output.logprobs]
    prompt = text_request(1, 20).prompt_ids + tuple(t for o in said for t in o.tokens)
    scoring = text_request(2, 1, max_tokens=1, prompt_logprobs=2)
    outputs = run(loop, [GenerationRequest(2, prompt, scoring.sampling)])[2]
    scored = [entry for output in outputs for entry in output.prompt_logprobs]
    assert len(scored) == len(prompt) - 1
    for entry, expected in zip(scored[-len(generated) :], generated, strict=True):
        assert entry.token == expected.token
        assert entry.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [t for t, _ in entry.top] == [t for t, _ in expected.top]


def test_stop_token_ends_with_its_id(tiny_model: Path) -> None:
    loop = make_loop(tiny_model)
    plain = tokens(loop, [text_request(1, 20)])[1]
    stop = plain[4]
    first = plain.index(stop)
    (*_, last) = run(
        loop,
        [GenerationRequest(2, text_request(1, 20).prompt_ids, text_request(1, 20, stop_token_ids=(stop,)).sampling)],
    )[2]
    assert last.finish is FinishReason.STOP
    assert last.stop_token_id == stop
    assert loop.stats().generation_tokens == len(plain) + first + 1


@pytest.mark.slow
def test_an_encode_under_way_holds_up_nobody(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text request that arrives while the only other one waits for its image is served, and an abort taken."""
    encoded = threading.Event()
    encode = Ming.encode_pixels

    def slowly(self: Ming, *args: Any) -> Any:
        encoded.wait(120)
        return encode(self, *args)

    monkeypatch.setattr(Ming, "encode_pixels", slowly)
    loop = make_loop(tiny_model, kv_tokens=1024)  # an engine that has not seen the image
    loop.submit(MEDIA[2])
    loop.submit(media_request(31, [(1, 4, 4)], []))
    for _ in range(5):
        assert loop.run_once() == ()
    loop.submit(TEXT[0])
    loop.abort(31)
    ended: list[int] = []
    while TEXT[0].id not in ended:
        ended += [output.request_id for output in loop.run_once() if output.finish]
    assert ended == [31, TEXT[0].id]
    encoded.set()
    while loop.has_work:
        ended += [output.request_id for output in loop.run_once() if output.finish]
    assert ended[2:] == [MEDIA[2].id]


@pytest.mark.slow
def test_padded_clips_hear_each_other(tiny_model: Path, alone: dict[int, list[int]]) -> None:
    """MEDIA[1] has a clip of 40 and one of 9 frames: padded together as released, the short one sounds different."""
    padded = make_loop(tiny_model, audio_batching="padded")
    assert tokens(padded, [MEDIA[1]])[MEDIA[1].id] != alone[MEDIA[1].id]
    single = make_loop(tiny_model, audio_batching="padded")
    assert tokens(single, [MEDIA[0]])[MEDIA[0].id] == alone[MEDIA[0].id]  # one clip has nothing to be padded to
