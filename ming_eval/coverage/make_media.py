"""Make the media of the coverage suite: `python -m ming_eval.coverage.make_media [DIR]`.

Everything is drawn and synthesised here, nothing is taken from anywhere. `index.json` says what is in each file, so
that whoever sends them need not decode them. Needs Pillow, PyAV and soundfile (`ming-eval[suites]`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ming_eval.coverage import drawing, sounds
from ming_eval.coverage.drawing import Canvas, Colour, Pixels
from ming_eval.coverage.encoding import FRAMES_PER_S, MediaFile, flac, jpeg, mp3, mp4, png, wav, webm
from ming_eval.coverage.sounds import Samples

FOLDER = Path(__file__).parents[2] / "suites" / "coverage" / "media"
INDEX = "index.json"

_SCALE_HZ = (261.63, 293.66, 329.63, 349.23, 392.00, 440.00, 493.88, 523.25)  # C major, from middle C


# --- Images ------------------------------------------------------------------------------------------------------


def shapes() -> Pixels:
    """A red circle left of a blue square."""
    canvas = Canvas(320, 240)
    canvas.circle(90, 120, 55, drawing.RED)
    canvas.box(180, 70, 100, 100, drawing.BLUE)
    return canvas.pixels


def stack() -> Pixels:
    """A yellow circle above a green square."""
    canvas = Canvas(240, 320)
    canvas.circle(120, 85, 60, drawing.YELLOW)
    canvas.box(65, 170, 110, 110, drawing.GREEN)
    return canvas.pixels


def dots(number: int, colour: Colour) -> Pixels:
    """Discs of one colour in a row."""
    canvas = Canvas(80 * number, 128)
    for index in range(number):
        canvas.circle(40 + 80 * index, 64, 30, colour)
    return canvas.pixels


def word(text: str, paper: Colour) -> Pixels:
    """A word in black on coloured paper."""
    canvas = Canvas(48 * len(text) + 80, 160, paper)
    canvas.text(44, 52, text, 8)
    return canvas.pixels


def bars() -> Pixels:
    """A bar chart: A 60, B 150, C 210, D 110 pixels high; C is the tallest."""
    canvas = Canvas(400, 300)
    heights = {"A": 60, "B": 150, "C": 210, "D": 110}
    colours = (drawing.RED, drawing.GREEN, drawing.BLUE, drawing.ORANGE)
    for index, ((label, height), colour) in enumerate(zip(heights.items(), colours, strict=True)):
        left = 50 + 85 * index
        canvas.box(left, 250 - height, 55, height, colour)
        canvas.text(left + 17, 262, label, 4)
    canvas.box(40, 250, 330, 3, drawing.BLACK)
    return canvas.pixels


# --- Sounds ------------------------------------------------------------------------------------------------------


def beeps(number: int, pitch_hz: float) -> Samples:
    """Short tones of one pitch with silence around them, 0.6 s each."""
    beep = [sounds.tone(pitch_hz, 0.25), sounds.silence(0.35)]
    return sounds.join([sounds.silence(0.2), *(number * beep)])


def scale() -> Samples:
    """The eight notes of a major scale, upwards, 2.4 s."""
    return sounds.join([sounds.tone(pitch_hz, 0.3) for pitch_hz in _SCALE_HZ])


# --- Clips -------------------------------------------------------------------------------------------------------


def ball() -> list[Pixels]:
    """A red ball that rolls from the left edge to the right one in 3 s, over a green floor."""
    frames = []
    for step in _steps(3.0):
        canvas = Canvas(320, 240)
        canvas.box(0, 180, 320, 60, drawing.GREEN)
        canvas.circle(40 + int(240 * step), 150, 30, drawing.RED)
        frames.append(canvas.pixels)
    return frames


def square() -> list[Pixels]:
    """A blue square that falls from the top to the bottom in 2 s."""
    frames = []
    for step in _steps(2.0):
        canvas = Canvas(320, 240, drawing.YELLOW)
        canvas.box(130, 10 + int(160 * step), 60, 60, drawing.BLUE)
        frames.append(canvas.pixels)
    return frames


def balloon() -> list[Pixels]:
    """A red circle that rises from the bottom to the top in 2 s, before a blue sky."""
    frames = []
    for step in _steps(2.0):
        canvas = Canvas(320, 240, drawing.BLUE)
        canvas.circle(160, 200 - int(160 * step), 35, drawing.RED)
        frames.append(canvas.pixels)
    return frames


def cart() -> list[Pixels]:
    """A green box that goes from the right edge to the left one in 2 s."""
    frames = []
    for step in _steps(2.0):
        canvas = Canvas(320, 240)
        canvas.box(240 - int(230 * step), 110, 70, 50, drawing.GREEN)
        frames.append(canvas.pixels)
    return frames


def growing() -> list[Pixels]:
    """An orange circle that grows, 1 s, for the warm-up."""
    frames = []
    for step in _steps(1.0):
        canvas = Canvas(160, 120)
        canvas.circle(80, 60, 10 + int(33 * step), drawing.ORANGE)
        frames.append(canvas.pixels)
    return frames


def _steps(duration_s: float) -> list[float]:
    """How far a clip has come, 0 to 1, frame by frame."""
    num_frames = round(duration_s * FRAMES_PER_S)
    return [index / (num_frames - 1) for index in range(num_frames)]


# --- Files -------------------------------------------------------------------------------------------------------

FILES: dict[str, Callable[[], MediaFile]] = {
    "shapes.png": lambda: png(shapes()),
    "hello.png": lambda: png(word("HELLO", drawing.YELLOW)),
    "bars.jpg": lambda: jpeg(bars()),
    "dots.png": lambda: png(dots(4, drawing.ORANGE)),
    "cold.jpg": lambda: jpeg(word("COLD", drawing.WHITE)),
    "stack.png": lambda: png(stack()),
    "bell.png": lambda: png(word("BELL", drawing.ORANGE)),
    "beeps.wav": lambda: wav(beeps(3, 880.0)),
    "rising.wav": lambda: wav(sounds.sweep(200.0, 2000.0, 2.0)),
    "scale.flac": lambda: flac(scale()),
    "pulses.mp3": lambda: mp3(beeps(5, 440.0)),
    "falling.wav": lambda: wav(sounds.sweep(2000.0, 200.0, 2.0)),
    "ball.mp4": lambda: mp4(ball(), sounds.sweep(300.0, 900.0, 3.0)),
    "square.webm": lambda: webm(square(), sounds.sweep(900.0, 300.0, 2.0)),
    "balloon.mp4": lambda: mp4(balloon(), sounds.tone(660.0, 2.0)),
    "cart.webm": lambda: webm(cart(), beeps(3, 220.0)),
    "warmup.png": lambda: png(dots(3, drawing.GREEN)),
    "warmup.wav": lambda: wav(sounds.sweep(1200.0, 600.0, 0.5)),
    "warmup.mp4": lambda: mp4(growing(), sounds.tone(440.0, 1.0)),
}


def make(folder: Path) -> None:
    """Write every file and the index into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, build in FILES.items():
        file = build()
        (folder / name).write_bytes(file.data)
        index[name] = {key: value for key, value in asdict(file).items() if key != "data"}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
