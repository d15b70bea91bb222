"""Timing events while a clip is made, on one monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Iterator

from talkbench.media.clip import Frames
from talkbench.schema import Chunk, Timing

CHUNK_FRAMES = 28
"""New frames per cycle of the reference model; other systems report their own chunks."""


class Stopwatch:
    """Counts frames as they are taken, in chunks of 28, from the job's arrival to the closed file."""

    def __init__(self) -> None:
        self._received = time.monotonic_ns()
        self._first: int | None = None
        self._chunks: list[Chunk] = []

    def frames(self, source: Iterator[Frames]) -> Iterator[Frames]:
        """Yield `source`, noting when frames exist."""
        pending = 0
        for frame in source:
            moment = time.monotonic_ns()
            self._first = self._first or moment
            pending += 1
            if pending == CHUNK_FRAMES:
                self._chunks.append(Chunk(done_ns=moment, num_frames=pending))
                pending = 0
            yield frame
        if pending:
            self._chunks.append(Chunk(done_ns=time.monotonic_ns(), num_frames=pending))

    def stop(self, device: str) -> Timing | None:
        """Return the events, or None if no frame passed (a copied clip was not generated)."""
        if self._first is None:
            return None
        return Timing(
            job_received_ns=self._received,
            first_frame_ns=self._first,
            chunks=tuple(self._chunks),
            file_closed_ns=time.monotonic_ns(),
            device=device,
        )
