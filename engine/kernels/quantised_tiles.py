"""The tiles of `moe_tiles` for weights in any format: read packed, widened in registers, scaled after the product.

A step of the inner loop lies within one block of scales, so a scale multiplies a sum of products instead of every
weight. Scales are fetched one step ahead by hand: Triton's pipeline fetches ahead only what a product consumes.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from torch import Tensor

from engine.kernels.moe_tiles import _load, down_tile, up_tile
from engine.kernels.triton_support import INTERPRET, constexpr, jit, next_power_of_2, tl
from engine.quantised import Quantised, Weight


@jit
def widen(raw, dtype: tl.constexpr):
    """Bits of e4m3 -> the same numbers in `dtype`. By way of float32: the direct conversion is a slow instruction."""
    return raw.to(tl.float8e4nv, bitcast=True).to(tl.float32).to(dtype)


# Four bytes, whose nibbles are n, to four bfloat16 in two registers: n put into the mantissa of 128 makes it 128 + n,
# and less 136 that is n - 8. Lanes of 16 bits side by side take half the instructions that Triton's own code does.
_UNPACK = """{
    .reg .b32 a, b, c;
    mov.b32 c, 0x43084308;
    shr.b32 b, $2, SHIFT;
    prmt.b32 a, b, 0, 0x4140;
    prmt.b32 b, b, 0, 0x4342;
    lop3.b32 a, a, 0x000f000f, 0x43004300, 0xea;
    lop3.b32 b, b, 0x000f000f, 0x43004300, 0xea;
    sub.rn.bf16x2 $0, a, c;
    sub.rn.bf16x2 $1, b, c;
}"""
_UNPACK_LOW = constexpr(_UNPACK.replace("SHIFT", "0"))
_UNPACK_HIGH = constexpr(_UNPACK.replace("SHIFT", "4"))
_COMPILED = constexpr(not INTERPRET)


@jit
def low_nibbles(raw, dtype: tl.constexpr):
    """Columns 0..63 of a group, bytes -> numbers from -8 to 7."""
    if _COMPILED and dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(_UNPACK_LOW, "=r,=r,r", [raw], dtype=tl.bfloat16, is_pure=True, pack=4)
    else:
        return (raw & 15).to(dtype) - 8.0


@jit
def high_nibbles(raw, dtype: tl.constexpr):
    """Columns 64..127 of a group."""
    if _COMPILED and dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(_UNPACK_HIGH, "=r,=r,r", [raw], dtype=tl.bfloat16, is_pure=True, pack=4)
    else:
        return (raw >> 4).to(dtype) - 8.0


@jit
def _scale(ptr, first, feature, at, dim: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr, BLOCK: tl.constexpr):
    """The fp8 scales of rows `feature` (BLOCK of them, from `first` on) at column `at`, to multiply [BLOCK, ROWS]."""
    blocks: tl.constexpr = (dim + CB - 1) // CB
    block = tl.minimum(at // CB, blocks - 1)  # one step beyond the last is fetched, and not used
    if RB % BLOCK == 0:
        return tl.load(ptr + (first // RB) * blocks + block)
    else:
        return tl.load(ptr + (feature // RB) * blocks + block)[:, None]


@jit
def _rows_in(feature, height: tl.constexpr):
    """Rows behind the last one read the last one's scale."""
    return tl.minimum(feature, height - 1)


