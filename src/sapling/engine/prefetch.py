"""The next batch is made while this one is trained on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

_END = object()


@contextlib.contextmanager
def ahead(batches: Iterator[T], *, in_thread: bool) -> Iterator[Iterator[T]]:
    """Make batches in a thread, one ahead of what was taken; order and numbers are those of ``batches``.

    It pays where training waits for a device and a core is free. On a CPU that computes on all of its cores it does not
    (``benchmarks/fastpath.py``): there ``in_thread`` is off and batches are made when they are asked for.

    Args:
        batches: must draw no global random numbers, or they would be drawn from two threads; ours are pure functions.
        in_thread: or leave everything as it is.

    Yields:
        The batches. An error in making one is raised where it would be taken; when the block is left, for whatever
        reason, the thread has ended.
    """
    if not in_thread:
        yield batches
        return
    made: queue.SimpleQueue[object] = queue.SimpleQueue()
    failures: list[BaseException] = []
    may_make, stopped = threading.Semaphore(1), threading.Event()

    def work() -> None:
        try:
            while True:
                may_make.acquire()
                if stopped.is_set():
                    return
                item: object = next(batches, _END)
                made.put(item)
                if item is _END:
                    return
        except BaseException as error:  # whatever it is: whoever takes the batch must not wait for ever
            failures.append(error)
            made.put(_END)

    def take() -> Iterator[T]:
        while (item := made.get()) is not _END:
            may_make.release()
            yield item  # type: ignore[misc]
        if failures:
            raise failures[0]

    thread = threading.Thread(target=work, name="sapling-batches", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        may_make.release()
        thread.join()
