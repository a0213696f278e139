"""Time and peak memory of a piece of work, on a CPU or on CUDA, and what such a machine is called.

On a CPU the peak is the kernel's own count of resident pages (VmHWM), reset once the inputs exist (Linux alone has it).
Two things would falsify it: pages that the allocator kept from earlier work, which are reused unseen, and threads of a
pool, which do not survive a fork. So large blocks are mapped one by one and given back at once, and `in_fresh_process`
measures in a new interpreter.
"""

import ctypes
import gc
import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from components.training.memory import Gauge

P = ParamSpec("P")
T = TypeVar("T")

_M_MMAP_THRESHOLD = -3  # malloc.h
_MAPPED = 64 * 1024  # bytes from which a block is a mapping of its own; glibc's own limit rises up to 32 MiB


def seconds(work: Callable[[], object], repeat: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """The least time of `repeat` calls: other processes only ever slow it down.

    clock: time.process_time counts what this process's threads computed, which holds on a busy machine, too.
    """
    best = float("inf")
    for _ in range(repeat):
        _synchronise()
        start = clock()
        work()
        _synchronise()
        best = min(best, clock() - start)
    return best


def peak_memory(work: Callable[[], object]) -> int:
    """Bytes that one call takes above what is there when it starts, at the most; of the GPU once CUDA is in use.

    Call the work once before, at some small size, so that what libraries set up for themselves does not count.
    """
    gc.collect()
    _synchronise()
    on_gpu = torch.cuda.is_initialized()
    if not on_gpu:
        _give_back()
    gauge = Gauge(torch.device("cuda" if on_gpu else "cpu"))
    work()
    _synchronise()
    return max(gauge.peak(), 0)


def machine(device: str) -> dict[str, str]:
    """Columns for rows of what was measured: the device, and in words its name, the threads and torch's version."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), platform.machine())
    threads = torch.get_num_threads()
    return {"device": device, "machine": f"{name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"}


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a new interpreter: function, arguments and result are pickled."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _give_back() -> None:
    """Return unused pages, and let no large block be kept from now on (glibc; elsewhere nothing happens)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        libc.malloc_trim(0)
