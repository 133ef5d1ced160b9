from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.model_config import LLMConfig, parse_model_config
from engine.models.observe import run_positions
from engine.models.positions import Grid, PatchRun, PatchTokens, batch_positions, lay_out, positions_from_spans
from tests.engine.models.goldens import load_golden

GOLDEN = load_golden("c_position_ids")
CASES = GOLDEN.json("cases.json")

IMAGE_START, IMAGE, END, FRAME, VIDEO_START, TEXT, AUDIO = range(7)
TOKENS = PatchTokens(IMAGE_START, IMAGE, VIDEO_START, FRAME)
WHOLE_VIDEO = PatchTokens(IMAGE_START, IMAGE, VIDEO_START, FRAME, use_interleaved_frame_timestamp=False)


def tokens_of(case: str) -> PatchTokens:
    """The ids of the golden's configuration with the sub-case's own settings."""
    names = {field.name for field in fields(PatchTokens)}
    tree = GOLDEN.json("config.json")["llm_config"] | CASES[case]
    return PatchTokens(**{name: tree[name] for name in names})


@pytest.mark.parametrize("case", CASES)
def test_positions_match_the_release_and_not_the_scheme_of_other_engines(case: str) -> None:
    inputs, expected = GOLDEN.sub_case(case)
    got = run_positions(tokens_of(case), inputs)
    for name in ("position_ids", "rope_delta", "next_position"):
        assert torch.equal(got[name], expected[name]), name
    # With the released id no video is recognised at all, and text positions are the same in every scheme.
    same = case == "noninterleaved_video_released_start_id"
    for name in ("position_ids", "rope_delta"):
        wrong = expected.get(f"WRONG_m_rope.{name}")
        assert wrong is None or torch.equal(got[name], wrong) == same, name


# Prompts as lists of segments: a count of text tokens, a count of audio tokens, or a grid.
Segment = tuple[str, int | Grid]

counts = st.integers(0, 5)
grids = st.tuples(st.just(1), st.integers(1, 5).map(lambda n: 2 * n), st.integers(1, 5).map(lambda n: 2 * n))
segments = st.one_of(
    st.tuples(st.just("text"), counts),
    st.tuples(st.just("audio"), counts),
    st.tuples(st.just("image"), grids),
    st.tuples(st.just("frame"), grids),
)
prompts = st.lists(segments, max_size=7)


def tokens_in(grid: Grid) -> int:
    t, h, w = grid
    return t * (h // 2) * (w // 2)


def render(prompt: Sequence[Segment]) -> list[int]:
    """Token ids, with a marker around each run of patches; never empty."""
    ids = [TEXT]
    for kind, what in prompt:
        if isinstance(what, int):
            ids += [TEXT if kind == "text" else AUDIO] * what
        else:
            ids += [IMAGE_START, *[IMAGE if kind == "image" else FRAME] * tokens_in(what), END]
    return ids


def count_token_by_token(prompt: Sequence[Segment]) -> list[tuple[int, int, int]]:
    """The scheme as its definition reads: one counter, one token after another."""
    positions, counter = [(0, 0, 0)], 1
    for _, what in prompt:
        if isinstance(what, int):
            for _ in range(what):
                positions.append((counter,) * 3)
                counter += 1
            continue
        rows, columns = what[1] // 2, what[2] // 2
        positions.append((counter,) * 3)
        counter += 1
        positions += [
            (counter, counter + r - (rows - 1) // 2, counter + q - (columns - 1) // 2)
            for r in range(rows)
            for q in range(columns)
        ]
        counter += 1
        positions.append((counter,) * 3)
        counter += 1
    return positions


def spans_of(prompt: Sequence[Segment]) -> list[tuple[int, int, Grid | None]]:
    spans: list[tuple[int, int, Grid | None]] = []
    done = 1
    for kind, what in prompt:
        if isinstance(what, int):
            spans += [(done, what, None)] if kind == "audio" else []
            done += what
        else:
            spans.append((done + 1, tokens_in(what), what))
            done += tokens_in(what) + 2
    return spans


def grids_in(prompt: Sequence[Segment], kind: str) -> list[Grid]:
    return [what for name, what in prompt if name == kind and not isinstance(what, int)]


@settings(deadline=None)
@given(prompts)
@pytest.mark.slow
def test_spans_and_ids_both_give_what_counting_gives(prompt: list[Segment]) -> None:
    ids = render(prompt)
    want = count_token_by_token(prompt)
    positions, delta = positions_from_spans(len(ids), spans_of(prompt))
    assert list(map(tuple, positions.T.tolist())) == want
    assert delta == want[-1][0] + 1 - len(ids)
    found, deltas = batch_positions(torch.tensor([ids]), TOKENS, grids_in(prompt, "image"), grids_in(prompt, "frame"))
    assert torch.equal(found[:, 0], positions)
    assert deltas.tolist() == [[delta]]


@settings(deadline=None, max_examples=50)
@given(prompts, prompts, st.integers(0, 4))
def test_left_padding_shifts_only_the_delta(first: list[Segment], second: list[Segment], extra: int) -> None:
    rows = [render(prompt) for prompt in (first, second)]
    width = max(map(len, rows)) + extra
    padded = torch.tensor([[TEXT] * (width - len(ids)) + ids for ids in rows])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows])
    both = first + second
    got, deltas = batch_positions(padded, TOKENS, grids_in(both, "image"), grids_in(both, "frame"), mask)
    for i, (ids, prompt) in enumerate(zip(rows, (first, second), strict=True)):
        alone, delta = positions_from_spans(len(ids), spans_of(prompt))
        padding = width - len(ids)
        assert torch.equal(got[:, i, padding:], alone)
        assert (got[:, i, :padding] == 1).all()
        assert int(deltas[i]) == delta - padding


