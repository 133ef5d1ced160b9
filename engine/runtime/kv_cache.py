"""Cache tensors of every layer, and what the memory holds: weights, and how many blocks beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.layers.batch import LayerCache
from engine.model_config import LLMConfig
from engine.parallel import TensorParallel

CPU_MEMORY_SHARE = 0.25  # of what is available: the machine is not ours alone
CPU_MAX_TOKENS = 65_536


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Sizes of one rank's cache."""

    num_layers: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, llm: LLMConfig, tp: TensorParallel, block_size: int, dtype: torch.dtype) -> CacheShape:
        """The shape that model `llm` needs on this rank."""
        heads = len(tp.split_kv_heads(llm.num_key_value_heads))
        return cls(llm.num_hidden_layers, block_size, heads, llm.head_dim, dtype)

    @property
    def block_bytes(self) -> int:
        """Keys and values of one block over all layers."""
        per_token = 2 * self.num_kv_heads * self.head_dim * self.dtype.itemsize
        return self.num_layers * self.block_size * per_token


def check_room(num_bytes: int, device: torch.device) -> None:
    """Whether the weights of a rank can be there at all: off the GPU in all memory that the machine has.

    Raises:
        ConfigError: they cannot.
    """
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0]
    else:
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > room:
        raise ConfigError(
            f"the weights of a rank take {num_bytes / 1e9:.1f} GB, and {device} has {room / 1e9:.1f}; "
            "raise --tp, pack them with --quant fp8 or int4, or take a smaller --model"
        )


def allocate(shape: CacheShape, num_blocks: int, device: torch.device) -> list[LayerCache]:
    """Zeroed caches: a masked slot still enters products, so it must hold a finite number."""
    size = (num_blocks, shape.block_size, shape.num_kv_heads, shape.head_dim)

    def zeros() -> torch.Tensor:
        return torch.zeros(size, dtype=shape.dtype, device=device)

    return [LayerCache(zeros(), zeros()) for _ in range(shape.num_layers)]


def count_blocks(config: EngineConfig, shape: CacheShape, device: torch.device, max_model_len: int) -> int:
    """Blocks to allocate: what the operator fixed, else what the free memory holds.

    Raises:
        ConfigError: not even one sequence of full length, or the fixed size, fits.
    """
    if config.kv_tokens is not None:
        return max(1, config.kv_tokens // shape.block_size)
    budget = _gpu_budget(config, device) if device.type == "cuda" else _cpu_budget(shape)
    num_blocks = budget // shape.block_bytes
    if num_blocks < 1:
        raise ConfigError(
            f"no memory is left for a key/value cache ({budget >> 20} MiB free for it, one block needs "
            f"{shape.block_bytes >> 10} KiB); lower --max-model-len, raise --tp, or free memory"
        )
    # More than every request at full length could ever use is waste.
    useful = config.step_requests * -(-max_model_len // shape.block_size)
    return min(num_blocks, useful)


def _gpu_budget(config: EngineConfig, device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return int(free - total * (1.0 - config.memory_fraction))


def _cpu_budget(shape: CacheShape) -> int:
    capped = CPU_MAX_TOKENS // shape.block_size * shape.block_bytes
    return min(int(available_memory_bytes() * CPU_MEMORY_SHARE), capped)


def available_memory_bytes() -> int:
    """Memory that a new allocation can have: the kernel's estimate on Linux, else 4 GiB."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 4 << 30
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(available.split()[1]) << 10 if available else 4 << 30
