"""What the operator chose at start-up, and what start-up found; built once and passed down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
AudioBatching = Literal["alone", "padded"]
SegmentationMode = Literal["sentence", "released"]
VAEEncoderDepth = Literal["released", "all"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["checkpoint", "generated"]
Quant = Literal["none", "fp8", "int4"]  # int4 packs the experts so, and everything else as fp8 does

STEP_TOKENS = 2048  # most of a step by default while a stream decodes, which waits for all of them
SPEECH_SLACK = 1.5  # times the length that its text should take, and a segment is ended: as little as is allowed


@dataclass(frozen=True, slots=True)
class HostRank:
    """A process's place among the ranks that `torchrun` started; `local_*` count those of its host.

    `master` is the address at which they meet.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    master: str


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The operator's choices for the model side.

    `model` is a local directory (a hub id is resolved before this is built), `processor` the one that may hold
    `preprocessor_config.json`, where that is another. `dtype` "auto" keeps what the
    checkpoint stores. `load_format` "generated" draws the weights of the directory's geometry instead of reading any.
    `quant` packs the thinker's large weights while they are loaded.
    `kv_tokens` fixes the cache size; None takes it from the memory that is free.
    `tokenizer` is the directory of `tokenizer.json`, None where answers are token ids only.
    `step_tokens` and `step_requests` bound one forward pass; None chooses the tokens by device (`runtime.build`).
    `audio_batching` "padded" encodes the clips of a request zero-padded together without a mask, as the released code
    does: shorter clips then hear the padding.
    `eager` launches every kernel of a decode step anew instead of replaying captured ones. `peer_sums` lets GPUs of one
    host read each other's memory to sum small steps; without it every sum goes through NCCL. `torchrun` is this
    process's place where the ranks are not ours to start. `decode_paths` names the ways that kernels of a captured
    decode step take (`engine/kernels/paths.py`); None is what that file serves by default. `tower_graphs` replays
    towers on shapes that come again (`engine/runtime/tower_graphs.py`); off until a GPU has shown what it brings.
    """

    model: str
    processor: str | None = None
    tokenizer: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    load_format: LoadFormat = "checkpoint"
    quant: Quant = "none"
    tp: int = 1
    max_model_len: int | None = None
    block_size: int = 16
    kv_tokens: int | None = None
    memory_fraction: float = 0.9
    step_tokens: int | None = None
    step_requests: int = 256
    num_threads: int | None = None
    audio_batching: AudioBatching = "alone"
    eager: bool = False
    peer_sums: bool = True
    decode_paths: str | None = None
    tower_graphs: bool = False
    torchrun: HostRank | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What start-up found; sent once to the server when the engine is ready.

    `checkpoint_digest` identifies weights, tokenizer and configuration. `modalities` are the
    kinds of input that the checkpoint has towers for.
    """

    max_model_len: int
    vocab_size: int
    num_blocks: int
    block_size: int
    eos_token_ids: tuple[int, ...]
    checkpoint_digest: str
    dtype: str
    device: str
    tp: int
    load_s: float
    modalities: tuple[str, ...] = ("text",)
    audio_batching: AudioBatching = "alone"


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """The operator's choices for the talker: its directory, where it runs, and how many speak at once.

    `voices` is a folder of presets beside the checkpoint's, `speaker_encoder` an ONNX file in place of the talker's.
    `vae_encoder_layers` says how many layers of the VAE's encoder run: 4 as released, or all that are stored.
    `segments` says where a text is cut to be spoken: at sentences, or as early as the released program does. A segment
    ends after `slack` times the length that its text should take, whatever the talker says.
    """

    talker: str
    device: str = "auto"  # as `Device`, or cuda:N
    num_slots: int = 8
    num_threads: int | None = None
    voices: str | None = None
    speaker_encoder: str | None = None
    vae_encoder_layers: VAEEncoderDepth = "released"
    segments: SegmentationMode = "sentence"
    slack: float = SPEECH_SLACK


@dataclass(frozen=True, slots=True)
class SpeechInfo:
    """What start-up found of the talker. `voices` are presets; `default_voice` is one of them, or None where the
    talker speaks without any. `patch_samples` are made by one step."""

    sample_rate: int
    patch_samples: int
    num_slots: int
    voices: tuple[str, ...]
    default_voice: str | None
    device: str
    dtype: str
    load_s: float
