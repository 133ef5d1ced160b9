"""The committed media are what the script draws, and show what the prompts ask about."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from PIL import Image

from ming_eval.coverage import make_media
from ming_eval.coverage.make_media import FILES, FOLDER

INDEX: dict[str, dict[str, Any]] = json.loads((FOLDER / make_media.INDEX).read_text())
IMAGES = [name for name in FILES if name.endswith((".png", ".jpg"))]
SOUNDS = [name for name in FILES if name.endswith((".wav", ".flac", ".mp3"))]
CLIPS = [name for name in FILES if name.endswith((".mp4", ".webm"))]


def pixels(source: Path | BytesIO) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(source).convert("RGB")).astype(np.int16)


def frames(name: str) -> list[npt.NDArray[np.int16]]:
    with av.open(str(FOLDER / name)) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in container.decode(video=0)]


def centre(picture: npt.NDArray[np.int16], is_wanted: Callable[[Any, Any, Any], Any]) -> tuple[float, float]:
    """Mean place (x, y) of the pixels whose colour is wanted."""
    rows, columns = np.nonzero(is_wanted(picture[..., 0], picture[..., 1], picture[..., 2]))
    assert len(rows) > 100
    return float(columns.mean()), float(rows.mean())


def red(r: Any, g: Any, b: Any) -> Any:
    return (r > 150) & (g < 100) & (b < 100)


def green(r: Any, g: Any, b: Any) -> Any:
    return (r < 100) & (g > 110) & (b < 110)


def blue(r: Any, g: Any, b: Any) -> Any:
    return (r < 110) & (g < 130) & (b > 150)


def pitch_hz(samples: npt.NDArray[np.float64], rate_hz: int) -> float:
    """Frequency of the strongest partial."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate_hz / len(samples))


def bursts(samples: npt.NDArray[np.float64], rate_hz: int) -> int:
    """How often sound sets in after silence, looked at 50 times a second."""
    width = rate_hz // 50
    loud = np.abs(samples[: len(samples) // width * width]).reshape(-1, width).max(axis=1) > 0.1
    return int(np.count_nonzero(loud[1:] & ~loud[:-1]) + loud[0])


# --- The files and the script ------------------------------------------------------------------------------------


def test_the_folder_holds_these_files_and_is_small() -> None:
    found = {path.name for path in FOLDER.iterdir()}
    assert found == {*FILES, make_media.INDEX}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 600_000


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".wav")])
def test_wav_files_are_made_again_byte_for_byte(name: str) -> None:
    assert FILES[name]().data == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".png")])
def test_png_files_are_made_again(name: str) -> None:
    """The same bytes each time here; the same pixels with any version of zlib."""
    made = FILES[name]().data
    assert made == FILES[name]().data
    assert np.array_equal(pixels(BytesIO(made)), pixels(FOLDER / name))


@pytest.mark.slow
def test_the_script_writes_all_of_it(tmp_path: Path) -> None:
    make_media.make(tmp_path / "media")
    assert {path.name for path in (tmp_path / "media").iterdir()} == {*FILES, make_media.INDEX}
    assert json.loads((tmp_path / "media" / make_media.INDEX).read_text()) == INDEX


# --- What is in them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_the_index_is_true_of_images(name: str) -> None:
    with Image.open(FOLDER / name) as image:
        assert (image.width, image.height) == (INDEX[name]["width"], INDEX[name]["height"])
    assert INDEX[name]["duration_s"] is None


@pytest.mark.parametrize("name", SOUNDS)
def test_the_index_is_true_of_sounds(name: str) -> None:
    info = soundfile.info(FOLDER / name)
    assert (info.samplerate, info.channels) == (16_000, 1)
    assert info.duration == pytest.approx(INDEX[name]["duration_s"], abs=0.1)  # MP3 pads to whole frames
    assert INDEX[name]["width"] is None


@pytest.mark.parametrize("name", CLIPS)
def test_the_index_is_true_of_clips_and_they_have_sound(name: str) -> None:
    facts = INDEX[name]
    shown = frames(name)
    assert shown[0].shape == (facts["height"], facts["width"], 3)
    with av.open(str(FOLDER / name)) as container:
        rate = container.streams.video[0].average_rate
        assert len(shown) / float(rate) == pytest.approx(facts["duration_s"])
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert np.abs(heard).max() > 0.1


def test_red_circle_is_left_of_the_blue_square() -> None:
    picture = pixels(FOLDER / "shapes.png")
    (red_x, _), (blue_x, _) = centre(picture, red), centre(picture, blue)
    assert red_x + 100 < blue_x


def test_the_blue_bar_is_the_tallest() -> None:
    picture = pixels(FOLDER / "bars.jpg")
    heights = [
        int(np.count_nonzero(is_wanted(picture[..., 0], picture[..., 1], picture[..., 2]).any(axis=1)))
        for is_wanted in (red, green, blue)
    ]
    assert heights == [pytest.approx(60, abs=4), pytest.approx(150, abs=4), pytest.approx(210, abs=4)]


def test_words_are_there_in_block_letters() -> None:
    """HELLO, read back dot by dot: two bars joined in the middle, then E, two L, a ring."""
    ink = pixels(FOLDER / "hello.png").sum(axis=2) < 200
    dots = ink[52 : 52 + 56 : 8, 44 : 44 + 29 * 8 : 8]
    rows = ["".join("#" if dot else "." for dot in row) for row in dots]
    assert rows[0] == "#...#.#####.#.....#......###."
    assert rows[3] == "#####.####..#.....#.....#...#"
    assert rows[6] == "#...#.#####.#####.#####..###."


def test_pitches_go_where_the_prompts_say() -> None:
    for name, first_hz, last_hz in (("rising.wav", 290, 1910), ("falling.wav", 1910, 290)):
        samples, rate_hz = soundfile.read(FOLDER / name)
        fifth = len(samples) // 10
        assert pitch_hz(samples[:fifth], rate_hz) == pytest.approx(first_hz, abs=100)
        assert pitch_hz(samples[-fifth:], rate_hz) == pytest.approx(last_hz, abs=100)


def test_the_scale_has_the_eight_notes_of_c_major() -> None:
    samples, rate_hz = soundfile.read(FOLDER / "scale.flac")
    notes = [pitch_hz(part, rate_hz) for part in np.array_split(samples, 8)]
    assert notes == [pytest.approx(hz, abs=4) for hz in (261.6, 293.7, 329.6, 349.2, 392.0, 440.0, 493.9, 523.3)]


@pytest.mark.parametrize(("name", "number"), [("beeps.wav", 3), ("pulses.mp3", 5)])
def test_beeps_can_be_counted(name: str, number: int) -> None:
    assert bursts(*soundfile.read(FOLDER / name)) == number


def test_clips_move_as_the_prompts_say() -> None:
    for name, colour, (dx, dy) in (
        ("ball.mp4", red, (1, 0)),
        ("square.webm", blue, (0, 1)),
        ("balloon.mp4", red, (0, -1)),
        ("cart.webm", green, (-1, 0)),
    ):
        shown = frames(name)
        (x0, y0), (x1, y1) = centre(shown[0], colour), centre(shown[-1], colour)
        moved = np.array([x1 - x0, y1 - y0])
        assert np.sign(np.where(np.abs(moved) > 20, moved, 0)).tolist() == [dx, dy], name