@jit
def _up_fp8(
    w_ptr, s_ptr, x_ptr, x_row, row_ok, first, dim: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    even_rows: tl.constexpr = width % BLOCK_F == 0
    even_cols: tl.constexpr = dim % BLOCK_K == 0
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    col, feature = tl.arange(0, BLOCK_K), first + tl.arange(0, BLOCK_F)
    w_ptrs = w_ptr + feature[:, None] * dim + col[None, :]
    x_ptrs = x_ptr + x_row[None, :] * dim + col[:, None]
    up_scales = s_ptr + (width // RB) * ((dim + CB - 1) // CB)
    row = _rows_in(feature, width)
    gate = tl.zeros([BLOCK_F, ROWS], tl.float32)
    up = tl.zeros([BLOCK_F, ROWS], tl.float32)
    s_gate = _scale(s_ptr, first, row, 0, dim, RB, CB, BLOCK_F)
    s_up = _scale(up_scales, first, row, 0, dim, RB, CB, BLOCK_F)
    for at in range(0, dim, BLOCK_K):
        w_gate = _load(w_ptrs, feature < width, at + col, dim, even_rows, even_cols)
        w_up = _load(w_ptrs + width * dim, feature < width, at + col, dim, even_rows, even_cols)
        x = tl.load(x_ptrs, mask=row_ok[None, :] & (at + col < dim)[:, None], other=0.0)
        next_gate = _scale(s_ptr, first, row, at + BLOCK_K, dim, RB, CB, BLOCK_F)
        next_up = _scale(up_scales, first, row, at + BLOCK_K, dim, RB, CB, BLOCK_F)
        gate += tl.dot(widen(w_gate, dtype), x, input_precision="ieee") * s_gate
        up += tl.dot(widen(w_up, dtype), x, input_precision="ieee") * s_up
        s_gate, s_up = next_gate, next_up
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    return gate, up


@jit
def product_fp8(
    w_ptr, s_ptr, x_ptr, x_row, row_ok, first, begin, end, height: tl.constexpr, dim: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Rows first..first + BLOCK of w [height, dim] times ROWS rows of x [., dim], over columns begin..end.

    -> float32 [BLOCK, ROWS].
    """
    even_rows: tl.constexpr = height % BLOCK == 0
    even_cols: tl.constexpr = dim % BLOCK_K == 0
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    col, feature = tl.arange(0, BLOCK_K), first + tl.arange(0, BLOCK)
    w_ptrs = w_ptr + feature.to(tl.int64)[:, None] * dim + (begin + col)[None, :]
    x_ptrs = x_ptr + x_row[None, :] * dim + (begin + col)[:, None]
    row = _rows_in(feature, height)
    acc = tl.zeros([BLOCK, ROWS], tl.float32)
    scale = _scale(s_ptr, first, row, begin, dim, RB, CB, BLOCK)
    for at in range(begin, end, BLOCK_K):
        w = _load(w_ptrs, feature < height, at + col, dim, even_rows, even_cols)
        x = tl.load(x_ptrs, mask=row_ok[None, :] & (at + col < dim)[:, None], other=0.0)
        next_scale = _scale(s_ptr, first, row, at + BLOCK_K, dim, RB, CB, BLOCK)
        acc += tl.dot(widen(w, dtype), x, input_precision="ieee") * scale
        scale = next_scale
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    return acc


@jit
def _up_int4(
    w_ptr, s_ptr, x_ptr, x_row, row_ok, first, dim: tl.constexpr, width: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    even: tl.constexpr = width % BLOCK_F == 0
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    col, feature = tl.arange(0, 64), first + tl.arange(0, BLOCK_F)
    w_ptrs = w_ptr + feature[:, None] * (dim // 2) + col[None, :]
    x_ptrs = x_ptr + x_row[None, :] * dim + col[:, None]
    s_ptrs = s_ptr + _rows_in(feature, width)
    gate = tl.zeros([BLOCK_F, ROWS], tl.float32)
    up = tl.zeros([BLOCK_F, ROWS], tl.float32)
    s_gate, s_up = tl.load(s_ptrs), tl.load(s_ptrs + width)
    for at in range(0, dim, 128):
        s_ptrs += tl.where(at + 128 < dim, 2 * width, 0)
        next_gate, next_up = tl.load(s_ptrs), tl.load(s_ptrs + width)
        raw_gate = _load(w_ptrs, feature < width, 0, 0, even, True)
        raw_up = _load(w_ptrs + width * (dim // 2), feature < width, 0, 0, even, True)
        left = tl.load(x_ptrs, mask=row_ok[None, :], other=0.0)
        right = tl.load(x_ptrs + 64, mask=row_ok[None, :], other=0.0)
        part = tl.dot(low_nibbles(raw_gate, dtype), left, input_precision="ieee")
        part = tl.dot(high_nibbles(raw_gate, dtype), right, part, input_precision="ieee")
        gate += part * s_gate.to(tl.float32)[:, None]
        part = tl.dot(low_nibbles(raw_up, dtype), left, input_precision="ieee")
        part = tl.dot(high_nibbles(raw_up, dtype), right, part, input_precision="ieee")
        up += part * s_up.to(tl.float32)[:, None]
        s_gate, s_up = next_gate, next_up
        w_ptrs += 64
        x_ptrs += 128
    return gate, up


@jit
def _product_int4(
    w_ptr, s_ptr, x_ptr, x_row, row_ok, first, height: tl.constexpr, dim: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    even: tl.constexpr = height % BLOCK == 0
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    col, feature = tl.arange(0, 64), first + tl.arange(0, BLOCK)
    w_ptrs = w_ptr + feature[:, None] * (dim // 2) + col[None, :]
    x_ptrs = x_ptr + x_row[None, :] * dim + col[:, None]
    s_ptrs = s_ptr + _rows_in(feature, height)
    acc = tl.zeros([BLOCK, ROWS], tl.float32)
    scale = tl.load(s_ptrs)
    for at in range(0, dim, 128):
        s_ptrs += tl.where(at + 128 < dim, height, 0)
        next_scale = tl.load(s_ptrs)
        raw = _load(w_ptrs, feature < height, 0, 0, even, True)
        left = tl.load(x_ptrs, mask=row_ok[None, :], other=0.0)
        right = tl.load(x_ptrs + 64, mask=row_ok[None, :], other=0.0)
        part = tl.dot(low_nibbles(raw, dtype), left, input_precision="ieee")
        part = tl.dot(high_nibbles(raw, dtype), right, part, input_precision="ieee")
        acc += part * scale.to(tl.float32)[:, None]
        scale = next_scale
        w_ptrs += 64
        x_ptrs += 128
    return acc


@jit
def any_up_tile(
    w_ptr, s_ptr, x_ptr, x_row, row_ok, first, dim: tl.constexpr, width: tl.constexpr, FORMAT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """`moe_tiles.up_tile` for features first..first + BLOCK_F of weights in FORMAT, whose scales begin at `s_ptr`."""
    if FORMAT == "plain":
        feature = first + tl.arange(0, BLOCK_F)
        return up_tile(w_ptr, x_ptr, x_row, row_ok, feature, dim, width, ROWS, BLOCK_F, BLOCK_K)
    else:
        if FORMAT == "fp8":
            gate, up = _up_fp8(w_ptr, s_ptr, x_ptr, x_row, row_ok, first, dim, width, ROWS, BLOCK_F, BLOCK_K, RB, CB)
        else:
            gate, up = _up_int4(w_ptr, s_ptr, x_ptr, x_row, row_ok, first, dim, width, ROWS, BLOCK_F)
        dtype: tl.constexpr = x_ptr.dtype.element_ty
        gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
        return (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * up


@jit
def any_down_tile(
    w_ptr, s_ptr, h_ptr, h_row, row_ok, first, dim: tl.constexpr, width: tl.constexpr, FORMAT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """`moe_tiles.down_tile` likewise."""
    if FORMAT == "plain":
        feature = first + tl.arange(0, BLOCK_D)
        return down_tile(w_ptr, h_ptr, h_row, row_ok, feature, dim, width, ROWS, BLOCK_D, BLOCK_K)
    elif FORMAT == "fp8":
        return product_fp8(
            w_ptr, s_ptr, h_ptr, h_row, row_ok, first, 0, width, dim, width, ROWS, BLOCK_D, BLOCK_K, RB, CB
        )
    else:
        return _product_int4(w_ptr, s_ptr, h_ptr, h_row, row_ok, first, dim, width, ROWS, BLOCK_D)


@jit
def expert_at(w_ptr, expert, n: tl.constexpr, k: tl.constexpr, FORMAT: tl.constexpr):
    """Where the weights [n, k] of `expert` begin."""
    size: tl.constexpr = n * k // 2 if FORMAT == "int4" else n * k
    return w_ptr + expert.to(tl.int64) * size


@jit
def scales_at(
    s_ptr, expert, n: tl.constexpr, k: tl.constexpr, FORMAT: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr
):
    """Where the scales of `expert` begin."""
    if FORMAT == "fp8":
        return s_ptr + expert.to(tl.int64) * (((n + RB - 1) // RB) * ((k + CB - 1) // CB))
    elif FORMAT == "int4":
        return s_ptr + expert.to(tl.int64) * (n * (k // 128))
    else:
        return s_ptr


def storage(weight: Weight) -> tuple[Tensor, Tensor]:
    """Numbers and scales as kernel arguments; a plain weight has no scales, and its kernel reads none."""
    return (weight.packed, weight.scales) if isinstance(weight, Quantised) else (weight, weight)


def format_of(weight: Weight) -> dict[str, str | int]:
    """Constants that tell a kernel how to read `weight`."""
    if isinstance(weight, Quantised):
        return {"FORMAT": weight.format, "RB": weight.block[0], "CB": weight.block[1]}
    return {"FORMAT": "plain", "RB": 1, "CB": 1}


def shared_format_of(weight: Weight) -> dict[str, str | int]:
    """The same of the shared expert's weight."""
    return {f"SHARED_{name}": value for name, value in format_of(weight).items()}


def narrowed(columns: int, weight: Weight) -> int:
    """Columns of a step: as tuned, but no more than the weight has, and within one block of scales."""
    columns = min(columns, max(16, next_power_of_2(weight.shape[-1])))
    return min(columns, weight.block[1]) if isinstance(weight, Quantised) else columns
