"""Make the bundled sample of the Video-MME form: `python -m ming_eval.coverage.make_videomme_sample [DIR]`.

Twelve clips of plain shapes that move, one after the other, in three duration classes, and three questions to each.
Clips and answers come from the same list of scenes. Needs PyAV (`ming-eval[suites]`).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ming_eval.coverage import drawing, sounds
from ming_eval.coverage.drawing import Canvas, Pixels
from ming_eval.coverage.encoding import FRAMES_PER_S, mp4

FOLDER = Path(__file__).parents[2] / "suites" / "videomme"

_WIDTH, _HEIGHT, _SIZE = 160, 120, 36
_SCENE_S = 2.0
_COLOURS = {
    "red": drawing.RED,
    "green": drawing.GREEN,
    "blue": drawing.BLUE,
    "yellow": drawing.YELLOW,
    "orange": drawing.ORANGE,
    "black": drawing.BLACK,
}
_MOVES = {
    "to the right": (1, 0),
    "to the left": (-1, 0),
    "upwards": (0, -1),
    "downwards": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A shape of one colour that crosses the picture in one direction."""

    colour: str
    shape: str
    move: str

    @property
    def text(self) -> str:
        """The scene in words, as a subtitle has it."""
        return f"A {self.colour} {self.shape} moves {self.move}."


def _scenes(text: str) -> tuple[Scene, ...]:
    """`red circle right` and so on, separated by commas."""
    words = {"right": "to the right", "left": "to the left", "up": "upwards", "down": "downwards"}
    parts = [part.split() for part in text.split(",")]
    return tuple(Scene(colour, shape, words[move]) for colour, shape, move in parts)


CLIPS: dict[str, tuple[str, tuple[Scene, ...]]] = {
    "clip01": ("short", _scenes("red circle right")),
    "clip02": ("short", _scenes("blue square down")),
    "clip03": ("short", _scenes("green circle left")),
    "clip04": ("short", _scenes("orange square up")),
    "clip05": ("medium", _scenes("yellow circle left, blue circle right, red square up")),
    "clip06": ("medium", _scenes("black square down, green circle up, orange circle left")),
    "clip07": ("medium", _scenes("red square right, green circle left, blue square down")),
    "clip08": ("medium", _scenes("green square up, yellow square right, black circle down")),
    "clip09": (
        "long",
        _scenes("red circle up, blue circle left, red square down, green circle right, red circle left"),
    ),
    "clip10": (
        "long",
        _scenes("black circle right, black square left, yellow circle up, orange square down, blue circle up"),
    ),
    "clip11": (
        "long",
        _scenes("green square left, orange circle right, green circle up, blue square left, green square down"),
    ),
    "clip12": (
        "long",
        _scenes("yellow square down, red circle right, blue square up, black circle left, orange square right"),
    ),
}


def make(folder: Path) -> None:
    """Write clips, subtitles of the long ones, and the items."""
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for name, (duration, scenes) in CLIPS.items():
        frames = [frame for scene in scenes for frame in draw(scene)]
        (media / f"{name}.mp4").write_bytes(mp4(frames, sounds.silence(len(frames) / FRAMES_PER_S)).data)
        if duration == "long":
            (media / f"{name}.srt").write_text(subtitles(scenes), encoding="utf-8")
        lines += items(name, duration, scenes, start=len(lines))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "sample.jsonl").write_text(text, encoding="utf-8")


