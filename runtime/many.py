"""Many frames at once: a pool of native encoders behind an iterator."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from edgejpeg.runtime.library import MAX_THREADS, NativeEncoder

Frame = TypeVar("Frame")


def default_workers() -> int:
    """The processors that this process may use, at most 256."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_THREADS)


def encode_frames(
    create: Callable[[], NativeEncoder],
    encode: Callable[[NativeEncoder, Frame], bytes],
    frames: Iterable[Frame],
    workers: int,
) -> Iterator[bytes]:
    """The files of frames, in order; up to 2 * ``workers`` frames are taken before the first file is fetched.

    No frame is waited for while a file is ready, so that a camera's are given out as they come. What a frame, or the
    iterator of them, raises is raised in its place, after the files before it. Closing the iterator, or its end, frees
    the pool.

    Args:
        create: makes a native encoder for each worker.
        encode: called in a worker's thread.
        frames: iterated over in the thread of the caller.
        workers: threads, at least 1.
    """
    source = iter(frames)
    failure: Exception | None = None
    more = True
    pending: deque[Future[bytes]] = deque()
    idle: SimpleQueue[NativeEncoder] = SimpleQueue()
    natives: list[NativeEncoder] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgejpeg")

    def job(frame: Frame) -> bytes:
        native = idle.get()
        try:
            return encode(native, frame)
        finally:
            idle.put(native)

    try:
        for _ in range(workers):
            natives.append(create())
            idle.put(natives[-1])
        while more or pending:
            while more and len(pending) < 2 * workers and not (pending and pending[0].done()):
                try:
                    frame = next(source)
                except StopIteration:
                    more = False
                except Exception as error:
                    failure, more = error, False
                else:
                    pending.append(pool.submit(job, frame))
                    del frame
            if pending:
                yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
        for native in natives:
            native.close()
