"""Which clips `talkbench generate` makes: items by pattern, and systems that a suite has nothing for."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkbench.errors import TalkbenchError
from talkbench.mini.suite import mini_suite
from talkbench.systems.discover import select
from talkbench.systems.generate import plan

LONG_ONLY = mini_suite(num_short=0, num_long=1)


def test_a_system_that_a_suite_has_nothing_for_makes_nothing_and_is_no_error(tmp_path: Path) -> None:
    assert plan(LONG_ONLY, select(["audio_shifted+2"]), tmp_path) == []


def test_patterns_choose_items_and_those_that_fit_none_are_named(tmp_path: Path) -> None:
    systems = select(["recorded"])
    (item,) = LONG_ONLY.items or ()
    assert [task.item.id for task in plan(LONG_ONLY, systems, tmp_path, ["mini-l*"])] == [item.id]
    with pytest.raises(TalkbenchError, match="no item of mini.* matches mini-s\\*"):
        plan(LONG_ONLY, systems, tmp_path, ["mini-s*"])
