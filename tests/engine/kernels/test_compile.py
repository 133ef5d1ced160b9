"""Every kernel compiles for a Hopper GPU at the released sizes, without spills and within its shared memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from engine.kernels.paths import VARIANTS, taking
from engine.kernels.triton_support import INTERPRET
from tests.engine.kernels.compiling import CUOBJDUMP, Compiled, compile_launches
from tests.engine.kernels.launches import HEADS_PATHS, launches

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRET, reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not CUOBJDUMP.exists(), reason="this build of Triton carries no NVIDIA tools"),
]

SHARED_LIMIT = 227 * 1024  # of one program on compute capability 9.0
# A cosine of a large phase reduces it in memory, by so many bytes a thread: that is what makes it exact.
STACK_BYTES = {"_rope_table_kernel": 32}


def compiled(name: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, Compiled]:
    return {kernel.name: kernel for kernel in compile_launches(launches(dtype)[name])}


@pytest.mark.parametrize("name", launches(torch.bfloat16))
def test_fits_the_machine(name: str) -> None:
    for kernel in compiled(name).values():
        assert kernel.shared_bytes <= SHARED_LIMIT, kernel
        assert kernel.stack_bytes <= STACK_BYTES.get(kernel.name, 0), f"{kernel} keeps values in memory"


@pytest.mark.parametrize("name", ["experts 1", "experts 64", "decode 8", "prefill 2048"])
def test_float32_fits_the_machine(name: str) -> None:
    for kernel in compiled(name, torch.float32).values():
        assert kernel.shared_bytes <= SHARED_LIMIT, kernel


SPLIT = {"_split_up_kernel", "_split_down_kernel"}
READERS = {"_up_kernel", "_down_kernel", "_decode_kernel", "_heads_decode_kernel", "_skinny_kernel", *SPLIT}
READS = ["experts 1", "experts 32", "experts 64", "decode 1", "decode 32", "experts-fp8 32", "experts-int4 32"]


@pytest.mark.parametrize("name", [*READS, "linear-fp8 8", "heads 1", "lean but keys 32", "lean 32"])
def test_weights_and_keys_arrive_in_wide_asynchronous_copies(name: str) -> None:
    """What a step is bound by: 16 bytes a thread, past the registers, several of them under way."""
    readers = [k for n, k in compiled(name).items() if n in READERS]
    assert readers
    for kernel in readers:
        assert "LDGSTS.E.BYPASS.128" in kernel.sass, kernel


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("experts 8192", "_up_kernel"), ("experts 8192", "_down_kernel"), ("prefill 8192", "_prefill_kernel")],
)
def test_prefill_uses_the_warpgroup_matrix_unit(name: str, kernel: str) -> None:
    found = compiled(name)[kernel]
    assert found.count("HGMMA") > 0
    assert found.count("HMMA") == 0


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("experts-fp8 2", SPLIT),
        ("experts-fp8 32", SPLIT),
        ("experts-fp8 64", SPLIT),
        ("experts-fp8 200", {"_grouped_split_up_kernel", "_grouped_split_down_kernel"}),
    ],
)
def test_fp8_weights_go_from_shared_memory_into_the_matrix_unit(name: str, kernels: set[str]) -> None:
    """No instruction loads a weight into a register or widens it: products read both where copies left them."""
    found = compiled(name)
    for kernel in (found[name] for name in kernels):
        assert kernel.count("QGMMA") > 0, kernel
        assert kernel.count("HMMA") == kernel.count("HGMMA") == kernel.count("LDSM") == 0, kernel
        assert kernel.registers <= 168, f"{kernel}: fewer than three programs on a multiprocessor"
        assert 3 * (kernel.shared_bytes + 1024) <= 228 * 1024, kernel


READ_EARLY = {"_thin_kernel", "_down_kernel", "_rms_norm_kernel", "_sum_add_norm_kernel"}
READ_EARLY |= {"_push_sum_kernel", "_heads_decode_kernel"}
WRITES = ("STG", "ATOM", "RED.")
WAIT, LET_GO = "ACQBULK", "PREEXIT"


@pytest.mark.parametrize("num_tokens", [1, 4])
def test_kernels_that_start_early_wait_once_and_read_only_weights_before(num_tokens: int) -> None:
    """In the machine code, where a scheduler may have moved what the source puts behind the wait."""
    kernels = compile_launches(launches(torch.bfloat16)[f"step {num_tokens} lean"])
    assert len(kernels) > 8
    for kernel in kernels:
        assert (kernel.count(WAIT), kernel.count(LET_GO)) == (1, 1), kernel
        early = kernel.before(WAIT)
        assert LET_GO not in early, kernel
        assert not any(write in early for write in WRITES), kernel
        if kernel.name not in READ_EARLY:
            assert "LDG" not in early, kernel


@pytest.mark.parametrize("num_tokens", [1, 32])
def test_attention_over_raw_heads_asks_for_norms_alone_before_it_waits(num_tokens: int) -> None:
    """Two weights of two columns each, and with `keys_early` the step's numbers and the keys of earlier steps."""
    found = {path: compiled(f"{path} {num_tokens}")["_heads_decode_kernel"] for path in HEADS_PATHS}
    assert found["heads"].count(WAIT) == 0
    late, early = found["lean but keys"], found["lean"]
    for kernel in (late, early):
        assert (kernel.count(WAIT), kernel.count(LET_GO)) == (1, 1), kernel
        assert not any(name in kernel.before(WAIT) for name in (LET_GO, "LDGSTS", *WRITES)), kernel
        assert kernel.registers <= 128, f"{kernel}: one program of 8 warps on a multiprocessor"
    assert late.before(WAIT).count("LDG") == late.before(WAIT).count("LDG.E.128") == 4
    assert "CCTL.E.PF2" not in late.before(WAIT)
    assert early.before(WAIT).count("CCTL.E.PF2") == 4  # lines of a key and a value, for each thread


