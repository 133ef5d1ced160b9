"""A recogniser on this machine: ONNX models in the layout that sherpa-onnx publishes, without a server."""

from __future__ import annotations

import asyncio
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ming_eval.errors import DataError, UsageError
from ming_eval.evals.http import Answer
from ming_eval.evals.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A family of models -> how sherpa-onnx calls it, and its files by the argument that takes them.
_FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "whisper": ("from_whisper", {"encoder": "*encoder*.onnx", "decoder": "*decoder*.onnx", "tokens": "*tokens.txt"}),
    "paraformer": ("from_paraformer", {"paraformer": "*.onnx", "tokens": "*tokens.txt"}),
    "sense-voice": ("from_sense_voice", {"model": "*.onnx", "tokens": "*tokens.txt"}),
    "zipformer-ctc": ("from_zipformer_ctc", {"model": "*.onnx", "tokens": "*tokens.txt"}),
    "nemo-ctc": ("from_nemo_ctc", {"model": "*.onnx", "tokens": "*tokens.txt"}),
}
_PURPOSE = "recognising speech on this machine"


class LocalRecogniser:
    """Hears one utterance at a time, on a thread of its own.

    Raises:
        UsageError: sherpa-onnx is not installed, or there is no such family.
        DataError: the folder does not hold such a model.
    """

    def __init__(self, family: str, folder: Path) -> None:
        self._recogniser = _load(family, folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recogniser")

    async def transcribe(self, wav: bytes) -> tuple[str | None, Answer]:
        """What was heard; as `Recogniser.transcribe`, and it never fails."""
        started_s = time.perf_counter()
        text = await asyncio.get_running_loop().run_in_executor(self._thread, self._hear, wav)
        return text, Answer(time.perf_counter() - started_s)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _hear(self, wav: bytes) -> str:
        rate_hz, samples = mono(wav)
        stream = self._recogniser.create_stream()
        stream.accept_waveform(rate_hz, samples)
        self._recogniser.decode_stream(stream)
        return str(stream.result.text).strip()


def mono(wav: bytes) -> tuple[int, NDArray[np.float32]]:
    """Sample rate and samples [S] in -1 to 1 of a WAV file with 16-bit samples, channels averaged.

    Raises:
        DataError: it has others.
    """
    import numpy as np

    with wave.open(BytesIO(wav)) as file:
        if file.getsampwidth() != 2:
            raise DataError(f"speech with {8 * file.getsampwidth()}-bit samples: ask for 16-bit WAV")
        data = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        samples = data.reshape(-1, file.getnchannels()).mean(axis=1, dtype=np.float32) / 32768
        return file.getframerate(), samples.astype(np.float32)


def _load(family: str, folder: Path) -> Any:
    if family not in _FAMILIES:
        raise UsageError(f"no family of recognisers {family!r}: choose one of {', '.join(_FAMILIES)}")
    sherpa = require("sherpa_onnx", purpose=_PURPOSE, extra="listen")
    maker, patterns = _FAMILIES[family]
    files = {argument: str(_only(folder, pattern)) for argument, pattern in patterns.items()}
    spoken = {"language": ""} if family == "whisper" else {}  # found out from the sound: its default is English
    return getattr(sherpa.OfflineRecognizer, maker)(**files, **spoken)


def _only(folder: Path, pattern: str) -> Path:
    """The file of that name; of two of one model, the one with whole numbers is left aside."""
    found = sorted(folder.glob(pattern))
    whole = [path for path in found if "int8" not in path.name] or found
    if len(whole) != 1:
        what = "no file" if not whole else f"{len(whole)} files"
        raise DataError(f"{folder} holds {what} {pattern}: name the folder of one recogniser in sherpa-onnx's layout")
    return whole[0]
