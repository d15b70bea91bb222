"""What a clip must be before it counts as made."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from talkbench.workers.accept import accept
from talkbench.workers.host import WorkerFailedError
from tests.support import make_clip


def refusal(path: Path, **changes) -> str:
    given = {"audio_seconds": 1.0, "frame_rate": Fraction(25), "tolerance_frames": 1, "num_frames_told": 0} | changes
    with pytest.raises(WorkerFailedError) as caught:
        accept(path, **given)
    assert caught.value.reason == "bad-output"
    return caught.value.message


def test_a_whole_clip_is_accepted_with_its_size_and_length(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=1.0)
    found = accept(clip, audio_seconds=1.0, frame_rate=Fraction(25), tolerance_frames=0, num_frames_told=25)
    assert (found.picture.num_frames, found.size) == (25, (80, 64))
    accept(clip, audio_seconds=1.04, frame_rate=Fraction(25), tolerance_frames=1, num_frames_told=0)


def test_other_lengths_rates_and_counts_are_refused_with_both_numbers(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=1.0)
    assert "25 frames for 1.20 s of sound, 30 expected" in refusal(clip, audio_seconds=1.2)
    assert "25 frames a second, 30 expected" in refusal(clip, frame_rate=Fraction(30))
    assert "tell of 28 frames, it has 25" in refusal(clip, num_frames_told=28)


def test_missing_empty_foreign_and_torn_files_are_refused(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "empty-file" in refusal(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    assert "not-a-video" in refusal(tmp_path / "text.mp4")
    whole = make_clip(tmp_path / "whole.mp4", seconds=1.0).read_bytes()
    (tmp_path / "torn.mp4").write_bytes(whole[: int(0.6 * len(whole))])
    assert refusal(tmp_path / "torn.mp4").endswith(("[corrupt]", "[truncated]", "[not-a-video]", "[no-frames]"))


def test_a_clip_without_sound_is_refused(tmp_path: Path) -> None:
    assert "no sound track" in refusal(make_clip(tmp_path / "mute.mp4", seconds=1.0, audio=False))
