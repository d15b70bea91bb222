"""Scratch folders go with their process, however it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from talkbench.workers import scratch


def test_a_folder_is_removed_with_all_that_is_in_it_even_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch.folder(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_next_folder_removes_those_of_killed_processes_and_no_other(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with scratch.folder(tmp_path):
            time.sleep(60)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    (abandoned,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with scratch.folder(tmp_path) as mine:
        assert abandoned.is_dir()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with scratch.folder(tmp_path):
            assert not abandoned.exists()
            assert mine.is_dir()
    assert list(tmp_path.iterdir()) == []
