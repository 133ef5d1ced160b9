"""Silence is held back and never lost: the worked examples, and the invariants for any signal in any chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.stages.silence import F32, SilenceHold

RATE_HZ = 100  # frames of 10 samples, a tail of 30


def signal(pattern: str) -> F32:
    """A frame for each letter: x is sound, . is silence; samples are all different."""
    loud = np.repeat([letter == "x" for letter in pattern], 10)
    return np.where(loud, 1.0, 0.0).astype(np.float32) + np.arange(len(loud), dtype=np.float32) * 1e-7


def run(*chunks: F32) -> list[F32]:
    hold = SilenceHold.at(RATE_HZ)
    return [hold.push(chunk, last=k == len(chunks) - 1) for k, chunk in enumerate(chunks)]


def assert_frames(got: F32, whole: F32, *frames: int) -> None:
    np.testing.assert_array_equal(got, np.concatenate([whole[10 * f : 10 * f + 10] for f in frames] or [whole[:0]]))


def test_silence_waits_for_sound() -> None:
    whole = signal("..x..x.")
    parts = run(whole[:20], whole[20:50], whole[50:], whole[:0])
    assert_frames(parts[0], whole)  # leading silence is held ...
    assert_frames(parts[1], whole, 0, 1, 2)  # ... and comes with the first sound
    assert_frames(parts[2], whole, 3, 4, 5)
    assert_frames(parts[3], whole, 6)


def test_the_end_keeps_three_tenths_of_a_second() -> None:
    whole = signal("x......")
    assert_frames(run(whole)[0], whole, 0, 1, 2, 3)
    assert_frames(np.concatenate(run(whole[:10], whole[10:])), whole, 0, 1, 2, 3)


def test_nothing_but_silence_is_three_tenths_of_a_second() -> None:
    assert len(run(signal("........"))[0]) == 30
    assert len(run(signal(".")[:7])[0]) == 7


def test_frames_are_judged_across_chunks() -> None:
    """Chunks of 3 samples: a frame is judged when it is whole."""
    whole = signal("x.x")
    hold = SilenceHold.at(RATE_HZ)
    sizes = [len(hold.push(whole[i : i + 3])) for i in range(0, 30, 3)]
    assert sizes == [0, 0, 0, 10, 0, 0, 0, 0, 0, 20]


def test_threshold_is_on_the_mean_magnitude() -> None:
    quiet, loud = np.full(10, 0.9e-3, np.float32), np.full(10, -1.1e-3, np.float32)
    hold = SilenceHold.at(RATE_HZ)
    assert len(hold.push(quiet)) == 0
    assert len(hold.push(loud)) == 20


def test_released_frames_are_4410_samples() -> None:
    hold = SilenceHold.at(44100)
    assert (hold.frame, hold.tail) == (4410, 13230)


@given(
    pattern=st.text("x.", max_size=12),
    rest=st.integers(0, 9),
    cuts=st.lists(st.integers(0, 130), max_size=8),
)
def test_any_chunks_give_what_one_call_gives(pattern: str, rest: int, cuts: list[int]) -> None:
    """A prefix of the signal, equal to the single call's but for less than a frame at the end."""
    whole = signal(pattern + "x")[: 10 * len(pattern) + rest]
    bounds = sorted(min(cut, len(whole)) for cut in cuts)
    streamed = np.concatenate(run(*np.split(whole, bounds)))
    single = run(whole)[0]
    np.testing.assert_array_equal(streamed, whole[: len(streamed)])
    np.testing.assert_array_equal(single, whole[: len(single)])
    assert 0 <= len(streamed) - len(single) < 10
    last_sound = pattern.rfind("x")
    assert len(single) >= 10 * (last_sound + 1)
    assert len(streamed) <= 10 * (last_sound + 1) + 30


@pytest.mark.parametrize("sizes", [(25, 25, 20), (1,) * 70])
def test_the_released_defect_is_absent(sizes: tuple[int, ...]) -> None:
    """Silence after sound within a chunk comes out once: neither lost nor repeated."""
    whole = signal("x..x..x")
    parts = run(*np.split(whole, np.cumsum(sizes)[:-1]))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
