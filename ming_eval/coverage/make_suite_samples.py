"""Make the bundled samples of the media suites: `python -m ming_eval.coverage.make_suite_samples [DIR]`.

Images are drawn, sounds are tones, clips are both together; every answer follows from what was drawn or sounded. The
samples of speech recognition are in Morse code and in counted tones: they have the form of the sets and exact
references, and show that a run works, not how well a model recognises speech. Needs Pillow, PyAV and soundfile
(`ming-eval[suites]`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ming_eval.coverage import drawing, sounds
from ming_eval.coverage.drawing import Canvas, Colour, Pixels
from ming_eval.coverage.encoding import FRAMES_PER_S, MediaFile, flac, mp4, png
from ming_eval.coverage.sounds import Samples

FOLDER = Path(__file__).parents[2] / "suites"

_COLOURS: dict[str, Colour] = {
    "red": drawing.RED,
    "green": drawing.GREEN,
    "blue": drawing.BLUE,
    "yellow": drawing.YELLOW,
    "orange": drawing.ORANGE,
    "black": drawing.BLACK,
}
_NAMES = tuple(_COLOURS)
_DOT_S = 0.06

_MORSE = {
    "a": ".-", "b": "-...", "c": "-.-.", "d": "-..", "e": ".", "f": "..-.", "g": "--.", "h": "....", "i": "..",
    "k": "-.-", "l": ".-..", "m": "--", "n": "-.", "o": "---", "p": ".--.", "r": ".-.", "s": "...", "t": "-",
    "u": "..-", "v": "...-", "w": ".--", "y": "-.--",
}  # fmt: skip
_SENTENCES = (
    "the sun is out", "a cat sat here", "we went home", "rain fell all day", "he has a hat", "the tea is hot",
    "birds sing well", "she runs fast", "open the door", "it is late now", "snow is white", "they read a lot",
    "close your eyes", "come back soon", "i hear music", "the road is long", "fish swim deep", "no one was there",
    "time flies", "water is clear",
)  # fmt: skip
_ENGLISH_DIGITS = ("one", "two", "three", "four", "five", "six")
_CHINESE_DIGITS = "一二三四五六"

Line = dict[str, Any]


def make(folder: Path) -> None:
    """Write `sample.jsonl` and the media of every suite below `folder`."""
    for name, build in SAMPLES.items():
        media = folder / name / "media"
        media.mkdir(parents=True, exist_ok=True)

        def save(file_name: str, file: MediaFile, media: Path = media) -> str:
            (media / file_name).write_bytes(file.data)
            return f"media/{file_name}"

        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in build(save))
        (folder / name / "sample.jsonl").write_text(text, encoding="utf-8")


Save = Callable[[str, MediaFile], str]


# --- Images ------------------------------------------------------------------------------------------------------


def college_images(save: Save) -> Iterator[Line]:
    """MMMU's form: counting, comparing and reading of drawn figures; every fifth question is open."""
    for index in range(20):
        number, colour = 2 + index % 4, _NAMES[index % len(_NAMES)]
        path = save(f"image{index:02d}.png", png(discs(number, _COLOURS[colour])))
        group = {"subject": ("Math", "Art", "Design", "Physics")[index % 4], "difficulty": "Easy"}
        line: Line = {"id": f"sample-{index}", "media": [{"type": "image", "path": path}], "group": group}
        if index % 5 == 4:
            question = "How many discs does the image show? Answer in figures."
            yield {"question": question, "answer": str(number), "kind": "text"} | line
        elif index % 2 == 0:
            choices, answer = placed(index // 2, str(number), [str(n) for n in range(1, 8) if n != number][:3])
            yield {"question": "How many discs does the image show?", "choices": choices, "answer": answer} | line
        else:
            choices, answer = placed(index // 2, colour, others(_NAMES, colour))
            yield {"question": "Which colour do the discs have?", "choices": choices, "answer": answer} | line


def discs(number: int, colour: Colour) -> Pixels:
    """Discs of one colour in a row."""
    canvas = Canvas(48 * number, 64)
    for index in range(number):
        canvas.circle(24 + 48 * index, 32, 18, colour)
    return canvas.pixels


# --- Image and sound ---------------------------------------------------------------------------------------------


def image_and_sound(save: Save) -> Iterator[Line]:
    """OmniBench's form: a question whose answer needs both."""
    for index in range(20):
        number, colour = 1 + index % 4, _NAMES[index % len(_NAMES)]
        image = save(f"image{index:02d}.png", png(discs(1, _COLOURS[colour])))
        sound = save(f"sound{index:02d}.flac", flac(tones([number])))
        heard, misheard = counted(number), counted(number % 4 + 1)
        wrong = [f"{misheard}, {colour}", f"{heard}, {others(_NAMES, colour)[0]}"]
        choices, answer = placed(index, f"{heard}, {colour}", [*wrong, f"{misheard}, {others(_NAMES, colour)[1]}"])
        yield {
            "id": f"sample-{index}",
            "question": "How many tones are heard, and which colour has the disc?",
            "choices": choices,
            "answer": answer,
            "media": [{"type": "image", "path": image}, {"type": "audio", "path": sound}],
        }


def counted(number: int) -> str:
    """`1 tone`, `2 tones`."""
    return f"{number} tone" if number == 1 else f"{number} tones"


def tones(counts: Sequence[int]) -> Samples:
    """Groups of so many short tones each, with a pause after each group."""
    beep = [sounds.tone(660.0, 0.12), sounds.silence(0.1)]
    groups = [piece for count in counts for piece in (*(beep * count), sounds.silence(0.4))]
    return sounds.join([sounds.silence(0.1), *groups])


# --- Clips with sound --------------------------------------------------------------------------------------------


def clips(group: dict[str, str]) -> Callable[[Save], Iterator[Line]]:
    """Clips of a moving disc with tones: two questions each, one of them needs picture and sound."""

    def build(save: Save) -> Iterator[Line]:
        for index in range(8):
            number, colour, moves_right = 1 + index % 3, _NAMES[index % len(_NAMES)], index % 2 == 0
            frames = rolling(_COLOURS[colour], moves_right=moves_right)
            sound = tones([number])
            length = round(len(frames) / FRAMES_PER_S * sounds.RATE_HZ)
            padded = sounds.join([sound, sounds.silence(2.0)])[:length]
            path = save(f"clip{index:02d}.mp4", mp4(frames, padded))
            line: Line = {"media": [{"type": "video", "path": path}], "group": group, "cluster": f"clip{index:02d}"}
            choices, answer = placed(2 * index, str(number), others(("1", "2", "3", "4"), str(number)))
            yield {
                "id": f"clip{index:02d}-0",
                "question": "How many tones are heard while the disc moves?",
                "choices": choices,
                "answer": answer,
            } | line
            way = "to the right" if moves_right else "to the left"
            back = "to the left" if moves_right else "to the right"
            heard, misheard = counted(number), counted(number + 1)
            wrong = [f"{back}, {heard}", f"{way}, {misheard}", f"{back}, {misheard}"]
            choices, answer = placed(2 * index + 1, f"{way}, {heard}", wrong)
            yield {
                "id": f"clip{index:02d}-1",
                "question": "Where does the disc move, and how many tones are heard?",
                "choices": choices,
                "answer": answer,
            } | line

    return build


def rolling(colour: Colour, *, moves_right: bool) -> list[Pixels]:
    """A disc that crosses the picture in 2 s."""
    frames = []
    for index in range(2 * FRAMES_PER_S):
        way = index / (2 * FRAMES_PER_S - 1)
        canvas = Canvas(160, 120)
        canvas.circle(24 + round(112 * (way if moves_right else 1 - way)), 60, 18, colour)
        frames.append(canvas.pixels)
    return frames


# --- Speech ------------------------------------------------------------------------------------------------------


def morse_sentences(save: Save) -> Iterator[Line]:
    """Short sentences in Morse code, five of each of four pitches, which stand for the speakers."""
    for index, sentence in enumerate(_SENTENCES):
        speaker = index % 4
        path = save(f"sound{index:02d}.flac", flac(morse(sentence, 440.0 + 110.0 * speaker)))
        yield spoken(index, sentence, path) | {"cluster": f"pitch-{speaker}"}


def counted_digits(digits: Sequence[str], joiner: str) -> Callable[[Save], Iterator[Line]]:
    """Rows of three digits, each as so many tones."""

    def build(save: Save) -> Iterator[Line]:
        for index in range(20):
            counts = [1 + (index * step + offset) % len(digits) for step, offset in ((1, 0), (3, 2), (5, 4))]
            path = save(f"sound{index:02d}.flac", flac(tones(counts)))
            yield spoken(index, joiner.join(digits[count - 1] for count in counts), path)

    return build


def morse(text: str, pitch_hz: float) -> Samples:
    """A text in Morse code."""
    pieces = []
    for word in text.split():
        for letter in word:
            for sign in _MORSE[letter]:
                pieces += [sounds.tone(pitch_hz, _DOT_S * (1 if sign == "." else 3)), sounds.silence(_DOT_S)]
            pieces.append(sounds.silence(2 * _DOT_S))
        pieces.append(sounds.silence(4 * _DOT_S))
    return sounds.join(pieces)


def spoken(index: int, text: str, path: str) -> Line:
    """An utterance and its transcript."""
    media = [{"type": "audio", "path": path}]
    return {"id": f"sample-{index}", "question": "", "answer": text, "media": media}


# --- Choices -----------------------------------------------------------------------------------------------------


def placed(index: int, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """The choices with the right one at a place that goes round with the items."""
    place = index % (len(wrong) + 1)
    return [*wrong[:place], right, *wrong[place:]], place


def others(names: Sequence[str], name: str) -> list[str]:
    """Three of the other names, from the place of `name` on."""
    start = list(names).index(name)
    return [names[(start + step) % len(names)] for step in (1, 2, 3)]


SAMPLES: dict[str, Callable[[Save], Iterator[Line]]] = {
    "mmmu": college_images,
    "omnibench": image_and_sound,
    "worldsense": clips({"task_domain": "Generated", "task_type": "Counting", "audio_class": "Tones"}),
    "daily-omni": clips({"category": "Generated", "type": "Counting", "duration": "2s"}),
    "librispeech": morse_sentences,
    "fleurs": counted_digits(_ENGLISH_DIGITS, " "),
    "fleurs-zh": counted_digits(_CHINESE_DIGITS, ""),
}


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
