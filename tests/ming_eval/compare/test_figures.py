"""Figures of two systems from hand-made records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ming_eval.compare.figures import measure
from ming_eval.compare.resampling import draw
from ming_eval.compare.system import pair
from ming_eval.types import RequestRecord, Task
from tests.ming_eval.factories import make_record


def test_speech_is_compared_by_its_first_sound_and_its_real_time_factor() -> None:
    """Each reply: 2 s of speech, first after 0.2 s against 0.3 s, last after 1.0 s against 1.5 s: RTF 0.5 and 0.75."""

    def spoken(index: int, first_s: float, last_s: float) -> RequestRecord:
        times = {"audio_times_s": (first_s, last_s), "audio_durations_s": (1.0, 1.0), "first_audio_s": first_s}
        record = make_record(id=f"t2s-c1-{index}", index=index, task=Task.T2S, last_output_s=last_s, done_s=last_s)
        return replace(record, **times)  # type: ignore[arg-type]

    pairs = pair([spoken(i, 0.2, 1.0) for i in range(8)], [spoken(i, 0.3, 1.5) for i in range(8)])
    found = {name: measure(name, pairs, lambda count: draw(count, 1, 0)) for name in ("ttfa_ms.p50", "rtf.mean")}
    values = {name: (each.first, each.second) for name, each in found.items() if each is not None}
    assert values == {"ttfa_ms.p50": pytest.approx((200.0, 300.0)), "rtf.mean": pytest.approx((0.5, 0.75))}
    silent = pair([make_record(index=0)], [make_record(index=0)])
    assert measure("rtf.mean", silent, lambda count: draw(count, 1, 0)) is None


def test_time_between_passes_of_an_open_loop_is_in_no_throughput() -> None:
    """Two passes a minute apart, each one request that takes a second for 10 tokens: 10 tokens/s."""
    records = [
        make_record(id=f"r-{i}", index=0, repeat=i + 1, intended_s=60.0 * i, sent_s=60.0 * i, done_s=60.0 * i + 1.0)
        for i in range(2)
    ]
    records = [replace(record, num_output_tokens=10, last_output_s=record.done_s) for record in records]
    found = measure("output_tokens_per_s", pair(records, records), lambda count: draw(count, 1, 0))
    assert found is not None
    assert found.first == pytest.approx(10.0)
