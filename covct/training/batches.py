"""Batches of training samples, drawn ahead by threads and handed out in order, exactly repeatable.

The samples of step s of epoch e are a function of (seed, e, s) and of nothing else: a training that is resumed in the
middle of an epoch draws the same as one that was never stopped, whatever the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

AHEAD = 2  # batches a thread

Batch = tuple[np.ndarray, np.ndarray]


def draw_batch(
    draw: Callable[..., Batch], size: int, seed: int, epoch: int, step: int, origins: list[Any] | None = None
) -> Batch:
    """One batch, (size, rows, columns, channels) and its truth. `origins`: see `Plan.draw`."""
    rng = np.random.default_rng((seed, epoch, step))
    extra = () if origins is None else (origins,)
    inputs, truths = zip(*(draw(rng, *extra) for _ in range(size)), strict=True)
    return np.stack(inputs), np.stack(truths)


def sample_seed(seed: int, initial_sha256: str | None) -> int:
    """The seed of the samples: another one for each file of weights to start from.

    With the same a training that goes on from another's weights would see the other's samples once more.
    """
    return seed + (int(initial_sha256[:12], 16) if initial_sha256 else 0)


def batches(
    draw: Callable[..., Batch], size: int, seed: int, places: Iterator[tuple[int, int]], workers: int
) -> Generator[Batch, None, None]:
    """The batches of the given (epoch, step) places, in their order, drawn by so many threads ahead of their use.

    Threads suffice: OpenCV and NumPy give the interpreter free while they compute.
    """
    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(workers, "draw")
    try:
        for epoch, step in places:
            waiting.append(pool.submit(draw_batch, draw, size, seed, epoch, step))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
