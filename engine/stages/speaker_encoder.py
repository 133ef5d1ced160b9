"""Who speaks in a clip: the released speaker encoder (CAM++, Wang et al., 2023), where its file and its runtime are.

The talker speaks without it, from the latents of a clip and its transcript; the vector makes the voice more like.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, InvalidRequest
from engine.stages.fbank import FRAME, RATE_HZ, log_mel_bank
from engine.talker_config import SPEAKER_WIDTH

log = logging.getLogger(__name__)

FILE = "campplus.onnx"
F32 = npt.NDArray[np.float32]


class SpeakerEncoder:
    """Samples at 16 kHz to a speaker vector."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    def __call__(self, samples: F32) -> F32:
        """[n] -> [192], not normalised.

        Raises:
            InvalidRequest: the clip is shorter than one frame of 25 ms.
        """
        if len(samples) < FRAME:
            message = f"the reference clip is too short to hear who speaks: {len(samples)} samples at {RATE_HZ} Hz, "
            raise InvalidRequest(message + f"the minimum is {FRAME}", param="ref_audio", code="invalid_media")
        features = log_mel_bank(samples)
        features -= features.mean(axis=0)
        vector: F32 = np.asarray(self._session.run(None, {self._input: features[None]})[0], np.float32).reshape(-1)
        return vector


def find_speaker_encoder(folder: Path, named: Path | None) -> SpeakerEncoder | None:
    """The encoder in `named`, or in the talker's directory; None where something is missing, which the log names.

    Raises:
        ConfigError: `named` cannot be used.
    """
    file = named or folder / FILE
    try:
        return load_speaker_encoder(file)
    except ConfigError as error:
        if named is not None:
            raise
        log.info("no speaker encoder: %s; voices are copied from clip and transcript alone", error)
        return None


def load_speaker_encoder(file: Path) -> SpeakerEncoder:
    """Open an encoder.

    Raises:
        ConfigError: there is no such file, no runtime, or it is another model.
    """
    if not file.is_file():
        raise ConfigError(f"{file} does not exist")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ConfigError(f"{file} needs onnxruntime; install ming-eval[speech]") from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # a clip takes milliseconds, and the talker needs the cores
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors share no base that is public
        raise ConfigError(f"{file} is no model that onnxruntime reads: {type(error).__name__}") from None
    width = session.get_outputs()[0].shape[-1]
    if isinstance(width, int) and width != SPEAKER_WIDTH:
        raise ConfigError(f"{file} gives vectors of {width} numbers, the talker takes {SPEAKER_WIDTH}")
    return SpeakerEncoder(session)
