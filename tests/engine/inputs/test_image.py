from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import InvalidRequest
from engine.inputs.image import (
    SizeOverrides,
    image_patches,
    image_size,
    normalise,
    patchify,
    preprocess_image,
    processor_smart_resize,
    resize_image,
    smart_resize,
)
from engine.inputs.pixels import pixel_table
from engine.inputs.processor_config import ImageProcessorConfig
from tests.engine.inputs.media_files import golden, gradient

CONFIG = ImageProcessorConfig()


@pytest.mark.parametrize("row", golden()[2]["image_smart_resize"])
def test_loader_size_matches_the_golden_table(row: dict[str, int | list[int]]) -> None:
    assert list(smart_resize(row["h"], row["w"])) == row["out"]


@pytest.mark.parametrize("row", golden()[2]["image_processor_smart_resize"])
def test_processor_size_matches_the_golden_table(row: dict[str, int | list[int]]) -> None:
    assert list(processor_smart_resize(row["h"], row["w"])) == row["out"]


def test_rounding_is_to_even_tokens() -> None:
    # 80 / 32 = 2.5 rounds to 2, 112 / 32 = 3.5 rounds to 4
    assert smart_resize(80, 112) == (64, 128)


def test_only_the_loader_clamps_a_thin_side_before_the_area_is_checked() -> None:
    # Loader: (32, 160) has more than 4,096 pixels and stays. Processor: 10 rounds to 0, so the area is raised:
    # beta = sqrt(4096 / 1600) = 1.6, ceil(16 / 32) = 1, ceil(256 / 32) = 8.
    assert smart_resize(10, 160) == (32, 160)
    assert processor_smart_resize(10, 160) == (32, 256)


def test_the_ratio_limit_is_inclusive() -> None:
    assert smart_resize(1, 200)
    with pytest.raises(InvalidRequest, match="ratio limit is 200") as caught:
        smart_resize(1, 201)
    assert caught.value.code == "invalid_media"


def test_a_side_that_would_vanish_is_refused() -> None:
    # beta = sqrt(4096 * 21 / 100000) = 0.927; 21 / 0.927 = 22.6 is less than one token
    with pytest.raises(InvalidRequest, match="too narrow to be scaled down"):
        smart_resize(21, 4096, max_pixels=100_000)


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (SizeOverrides(), (480, 640)),
        (SizeOverrides(max_pixels=100_000), (256, 352)),  # beta = 1.753: 273.8 and 365.1, rounded down
        (SizeOverrides(min_pixels=400_000), (576, 736)),  # beta = 1.141: 547.7 and 730.3, rounded up
        (SizeOverrides(resized_height=100, resized_width=90), (96, 96)),
        (SizeOverrides(resized_height=100), (480, 640)),
        (SizeOverrides(resized_height=20, resized_width=20, min_pixels=10), (64, 64)),
    ],
)
def test_overrides(overrides: SizeOverrides, size: tuple[int, int]) -> None:
    assert image_size(480, 640, CONFIG, overrides) == size


def test_the_processor_undoes_an_override_below_its_own_limit() -> None:
    small = resize_image(gradient(40, 40), CONFIG, SizeOverrides(min_pixels=1))
    assert small.size == (64, 64)  # the loader's 32x32 is under the processor's 4,096 pixels


@pytest.mark.parametrize("index", [0, 1])
def test_resized_pixels_match_the_golden(index: int) -> None:
    inputs, expected, _ = golden()
    resized = resize_image(Image.fromarray(inputs[f"image.{index}"]), CONFIG)
    np.testing.assert_array_equal(np.asarray(resized), expected[f"image.{index}.resized"])


def test_pixel_values_match_the_golden() -> None:
    inputs, expected, _ = golden()
    values, grids = zip(
        *(preprocess_image(Image.fromarray(inputs[f"image.{index}"]), CONFIG) for index in (0, 1)), strict=True
    )
    np.testing.assert_array_equal(np.array(grids), expected["image_grid_thw"])
    got = np.concatenate(values)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected["pixel_values"])  # the tolerance is 1e-5; we are exact


def test_eight_bit_patches_can_be_normalised_elsewhere_with_the_same_result() -> None:
    inputs, expected, _ = golden()
    patches, _ = image_patches(Image.fromarray(inputs["image.0"]), CONFIG)
    assert patches.dtype == np.uint8
    table = torch.tensor(pixel_table(CONFIG))
    channel = torch.arange(3).repeat_interleave(patches.shape[1] // 3)
    values = table[channel, torch.from_numpy(patches).long()]
    np.testing.assert_array_equal(values.numpy(), expected["pixel_values"][: len(patches)])


def test_order_of_patches_and_values() -> None:
    """Every pixel names itself: value = its place in the formula of the layout."""
    config = ImageProcessorConfig(patch_size=2)
    height, width = 4, 8
    frames = np.arange(2 * height * width * 3, dtype=np.uint8).reshape(2, height, width, 3)
    patches, grid = patchify(frames, config)
    assert grid == (1, 2, 4)
    for row in range(2):
        for column in range(4):
            token = (row // 2) * 2 + column // 2
            patch = patches[token * 4 + (row % 2) * 2 + column % 2].reshape(3, 2, 2, 2)
            for channel, frame, y, x in np.ndindex(patch.shape):
                assert patch[channel, frame, y, x] == frames[frame, row * 2 + y, column * 2 + x, channel]


def test_the_last_frame_fills_a_temporal_patch() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    patches, grid = patchify(frames, CONFIG)
    assert grid == (2, 2, 2)
    last = patches[4:].reshape(4, 3, 2, 256)
    np.testing.assert_array_equal(last[:, :, 0], last[:, :, 1])
    np.testing.assert_array_equal(patches[:4], patchify(frames[:2], CONFIG)[0])
    np.testing.assert_array_equal(patches[4:], patchify(frames[2:], CONFIG)[0])


def test_normalised_levels() -> None:
    config = ImageProcessorConfig(patch_size=1, temporal_patch_size=1, image_mean=(0, 0.5, 1), image_std=(1, 0.5, 0.25))
    values = normalise(np.array([[255, 0, 51]], dtype=np.uint8), config)
    np.testing.assert_allclose(values, [[1.0, -1.0, -3.2]], rtol=1e-6)


def test_a_single_pixel_is_scaled_up() -> None:
    patches, grid = image_patches(gradient(1, 1), CONFIG)
    assert grid == (1, 4, 4)
    assert patches.shape == (16, 1536)
