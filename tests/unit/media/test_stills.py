"""Single frames by seeking are the frames of a whole decode, at any time, and the end of a clip is known."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkbench.errors import Undecodable
from talkbench.media import probe
from talkbench.media.clip import Frames
from talkbench.media.decode import VideoReader
from talkbench.media.stills import PastEnd, Still, stills
from tests.support import make_clip, make_raw, moving_square


def whole(path: Path) -> list[tuple[Frames, float]]:
    with probe.open_clip(path) as container:
        reader = VideoReader(container, path, probe.probe(path).video)
        return [
            (frame, float(at))
            for batch in reader.batches()
            for frame, at in zip(batch.frames_THWC, batch.seconds_T, strict=True)
        ]


def check(path: Path, asked: list[float]) -> None:
    """Compare with the last frame of a whole decode that is on the screen by then."""
    frames = whole(path)
    for at, still in zip(asked, stills(path, asked), strict=True):
        frame, seconds = [each for each in frames if each[1] <= at + 1e-6][-1]
        assert isinstance(still, Still)
        assert still.seconds == pytest.approx(seconds, abs=1e-4)
        assert np.array_equal(still.frame_HWC, frame), at


def test_a_frame_at_a_time_is_the_one_on_the_screen_in_the_order_asked(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", seconds=12, audio=False)  # several groups of pictures
    check(path, [11.96, 0.0, 0.039, 0.04, 10.0, 9.999, 11.99])


@pytest.mark.parametrize(("rate", "name"), [(Fraction(30000, 1001), "a.mkv"), (Fraction(24), "a.ts"), (12, "a.avi")])
def test_other_frame_rates_and_containers_are_exact_too(tmp_path: Path, rate: Fraction, name: str) -> None:
    path = make_raw(tmp_path / name, list(moving_square(40)), codec="mpeg4", time_base=1 / Fraction(rate))
    check(path, [0.0, 1.0, 1.26, 1.31])


def test_frames_at_uneven_times_stay_until_the_next(tmp_path: Path) -> None:
    frames = list(moving_square(5))
    check(make_raw(tmp_path / "a.mp4", frames, times=[0, 1, 10, 11, 30]), [0.05, 0.3, 0.41, 1.0, 1.2])


def test_colour_and_rotation_are_those_of_the_decoder(tmp_path: Path) -> None:
    frames = list(moving_square(4))
    check(make_raw(tmp_path / "a.mp4", frames, colour=(1, 1), rotation=90), [0.0, 0.1])


def test_after_the_last_frame_the_clip_is_over(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", seconds=2, audio=False)
    assert stills(path, [2.0, 1e6]) == [PastEnd(pytest.approx(2.0)), PastEnd(pytest.approx(2.0))]
    assert isinstance(stills(path, [1e6, 1.0])[1], Still), "the file is still good for an earlier time"


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(Undecodable, match="no demuxer"):
        stills(tmp_path / "text.mp4", [0.0])
    with pytest.raises(ValueError, match="0 or more"):
        stills(make_clip(tmp_path / "a.mp4"), [-1.0])
