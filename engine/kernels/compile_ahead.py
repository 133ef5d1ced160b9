"""Kernels compiled before they are launched, on many cores at once.

Triton compiles a kernel when it is first launched, one after the other: most of a minute where nothing is in the cache
on disk. Nearly all of that time is spent outside Python, so that threads share it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from engine.kernels.triton_support import INTERPRET, only_compile, triton

log = logging.getLogger(__name__)


@contextmanager
def compiling_ahead(num_threads: int) -> Iterator[None]:
    """Launches in this thread compile and run nothing while the context is open; when it ends, all are compiled.

    What such a launch should have written is whatever its memory held. Nothing changes without Triton, or where its
    interpreter runs the kernels.

    Raises:
        triton.errors.TritonError: a kernel does not compile.
    """
    if triton is None or INTERPRET:
        yield
        return
    started = time.perf_counter()
    # Errors are asked for below: one that left the mode through its end would leave it switched on.
    with ThreadPoolExecutor(num_threads, "compile") as pool, triton.AsyncCompileMode(pool, ignore_errors=True) as mode:
        token = only_compile.set(True)
        try:
            yield
        finally:
            only_compile.reset(token)
    for future in mode.raw_futures:
        future.result()
    log.info(
        "compiled or found %d kernels in %.1f s, %d threads",
        len(mode.raw_futures),
        time.perf_counter() - started,
        num_threads,
    )
