"""How far a prompt with media can be computed, and what to encode next."""

from __future__ import annotations

from engine.core.media import MediaProgress
from tests.engine.core.fakes import make_media


def test_the_horizon_moves_span_by_span_in_prompt_order() -> None:
    media = MediaProgress((make_media(4, 3), make_media(10, 2), make_media(20, 5)))
    assert media.horizon == 4
    media.mark_encoded(1)
    assert media.horizon == 4
    media.mark_encoded(0)
    assert media.horizon == 20
    media.mark_encoded(2)
    assert media.horizon > 10**9


def test_no_media_no_horizon() -> None:
    media = MediaProgress(())
    assert media.horizon > 10**9
    assert media.ask() is None


def test_each_medium_is_asked_for_once_in_prompt_order() -> None:
    media = MediaProgress((make_media(10, 2), make_media(4, 3)))
    assert [media.ask(), media.ask(), media.ask()] == [1, 0, None]
    media.restart(0)
    assert media.ask() is None  # features outlive a preemption


def test_a_span_that_is_cached_whole_needs_no_encode() -> None:
    media = MediaProgress((make_media(2, 4), make_media(7, 3)))
    media.restart(8)  # covers the first, and one token of the second
    assert media.horizon == 7
    assert [media.ask(), media.ask()] == [1, None]
    media.mark_encoded(1)
    assert media.horizon > 10**9


def test_a_span_that_is_no_longer_cached_is_asked_for() -> None:
    media = MediaProgress((make_media(2, 4), make_media(7, 3)))
    media.restart(8)
    assert media.ask() == 1
    media.restart(4)
    assert media.horizon == 2
    assert [media.ask(), media.ask()] == [0, None]
