"""Shares the work of functions in C among PyTorch's threads."""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

Work = Callable[[int, int], None]

_PROCESS = os.getpid()
_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share(work: Work, sizes: Sequence[int]) -> None:
    """Call `work` for ranges (first, last) of the parts with these `sizes`, side by side in PyTorch's number of threads.

    What `work` computes of a part must not depend on the range it is in. It must release the interpreter's lock, as
    compiled functions do.

    The threads are those of PyTorch's own operators, where they are OpenMP's. These watch for work for a while after each
    operator, and keep threads of ours from a core: on two cores such a thread began half a millisecond late.
    """
    threads = min(torch.get_num_threads(), len(sizes))
    if threads == 1:
        work(0, len(sizes))
        return
    ranges = _ranges(sizes, threads)
    openmp = _openmp() if os.getpid() == _PROCESS else None  # a forked child has none of its threads
    if openmp is None:
        _run_in_pool(work, ranges)
    else:
        _run_by_openmp(openmp, work, ranges)


def _ranges(sizes: Sequence[int], threads: int) -> list[tuple[int, int]]:
    """At most so many ranges of parts, of about the same size in sum."""
    total, done, bounds = sum(sizes), 0, [0]
    for part, size in enumerate(sizes, 1):
        done += size
        if done * threads >= total * len(bounds):
            bounds.append(part)
    return list(pairwise(bounds))


class _OpenMP(NamedTuple):
    """Functions of the library."""

    parallel: Callable[..., None]
    """Calls a function in so many threads at once, and returns when all have."""
    thread: Callable[[], int]
    """The number of the thread that asks."""
    threads: Callable[[], int]
    """How many call the function."""


@functools.cache
def _openmp() -> _OpenMP | None:
    """The library that PyTorch is linked to; None if that has not GCC's interface, which LLVM's and Intel's have too."""
    library = str(Path(torch.__file__).parent / "lib/libtorch_cpu.so")
    try:
        releasing, holding = ctypes.CDLL(library), ctypes.PyDLL(library)  # the interpreter's lock
        parallel = releasing.GOMP_parallel
        parallel.argtypes, parallel.restype = [_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return _OpenMP(parallel, holding.omp_get_thread_num, holding.omp_get_num_threads)
    except (OSError, AttributeError):
        return None


def _run_by_openmp(openmp: _OpenMP, work: Work, ranges: list[tuple[int, int]]) -> None:
    errors: list[BaseException] = []

    def region(_: int | None) -> None:
        try:
            for each in ranges[openmp.thread() :: openmp.threads()]:  # there may be fewer threads than were asked for
                work(*each)
        except BaseException as error:  # C could not pass it on
            errors.append(error)

    openmp.parallel(_Region(region), None, len(ranges), 0)
    if errors:
        raise errors[0]


def _run_in_pool(work: Work, ranges: list[tuple[int, int]]) -> None:
    waiting = [_pool(len(ranges)).submit(work, *each) for each in ranges[1:]]
    try:
        work(*ranges[0])
    finally:
        wait(waiting)  # what they write to must not be freed before
    for each in waiting:
        each.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")


os.register_at_fork(after_in_child=_pool.cache_clear)
