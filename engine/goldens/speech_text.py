"""Cases without weights: holding back silence, and the talker's text front end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.goldens.compare import CaseResult, Tolerance, load_case, load_json
from engine.stages.captions import caption
from engine.stages.cut import cut, has_chinese, semantic_length
from engine.stages.english_numbers import expand_numbers
from engine.stages.normalise import identity, released_order, remove_markup
from engine.stages.prompt import MARKERS, PromptText, build_prompt, pieces
from engine.stages.segmentation import ReleasedSegmenter, tokens
from engine.stages.silence import SilenceHold

EXACT = Tolerance(0.0, 1e-45)  # the smallest positive float32: any difference exceeds it


class ByteEncoder:
    """The cases' tokenizer: UTF-8 bytes, and special strings as one id each."""

    def __init__(self, special: dict[str, int]) -> None:
        self.special = special
        self._split = re.compile("(" + "|".join(map(re.escape, special)) + ")")

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`; special strings count only with `special`."""
        parts = self._split.split(text) if special else [text]
        return [i for part in parts for i in ([self.special[part]] if part in self.special else part.encode())]


def run_silence(folder: Path) -> CaseResult:
    """`silence_trim`: the intended rule, whole and in chunks; never the released streaming result where they differ."""
    result = CaseResult(folder.name)
    inputs, expected = load_case(folder)
    rate = load_json(folder / "config.json")["sample_rate"]
    got: dict[str, torch.Tensor] = {}
    for name in (key.removesuffix("_splits") for key in inputs if key.endswith("_splits")):
        wave, sizes = inputs[name][0].numpy(), inputs[f"{name}_splits"].tolist()
        hold = SilenceHold.at(rate)
        chunks = np.split(wave, np.cumsum(sizes)[:-1])
        parts = [hold.push(chunk, last=k == len(chunks) - 1) for k, chunk in enumerate(chunks)]
        got[f"{name}_offline"] = torch.from_numpy(SilenceHold.at(rate).push(wave, last=True))[None]
        got[f"{name}_stream"] = torch.from_numpy(np.concatenate(parts))[None]
        got[f"{name}_stream_chunk_samples"] = torch.tensor([len(part) for part in parts])
        defective = expected.pop(f"{name}_stream_official", None)
        if defective is not None and not torch.equal(defective, expected[f"{name}_stream"]):
            result.differs(f"{name}_stream != released", got[f"{name}_stream"], defective)
    result.tensors(got, expected, EXACT)
    return result


def run_front_end(folder: Path) -> CaseResult:
    """`text_frontend`: segmentation, normalisation, captions and prompts, as strings."""
    result = CaseResult(folder.name)
    cases = load_json(folder / "expected.json")
    for number, case in enumerate(cases["segmentation"]):
        _check_text(result, f"segmentation.{number}.", case)
    for number, case in enumerate(cases["captions"]):
        result.equal(f"captions.{number}", caption(case["input"]), case["instruction"])
    for number, case in enumerate(cases["prompt_assembly"]):
        prompt = _prompt(case)
        rendered = "".join(piece for piece, _ in pieces(case["text"], prompt))
        result.equal(f"prompt_assembly.{number}", rendered, case["rendered"])
        encoder = ByteEncoder({marker: 256 + i for i, marker in enumerate(MARKERS)})
        ids = build_prompt(encoder, case["text"], prompt).ids
        result.equal(f"prompt_assembly.{number}.length", len(ids), case["length"])
    return result


def _check_text(result: CaseResult, prefix: str, case: dict[str, Any]) -> None:
    """Everything that is stored of a text; what is not known here fails."""
    text = case["text"]
    steps: dict[str, Callable[[str], Any]] = {
        "tokens": tokens,
        "semantic_length": semantic_length,
        "is_chinese": has_chinese,
        "normalize_numbers": expand_numbers,
        "pre_processor": remove_markup,
        "online_segments_string": lambda text: _online(list(text)),
        "online_segments_whole": lambda text: _online(tokens(text)),
    }
    for name, want in case.items():
        if name.startswith("cut_"):
            result.equal(prefix + name, cut(text, int(name.removeprefix("cut_"))), want)
        elif name != "text":
            result.equal(prefix + name, steps[name](text) if name in steps else "not produced", want)


def _online(text: list[str]) -> list[dict[str, Any]]:
    """The released segments, of which the released policy streams the first."""
    segmenter = ReleasedSegmenter()
    normalise = released_order(identity)
    segments = segmenter.push_tokens(text) + segmenter.finish()
    return [{"text": normalise(segment), "stream": number == 0} for number, segment in enumerate(segments)]


def _prompt(case: dict[str, Any]) -> PromptText:
    return PromptText(
        num_speakers=case["speakers"],
        prompt_text=case["prompt_text"],
        num_prompt_patches=case["prompt_patches"],
        instruction=case["instruction"],
    )
