"""Take the next item of an iterator on a thread while the caller works on this one: decoding beside computing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def ahead(items: Iterator[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Yield an iterator over the same items, in order; an error in `items` is raised where its item would come.

    Worth it where the work is done elsewhere than in this interpreter, as on a GPU. When the block ends, however it
    ends, nothing is read from `items` any more.

    Args:
        items: Read on one thread only.
        depth: Items that may wait; one more is being made.
    """
    waiting: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()

    def hand_over(item: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for item in items:
                if not hand_over(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised by the caller's next step
            hand_over(_Failed(error))
            return
        hand_over(_END)

    thread = threading.Thread(target=read, name="ahead", daemon=True)
    thread.start()
    try:
        yield _taken(waiting)
    finally:
        stop.set()
        thread.join()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _taken(waiting: queue.Queue[object]) -> Iterator[T]:
    while (item := waiting.get()) is not _END:
        if isinstance(item, _Failed):
            raise item.error
        yield item  # type: ignore[misc]
