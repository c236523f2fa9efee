"""A network at work in a thread of its own, while the caller prepares what it is given next and keeps what it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Given = TypeVar("Given")
Made = TypeVar("Made")


def meanwhile(make: Callable[[Given], Made], items: Iterable[tuple[Key, Given]]) -> Iterator[tuple[Key, Made]]:
    """(key, make(given)) of each (key, given), in order; one call of `make` at a time, in a thread.

    While it runs the next item is taken, and the caller works on what was made of the one before: two items are in
    memory at most. What `make` raises is raised here; of what was taken, no more than the item at work is then made.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="covct-network")
    running: tuple[Key, Future[Made]] | None = None
    try:
        for key, given in items:
            following = key, thread.submit(make, given)
            del given  # the thread lets go of it once it is done
            if running:
                yield running[0], running[1].result()
            running = following
        if running:
            yield running[0], running[1].result()
    finally:
        thread.shutdown(cancel_futures=True)