def draw(scene: Scene) -> list[Pixels]:
    """The frames of one scene."""
    across, down = _MOVES[scene.move]
    num_frames = round(_SCENE_S * FRAMES_PER_S)
    frames = []
    for index in range(num_frames):
        way = index / (num_frames - 1) - 0.5  # -0.5 at the start, 0.5 at the end
        x = _WIDTH // 2 + round(across * way * (_WIDTH - 2 * _SIZE))
        y = _HEIGHT // 2 + round(down * way * (_HEIGHT - 2 * _SIZE))
        canvas = Canvas(_WIDTH, _HEIGHT)
        if scene.shape == "circle":
            canvas.circle(x, y, _SIZE // 2, _COLOURS[scene.colour])
        else:
            canvas.box(x - _SIZE // 2, y - _SIZE // 2, _SIZE, _SIZE, _COLOURS[scene.colour])
        frames.append(canvas.pixels)
    return frames


def subtitles(scenes: Sequence[Scene]) -> str:
    """What happens, in the SubRip form."""
    spans = [(_SCENE_S * index, _SCENE_S * (index + 1), scene.text) for index, scene in enumerate(scenes)]
    return "\n".join(f"{number}\n{_time(a)} --> {_time(b)}\n{text}\n" for number, (a, b, text) in enumerate(spans, 1))


def items(name: str, duration: str, scenes: Sequence[Scene], *, start: int) -> Iterator[dict[str, Any]]:
    """The questions to a clip in the normalised form; every letter is right equally often over all items."""
    for number, (task, question, right, wrong) in enumerate(_questions(duration, scenes)):
        choices, answer = _placed(start + number, right, wrong)
        line: dict[str, Any] = {
            "id": f"{name}-{number}",
            "question": question,
            "choices": choices,
            "answer": answer,
            "media": [{"type": "video", "path": f"media/{name}.mp4"}],
            "group": {"duration": duration, "task_type": task, "domain": "Generated"},
            "cluster": name,
        }
        yield line | ({"subtitles": f"media/{name}.srt"} if duration == "long" else {})


Question = tuple[str, str, str, Sequence[str]]  # task type, question, right answer, wrong answers


def _questions(duration: str, scenes: Sequence[Scene]) -> list[Question]:
    return {"short": _about_one, "medium": _about_three, "long": _about_five}[duration](scenes)


def _about_one(scenes: Sequence[Scene]) -> list[Question]:
    (scene,) = scenes
    shapes = ["A circle", "A square", "A triangle", "A star"]
    shape = f"A {scene.shape}"
    return [
        ("Attribute Perception", "Which colour does the moving shape have?", scene.colour, _others(scene.colour)),
        ("Action Recognition", "In which direction does the shape move?", scene.move, _without(_MOVES, scene.move)),
        ("Object Recognition", "Which shape is seen?", shape, _without(shapes, shape)),
    ]


def _about_three(scenes: Sequence[Scene]) -> list[Question]:
    colours = [scene.colour for scene in scenes]
    first, second, third = colours
    orders = [(third, second, first), (second, first, third), (first, third, second), (second, third, first)]
    wrong = list(dict.fromkeys(_order(each) for each in orders if list(each) != colours))[:3]
    last = scenes[-1]
    return [
        ("Temporal Reasoning", "In which order do the colours of the shapes appear?", _order(colours), wrong),
        ("Action Recognition", "In which direction does the last shape move?", last.move, _without(_MOVES, last.move)),
        ("Counting Problem", "How many shapes appear one after the other?", "3", ["1", "2", "5"]),
    ]


def _about_five(scenes: Sequence[Scene]) -> list[Question]:
    colour, count = Counter(scene.colour for scene in scenes).most_common(1)[0]
    third, first = scenes[2], scenes[0]
    question = f"How many {colour} shapes appear?"
    return [
        ("Counting Problem", question, str(count), [str(n) for n in range(1, 6) if n != count][:3]),
        ("Temporal Perception", "Which colour does the third shape have?", third.colour, _others(third.colour)),
        (
            "Action Recognition",
            "In which direction does the first shape move?",
            first.move,
            _without(_MOVES, first.move),
        ),
    ]


def _order(colours: Sequence[str]) -> str:
    return ", ".join(colours)


def _others(colour: str) -> list[str]:
    """Three other colours."""
    others = _without(_COLOURS, colour)
    start = sorted(_COLOURS).index(colour)
    return [others[(start + step) % len(others)] for step in range(3)]


def _without(names: Sequence[str] | dict[str, Any], name: str) -> list[str]:
    return [each for each in names if each != name]


def _placed(index: int, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """The choices with the right one at a place that goes round with the items."""
    place = index % (len(wrong) + 1)
    return [*wrong[:place], right, *wrong[place:]], place


def _time(time_s: float) -> str:
    return f"00:{int(time_s // 60):02d}:{time_s % 60:06.3f}".replace(".", ",")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
