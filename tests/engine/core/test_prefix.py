"""Block keys: equal exactly when all that reaches the KV cache up to the block's end is equal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.core.prefix import PrefixKeys
from engine.core.request import MediaInput
from tests.engine.core.fakes import make_media, make_request

PROMPT = tuple(range(12))


def keys(prompt: tuple[int, ...], *media: MediaInput, generated: tuple[int, ...] = ()) -> list[bytes]:
    request = make_request(0, prompt, media=media)
    num_blocks = (len(prompt) + len(generated)) // 4
    return list(PrefixKeys(request, block_size=4).first(num_blocks, generated))


def num_common(left: list[bytes], right: list[bytes]) -> int:
    return next((i for i, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]), len(left))


def test_equal_prompts_have_equal_keys_and_each_block_its_own() -> None:
    assert keys(PROMPT) == keys(PROMPT)
    assert len(set(keys(PROMPT))) == 3
    assert len(set(keys((7,) * 12))) == 3  # equal blocks at different depths are different


@pytest.mark.parametrize(("position", "common"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (11, 2)])
def test_a_changed_token_changes_its_block_and_all_after(position: int, common: int) -> None:
    changed = (*PROMPT[:position], 99, *PROMPT[position + 1 :])
    left, right = keys(PROMPT), keys(changed)
    assert num_common(left, right) == common
    assert all(a != b for a, b in zip(left[common:], right[common:], strict=True))


def test_generated_tokens_continue_the_prompt() -> None:
    assert keys(PROMPT[:6], generated=PROMPT[6:]) == keys(PROMPT)
    assert keys(PROMPT[:3], generated=PROMPT[3:]) == keys(PROMPT)
    assert keys(PROMPT[:8], generated=PROMPT[8:]) == keys(PROMPT)


def test_keys_do_not_depend_on_the_order_of_questions() -> None:
    request = make_request(0, PROMPT, media=(make_media(9, 2, b"x"), make_media(1, 2, b"y")))
    forwards = [PrefixKeys(request, 4).get(index, ()) for index in range(3)]
    late = PrefixKeys(request, 4)
    assert [late.get(index, ()) for index in (2, 0, 1)] == [forwards[2], forwards[0], forwards[1]]


def test_media_count_from_the_first_block_they_touch() -> None:
    text = keys(PROMPT)
    assert num_common(text, keys(PROMPT, make_media(5, 2))) == 1
    assert num_common(text, keys(PROMPT, make_media(3, 2))) == 0
    assert num_common(text, keys(PROMPT, make_media(8, 4))) == 2


@pytest.mark.parametrize(
    "other",
    [
        make_media(5, 6, b"other"),
        make_media(5, 5),
        make_media(6, 6),
        replace(make_media(5, 6), grid=(1, 4, 6)),
        replace(make_media(5, 6), kind="video"),
    ],
)
def test_media_differ_by_content_place_grid_and_kind(other: MediaInput) -> None:
    assert num_common(keys(PROMPT, make_media(5, 6)), keys(PROMPT, other)) == 1


def test_neighbouring_media_are_not_confused() -> None:
    """The digests of two media in one block are kept apart."""
    left = keys(PROMPT, make_media(0, 1, b"ab"), make_media(1, 1, b"c"))
    right = keys(PROMPT, make_media(0, 1, b"a"), make_media(1, 1, b"bc"))
    assert left[0] != right[0]
