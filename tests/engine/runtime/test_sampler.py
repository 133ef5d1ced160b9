"""Sampling by hand-worked distributions: filters, penalties, seeds, log-probabilities."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.core.request import SamplingParams
from engine.runtime.sampler import SamplerRow, describe, sample

PROBABILITIES = [0.4, 0.3, 0.2, 0.1]


def row(prompt: tuple[int, ...] = (), **options: Any) -> SamplerRow:
    params = SamplingParams(max_tokens=100, **options)
    return SamplerRow.start(params, torch.tensor(prompt, dtype=torch.int64), vocab_size=4)


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities or PROBABILITIES]).log()


def draws(count: int, **options: Any) -> Counter[int]:
    """Tokens of `count` independent requests with the same options and seeds 0, 1, 2 ..."""
    rows = [row(seed=seed, **options) for seed in range(count)]
    return Counter(sample(logits().repeat(count, 1), rows).tokens.tolist())


def test_greedy_takes_the_largest() -> None:
    assert sample(logits(0.1, 0.2, 0.6, 0.1), [row(temperature=0.0)]).tokens.tolist() == [2]


def test_frequencies_follow_the_distribution() -> None:
    found = draws(4000)
    for token, probability in enumerate(PROBABILITIES):
        # 4 standard deviations of a binomial share over 4000 draws are at most 0.031
        assert found[token] / 4000 == pytest.approx(probability, abs=0.031)


def test_temperature_sharpens() -> None:
    squares = [p * p for p in PROBABILITIES]
    found = draws(4000, temperature=0.5)
    assert found[0] / 4000 == pytest.approx(squares[0] / sum(squares), abs=0.031)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": -1}, {0, 1, 2, 3}),
        ({"top_p": 0.4}, {0}),  # the first token's 0.4 reaches it
        ({"top_p": 0.41}, {0, 1}),
        ({"top_p": 0.89}, {0, 1, 2}),
        ({"top_p": 1e-9}, {0}),
        ({"min_p": 0.6}, {0, 1}),  # 0.6 * 0.4 = 0.24
        ({"top_k": 3, "top_p": 0.75}, {0, 1}),  # of 0.9: 0.444, 0.778
    ],
)
def test_filters_keep_exactly(options: dict[str, Any], kept: set[int]) -> None:
    assert set(draws(600, **options)) == kept


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    alone = [int(sample(logits(), [row(seed=7)]).tokens) for _ in range(3)]
    crowd = [row(seed=s) for s in range(20)]
    together = sample(logits().repeat(20, 1), crowd).tokens.tolist()
    assert alone == [together[7]] * 3
    later = row(seed=7)
    tokens = []
    for _ in range(30):
        token = sample(logits(), [later]).tokens[0]
        later.note(token)
        tokens.append(int(token))
    assert len(set(tokens)) > 1  # each step draws anew


def test_repetition_penalty_covers_prompt_and_output() -> None:
    """Token 0 stands in the prompt: its logit -0.92 becomes -1.83, below token 1's -1.20."""
    assert sample(logits(), [row((0,), temperature=0.0, repetition_penalty=2.0)]).tokens.tolist() == [1]
    state = row((0,), temperature=0.0, repetition_penalty=2.0)
    state.note(torch.tensor(1))
    assert sample(logits(), [state]).tokens.tolist() == [2]


def test_repetition_penalty_divides_positive_logits() -> None:
    state = row((0,), temperature=0.0, repetition_penalty=2.0)
    assert sample(torch.tensor([[3.0, 2.0, 0.0, 0.0]]), [state]).tokens.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "times", "expected"),
    [
        ({"presence_penalty": 0.2}, 1, 0),  # log 0.4 - 0.2 > log 0.3
        ({"presence_penalty": 0.3}, 1, 1),
        ({"presence_penalty": 0.2}, 5, 0),  # once, however often it occurred
        ({"frequency_penalty": 0.2}, 5, 1),  # 5 x 0.2
    ],
)
def test_penalties_on_generated_tokens(options: dict[str, Any], times: int, expected: int) -> None:
    state = row((0, 0, 0), temperature=0.0, **options)  # the prompt does not count
    for _ in range(times):
        state.note(torch.tensor(0))
    assert sample(logits(), [state]).tokens.tolist() == [expected]


def test_end_tokens_are_banned_before_min_tokens() -> None:
    state = row(temperature=0.0, min_tokens=1, eos_token_ids=(0,), stop_token_ids=(1,))
    assert sample(logits(), [state]).tokens.tolist() == [2]
    state.note(torch.tensor(2))
    assert sample(logits(), [state]).tokens.tolist() == [0]


def test_logit_bias() -> None:
    assert sample(logits(), [row(temperature=0.0, logit_bias=((3, 100.0), (0, -100.0)))]).tokens.tolist() == [3]


def test_logprobs_are_those_before_temperature_and_filters() -> None:
    state = row(temperature=0.2, top_k=1, logprobs=2, logit_bias=((3, 100.0),))
    drawn = sample(logits(), [state])
    assert drawn.logprobs is not None
    (entry,) = describe(drawn.logprobs, drawn.tokens, [2])
    assert entry is not None
    assert entry.token == 3
    assert entry.logprob == pytest.approx(float(torch.tensor(0.1).log()))
    assert [token for token, _ in entry.top] == [0, 1]
    assert entry.top[0][1] == pytest.approx(float(torch.tensor(0.4).log()))


def test_chosen_value_is_its_entry_among_the_alternatives() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 4)
    rows = [row(temperature=0.0, logprobs=4) for _ in range(4)] + [row(temperature=0.0)]
    drawn = sample(values, rows)
    assert drawn.logprobs is not None
    entries = describe(drawn.logprobs, drawn.tokens, [4] * 4 + [None])
    assert entries[4] is None
    for entry in entries[:4]:
        assert entry is not None
        assert dict(entry.top)[entry.token] == entry.logprob
        assert list(dict(entry.top).values()) == sorted(dict(entry.top).values(), reverse=True)
