"""Reading image, audio and video files."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from engine.errors import InvalidRequest
from engine.inputs.audio_file import read_audio
from engine.inputs.image_file import load_rgb, open_image
from engine.inputs.sniff import sniff
from engine.inputs.video_file import VideoFile
from tests.engine.inputs.media_files import (
    AUDIO_FILES,
    VIDEO_FILES,
    audio_file,
    frame_level,
    gradient,
    image_file,
    tone,
    video_file,
    yamaha_wav,
)


def read_rgb(data: bytes) -> Image.Image:
    fmt = sniff(data)
    assert fmt is not None
    return load_rgb(open_image(data, fmt))


def open_video(data: bytes) -> VideoFile:
    fmt = sniff(data)
    assert fmt is not None
    return VideoFile(data, fmt)


def png_header(width: int, height: int) -> bytes:
    """A PNG file of any size, up to where its pixels would begin."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1 << 20) + b"IDAT"


@pytest.mark.parametrize("fmt", ["PNG", "BMP"])
def test_lossless_images_are_read_exactly(fmt: str) -> None:
    np.testing.assert_array_equal(np.asarray(read_rgb(image_file(fmt))), np.asarray(gradient(70, 50)))


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "GIF"])
def test_lossy_images_are_read(fmt: str) -> None:
    got = np.asarray(read_rgb(image_file(fmt)), dtype=np.int16)
    assert np.abs(got - np.asarray(gradient(70, 50), dtype=np.int16)).mean() < 12


def test_the_first_frame_of_an_animation_counts() -> None:
    buffer = BytesIO()
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(buffer, "GIF", save_all=True, append_images=[blue])
    assert read_rgb(buffer.getvalue()).getpixel((4, 4)) == (255, 0, 0)


