"""Reading ahead and writing behind, while the model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from gdpo_sr.types import ImageError

Item = TypeVar("Item")
Value = TypeVar("Value")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Value], count: int
) -> Iterator[tuple[Item, Value | ImageError]]:
    """Pairs of each item and what `read` gives for it, in order; `count` are read in advance.

    An ImageError is given in the value's place.
    """
    waiting: deque[tuple[Item, Future[Value]]] = deque()
    pool = ThreadPoolExecutor(2, thread_name_prefix="read")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > count:
                yield _opened(*waiting.popleft())
        while waiting:
            yield _opened(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _opened(item: Item, future: Future[Value]) -> tuple[Item, Value | ImageError]:
    try:
        return item, future.result()
    except ImageError as error:
        return item, error


class Writers(Generic[Item]):
    """A pool that writes while the caller goes on; leaving it waits for what has begun.

    Args:
        limit: jobs that may wait; a further one waits for the oldest, so that memory is bounded.
        done: called in the caller's thread with each item and its ImageError, or None.
    """

    def __init__(self, limit: int, done: Callable[[Item, ImageError | None], None]) -> None:
        self._limit, self._done = limit, done
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="write")
        self._waiting: deque[tuple[Item, Future[None]]] = deque()

    def add(self, item: Item, write: Callable[[], None]) -> None:
        """Have `write` called soon."""
        while len(self._waiting) >= self._limit:
            self._take()
        self._waiting.append((item, self._pool.submit(write)))

    def _take(self) -> None:
        item, future = self._waiting.popleft()
        error = future.exception()
        if error is not None and not isinstance(error, ImageError):
            raise error
        self._done(item, error)

    def __enter__(self) -> Writers[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """After an exception, such as Ctrl-C, what has not begun is not written."""
        try:
            while self._waiting and kind is None:
                self._take()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
