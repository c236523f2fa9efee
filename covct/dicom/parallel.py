"""Slices decoded side by side: in order, and only a few at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from covct.networks.processors import processors_at_hand

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads, not processes: the decoders release the interpreter's lock, and worker processes need a /dev/shm that a
# container may not have. Beyond four the parsing of headers, which does not, is the limit.
WORKERS = min(4, processors_at_hand() if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def decode_in_order(
    items: Iterable[Item], function: Callable[[Item], Result], workers: int = WORKERS
) -> Iterator[Result]:
    """`map(function, items)` on several threads.

    Items are drawn by the calling thread, one after the other, so that a generator that reads files needs no lock; at
    most `workers` + 1 are drawn ahead of the result last given, so that a series of any length needs the memory of a
    few slices. An error is raised where its result would stand, and what was not yet begun is dropped.

    Parameters
    ----------
    workers : int
        Threads; 1 does everything in the calling thread.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="covct-decode") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
