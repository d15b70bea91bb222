"""Records of attempts: what a killed one leaves, and what a run's attempts come to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from talkbench.errors import TalkbenchError
from talkbench.mini.suite import mini_suite
from talkbench.schema import SystemRecord
from talkbench.store.attempts import Attempt, file_of, outcome, read, summary
from talkbench.store.run import Run


def test_an_attempt_has_a_beginning_and_an_end_with_all_that_is_known(tmp_path: Path) -> None:
    with Attempt(tmp_path, "ours", "a", "key") as attempt:
        attempt.failed("timeout", "silent for 5 s", ("last", "words"), "a chip")
    with Attempt(tmp_path, "ours", "a", "key") as attempt:
        attempt.made("a chip")
    first, second = read(tmp_path, "ours", "a")
    assert (first.outcome, first.reason, first.message, first.last_words) == (
        "failed", "timeout", "silent for 5 s", ("last", "words"),
    )  # fmt: skip
    assert (second.outcome, second.device, second.job_key) == ("made", "a chip", "key")
    assert second.seconds is not None and second.host
    assert len(file_of(tmp_path, "ours", "a").read_text().splitlines()) == 4


def test_an_attempt_that_was_killed_is_interrupted_and_its_lock_is_gone(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        Attempt(tmp_path, "ours", "a", "key")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert outcome(tmp_path, "ours", "a") == "interrupted"
    with Attempt(tmp_path, "ours", "a", "key") as attempt:
        attempt.made("")
    assert [record.outcome for record in read(tmp_path, "ours", "a")] == ["begun", "made"]


def test_two_attempts_at_one_clip_never_run_at_once(tmp_path: Path) -> None:
    with Attempt(tmp_path, "ours", "a", "key"), pytest.raises(BlockingIOError):
        Attempt(tmp_path, "ours", "a", "key")
    with Attempt(tmp_path, "ours", "a", "key") as attempt:
        attempt.made("")


def test_attempts_under_another_key_are_of_another_clip(tmp_path: Path) -> None:
    with Attempt(tmp_path, "ours", "a", "old") as attempt:
        attempt.failed("no-face", "none")
    assert outcome(tmp_path, "ours", "a", "new") is None
    assert outcome(tmp_path, "ours", "a") == "no-face"
    assert outcome(tmp_path, "ours", "b") is None


def test_a_torn_last_line_is_no_record_and_nonsense_is_named(tmp_path: Path) -> None:
    with Attempt(tmp_path, "ours", "a", "key") as attempt:
        attempt.made("")
    path = file_of(tmp_path, "ours", "a")
    path.write_bytes(path.read_bytes()[:-30])
    assert outcome(tmp_path, "ours", "a") == "interrupted"
    path.write_text("nonsense\n")
    with pytest.raises(TalkbenchError, match="a.jsonl, line 1: .*Remove the line"):
        read(tmp_path, "ours", "a")


def test_the_summary_says_why_clips_are_not_there(tmp_path: Path) -> None:
    suite = mini_suite(num_short=5, num_long=1)
    run = Run.open_or_create(tmp_path, suite)
    run.add_system(SystemRecord(name="ours", kind="generated", path="x", tiers=("short",)))
    run.add_system(SystemRecord(name="theirs", kind="folder", path="y"))
    names = [item.id for item in suite.items or () if item.tier == "short"]
    (tmp_path / "clips" / "ours").mkdir(parents=True)
    for name, reason in zip(names, ["no-face", "no-face", None, "", "gone"], strict=True):
        if reason is None:
            (tmp_path / "clips" / "ours" / f"{name}.mp4").touch()
        elif reason:
            with Attempt(tmp_path, "ours", name, "key") as attempt:
                attempt.made("") if reason == "gone" else attempt.failed(reason, "in words")
    assert summary(run) == {"ours": {"no-face": 2, "not-tried": 2, "made": 1}}