def test_heads_and_what_they_need_are_asked_for_at_once() -> None:
    """The length, the table, the heads and the rotation wait for none of each other."""
    kernel = compiled("lean but keys 1")["_heads_decode_kernel"]
    asked = kernel.before("CCTL.E.PF2")
    assert asked.count("LDG.E.128") == 4 + 4 + 2  # norms; two columns of queries and of keys; cos and sin
    assert "BAR.SYNC" not in asked


def test_split_rows_start_early_and_wait_once() -> None:
    """The experts of packed weights likewise: whole steps are compiled above with plain ones."""
    with taking(VARIANTS["lean"]):
        kernels = compile_launches(launches(torch.bfloat16)["experts-fp8 32"])
    assert [kernel.name for kernel in kernels] == [
        *("_split_kernel", "_split_up_kernel", "_split_kernel", "_split_down_kernel", "_sum_kernel")
    ]
    for kernel in kernels:
        assert (kernel.count(WAIT), kernel.count(LET_GO)) == (1, 1), kernel
        assert not any(name in kernel.before(WAIT) for name in ("LDG", LET_GO, *WRITES)), kernel


def test_weights_of_one_token_are_asked_for_before_the_wait() -> None:
    """A product's whole weights and the experts' second ones; the shared expert's first ones in bulk."""
    kernels = {kernel.name: kernel for kernel in compile_launches(launches(torch.bfloat16)["step 1 lean"])}
    assert kernels["_thin_kernel"].before(WAIT).count("LDG.E.128") == 8
    assert kernels["_down_kernel"].before(WAIT).count("LDG.E.128") >= 16
    assert kernels["_up_kernel"].before(WAIT).count("UBLKPF") == 2


THIN, SINGLE = "_thin_fp8_kernel", {"_single_fp8_up_kernel", "_single_fp8_down_kernel"}


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_fp8_rows_start_early_and_read_only_weights_before(num_tokens: int) -> None:
    kernels = compile_launches(launches(torch.bfloat16)[f"packed step {num_tokens} lean"])
    names = [kernel.name for kernel in kernels]
    assert names[:2] == [THIN, THIN]
    assert (set(names[2:]) == SINGLE) == (num_tokens == 1)
    for kernel in kernels:
        assert (kernel.count(WAIT), kernel.count(LET_GO)) == (1, 1), kernel
        early = kernel.before(WAIT)
        assert LET_GO not in early, kernel
        assert not any(write in early for write in WRITES), kernel
        if kernel.name not in (THIN, "_single_fp8_down_kernel"):
            assert "LDG" not in early, kernel


def test_fp8_weights_of_one_token_are_asked_for_at_once() -> None:
    """All that is before the wait for plain weights is for these, and no load waits for a product of another one.

    Weights and rows meet in registers: bytes are widened by pairs as they lie, and none goes through shared memory.
    """
    kernels = compile_launches(launches(torch.bfloat16)["packed step 1 lean"])
    by_name = {kernel.name: kernel for kernel in kernels}
    up, down = by_name["_single_fp8_up_kernel"], by_name["_single_fp8_down_kernel"]
    for kernel, num_loads in zip(kernels[:2], (8, 4), strict=True):  # four rows of 4096 and of 2048 bytes
        assert kernel.name == THIN
        assert kernel.before(WAIT).count("LDG.E.128") == num_loads, kernel
    assert down.before(WAIT).count("LDG.E.128") == 8 + 1  # of the chosen experts and of the shared one
    assert up.before(WAIT).count("UBLKPF") == 2
    assert up.before("F2FP").count("LDG.E.128") == up.sass.count("LDG.E.128") == 8 + 4  # of weights and of the row
    for kernel in kernels:
        assert kernel.registers <= 96, f"{kernel}: fewer than five programs on a multiprocessor"
        assert kernel.count("PRMT") < 32, f"{kernel} puts bytes into another order"


def test_without_early_starts_nothing_waits() -> None:
    for path in ("step 1 lean but programmatic", "packed step 1 lean but programmatic"):
        for kernel in compile_launches(launches(torch.bfloat16)[path]):
            assert kernel.count(WAIT) == 0, kernel


def test_words_are_sent_before_others_are_waited_for() -> None:
    found = compiled("late sums 32")["_push_sum_kernel"]
    sent, _, rest = found.sass.partition(".STRONG.SYS")  # a read that sees what another GPU writes
    assert sent.count("STG.E.64") >= 1
    assert "BRA" in rest
    assert "STG.E.64" not in rest
