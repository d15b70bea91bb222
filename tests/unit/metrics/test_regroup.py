"""Groups of frames: what waits is copied once, and keeps no batch alive."""

from __future__ import annotations

import numpy as np

from talkbench.media.clip import FrameBatch
from talkbench.metrics.regroup import Regroup


def test_a_frame_that_waits_is_copied_once_however_many_come_after_it() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    regroup, groups = Regroup(4), []
    copies: list[np.ndarray] = []
    for number in range(9):
        batch = FrameBatch(frames[number : number + 1], number, np.array([number / 25]))
        groups += regroup.push(batch)
        assert not any(np.shares_memory(waiting, frames) for waiting in regroup._frames)
        assert all(waiting is copy for waiting, copy in zip(regroup._frames, copies, strict=False))
        copies = list(regroup._frames)
    groups += regroup.flush()
    assert [len(found) for found, _ in groups] == [4, 4, 1]
    assert np.array_equal(np.concatenate([found for found, _ in groups]), frames)
