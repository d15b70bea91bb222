"""How long each part of a chunk takes, without stopping the device between parts.

    with timeline.section("decode"): ...
    timeline.records        # [("decode", 0.187), ...], after waiting for the device

On a GPU the times are CUDA events on the current stream; elsewhere the monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SECTIONS = ("audio", "dit_step", "decode", "color", "encode", "copy")


class Timeline:
    """Collects (section, seconds) in order.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._spans: list[tuple[str, int, float | tuple[torch.cuda.Event, torch.cuda.Event]]] = []

    @contextmanager
    def section(self, name: str, count: int = 1) -> Iterator[None]:
        """Time a block that does the same thing `count` times: it becomes that many equal records."""
        if self._cuda:
            events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            events[0].record()
            try:
                yield
            finally:
                events[1].record()
                self._spans.append((name, count, events))
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spans.append((name, count, time.perf_counter() - start))

    @property
    def records(self) -> list[tuple[str, float]]:
        """Sections and their seconds so far; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        found: list[tuple[str, float]] = []
        for name, count, span in self._spans:
            seconds = span if isinstance(span, float) else span[0].elapsed_time(span[1]) / 1e3
            found += [(name, seconds / count)] * count
        return found

    def clear(self) -> None:
        """Forget what was collected."""
        self._spans.clear()
