"""Clips in the one layout: the same frames at a quality at which it does not show, key frames, the given sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkbench.errors import Undecodable
from talkbench.media import audio
from talkbench.media.normalise import AUDIO_RATE_HZ, normalise
from talkbench.media.probe import probe
from tests.support import make_clip, make_raw, moving_square, tone

RATE = Fraction(25)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Three seconds of a higher tone than the clips have."""
    make_raw(tmp_path / "sound.mp4", list(moving_square(75)), audio=tone(3.0, 440.0)[None])
    return tmp_path / "sound.mp4"


def frames(path: Path, kind: str = "rgb24") -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=kind) for frame in container.decode(video=0)]).astype(float)


def test_frames_stay_and_the_sound_is_replaced_and_ends_with_them(tmp_path: Path, sound: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=2.0, crf=20)
    assert normalise(clip, tmp_path / "out.mp4", sound, RATE) == 50
    before, after = frames(clip), frames(tmp_path / "out.mp4")
    assert before.shape == after.shape
    assert 10 * np.log10(255**2 / np.square(before - after).mean()) > 42
    heard = audio.load(tmp_path / "out.mp4", AUDIO_RATE_HZ)
    assert heard.size / AUDIO_RATE_HZ == pytest.approx(2.0, abs=0.07)
    spectrum = np.abs(np.fft.rfft(heard[:AUDIO_RATE_HZ]))
    assert abs(int(spectrum.argmax()) - 440) <= 5


def test_the_layout_is_what_it_says(tmp_path: Path, sound: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=2.0)
    normalise(clip, tmp_path / "out.mp4", sound, RATE)
    facts = probe(tmp_path / "out.mp4")
    assert (facts.video.codec, facts.video.pixel_format, facts.video.frame_rate) == ("h264", "yuv420p", "25")
    assert (facts.audio.codec, facts.audio.rate_hz, facts.audio.num_channels) == ("aac", AUDIO_RATE_HZ, 1)
    assert (facts.video.colour_matrix, facts.video.colour_range) == ("bt709", "limited")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.profile == "High"
        keys = [packet.pts for packet in container.demux(video=0) if packet.is_keyframe]
    assert len(keys) == 2
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a player must wait for its end"


def test_a_clip_can_take_its_own_place_and_the_bytes_are_the_same_every_time(tmp_path: Path, sound: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=1.0)
    normalise(clip, tmp_path / "a.mp4", sound, RATE)
    normalise(clip, clip, sound, RATE)
    assert clip.read_bytes() == (tmp_path / "a.mp4").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(("height", "width", "kind"), [(63, 81, "yuv444p"), (64, 80, "yuv420p")])
def test_odd_sizes_and_full_range_keep_size_and_colours(height, width, kind, tmp_path: Path, sound: Path) -> None:
    pictures = list(moving_square(25, height, width))
    source = "yuvj444p" if kind == "yuv444p" else "yuvj420p"
    make_raw(tmp_path / "clip.mp4", pictures, pix_fmt=source, colour=(1, 2), options={"crf": "8"})
    normalise(tmp_path / "clip.mp4", tmp_path / "out.mp4", sound, RATE)
    facts = probe(tmp_path / "out.mp4")
    assert (facts.video.width, facts.video.height, facts.video.pixel_format) == (width, height, kind)
    assert facts.video.colour_range == "limited"
    before, after = frames(tmp_path / "clip.mp4"), frames(tmp_path / "out.mp4")
    assert np.abs(before.mean((0, 1, 2)) - after.mean((0, 1, 2))).max() < 1.5


def test_a_broken_clip_leaves_what_was_there(tmp_path: Path, sound: Path) -> None:
    whole = make_clip(tmp_path / "clip.mp4", seconds=2.0).read_bytes()
    (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "out.mp4").write_bytes(b"as it was")
    with pytest.raises(Undecodable):
        normalise(tmp_path / "torn.mp4", tmp_path / "out.mp4", sound, RATE)
    assert (tmp_path / "out.mp4").read_bytes() == b"as it was"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
