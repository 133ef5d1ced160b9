"""From `EngineConfig` to a loaded model behind the scheduler."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.config import STEP_TOKENS, DType, EngineConfig, EngineInfo, Quant
from engine.core.blocks import BlockManager
from engine.core.loop import EngineLoop
from engine.core.request import Runner, SchedulerLimits
from engine.core.scheduler import Scheduler
from engine.errors import ConfigError
from engine.grammar import GrammarCompiler, GrammarError, is_available
from engine.inputs.processor_config import load_image_config
from engine.kernels.paths import DEFAULT, VARIANTS
from engine.layers.quantised import quantise_layers
from engine.model_config import ModelConfig, load_model_config
from engine.models.thinker import Ming
from engine.parallel import TensorParallel
from engine.peers import PeerMemory, open_peers
from engine.runtime.capture import Capturer
from engine.runtime.constraint import Constraints
from engine.runtime.decode_graphs import graph_sizes
from engine.runtime.encoder import EncoderRunner
from engine.runtime.kv_cache import CacheShape, allocate, check_room, count_blocks
from engine.runtime.model_runner import LocalRunner, ModelRunner
from engine.runtime.tower_graphs import TowerGraphs
from engine.runtime.warm_up import fitting, rehearse, warm_up
from engine.weights.checkpoint import Checkpoint
from engine.weights.generated import GeneratedCheckpoint
from engine.weights.load import Source, load_weights, present_components, source_shapes, stored_tensors
from engine.weights.rules import AUDIO, COMPONENTS, THINKER, VISION, Shard

log = logging.getLogger(__name__)

PEER_TOKENS = 256  # steps above it sum through NCCL, which moves large messages faster
MOST_COMPILING = 16  # threads; the part in Python is one thread's
STEP_TOKENS_ALONE = 8192  # of a GPU while nothing decodes: 1.6 times the time of 2048, bound by reading experts
STEP_ENCODES = 4  # media of different requests that share one call of the towers

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class LoadedEngine:
    """One rank's model and cache, with what start-up found."""

    config: EngineConfig
    info: EngineInfo
    runner: ModelRunner

    def make_loop(self, runner: Runner | None = None) -> EngineLoop:
        """The scheduler over `runner`, or over this rank alone."""
        info, config = self.info, self.config
        limits = _limits(config, self.runner.device, info.max_model_len)
        blocks = BlockManager(info.num_blocks, info.block_size)
        scheduler = Scheduler(limits, blocks, step_encodes=STEP_ENCODES)
        # On the CPU a launch is the whole step: scheduling ahead would only hold back what is finished.
        overlap = self.runner.device.type == "cuda"
        prepare = self.runner.constraints.prepare
        return EngineLoop(scheduler, runner or LocalRunner(self.runner), overlap=overlap, prepare=prepare)