def test_alpha_is_dropped_and_orientation_ignored() -> None:
    buffer = BytesIO()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(buffer, "PNG")
    assert read_rgb(buffer.getvalue()).getpixel((0, 0)) == (10, 20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    assert read_rgb(image_file("JPEG", (40, 20), exif=exif)).size == (40, 20)


@pytest.mark.parametrize(
    ("width", "height", "code", "message"),
    [
        (8_000, 5_001, "media_too_large", "megapixels"),
        (20_000, 20_000, "media_too_large", "megapixels"),  # above Pillow's own limit too
        (16_385, 100, "media_too_large", "16384 a side"),
        (201, 1, "invalid_media", "ratio limit is 200"),
        (0, 5, "invalid_media", "could not be decoded"),
    ],
)
def test_images_are_refused_from_their_header(width: int, height: int, code: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        open_image(png_header(width, height), "png")  # there are no pixels to decode
    assert caught.value.code == code


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_images_are_refused_with_fixed_text(fmt: str, part: float) -> None:
    data = image_file(fmt, (300, 200))
    with pytest.raises(InvalidRequest, match="the image could not be decoded; send it whole, as PNG") as caught:
        read_rgb(data[: int(len(data) * part)])
    assert caught.value.code == "invalid_media"


@pytest.mark.parametrize("kind", AUDIO_FILES)
def test_audio_files_are_read(kind: str) -> None:
    samples, rate = read_audio(audio_file(kind, 48_000, 48_000, num_channels=2), sniff(audio_file(kind)))
    assert (samples.dtype, samples.ndim, rate) == (np.float32, 1, 48_000)
    assert abs(len(samples) - 48_000) <= 2_304  # lossy codecs pad to whole blocks
    loudness = np.sqrt(np.square(samples[8_000:40_000]).mean())
    assert loudness == pytest.approx(0.5 / np.sqrt(2), rel=0.02)  # the silent channel is not mixed in


def test_pcm_is_read_exactly() -> None:
    samples, _ = read_audio(audio_file("wav-float", 1_000), "wav")
    np.testing.assert_array_equal(samples, tone(1_000, 16_000))


def test_codecs_beyond_libsndfile_are_read() -> None:
    data = yamaha_wav()
    with pytest.raises(soundfile.SoundFileError):
        soundfile.SoundFile(BytesIO(data))
    samples, rate = read_audio(data, "wav")
    assert rate == 16_000
    np.testing.assert_allclose(samples[1_000:15_000], tone(16_000, 16_000)[1_000:15_000], atol=0.05)


@pytest.mark.parametrize(
    ("num_samples", "rate", "num_channels", "code", "message"),
    [
        (0, 16_000, 1, "invalid_media", "no samples"),
        (300 * 8_000 + 1, 8_000, 1, "audio_too_long", "300 s"),
        (100, 7_999, 1, "invalid_media", "7999 samples a second"),
        (100, 192_001, 1, "invalid_media", "192001 samples a second"),
        (100, 16_000, 9, "invalid_media", "9 channels"),
    ],
)
def test_audio_out_of_bounds_is_refused(
    num_samples: int, rate: int, num_channels: int, code: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_audio(audio_file("wav", num_samples, rate, num_channels), "wav")
    assert caught.value.code == code


def test_the_length_is_counted_and_not_believed() -> None:
    """A header that claims 1,000 hours, over one second of samples."""
    data = bytearray(audio_file("wav", 16_000))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", 0xFFFF_FFF0)
    samples, _ = read_audio(bytes(data), "wav")
    assert len(samples) == 16_000


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg"])
def test_audio_that_is_only_a_header_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_audio(audio_file(kind)[:20], sniff(audio_file(kind)))
    assert caught.value.code == "invalid_media"


@pytest.mark.parametrize("kind", VIDEO_FILES)
def test_every_frame_is_found_by_its_index(kind: str) -> None:
    with open_video(video_file(kind)) as video:
        assert (video.num_frames, video.width, video.height) == (25, 64, 48)
        assert video.fps == pytest.approx(12, rel=0.01)
        levels = [frame_level(frame) for frame in video.frames(range(25))]
    np.testing.assert_allclose(levels, np.arange(25), atol=0.3)


def test_a_frame_every_four_seconds() -> None:
    """Sparse video keeps its real rate: the times of its frames are written into the prompt."""
    with open_video(video_file("mp4-h264", num_frames=5, fps=Fraction(1, 4))) as video:
        assert (video.num_frames, video.fps) == (5, pytest.approx(0.25, rel=0.01))


@pytest.mark.parametrize("kind", VIDEO_FILES)
def test_sampled_frames_are_those_of_the_whole(kind: str) -> None:
    """Decoding that restarts at key frames (one in twelve) gives the frames that decoding from the start gives."""
    data, indices = video_file(kind), (0, 11, 12, 13, 23, 24)
    with open_video(data) as video:
        everything = list(video.frames(range(25)))
        some = list(video.frames(indices))
    for index, frame in zip(indices, some, strict=True):
        np.testing.assert_array_equal(frame, everything[index])


def test_sound_of_a_video_is_ignored() -> None:
    with open_video(video_file(sound=True)) as video:
        assert video.num_frames == 25
        assert frame_level(next(video.frames([7]))) == pytest.approx(7, abs=0.3)


def test_hidden_frames_of_vp8_are_not_counted() -> None:
    """Such frames lie between the others as packets of their own, marked by one bit."""
    source, buffer = av.open(BytesIO(video_file("webm-vp8", num_frames=6))), BytesIO()
    with source, av.open(buffer, "w", format="webm") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if not packet.size:
                continue
            copies = [bytes(packet)]
            if packet.pts > 0:
                hidden = bytes(packet)
                copies.insert(0, bytes([hidden[0] & ~0x10]) + hidden[1:])
            for offset, body in enumerate(copies):
                copy = av.Packet(body)
                copy.stream, copy.time_base = stream, packet.time_base
                copy.pts = copy.dts = packet.pts - len(copies) + 1 + offset
                copy.is_keyframe = packet.is_keyframe
                target.mux(copy)
    with open_video(buffer.getvalue()) as video:
        assert video.num_frames == 6
        assert len(list(video.frames(range(6)))) == 6


def test_a_video_without_a_picture_track_is_refused() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(tone(16_000, 16_000)[None], "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InvalidRequest, match="no picture track"):
        open_video(buffer.getvalue())


def test_a_video_without_frames_is_refused() -> None:
    """The index of an MP4 file with its samples removed."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    data = buffer.getvalue()
    with pytest.raises(InvalidRequest, match="no frames"):
        open_video(data[: data.index(b"moof") - 4])


def test_other_codecs_are_refused() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InvalidRequest, match="codec is not accepted"):
        open_video(buffer.getvalue())


@pytest.mark.parametrize("kind", ["mp4-h264", "webm-vp9"])
def test_truncated_videos_give_one_refusal(kind: str) -> None:
    data = video_file(kind)
    with pytest.raises(InvalidRequest) as caught, open_video(data[: len(data) // 8]) as video:
        list(video.frames([video.num_frames - 1]))
    assert caught.value.code == "invalid_media"


def test_long_videos_are_refused_before_decoding() -> None:
    with pytest.raises(InvalidRequest, match="longer than 10 minutes") as caught:
        open_video(slow_video(num_frames=602))
    assert caught.value.code == "media_too_large"
    with open_video(slow_video(num_frames=600)) as video:
        assert video.num_frames == 600


def slow_video(num_frames: int) -> bytes:
    """One frame a second."""
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        for index in range(num_frames):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def test_large_pictures_are_refused_from_the_header() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 4_112, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 4_112, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InvalidRequest, match="4096 a side") as caught:
        open_video(buffer.getvalue())
    assert caught.value.code == "media_too_large"


def test_no_frame_of_vp9_waits_for_another_thread() -> None:
    """Four decoders of four such frames, on two busy cores, hung once in thirty with a thread for each frame."""
    with open_video(video_file("webm-vp9", num_frames=4)) as video:
        assert video._stream.codec_context.thread_type.name == "SLICE"
        assert [round(frame_level(frame)) for frame in video.frames(range(4))] == [0, 1, 2, 3]
