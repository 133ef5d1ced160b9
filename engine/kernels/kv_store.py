"""Writing a step's keys and values into the paged cache."""

from __future__ import annotations

from torch import Tensor


def kv_store_reference(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Copy rows [T, K, C] to their slots of caches [num_blocks, block_size, K, C], in place.

    Slot s is row s % block_size of block s // block_size; `slots` is int64 [T] without repeats.
    """
    k_cache.flatten(0, 1).index_copy_(0, slots, k)
    v_cache.flatten(0, 1).index_copy_(0, slots, v)


def kv_store(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Checked form of `kv_store_reference`.

    Raises:
        ValueError: shapes or dtypes do not agree.
    """
    if k.shape != v.shape or k.shape[1:] != k_cache.shape[2:] or slots.shape != k.shape[:1]:
        raise ValueError(
            f"kv_store: {tuple(k.shape)}, {tuple(v.shape)} into {tuple(k_cache.shape)}, {tuple(slots.shape)}"
        )
    kv_store_reference(k, v, k_cache, v_cache, slots)
