"""Which clips `talkbench generate` makes: items by pattern, and systems that a suite has nothing for."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkbench.errors import TalkbenchError
from talkbench.mini.suite import mini_suite
from talkbench.schema import Sidecar
from talkbench.store.attempts import Attempt
from talkbench.systems.discover import select
from talkbench.systems.planning import Rerun, plan
from talkbench.systems.scan import sidecar_path
from tests.support import make_clip

LONG_ONLY = mini_suite(num_short=0, num_long=1)


def test_a_system_that_a_suite_has_nothing_for_makes_nothing_and_is_no_error(tmp_path: Path) -> None:
    assert plan(LONG_ONLY, select(["audio_shifted+2"]), tmp_path).to_make == ()


def test_patterns_choose_items_and_those_that_fit_none_are_named(tmp_path: Path) -> None:
    systems = select(["recorded"])
    (item,) = LONG_ONLY.items or ()
    assert [task.item.id for task in plan(LONG_ONLY, systems, tmp_path, ["mini-l*"]).to_make] == [item.id]
    with pytest.raises(TalkbenchError, match="no item of mini.* matches mini-s\\*"):
        plan(LONG_ONLY, systems, tmp_path, ["mini-s*"])


def test_longest_clips_come_first(tmp_path: Path) -> None:
    lengths = [task.item.duration_seconds for task in plan(mini_suite(), select(["recorded"]), tmp_path).to_make]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("rerun", "to_make"),
    [
        ("missing", {"never", "cut short", "other key", "refused"}),
        ("failed", {"never", "cut short", "other key", "refused", "failed"}),
        ("all", {"never", "cut short", "other key", "refused", "failed", "made"}),
        ("none", set()),
    ],
)
def test_what_is_made_again_depends_on_what_became_of_it_under_the_present_key(
    tmp_path: Path, rerun: Rerun, to_make: set[str]
) -> None:
    names = ["never", "cut short", "other key", "refused", "failed", "made"]
    drawn = mini_suite(num_short=len(names), num_long=0)
    items = [item.model_copy(update={"id": name}) for item, name in zip(drawn.items or (), names, strict=True)]
    suite, systems = drawn.model_copy(update={"items": tuple(items)}), select(["recorded"])
    tasks = {task.item.id: task for task in plan(suite, systems, tmp_path).asked}
    for name, key, reason in (
        ("cut short", None, None), ("other key", "another", "timeout"), ("refused", None, "unsupported"),
        ("failed", None, "no-face"),
    ):  # fmt: skip
        with Attempt(tmp_path, "recorded", name, key or tasks[name].key) as attempt:
            if reason:
                attempt.failed(reason, "in words")
    make_clip(tasks["made"].path, seconds=0.2)
    sidecar_path(tasks["made"].path).write_text(Sidecar(job_key=tasks["made"].key).to_json())
    found = plan(suite, systems, tmp_path, rerun=rerun)
    assert {task.item.id for task in found.to_make} == to_make
    assert len(found.asked) == len(names)
    if rerun in {"missing", "none"}:
        assert [task.item.id for task in found.failed] == ["failed"]