def load_engine(config: EngineConfig, tp: TensorParallel | None = None) -> LoadedEngine:
    """Load this rank's share of the model and allocate its cache.

    Raises:
        ConfigError: configuration and machine do not allow it.
        WeightError: the checkpoint does not fill the model.
    """
    started = time.perf_counter()
    tp = tp or TensorParallel()
    device = pick_device(config, tp)
    if device.type == "cuda":
        # float32 means float32: by default convolutions would round their operands to 10 bits.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device.type == "cpu":
        torch.set_num_threads(config.num_threads or default_threads(tp.size))
    cfg = load_model_config(Path(config.model))
    checkpoint = open_checkpoint(config, cfg, device)
    dtype = pick_dtype(config, checkpoint)
    on_one_host = config.torchrun is None or config.torchrun.local_size == tp.size
    if device.type == "cuda" and tp.size > 1 and config.peer_sums and on_one_host:
        tp = replace(tp, peers=_open_peers(cfg, tp, dtype, device))
    model = load_model(cfg, checkpoint, tp, device, dtype, config.quant)
    max_model_len = config.max_model_len or cfg.llm.max_position_embeddings
    shape = CacheShape.of(cfg.llm, tp, config.block_size, dtype)
    num_blocks = tp.minimum(count_blocks(config, shape, device, max_model_len))
    max_model_len = _fitting_length(config, max_model_len, num_blocks * config.block_size)
    pixels = load_image_config(Path(config.processor or config.model), cfg.vision)
    encoder = EncoderRunner(model, device, pixels, config.audio_batching)
    limits = _limits(config, device, max_model_len)
    constraints = Constraints(_grammar_compiler(config, cfg))
    runner = ModelRunner(model, allocate(shape, num_blocks, device), encoder, device, limits, constraints)
    if device.type == "cuda" and not config.eager:
        if config.tower_graphs:
            model.run_tower = TowerGraphs(Capturer().capture)
        _prepare_steps(runner, config, limits, num_blocks, tp)
    info = EngineInfo(
        max_model_len=max_model_len,
        vocab_size=cfg.llm.vocab_size,
        num_blocks=num_blocks,
        block_size=config.block_size,
        eos_token_ids=(cfg.llm.eos_token_id,),
        checkpoint_digest=_identity(checkpoint, config.quant),
        dtype=str(dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        tp=tp.size,
        load_s=time.perf_counter() - started,
        modalities=_modalities(model),
        audio_batching=config.audio_batching,
    )
    log.info(
        "loaded %s in %.1f s: %d cache blocks of %d tokens", config.model, info.load_s, num_blocks, info.block_size
    )
    return LoadedEngine(config, info, runner)


def _prepare_steps(
    runner: ModelRunner, config: EngineConfig, limits: SchedulerLimits, num_blocks: int, tp: TensorParallel
) -> None:
    """Compile and capture what steps launch, before the first request waits for it."""
    sizes = graph_sizes(min(config.step_requests, limits.shared_tokens))
    paths = VARIANTS[config.decode_paths or DEFAULT]
    steps = list(fitting(num_blocks, runner.block_size, limits.step_tokens, limits.max_model_len, runner.num_places))
    rehearse(runner, sizes, paths, steps, max(1, min(MOST_COMPILING, (os.cpu_count() or 1) // tp.size)))
    runner.prepare_graphs(sizes, paths)
    warm_up(runner, steps)


def _limits(config: EngineConfig, device: torch.device, max_model_len: int) -> SchedulerLimits:
    """What the operator said, for every step; by default a GPU takes prompts in larger steps while nothing decodes."""
    if config.step_tokens is not None:
        return SchedulerLimits(config.step_tokens, config.step_requests, max_model_len)
    alone = STEP_TOKENS_ALONE if device.type == "cuda" else STEP_TOKENS
    return SchedulerLimits(alone, config.step_requests, max_model_len, mixed_step_tokens=STEP_TOKENS)


def _open_peers(cfg: ModelConfig, tp: TensorParallel, dtype: torch.dtype, device: torch.device) -> PeerMemory | None:
    vocab_share = len(tp.split(cfg.llm.vocab_size, "vocab_size"))
    return open_peers(tp.rank, tp.size, PEER_TOKENS, cfg.llm.hidden_size, vocab_share, dtype, device)


def _identity(checkpoint: Source, quant: Quant) -> str:
    """Whose answers these are: quantised weights are other ones than those they were made from."""
    return checkpoint.digest() if quant == "none" else f"{checkpoint.digest()}-{quant}"


def open_checkpoint(config: EngineConfig, cfg: ModelConfig, device: torch.device) -> Source:
    """Where the weights come from: the files of the directory, or drawn for its geometry."""
    path = Path(config.model)
    if config.load_format == "checkpoint":
        return Checkpoint(path)
    with torch.device("meta"):
        whole = Ming(cfg, TensorParallel(), vision=cfg.vision is not None, audio=cfg.audio is not None)
    shapes = source_shapes(stored_tensors(whole), COMPONENTS)
    return GeneratedCheckpoint(path, shapes, device, TORCH_DTYPES.get(config.dtype, torch.bfloat16))


def load_model(
    cfg: ModelConfig,
    checkpoint: Source,
    tp: TensorParallel,
    device: torch.device,
    dtype: torch.dtype,
    quant: Quant = "none",
) -> Ming:
    """Build the model without storage, then read this rank's slices straight into parameters on `device`.

    Packed weights are packed slice by slice on their way; the whole model never exists in `dtype`.

    Raises:
        ConfigError: there is no thinker in the checkpoint, or no room for the weights.
        WeightError: the checkpoint does not fill the model.
    """
    present = present_components(checkpoint.files)
    if THINKER not in present:
        raise ConfigError(f"{checkpoint.path}: the checkpoint holds no thinker (no tensor starts with 'model.')")
    with torch.device("meta"):
        model = Ming(cfg, tp, vision=VISION in present, audio=AUDIO in present)
    model = model.to(dtype)
    quantise_layers(model.model, quant)
    check_room(sum(part.nbytes for part in (*model.parameters(), *model.buffers())), device)
    model = model.to_empty(device=device).requires_grad_(False).eval()
    model.reset_tables(device)
    for name, tower in (("vision", model.vision_encoder), ("audio", model.audio_encoder)):
        if tower is None:
            log.warning("%s: no %s tower in the checkpoint; such inputs are refused", checkpoint.path, name)
    load_weights(model, checkpoint, Shard(tp, cfg.llm), present)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what packing needed in between is the cache's now
    return model


def _grammar_compiler(config: EngineConfig, cfg: ModelConfig) -> GrammarCompiler | None:
    """Reads the tokenizer once more, in the form that masks are made from: seconds for a large vocabulary."""
    file = Path(config.tokenizer or config.model) / "tokenizer.json"
    if config.tokenizer is None or not is_available() or not file.is_file():
        return None
    try:
        return GrammarCompiler(file.read_text(encoding="utf-8"), cfg.llm.vocab_size, (cfg.llm.eos_token_id,))
    except GrammarError as error:
        log.warning("%s: no constrained decoding with this tokenizer: %s", file, error)
        return None


def pick_device(config: EngineConfig, tp: TensorParallel) -> torch.device:
    """The device of this rank.

    Raises:
        ConfigError: CUDA was asked for and is not there, or has fewer devices than ranks.
    """
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    place = config.torchrun
    index, needed = (tp.rank, tp.size) if place is None else (place.local_rank, place.local_size)
    if torch.cuda.device_count() < needed:
        raise ConfigError(f"--tp {tp.size} needs {needed} CUDA devices here, {torch.cuda.device_count()} are visible")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def pick_dtype(config: EngineConfig, checkpoint: Source) -> torch.dtype:
    """What was asked for, else what the checkpoint stores its embedding in."""
    return TORCH_DTYPES.get(config.dtype) or checkpoint.stored_dtype("model.model.word_embeddings.weight")


def default_threads(num_ranks: int) -> int:
    """Half of the cores, shared by the ranks: the HTTP side, and on a laptop the client, need the others.

    More threads than free cores is far worse than too few, since OpenMP's threads wait for each other spinning.
    """
    return max(1, (os.cpu_count() or 1) // 2 // num_ranks)


def _fitting_length(config: EngineConfig, max_model_len: int, num_tokens: int) -> int:
    """The context length, cut to the cache unless the operator insists on it."""
    if max_model_len <= num_tokens:
        return max_model_len
    if config.max_model_len is not None:
        raise ConfigError(
            f"--max-model-len {max_model_len} does not fit the key/value cache of {num_tokens} tokens; "
            "lower it, raise --kv-tokens, or raise --tp"
        )
    log.warning("context length cut from %d to %d tokens, which is what the cache holds", max_model_len, num_tokens)
    return num_tokens


def _modalities(model: Ming) -> tuple[str, ...]:
    pixels = ("image", "video") if model.vision_encoder is not None else ()
    return ("text", *pixels, *(("audio",) if model.audio_encoder is not None else ()))
