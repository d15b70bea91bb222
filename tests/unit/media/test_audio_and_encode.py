"""Sound on the picture's clock, and clips as we write them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from talkbench.errors import Undecodable, Unscorable
from talkbench.media import audio, encode, tracks
from talkbench.media.probe import probe
from tests.support import RATE_HZ, make_clip, make_raw, moving_square, tone
from tests.unit.media.test_decode import pixels


def click(at_seconds: float, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    samples[round(at_seconds * rate_hz) : round(at_seconds * rate_hz) + 40] = 0.9
    return samples


def onset(path: Path, rate_hz: int = RATE_HZ) -> float:
    heard = audio.load(path, rate_hz)
    return float(np.argmax(np.abs(heard) > 0.3)) / rate_hz


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_a_click_is_heard_where_it_was_written(tmp_path: Path, rate_hz: int) -> None:
    path = tmp_path / "x.mp4"
    encode.write_clip(path, moving_square(50), audio_N=click(1.0))
    assert onset(path, rate_hz) == pytest.approx(1.0, abs=0.002)


def moved(path: Path, target: Path, shift: float) -> Path:
    """Copy a clip with its sound `shift` seconds later."""
    with av.open(str(path)) as given, av.open(str(target), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is None or packet.time_base is None:
                continue
            if packet.stream.type == "audio":
                packet.pts += round(shift / packet.time_base)
                packet.dts += round(shift / packet.time_base)
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return target


def joined(target: Path, *parts: Path, every_seconds: float = 1.2) -> Path:
    """Write clips one after the other into one file, as `ffmpeg -f concat -c copy` does."""
    with av.open(str(target), "w") as out:
        streams: dict[str, av.stream.Stream] = {}
        for number, part in enumerate(parts):
            with av.open(str(part)) as given:
                streams = streams or {s.type: out.add_stream_from_template(s) for s in given.streams}
                for packet in given.demux():
                    if packet.dts is not None and packet.pts is not None:
                        shift = round(number * every_seconds / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = streams[packet.stream.type]
                        out.mux(packet)
    return target


def mono_then_stereo(target: Path) -> Path:
    """Write a clip whose sound is mono, then stereo, then mono."""
    parts = []
    for number, layout in enumerate(("mono", "stereo", "mono")):
        sound = np.tile(tone(1.0), (2 if layout == "stereo" else 1, 1))
        part = target.with_name(f"part{number}.mov")
        parts.append(make_raw(part, list(moving_square(25)), audio=sound, layout=layout, options={"bf": "0"}))
    joined(target, *parts)
    for part in parts:
        part.unlink()
    return target


def test_a_late_sound_track_is_preceded_by_silence_and_an_early_one_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    encode.write_clip(path, moving_square(50), audio_N=click(1.0))
    # Matroska has no negative times, so an early track makes the picture late instead.
    assert onset(moved(path, tmp_path / "late.mkv", 0.5)) == pytest.approx(1.5, abs=0.06)
    assert onset(moved(path, tmp_path / "early.mkv", -0.5)) == pytest.approx(0.5, abs=0.06)


def test_a_track_that_changes_its_channels_is_heard_to_its_end(tmp_path: Path) -> None:
    heard = audio.load(mono_then_stereo(tmp_path / "x.mp4"), RATE_HZ)
    assert len(heard) / RATE_HZ == pytest.approx(3.45, abs=0.1)
    peaks = np.abs(heard[: 6 * 8000]).reshape(6, 8000).max(axis=1)
    assert (peaks > 0.2).all()


def test_silence_comes_by_the_second_and_a_broken_clock_is_refused(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "x.mp4", seconds=0.4)
    late = [block.size for block in audio.blocks(moved(path, tmp_path / "late.mkv", 100), RATE_HZ)]
    assert sum(late) == pytest.approx(100.4 * RATE_HZ, rel=0.01)
    assert max(late) <= 1.2 * RATE_HZ
    with pytest.raises(Undecodable, match="the sound leaps by 5000 s") as error:
        list(audio.blocks(moved(path, tmp_path / "broken.mkv", 5000), RATE_HZ))
    assert error.value.reason == "broken-timestamps"


@pytest.mark.parametrize(
    ("layout", "channels", "rate_hz"), [("mono", 1, 8_000), ("stereo", 2, 48_000), ("5.1", 6, 48_000)]
)
def test_any_layout_and_rate_becomes_mono_at_the_asked_rate(
    tmp_path: Path, layout: str, channels: int, rate_hz: int
) -> None:
    sound = np.tile(tone(1.0, rate_hz=rate_hz), (channels, 1))
    path = make_raw(tmp_path / "x.mp4", list(moving_square(25)), audio=sound, audio_rate=rate_hz, layout=layout)
    heard = audio.load(path, RATE_HZ)
    assert heard.dtype == np.float32
    assert heard.ndim == 1
    assert len(heard) == pytest.approx(RATE_HZ, rel=0.15)
    assert 0.05 < np.abs(heard).max() <= 1.5


def test_no_sound_track_is_a_reason_not_silence(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "x.mp4", audio=False)
    with pytest.raises(Unscorable) as error:
        list(audio.blocks(path, RATE_HZ))
    assert error.value.reason == "no-audio"


def test_the_waveform_is_the_peak_of_each_tenth_of_a_second_in_any_blocks() -> None:
    sound = tone(1.05)
    expected = [float(np.abs(sound[i : i + 1600]).max()) for i in range(0, 16000, 1600)]
    for size in (100, 1600, 5000):
        drawn = audio.Waveform(RATE_HZ)
        for start in range(0, len(sound), size):
            drawn.add(sound[start : start + size])
        assert drawn.peaks == pytest.approx(expected, abs=1e-3)
        assert drawn.duration_seconds == pytest.approx(1.05)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (make_clip(tmp_path / name / "x.mp4") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_processors_own_instructions_never_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does what they read beyond a row, which differs too rarely for the test above to see."""
    written = make_clip(tmp_path / "x.mp4").read_bytes()
    assert b" threads=1 " in written
    monkeypatch.setattr(tracks, "REPEATABLE", f"{tracks.REPEATABLE}:asm=0")
    assert make_clip(tmp_path / "plain.mp4").read_bytes() == written


def test_a_failed_encode_leaves_nothing(tmp_path: Path) -> None:
    def frames():
        yield from moving_square(3)
        raise RuntimeError("the system died")

    with pytest.raises(RuntimeError):
        encode.write_clip(tmp_path / "x.mp4", frames())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at least one frame"):
        encode.write_clip(tmp_path / "x.mp4", iter(()))


def test_replacing_the_sound_keeps_every_pixel(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "x.mp4", seconds=2)
    encode.replace_audio(source, tmp_path / "y.mp4", click(0.5), RATE_HZ, encode.Encoding())
    assert np.array_equal(pixels(source), pixels(tmp_path / "y.mp4"))
    assert onset(tmp_path / "y.mp4") == pytest.approx(0.5, abs=0.002)


def test_a_written_clip_is_close_to_its_frames_and_tagged(tmp_path: Path) -> None:
    frames = list(moving_square(5, 64, 64))
    encode.write_clip(tmp_path / "x.mp4", frames, frame_rate=Fraction(30), encoding=encode.Encoding(crf=1))
    facts = probe(tmp_path / "x.mp4").video
    assert (facts.frame_rate, facts.colour_matrix, facts.colour_range) == ("30", "bt709", "limited")
    assert np.abs(pixels(tmp_path / "x.mp4").astype(int) - np.stack(frames)).mean() < 3
