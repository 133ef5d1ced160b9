"""Compiles kernels for a GPU that is not there, through the very launches that wrappers make.

Wrappers are called with tensors of the meta device; each launch is compiled for compute capability 9.0 with the
argument types, alignments and constants it would have, and nothing runs. `python -m tests.engine.kernels.compiling`
prints what every kernel needs.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from engine.kernels import triton_support

HOPPER = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class NoDevice:
    """What the launcher asks of a driver before it compiles."""

    def get_current_device(self) -> int:
        return -1  # compiled kernels are kept by device: never among those of a real one

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return HOPPER


@dataclass(frozen=True, slots=True)
class Compiled:
    """One launch: what the assembler gave it, and the machine code."""

    name: str
    constants: str
    num_warps: int
    num_stages: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    sass: str = field(repr=False)

    def before(self, instruction: str) -> str:
        """The code in front of the first such instruction: all of it where there is none."""
        return self.sass.partition(f" {instruction}")[0]

    def count(self, instruction: str) -> int:
        """Machine instructions of that name, whatever their suffixes."""
        return len(re.findall(rf"\b{instruction}\b", self.sass))


def compile_launches(call: Callable[[], object]) -> list[Compiled]:
    """Compile every kernel that `call` launches, in order."""
    kernels: list[Any] = []
    with _recorded(kernels):
        call()
    return [_inspect(function, kernel) for function, kernel in kernels]


@contextmanager
def _recorded(kernels: list[Any]) -> Iterator[None]:
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        kernels.append((self, kernel))
        return kernel

    with (
        mock.patch("triton.runtime.jit.driver", SimpleNamespace(active=NoDevice())),
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(triton_support, "INTERPRET", True),
    ):
        yield


def _inspect(function: Any, kernel: Any) -> Compiled:
    if kernel.hash not in _inspected:
        _inspected[kernel.hash] = _disassemble(function, kernel)
    return _inspected[kernel.hash]


_inspected: dict[str, Compiled] = {}


def _disassemble(function: Any, kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("--dump-sass", file.name)
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", usage)}
    names = function.arg_names
    constants = {names[path[0]]: value for path, value in kernel.src.constants.items() if names[path[0]].isupper()}
    return Compiled(
        function.__name__,
        " ".join(f"{name}={value}" for name, value in constants.items()),
        kernel.metadata.num_warps,
        kernel.metadata.num_stages,
        found["REG"],
        kernel.metadata.shared,
        found["STACK"],
        sass,
    )


def _cuobjdump(option: str, path: str) -> str:
    return subprocess.run([CUOBJDUMP, option, path], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print registers, shared memory and stack of every kernel at the released sizes."""
    import torch

    from tests.engine.kernels.launches import launches

    seen: set[tuple[object, ...]] = set()
    for name, call in launches(torch.bfloat16).items():
        for kernel in compile_launches(call):
            key = (kernel.name, kernel.constants, kernel.num_warps, kernel.registers, kernel.shared_bytes)
            if key not in seen:
                seen.add(key)
                print(
                    f"{name:24} {kernel.name:22} warps {kernel.num_warps:2} stages {kernel.num_stages} "
                    f"registers {kernel.registers:3} shared {kernel.shared_bytes:6} stack {kernel.stack_bytes:3} "
                    f"wgmma {kernel.count('HGMMA'):2} fp8 {kernel.count('QGMMA'):2} mma {kernel.count('HMMA'):2}  "
                    f"{kernel.constants}"
                )


if __name__ == "__main__":
    main()
