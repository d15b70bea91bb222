"""Fixtures: a cache of its own per session, small clip folders."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import make_clip

# A shell that starts us in the background makes us, and all our children, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes share the cores already; more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep generated assets out of the user's cache."""
    before = os.environ.get("TALKBENCH_CACHE")
    os.environ["TALKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TALKBENCH_CACHE"]
    else:
        os.environ["TALKBENCH_CACHE"] = before


@pytest.fixture(scope="session")
def two_systems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with systems `ours` and `theirs`, four short clips each; `theirs` moves faster."""
    folder = tmp_path_factory.mktemp("clips")
    for system, speed in (("ours", 1.0), ("theirs", 4.0)):
        for number in range(4):
            make_clip(folder / system / f"item-{number}.mp4", seed=number, speed=speed)
    return folder


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The shared real clips; skipped where they are not at hand."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "real"
    if not folder.is_dir():
        pytest.skip("no ../shared/data/real here: real clips are not part of the repository")
    return folder
