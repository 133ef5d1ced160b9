"""Utterances of many requests through one batch of talkers: admit segments, make patches, give out samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from engine.config import SegmentationMode
from engine.core.speech import SpeechFinish, SpeechOutput, SpeechRequest, SpeechStats
from engine.errors import InvalidRequest
from engine.stages.manner import Cast
from engine.stages.pcm import SAMPLE_WIDTH_BYTES, to_pcm16
from engine.stages.recorder import make_recorder
from engine.stages.speak import Speaker
from engine.stages.talker_batch import Patch, TalkerBatch
from engine.stages.text import TextFrontEnd, make_front_end
from engine.stages.vae_step import VAEStep
from engine.stages.waveform import Rendering, SegmentAudio, render


@dataclass(slots=True)
class _Utterance:
    """One request; its segments are spoken one after another."""

    id: int
    speaker: Speaker
    steps_left: int | None
    front_end: TextFrontEnd
    segments: deque[str] = field(default_factory=deque)
    num_segments: int = 0
    has_all_text: bool = False
    slot: int | None = None
    audio: SegmentAudio | None = None

    @property
    def is_over(self) -> bool:
        """Nothing is being said, and nothing more will be."""
        return self.slot is None and self.has_all_text and not self.segments

    @property
    def is_waiting(self) -> bool:
        return self.slot is None and bool(self.segments)


class SpeechLoop:
    """`run_once` makes one patch for every utterance that has a slot; the oldest ones get slots first."""

    def __init__(self, cast: Cast, num_slots: int, segments: SegmentationMode = "sentence") -> None:
        self._cast = cast
        self._segments = segments
        self._model = cast.model
        recorder = make_recorder(self._model.device)
        self._batch = TalkerBatch(self._model.talker, num_slots, recorder=recorder)
        self._backbone = VAEStep(self._model.vae.decoder, num_slots, self._model.config.patch_columns, recorder)
        self._open: dict[int, _Utterance] = {}
        self._refused: list[SpeechOutput] = []
        self._num_steps = 0
        self._num_samples = 0

    def warm_up(self) -> None:
        """Record what steps replay; to be called before the first request."""
        self._batch.warm_up()
        self._backbone.warm_up()

    @property
    def has_work(self) -> bool:
        """Whether `run_once` would do anything."""
        return bool(self._refused) or any(
            u.slot is not None or u.segments or u.has_all_text for u in self._open.values()
        )

    def open(self, request: SpeechRequest) -> None:
        """Expect text for a request."""
        try:
            speaker = self._cast.speaker(request)
        except InvalidRequest as error:
            self._refuse(request.id, error)
        else:
            self._open[request.id] = _Utterance(request.id, speaker, request.max_steps, make_front_end(self._segments))

    def say(self, request_id: int, text: str, *, last: bool) -> None:
        """More text of a request; ignored where it was aborted or refused."""
        utterance = self._open.get(request_id)
        if utterance is None:
            return
        utterance.segments += utterance.front_end.push(text)
        if last:
            utterance.segments += utterance.front_end.finish()
            utterance.has_all_text = True

    def abort(self, request_ids: Iterable[int]) -> None:
        """Forget requests and free what they hold."""
        for request_id in request_ids:
            utterance = self._open.pop(request_id, None)
            if utterance is not None and utterance.slot is not None:
                self._batch.release(utterance.slot)

    def run_once(self) -> tuple[SpeechOutput, ...]:
        """One step of every talker; what it gave to each request."""
        prompts = {u.id: num_tokens for u in self._admissible() if (num_tokens := self._admit(u)) is not None}
        outputs = [*self._refused, *self._step(prompts)]
        self._refused.clear()
        for utterance in [u for u in self._open.values() if u.is_over]:
            outputs.append(SpeechOutput(utterance.id, finish=SpeechFinish.STOP))
            del self._open[utterance.id]
        return tuple(outputs)

    def stats(self) -> SpeechStats:
        """Gauges and counters."""
        utterances = self._open.values()
        return SpeechStats(
            num_open=len(utterances),
            num_running=sum(u.slot is not None for u in utterances),
            num_waiting=sum(u.is_waiting for u in utterances),
            num_slots=self._batch.num_slots,
            num_free_slots=self._batch.num_free,
            steps=self._num_steps,
            samples=self._num_samples,
        )

    def _admissible(self) -> list[_Utterance]:
        return [u for u in self._open.values() if u.is_waiting][: self._batch.num_free]

    def _admit(self, utterance: _Utterance) -> int | None:
        """Start the next segment; the tokens of its text, or None where it cannot be spoken."""
        text = utterance.segments.popleft()
        try:
            segment = utterance.speaker.segment(text, utterance.num_segments)
            if utterance.steps_left is not None:
                segment = replace(segment, max_patches=min(segment.max_patches, utterance.steps_left))
            utterance.slot = self._batch.admit(segment)
        except InvalidRequest as error:
            del self._open[utterance.id]
            self._refuse(utterance.id, error)
            return None
        utterance.num_segments += 1
        utterance.audio = SegmentAudio.start(self._model)
        return len(utterance.speaker.encoder.encode(text))

    def _drop(self, utterance: _Utterance, *, ended: bool) -> SpeechOutput:
        """End an utterance whose samples are no numbers: silence in their place would look like an answer."""
        if ended:
            utterance.slot = None  # the batch has it back already
        self.abort([utterance.id])
        why = "the talker makes no sound of this: its numbers overflow"
        return SpeechOutput(utterance.id, finish=SpeechFinish.REFUSED, error=why)

    def _refuse(self, request_id: int, error: InvalidRequest) -> None:
        self._refused.append(SpeechOutput(request_id, finish=SpeechFinish.REFUSED, error=error.message))

    def _step(self, prompts: dict[int, int]) -> list[SpeechOutput]:
        """The next patch of everyone who speaks, as samples; `prompts` counts tokens of segments just started."""
        speaking = [u for u in self._open.values() if u.slot is not None]
        if not speaking:
            return []
        patches = {patch.slot: patch for patch in self._batch.step()}
        renderings = [self._rendering(u, patches) for u in speaking]
        outputs = []
        rendered = render(self._model, renderings, self._backbone)
        for utterance, rendering, samples in zip(speaking, renderings, rendered, strict=True):
            if not np.isfinite(samples).all():
                outputs.append(self._drop(utterance, ended=rendering.last))
                continue
            pcm = to_pcm16(samples)
            self._num_steps += 1
            self._num_samples += len(pcm) // SAMPLE_WIDTH_BYTES
            finish = self._advance(utterance, ended=rendering.last)
            outputs.append(SpeechOutput(utterance.id, pcm, 1, prompts.get(utterance.id, 0), finish))
        return outputs

    def _rendering(self, utterance: _Utterance, patches: dict[int, Patch]) -> Rendering:
        assert utterance.slot is not None
        assert utterance.audio is not None
        patch = patches[utterance.slot]
        return Rendering(utterance.audio, patch.latents, patch.last)

    def _advance(self, utterance: _Utterance, *, ended: bool) -> SpeechFinish | None:
        """Account for one patch; why the utterance ended, if it did so by its limit."""
        if utterance.steps_left is not None:
            utterance.steps_left -= 1
        if not ended:
            return None
        utterance.slot = utterance.audio = None
        if utterance.steps_left != 0:
            return None
        del self._open[utterance.id]
        return SpeechFinish.LENGTH
