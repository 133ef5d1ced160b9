"""From the bytes of a request to encoder inputs, in this process."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.inputs.audio import preprocess_audio
from engine.inputs.image import image_patches
from engine.inputs.media import EncodedMedia, MediaArray, parse_data_url
from engine.inputs.preprocess import preprocess
from engine.inputs.processor_config import AudioProcessorConfig, ImageProcessorConfig, MediaConfig
from tests.engine.inputs.media_files import audio_file, frame_level, gradient, image_file, tone, video_file

CONFIG = MediaConfig()
CODES = {"invalid_media", "media_too_large", "audio_too_long"}


def run(kind: str, data: bytes, mime: str | None = None) -> tuple[MediaArray, ...]:
    return preprocess(kind, EncodedMedia((data,), mime), CONFIG).arrays


def refusal(kind: str, media: EncodedMedia) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        preprocess(kind, media, CONFIG)
    assert caught.value.code in CODES
    return caught.value


def values(array: MediaArray) -> np.ndarray:
    return np.frombuffer(array.data, array.dtype).reshape(array.shape)


def test_an_image_is_one_array() -> None:
    (array,) = run("image", image_file("PNG"), "image/png")
    patches, grid = image_patches(gradient(70, 50), ImageProcessorConfig())
    assert (array.grid, array.num_tokens, array.timestamp_s) == (grid, 4, None)
    np.testing.assert_array_equal(values(array), patches)


def test_a_clip_is_one_array() -> None:
    (array,) = run("audio", audio_file("wav-float", 24_000, 24_000, num_channels=2), "audio/wav")
    frames, num_tokens = preprocess_audio(tone(24_000, 24_000), 24_000, AudioProcessorConfig())
    assert (array.dtype, array.shape, array.grid) == ("float32", (100, 128), None)
    assert array.num_tokens == num_tokens == 25
    np.testing.assert_array_equal(values(array), frames)


@pytest.mark.parametrize("kind", ["mp4-h264", "webm-vp9"])
def test_a_video_is_an_array_for_each_pair_of_frames(kind: str) -> None:
    """25 frames at 12 a second: int(25 / 12 * 2 + 0.5) = 4 frames, 0, 8, 16 and 24; 4 / 25 * 12 = 1.92 a second."""
    arrays = run("video", video_file(kind))
    # 131,072 pixels at least: beta = sqrt(131,072 / 3,072) = 6.53, 48 -> 314 -> 320 and 64 -> 418 -> 448
    assert [array.grid for array in arrays] == [(1, 20, 28)] * 2
    assert [array.num_tokens for array in arrays] == [140, 140]
    times = [array.timestamp_s for array in arrays]
    np.testing.assert_allclose(times, [0.5 / 1.92, 2.5 / 1.92], rtol=0.01)
    frames = [values(array).reshape(-1, 3, 2, 256)[:, :, frame] for array in arrays for frame in range(2)]
    assert [round(frame_level(frame)) for frame in frames] == [0, 8, 16, 24]


def test_a_list_of_frames_is_taken_whole_at_two_a_second() -> None:
    parts = [image_file("JPEG", (64, 48))] * 4 + [image_file("JPEG", (96, 96))]
    url = "data:video/jpeg;base64," + ",".join(base64.b64encode(part).decode() for part in parts)
    arrays = preprocess("video", parse_data_url(url, "video"), CONFIG).arrays
    assert [array.timestamp_s for array in arrays] == [0.25, 1.25, 2.0]
    assert {array.grid for array in arrays} == {(1, 20, 28)}
    assert values(arrays[0]).dtype == np.uint8


def test_digests_name_content_and_chunk() -> None:
    video = run("video", video_file())
    again = run("video", video_file())
    other = run("video", video_file(num_frames=24))
    assert [array.digest for array in video] == [array.digest for array in again]
    digests = {array.digest for array in (*video, *other)}
    assert len(digests) == len(video) + len(other)
    assert {len(digest) for digest in digests} == {32}


def test_split_files_have_other_digests() -> None:
    """Frame lists whose concatenation is equal are not the same list."""
    frame = image_file("JPEG", (64, 48))
    one = preprocess("video", EncodedMedia((frame + frame,), "video/jpeg"), CONFIG).arrays
    two = preprocess("video", EncodedMedia((frame, frame), "video/jpeg"), CONFIG).arrays
    assert one[0].digest != two[0].digest


@pytest.mark.parametrize(
    ("kind", "data", "mime", "code"),
    [
        ("image", image_file("JPEG", (300, 200))[:2_000], "image/jpeg", "invalid_media"),
        ("image", image_file("PNG", (402, 2)), "image/png", "invalid_media"),
        ("image", image_file("PNG"), "image/jpeg", "invalid_media"),
        ("image", audio_file("wav"), None, "invalid_media"),
        ("audio", image_file("PNG"), None, "invalid_media"),
        ("audio", audio_file("wav", 0), "audio/wav", "invalid_media"),
        ("audio", audio_file("wav", 200), "audio/wav", "invalid_media"),
        ("audio", audio_file("wav", 300 * 8_000 + 1, 8_000), "audio/wav", "audio_too_long"),
        ("audio", audio_file("mp3"), "audio/wav", "invalid_media"),
        ("video", b"\0\0\0\x18ftypisom" + bytes(100), "video/mp4", "invalid_media"),
        ("video", image_file("JPEG"), "image/jpeg", "invalid_media"),
        ("video", video_file(), "video/webm", "invalid_media"),
        ("video", b"", None, "invalid_media"),
    ],
)
def test_bad_input_gives_one_refusal(kind: str, data: bytes, mime: str | None, code: str) -> None:
    assert refusal(kind, EncodedMedia((data,), mime)).code == code


def test_bombs_are_refused_unopened() -> None:
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 8_000, 5_001, 1, 24, 0, 0, 0, 0, 0, 0)
    assert refusal("image", EncodedMedia((header,), "image/bmp")).code == "media_too_large"


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([image_file("JPEG")] * 257, "media_too_large"),
        ([image_file("JPEG"), image_file("PNG")], "invalid_media"),
        ([image_file("JPEG"), image_file("JPEG")[:200]], "invalid_media"),
        ([image_file("JPEG", (4_097, 64))], "media_too_large"),
    ],
)
def test_bad_frame_lists(parts: list[bytes], code: str) -> None:
    assert refusal("video", EncodedMedia(tuple(parts), "video/jpeg")).code == code


def test_only_videos_come_as_lists() -> None:
    parts = (image_file("JPEG"), image_file("JPEG"))
    assert "list of files" in refusal("image", EncodedMedia(parts, "video/jpeg")).message


SEEDS = {
    "image": [image_file(fmt) for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP")],
    "audio": [audio_file(kind, 1_000) for kind in ("wav", "mp3", "flac", "ogg")],
    "video": [video_file(kind, num_frames=3) for kind in ("mp4-h264", "webm-vp9")],
}
MAGIC = [seed[:16] for seeds in SEEDS.values() for seed in seeds]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def code_of(kind: str, data: bytes) -> str | None:
    """The refusal's code, None for a result; anything else is raised to the test."""
    try:
        arrays = run(kind, data)
    except InvalidRequest as error:
        return error.code
    assert all(array.num_tokens > 0 and values(array).size for array in arrays)
    return None


@FUZZ
@given(kind=st.sampled_from(sorted(SEEDS)), magic=st.sampled_from([b"", *MAGIC]), tail=st.binary(max_size=400))
def test_random_bytes_are_refused(kind: str, magic: bytes, tail: bytes) -> None:
    assert code_of(kind, magic + tail) in {None, *CODES}


@FUZZ
@given(data=st.data(), kind=st.sampled_from(sorted(SEEDS)))
@pytest.mark.slow
def test_damaged_files_are_refused_or_read(data: st.DataObject, kind: str) -> None:
    file = bytearray(data.draw(st.sampled_from(SEEDS[kind])))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([len(file), len(file) // 2, len(file) - 1]))
    assert code_of(kind, bytes(file[:end])) in {None, *CODES}
