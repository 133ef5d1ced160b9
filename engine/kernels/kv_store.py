"""Writing a step's keys and values into the paged cache."""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from torch import Tensor

from engine.kernels.triton_support import jit, next_power_of_2, tl, use_kernel


def kv_store_reference(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Copy rows [T, K, C] to their slots of caches [num_blocks, block_size, K, C], in place.

    Slot s is row s % block_size of block s // block_size; `slots` is int64 [T] without repeats. A negative slot
    marks a row that pads the batch and is stored nowhere.
    """
    kept = slots >= 0
    k_cache.flatten(0, 1).index_copy_(0, slots[kept], k[kept])
    v_cache.flatten(0, 1).index_copy_(0, slots[kept], v[kept])


@jit
def _kv_store_kernel(
    k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slots_ptr, k_stride, v_stride, width: tl.constexpr, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token)
    col = tl.arange(0, BLOCK)
    mask = (col < width) & (slot >= 0)
    tl.store(k_cache_ptr + slot * width + col, tl.load(k_ptr + token * k_stride + col, mask=mask), mask=mask)
    tl.store(v_cache_ptr + slot * width + col, tl.load(v_ptr + token * v_stride + col, mask=mask), mask=mask)


def check_slots(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, what: str) -> None:
    """Whether keys and values [T, K, C] and `slots` [T] fit the caches.

    Raises:
        ValueError: shapes, dtypes or memory layouts do not agree.
    """
    fits = k.shape == v.shape and k.shape[1:] == k_cache.shape[2:] and slots.shape == k.shape[:1]
    plain = k_cache.is_contiguous() and v_cache.is_contiguous() and heads_adjoin(k) and heads_adjoin(v)
    if not (fits and plain and k_cache.shape == v_cache.shape and k.dtype == v.dtype == k_cache.dtype == v_cache.dtype):
        raise ValueError(
            f"{what}: {k.dtype} {tuple(k.shape)}, {tuple(v.shape)} into {k_cache.dtype} {tuple(k_cache.shape)}, "
            f"{tuple(v_cache.shape)}, slots {tuple(slots.shape)}; caches and the heads of a token must be contiguous"
        )


def heads_adjoin(x: Tensor) -> bool:
    """Whether each token's heads of [T, H, C] lie side by side; tokens may be any distance apart."""
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


def kv_store(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Checked form of `kv_store_reference`.

    Raises:
        ValueError: shapes, dtypes or memory layouts do not agree.
    """
    check_slots(k, v, k_cache, v_cache, slots, "kv_store")
    if not use_kernel(k):
        return kv_store_reference(k, v, k_cache, v_cache, slots)
    num_tokens, num_heads, head_width = k.shape
    if num_tokens:
        width = num_heads * head_width
        grid, block = (num_tokens,), next_power_of_2(width)
        _kv_store_kernel[grid](k, v, k_cache, v_cache, slots, k.stride(0), v.stride(0), width, BLOCK=block)
    return None
