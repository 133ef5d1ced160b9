from __future__ import annotations

import numpy as np
import pytest

from engine.inputs.image import SizeOverrides
from engine.inputs.processor_config import ImageProcessorConfig
from engine.inputs.video import (
    frame_times_s,
    in_shape,
    list_size,
    majority_shape,
    pair_patches,
    pair_times_s,
    preprocess_video,
    resize_frame,
    sample_frames,
    video_size,
)
from tests.engine.inputs.media_files import golden, gradient

CONFIG = ImageProcessorConfig()


@pytest.mark.parametrize("row", golden()[2]["video_sampling"])
def test_sampling_matches_the_golden_table(row: dict[str, object]) -> None:
    sampling = sample_frames(row["src_frames"], row["src_fps"])
    assert list(sampling.indices) == row["indices"]
    assert sampling.fps == row["sampled_fps"]


@pytest.mark.parametrize("row", golden()[2]["video_resize"])
def test_size_matches_the_golden_table(row: dict[str, object]) -> None:
    assert list(video_size(row["h"], row["w"], row["num_frames"], CONFIG)) == row["out"]


def test_golden_video() -> None:
    inputs, expected, tables = golden()
    source = tables["video_source"]
    sampling = sample_frames(source["src_frames"], source["src_fps"])
    assert list(sampling.indices) == expected["video.sampled_indices"].tolist()
    assert sampling.fps == source["sampled_fps"]
    size = SizeOverrides(resized_height=source["resized_height"], resized_width=source["resized_width"])
    values, grid, times = preprocess_video(inputs["video.sampled_frames"], sampling.fps, CONFIG, size)
    np.testing.assert_array_equal([grid], expected["video_grid_thw"])
    np.testing.assert_array_equal(values, expected["pixel_values_videos"])  # the tolerance is 1e-5; we are exact
    np.testing.assert_allclose(times, expected["video.group_timestamps"], rtol=0, atol=1e-9)
    frame_times = frame_times_s(len(sampling.indices), sampling.fps, CONFIG)
    np.testing.assert_allclose(frame_times, expected["video.frame_timestamps"], rtol=0, atol=1e-9)


def test_golden_resized_frames() -> None:
    inputs, expected, tables = golden()
    size = tables["video_source"]["resized_height"], tables["video_source"]["resized_width"]
    resized = [resize_frame(frame, size) for frame in inputs["video.sampled_frames"]]
    padded = np.stack([*resized, resized[-1]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(padded, expected["video.frames_resized_padded"])


@pytest.mark.parametrize(
    ("num_frames", "fps", "times"),
    [
        (1, 25.0, [0.0]),  # the only frame is doubled, and so is its time
        (2, 2.0, [0.25]),
        (5, 2.0, [0.25, 1.25, 2.0]),  # the padded frame repeats 2.0
    ],
)
def test_a_pair_has_the_mean_of_its_times(num_frames: int, fps: float, times: list[float]) -> None:
    assert pair_times_s(num_frames, fps, CONFIG) == times


def test_pairs_come_one_at_a_time_and_the_last_frame_is_doubled() -> None:
    drawn: list[int] = []

    def frames() -> object:
        for level in range(3):
            drawn.append(level)
            yield np.full((32, 32, 3), level, np.uint8)

    pairs = pair_patches(frames(), CONFIG)
    patches, grid = next(pairs)
    assert (drawn, grid) == ([0, 1], (1, 2, 2))
    assert set(patches[:, :256].ravel()) == {0}
    assert set(patches[:, 256:512].ravel()) == {1}
    patches, _ = next(pairs)
    assert set(patches.ravel()) == {2}
    assert next(pairs, None) is None


@pytest.mark.parametrize(
    ("shapes", "counted"),
    [
        ([(480, 640)], 1),
        ([(480, 640)] * 5, 4),  # as released, an odd count is budgeted as the even one below
        ([(480, 640)] * 24, 24),
        ([(9, 9)] + [(480, 640)] * 3, 4),  # as released, the second frame decides
    ],
)
def test_size_of_a_frame_list(shapes: list[tuple[int, int]], counted: int) -> None:
    assert list_size(shapes, CONFIG) == video_size(480, 640, counted, CONFIG)


def test_frames_of_a_list_are_brought_to_the_commonest_shape() -> None:
    shape = majority_shape([(10, 20), (30, 40), (30, 40), (10, 21)])
    assert shape == (30, 40)
    assert in_shape(gradient(20, 10), shape).shape == (30, 40, 3)
    np.testing.assert_array_equal(in_shape(gradient(40, 30), shape), np.asarray(gradient(40, 30)))


def test_budget_overrides() -> None:
    # 800,000 / 8 * 2 = 200,000: beta = sqrt(307,200 / 200,000) = 1.239; 387.3 and 516.4, rounded down
    assert video_size(480, 640, 8, CONFIG, SizeOverrides(total_pixels=800_000)) == (384, 512)
    # 100,000 is raised to int(131,072 * 1.05) = 137,625: beta = 1.494; 321.3 and 428.4
    assert video_size(480, 640, 8, CONFIG, SizeOverrides(total_pixels=400_000)) == (320, 416)
    # a lower minimum lets the budget count: beta = 1.753; 273.9 and 365.2
    assert video_size(480, 640, 8, CONFIG, SizeOverrides(total_pixels=400_000, min_pixels=1)) == (256, 352)
    assert video_size(480, 640, 8, CONFIG, SizeOverrides(max_pixels=4_096)) == (480, 640)
    asked = SizeOverrides(resized_height=100, resized_width=90, total_pixels=1)
    assert video_size(480, 640, 8, CONFIG, asked) == (96, 96)
