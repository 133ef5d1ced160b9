"""Is it the same voice? Cosine of speaker embeddings of what was spoken and of the voice that went along with the text.

The encoder's name is part of the metric: figures of two encoders are never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ming_eval.errors import DataError, UsageError
from ming_eval.evals.item import Kind, MediaRef, Outcome
from ming_eval.evals.optional import require
from ming_eval.evals.plan import Plan
from ming_eval.evals.scored import Scored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embedding = NDArray[np.float64]
    Embed = Callable[[Path, bytes | None], Embedding | None]

PREFIX = "similarity["  # how names of its metrics begin
_PURPOSE = "the similarity of speakers"


@dataclass(frozen=True, slots=True)
class SpeakerEncoder:
    """`embed` gives a file's embedding [D], None of one that is too short; `data` is its content where not on disk."""

    name: str
    embed: Embed

    @property
    def metric(self) -> str:
        """The figure's name in results."""
        return f"{PREFIX}{self.name}]"


class _Row(msgspec.Struct):
    path: str
    embedding: list[float]


def load_encoder(text: str) -> SpeakerEncoder:
    """The encoder in `NAME=FILE`.

    Raises:
        UsageError: it is not of that form, or sherpa-onnx is not installed.
        DataError: the file is not there, or is no encoder.
    """
    name, equals, place = text.partition("=")
    path = Path(place)
    if not (name and equals and path.suffix in (".onnx", ".jsonl")):
        raise UsageError(
            f"--speaker-encoder {text!r}: write NAME=FILE with an .onnx model or a .jsonl of embeddings, "
            "such as campplus=./campplus.onnx"
        )
    if not path.is_file():
        raise DataError(f"no speaker encoder at {path}")
    return SpeakerEncoder(name, _stored(path) if path.suffix == ".jsonl" else _local(path))


def with_similarity(plan: Plan, scored: Sequence[Scored], folder: Path, encoder: SpeakerEncoder) -> list[Scored]:
    """The scores with the cosine to the voice beside them, where a voice went along and speech came.

    `folder` is the run's, which holds what was spoken.

    Raises:
        DataError: a file cannot be read, or has no embedding.
    """
    voices: dict[str, Embedding | None] = {}
    return [_with_cosine(plan, each, folder, encoder, voices) for each in scored]


def asks_with_voice(plan: Plan) -> bool:
    """True when requests carry a voice to speak with."""
    return plan.suite.kind is Kind.SPEECH and plan.protocol.media and any(each.item.media for each in plan.samples)


def cosine(first: Embedding, second: Embedding) -> float:
    """Between -1 and 1.

    Raises:
        DataError: they are not of one length, or one of them is zero.
    """
    import numpy as np

    if first.shape != second.shape:
        raise DataError(f"embeddings of {first.size} and {second.size} numbers: they are of two encoders")
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    if not size > 0.0:
        raise DataError("an embedding is all zeros or not a number")
    return float(first @ second) / size


def _with_cosine(
    plan: Plan, each: Scored, folder: Path, encoder: SpeakerEncoder, voices: dict[str, Embedding | None]
) -> Scored:
    spoken = None if each.response is None else each.response.audio
    is_faulty = each.score.outcome in (Outcome.ERROR, Outcome.SKIPPED)
    if spoken is None or is_faulty or not plan.protocol.media or not each.item.media:
        return each
    voice, heard = _voice(each.item.media[0], encoder, voices), encoder.embed(folder / spoken, None)
    if voice is None or heard is None:
        return each
    tallies = {**each.score.tallies, encoder.metric: (cosine(voice, heard), 1.0)}
    return replace(each, score=replace(each.score, tallies=tallies))


def _voice(ref: MediaRef, encoder: SpeakerEncoder, voices: dict[str, Embedding | None]) -> Embedding | None:
    if ref.path not in voices:
        voices[ref.path] = encoder.embed(Path(ref.path), ref.data)
    return voices[ref.path]


def _stored(path: Path) -> Embed:
    """Embeddings by the names of their files."""
    import numpy as np

    decode = msgspec.json.Decoder(_Row).decode
    found: dict[str, Embedding] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = decode(line)
        except msgspec.DecodeError as exc:
            raise DataError(f"{path}, line {number}: {exc}; write {{path, embedding}} objects") from exc
        name = Path(row.path).name
        if name in found:
            raise DataError(f"{path}, line {number}: a second embedding of {name}; names of files must differ")
        found[name] = np.asarray(row.embedding, dtype=np.float64)

    def embed(file: Path, _data: bytes | None) -> Embedding | None:
        if file.name not in found:
            raise DataError(f"{path} has no embedding of {file.name}: compute those of the run's audio/ and the voices")
        return found[file.name]

    return embed


def _local(path: Path) -> Embed:
    import numpy as np

    sherpa = require("sherpa_onnx", purpose=_PURPOSE, extra="listen")
    config = sherpa.SpeakerEmbeddingExtractorConfig(model=str(path))
    if not config.validate():
        raise DataError(f"{path} is no speaker encoder that sherpa-onnx reads")
    extractor = sherpa.SpeakerEmbeddingExtractor(config)

    def embed(file: Path, data: bytes | None) -> Embedding | None:
        rate_hz, samples = _samples(file, data)
        stream = extractor.create_stream()
        stream.accept_waveform(rate_hz, samples)
        stream.input_finished()
        if not extractor.is_ready(stream):
            return None
        return np.asarray(extractor.compute(stream), dtype=np.float64)

    return embed


def _samples(file: Path, data: bytes | None) -> tuple[int, NDArray[np.float32]]:
    """Sample rate and samples [S] of a file, channels averaged."""
    sound = require("soundfile", purpose=f"reading {file.name}", extra="listen")
    try:
        content = data if data is not None else file.read_bytes()
        samples, rate_hz = sound.read(BytesIO(content), dtype="float32", always_2d=True)
    except (OSError, sound.LibsndfileError) as exc:
        raise DataError(f"cannot read {file}: {exc}") from exc
    return rate_hz, samples.mean(axis=1)
