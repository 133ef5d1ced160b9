"""Parts of a decode step on clocks that are made up."""

from __future__ import annotations

import pytest

from engine.bench.parts import Part, part_lines, part_times, parts_of
from engine.bench.profile import Launch, kernel_times


def step(start_us: float, *kernels: tuple[str, float, float]) -> list[Launch]:
    return [Launch(name, start_us + begin, start_us + end) for name, begin, end in kernels]


PLAIN = [
    ("_stage_kernel", 0, 2),
    ("_embed_kernel", 3, 4),
    ("_sum_add_norm_kernel", 5, 9),
    ("nvjet_a", 10, 20),
    ("_qk_norm_rope_kernel", 20, 22),
    ("_decode_kernel", 22, 25),
    ("_join_kernel", 25, 26),
    ("nvjet_a", 26, 33),
    ("splitKreduce_kernel", 33, 34),
    ("ncclDevKernel_AllReduce", 34, 40),
    ("_rms_norm_kernel", 40, 41),
    ("nvjet_b", 41, 50),
    ("_meet_kernel", 50, 52),
    ("_gather_kernel", 52, 53),
    ("_chunk_kernel", 53, 55),
    ("_join_kernel", 55, 56),
]


def test_library_products_are_known_by_their_neighbours() -> None:
    found = parts_of([name for name, _, _ in PLAIN])
    assert found == [
        *(Part.ENDS, Part.ENDS, Part.NORMS, Part.QKV, Part.HEADS, Part.ATTENTION, Part.ATTENTION),
        *(Part.OUTPUT, Part.OUTPUT, Part.NORMS, Part.NORMS, Part.HEAD, Part.HEAD, Part.HEAD, Part.DRAW, Part.DRAW),
    ]
    (fused,) = parts_of(["_stage_kernel", "_rms_norm_kernel", "nvjet_a", "_heads_decode_kernel"])[2:3]
    assert fused is Part.QKV  # attention that norms the heads itself stands behind their product
    assert parts_of(["_stage_kernel", "_qk_norm_rope_kernel", "strange", "_decode_kernel"])[2] is Part.OTHER


def test_what_the_library_gathers_is_the_head() -> None:
    """Without shared memory between GPUs, or for more tokens than it holds."""
    end = ["ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "_rms_norm_kernel", "nvjet_a", "ncclDevKernel_AllGather_RING_LL"]
    found = parts_of(["_stage_kernel", "_decode_kernel", "nvjet_b", *end, "CatArrayBatchedCopy", "_chunk_kernel"])
    assert found[2:] == [Part.OUTPUT, Part.NORMS, Part.NORMS, Part.HEAD, Part.HEAD, Part.HEAD, Part.DRAW]


def test_times_run_from_end_to_end() -> None:
    """Gaps count for what they wait for, overlaps once, and the rest of a step for the draw."""
    early = [*PLAIN[:5], ("_decode_kernel", 21, 25), *PLAIN[6:]]
    launches = [launch for i in range(5) for launch in step(100.0 * i, *early)]
    rows = {row.part: row for row in part_times(launches, {Part.QKV: 8e3}, 1e9)}
    assert sum(row.us for row in rows.values()) == pytest.approx(100)
    assert (rows[Part.NORMS].us, rows[Part.NORMS].launches) == (5 + 6 + 1, 3)
    assert (rows[Part.QKV].us, rows[Part.QKV].floor_us) == (11, 8)
    assert rows[Part.ATTENTION].us == 4  # begun one microsecond before the head norms had ended
    assert rows[Part.DRAW].us == 56 - 53 + 100 - 56
    lines = part_lines(list(rows.values()))
    assert lines[2].split() == "11.0 us 1.0 launches 8.0 us floor 72.7% query, key, value products".split()
    assert lines[-1].endswith("whole step")


def test_steps_that_prefill_and_slow_ones_do_not_count() -> None:
    prefilling = [*PLAIN, ("_prefill_kernel", 60, 90)]
    starts = {0: PLAIN, 100: prefilling, 300: PLAIN, 370: PLAIN, 440: PLAIN, 510: PLAIN, 1500: PLAIN}
    launches = [launch for start, kernels in starts.items() for launch in step(start, *kernels)]
    assert sum(row.us for row in part_times(launches, {}, 1.0)) == pytest.approx(70 + 10, abs=10.1)
    assert part_times(step(0, *PLAIN), {}, 1.0) == []  # nothing says when the only step was over


def test_kernels_by_name() -> None:
    rows = kernel_times([*step(0, *PLAIN), *step(100, *PLAIN)], 2)
    assert (rows[0].kernel, rows[0].launches, rows[0].us) == ("nvjet_a", 2, 17)
