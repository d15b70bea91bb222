"""Reading ahead on a thread: same items, same order, errors where they belong, nothing read after the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from talkbench.manifests import load as manifests
from talkbench.media.ahead import ahead
from talkbench.metrics import score
from talkbench.metrics.base import Context
from talkbench.store.run import Run
from talkbench.systems import scan
from tests.support import make_clip


def test_items_come_in_order_and_are_made_on_another_thread() -> None:
    def items() -> Iterator[tuple[int, str]]:
        for number in range(50):
            yield number, threading.current_thread().name

    with ahead(items()) as taken:
        found = list(taken)
    assert [number for number, _ in found] == list(range(50))
    assert {name for _, name in found} == {"ahead"}


def test_the_next_item_is_made_while_the_caller_works() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    with ahead(items()) as taken:
        next(taken)
        assert made.wait(5)


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken file")

    with ahead(items()) as taken:
        assert next(taken) == 1
        with pytest.raises(ValueError, match="broken file"):
            next(taken)


def test_leaving_early_ends_the_thread_and_reads_no_further() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    with pytest.raises(KeyError), ahead(items(), depth=1) as taken:
        next(taken)
        raise KeyError
    count = len(read)
    time.sleep(0.1)
    assert len(read) == count <= 4
    assert "ahead" not in {thread.name for thread in threading.enumerate()}


def test_scores_are_the_same_with_frames_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "device_name", lambda device: device)
    make_clip(tmp_path / "clips" / "a.mp4", seconds=6)
    run = Run.open_or_create(tmp_path / "run", manifests.FOLDER)
    (record,) = scan.index(run, scan.Source("clips", tmp_path / "clips"))
    metrics = (score.Metric("flicker"), score.Metric("motion"))
    plain, overlapped = (score.score_clip(record, metrics, None, Context(device)) for device in ("cpu", "cuda:0"))
    assert [(row.output, row.value) for row in plain.rows] == [(row.output, row.value) for row in overlapped.rows]
    assert all(row.status == "ok" for row in plain.rows)
