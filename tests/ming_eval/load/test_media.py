"""Media that are made: what others read in them, and that a seed decides all of it."""

from __future__ import annotations

import io
import wave

import av
import pytest
from PIL import Image

from ming_eval.errors import UsageError
from ming_eval.load.media import MediaShape, make_media, parse_size, to_mp4


def test_an_image_has_the_size_that_was_asked_for() -> None:
    (made,) = make_media("image", MediaShape(image_size=(50, 33)), "7 0")
    image = Image.open(io.BytesIO(made.data))
    image.load()
    assert (image.format, image.size, image.mode) == ("PNG", (50, 33), "RGB")
    assert len(image.getcolors(maxcolors=10_000) or ()) > 3  # something is on it


def test_a_sound_has_the_length_that_was_asked_for_and_is_not_silent() -> None:
    (made,) = make_media("audio", MediaShape(audio_s=0.5), "7 0")
    with wave.open(io.BytesIO(made.data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()) == (
            16_000,
            1,
            2,
            8_000,
        )
        samples = memoryview(file.readframes(8_000)).cast("h")
    assert 3_000 < max(samples) < 32_767


def test_a_clip_has_the_size_and_the_length_that_were_asked_for() -> None:
    (made,) = make_media("video", MediaShape(video_size=(66, 49), video_s=1.0), "7 0")
    with av.open(io.BytesIO(made.data)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert (file.streams.video[0].codec_context.name, len(frames)) == ("h264", 8)
    assert frames[0].shape == (48, 66, 3)  # even sides
    assert (frames[0] != frames[-1]).any()


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_the_seed_decides_the_bytes(kind: str) -> None:
    shape = MediaShape(count=2, image_size=(32, 32), audio_s=0.2, video_size=(32, 32), video_s=0.25)
    first, second = make_media(kind, shape, "7 0")
    assert make_media(kind, shape, "7 0") == (first, second)
    assert len({first.data, second.data, *(each.data for each in make_media(kind, shape, "7 1"))}) == 4


def test_a_clip_of_another_container_becomes_mp4() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 33, 24, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(32, 24, "yuv420p")))
        container.mux(stream.encode())
    with av.open(io.BytesIO(to_mp4(file.getvalue(), "x.avi"))) as found:
        assert found.format.name.startswith("mov,mp4")
        assert sum(1 for _ in found.decode(video=0)) == 3
    with pytest.raises(UsageError, match=r"cannot read the video y\.avi"):
        to_mp4(b"nothing", "y.avi")


def test_sizes_as_typed() -> None:
    assert (parse_size("640x480", "--image-size"), parse_size("448", "--image-size")) == ((640, 480), (448, 448))
    for text in ("x", "0x5", "4", "640x", "100000x100000"):
        with pytest.raises(UsageError, match="bad --image-size"):
            parse_size(text, "--image-size")