def test_a_whole_video_counts_time_by_seconds_and_truncates_toward_zero() -> None:
    """Two frame pairs of 3 x 1 tokens half a step apart, by hand: -0.5 becomes 0, not -1, and 1.5 carries on."""
    positions, delta = lay_out(8, [PatchRun(0, (2, 6, 2), frame_step=0.5)])
    assert positions.tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 2],
        [-1, 0, 1, 0, 0, 1, 1, 2],
        [0, 0, 0, 0, 0, 0, 1, 2],
    ]
    assert delta == 3 - 8


@pytest.mark.parametrize(("seconds", "time"), [(None, [1, 3, 5, 6]), ([0.5], [1, 2, 3, 4]), ([1.5], [1, 4, 7, 8])])
def test_seconds_per_grid_stretch_a_whole_video(seconds: list[float] | None, time: list[int]) -> None:
    ids = torch.tensor([[VIDEO_START, FRAME, FRAME, FRAME, END]])
    positions, deltas = batch_positions(ids, WHOLE_VIDEO, video_grids=[(3, 2, 2)], seconds_per_grid=seconds)
    assert positions[:, 0].tolist() == [[0, *time]] * 3
    assert deltas.tolist() == [[time[-1] + 1 - 5]]


def test_one_row_per_video_equals_one_row_per_frame_when_interleaved() -> None:
    ids = torch.tensor([[IMAGE_START, FRAME, FRAME, END, TEXT, IMAGE_START, FRAME, FRAME, END]])
    whole = batch_positions(ids, TOKENS, video_grids=[(2, 2, 4)], seconds_per_grid=[3.0])
    split = batch_positions(ids, TOKENS, video_grids=[(1, 2, 4), (1, 2, 4)])
    assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True))


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([(0, 5, (1, 4, 4))], "fills 4 placeholders"),
        ([(2, 4, (1, 4, 4)), (5, 1, (1, 2, 2))], "overlap the media before"),
        ([(5, 1, (1, 2, 2)), (0, 4, (1, 4, 4))], "overlap the media before"),
        ([(7, 4, (1, 4, 4))], "end of the 10 tokens"),
    ],
)
def test_spans_that_cannot_be_are_refused(spans: list[tuple[int, int, Grid | None]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        positions_from_spans(10, spans)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([IMAGE_START, IMAGE, IMAGE, END, IMAGE_START, IMAGE, END], "has no grid left"),
        ([IMAGE_START, IMAGE, END], "has 1, grid"),
        ([IMAGE_START, IMAGE, IMAGE, IMAGE, END], "has 3, grid"),
        ([TEXT, IMAGE_START, IMAGE], "has 1, grid"),
    ],
)
def test_runs_that_do_not_fit_the_grids_are_refused(ids: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        batch_positions(torch.tensor([ids]), TOKENS, image_grids=[(1, 2, 4)])


def llm_config(**changes: int | None) -> LLMConfig:
    tree = load_golden("d_vision").json("config.json")
    return parse_model_config(tree | {"llm_config": tree["llm_config"] | changes}).llm


def test_ids_come_from_the_configuration() -> None:
    cfg = llm_config()
    assert PatchTokens.of(cfg) == PatchTokens(
        cfg.image_start_token, cfg.image_patch_token, cfg.video_start_token, cfg.video_patch_token
    )
    with pytest.raises(ConfigError, match="image_patch_token missing"):
        PatchTokens.of(llm_config(image_patch_token=None))
