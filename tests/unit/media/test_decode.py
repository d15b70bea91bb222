"""Pixels, timestamps and colour of the one decoder, against OpenCV and by construction."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkbench.errors import Undecodable
from talkbench.media import decode, probe
from talkbench.media.clip import FrameBatch
from tests.support import make_clip, make_raw, moving_square


def read(path: Path, max_frames: int = 64, threads: int = 1) -> tuple[decode.VideoReader, list[FrameBatch]]:
    with probe.open_clip(path) as container:
        reader = decode.VideoReader(container, path, probe.probe(path).video, threads=threads)
        return reader, list(reader.batches(max_frames))


def pixels(path: Path) -> np.ndarray:
    return np.concatenate([batch.frames_THWC for batch in read(path)[1]])


def opencv(path: Path) -> np.ndarray:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    return np.stack(frames)


BT601, BT709, LIMITED, FULL = 5, 1, 1, 2


@pytest.mark.parametrize(
    ("colour", "pix_fmt"),
    [(None, "yuv420p"), ((BT709, LIMITED), "yuv420p"), ((BT601, LIMITED), "yuv420p"), (None, "yuv444p")],
)
def test_pixels_equal_opencvs_to_the_last_bit(tmp_path: Path, colour: tuple[int, int] | None, pix_fmt: str) -> None:
    path = make_raw(tmp_path / "x.mp4", list(moving_square(12, 96, 128)), colour=colour, pix_fmt=pix_fmt)
    assert np.array_equal(pixels(path), opencv(path))


def test_the_matrix_tag_is_followed_and_recorded(tmp_path: Path) -> None:
    frames = list(moving_square(3, 64, 64))
    tagged = make_raw(tmp_path / "a.mp4", frames, colour=(BT709, LIMITED), options={"crf": "1"})
    untagged = make_raw(tmp_path / "b.mp4", frames, options={"crf": "1"})
    assert probe.probe(tagged).video.colour_matrix == "bt709"
    assert probe.probe(tagged).video.colour_tagged
    assert not probe.probe(untagged).video.colour_tagged
    assert np.abs(pixels(tagged).astype(int) - np.stack(frames)).mean() < 4
    assert np.abs(pixels(untagged).astype(int) - np.stack(frames)).mean() < 4


def test_full_range_is_not_stretched(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    path = make_raw(tmp_path / "x.mp4", [ramp] * 3, colour=(BT709, FULL), options={"crf": "1"})
    assert probe.probe(path).video.colour_range == "full"
    assert np.abs(pixels(path)[1].astype(int) - ramp).max() <= 6


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_of_any_size_hold_the_same_frames_times_and_digest(tmp_path: Path, size: int) -> None:
    path = make_clip(tmp_path / "x.mp4", seconds=2)
    whole_reader, whole = read(path)
    reader, batches = read(path, size, threads=2)
    assert np.array_equal(
        np.concatenate([b.frames_THWC for b in batches]), np.concatenate([b.frames_THWC for b in whole])
    )
    assert np.allclose(np.concatenate([b.seconds_T for b in batches]), np.arange(50) / 25)
    assert [b.first_frame for b in batches] == list(np.cumsum([0, *(len(b.frames_THWC) for b in batches[:-1])]))
    assert (reader.pixels_digest, reader.num_frames) == (whole_reader.pixels_digest, 50)
    assert reader.duration_seconds == pytest.approx(2.0)
    assert not reader.variable_frame_rate


def test_one_changed_pixel_changes_the_digest(tmp_path: Path) -> None:
    frames = list(moving_square(3))
    first = make_raw(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    frames[2] = frames[2].copy()
    frames[2][5, 5, 0] ^= 1
    second = make_raw(tmp_path / "b.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    assert read(first)[0].pixels_digest != read(second)[0].pixels_digest
    assert np.array_equal(pixels(second), np.stack(frames))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_clip_is_shown_as_the_file_asks(tmp_path: Path, degrees: int) -> None:
    frames = list(moving_square(4, 64, 96))
    path = make_raw(tmp_path / "x.mp4", frames, rotation=degrees, options={"crf": "1"})
    facts = probe.probe(path).video
    shown = pixels(path)
    assert facts.rotation_degrees in {90, 180, 270}
    assert (facts.width, facts.height) == ((64, 96) if degrees % 180 else (96, 64))
    assert np.array_equal(shown, opencv(path))


@pytest.mark.parametrize(("height", "width"), [(65, 81), (64, 81), (33, 64), (16, 16)])
def test_odd_sizes_survive(tmp_path: Path, height: int, width: int) -> None:
    path = make_clip(tmp_path / "x.mp4", height=height, width=width, seconds=0.4)
    assert pixels(path).shape == (10, height, width, 3)


def test_variable_frame_rate_is_noticed_and_timestamps_are_kept(tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 8, 9, 10, 20, 21, 22]
    path = make_raw(tmp_path / "x.mp4", list(moving_square(10)), times=times, options={"bf": "0"})
    reader, batches = read(path)
    assert reader.variable_frame_rate
    assert np.allclose(np.concatenate([b.seconds_T for b in batches]), np.array(times) / 25, atol=1e-3)


def test_ten_bits_and_transparency_are_recorded(tmp_path: Path) -> None:
    ten = make_raw(
        tmp_path / "x.mp4",
        list(moving_square(4)),
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none"},
    )
    assert probe.probe(ten).video.bit_depth == 10
    assert pixels(ten).shape == (4, 64, 80, 3)
    rgba = [np.dstack([frame, np.full(frame.shape[:2], 7, np.uint8)]) for frame in moving_square(4)]
    clear = make_raw(tmp_path / "y.mov", rgba, codec="qtrle", pix_fmt="argb", source="rgba")
    facts = probe.probe(clear).video
    assert facts.has_alpha
    assert np.array_equal(pixels(clear), np.stack(rgba)[..., :3])


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_file_that_breaks_off_is_refused_with_the_count(tmp_path: Path, share: float) -> None:
    data = make_clip(tmp_path / "x.mp4", seconds=2).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Undecodable, match=r"\d+ of 50 frames are there") as error:
        read(cut)
    assert (error.value.reason, error.value.status) == ("truncated", "failed")


def test_an_edit_list_is_followed_and_is_no_truncation(tmp_path: Path) -> None:
    import av

    source = make_clip(tmp_path / "x.mp4", seconds=2)
    cut = tmp_path / "cut.mp4"
    with av.open(str(source)) as given, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.pts is not None and packet.dts is not None:
                packet.pts -= 12 * 512
                packet.dts -= 12 * 512
                packet.stream = stream
                out.mux(packet)
    assert np.array_equal(pixels(cut), opencv(cut))
    assert 36 <= len(pixels(cut)) <= 50


def converted(rate: Fraction, times: list[float], duration: float, split: int) -> list[int]:
    """Run frame indices through the converter, `split` frames at a time."""
    converter, out = decode.RateConverter(rate), list[FrameBatch]()
    for start in range(0, len(times), split):
        part = times[start : start + split]
        frames = np.arange(start, start + len(part), dtype=np.uint8)[:, None, None, None].repeat(3, 3)
        out += converter.push(FrameBatch(frames, start, np.array(part)))
    out += converter.flush(duration)
    assert [batch.first_frame for batch in out] == list(np.cumsum([0, *(len(batch.seconds_T) for batch in out[:-1])]))
    return [int(frame[0, 0, 0]) for batch in out for frame in batch.frames_THWC]


@settings(deadline=None)
@given(
    steps=st.lists(st.floats(0.005, 0.2), min_size=1, max_size=60),
    rate=st.sampled_from([Fraction(25), Fraction(30), Fraction(10), Fraction(30000, 1001)]),
    split=st.integers(1, 9),
)
def test_rate_conversion_takes_the_nearest_frame_however_it_is_fed(
    steps: list[float], rate: Fraction, split: int
) -> None:
    times = [0.0, *np.cumsum(steps)]
    duration = times[-1] + steps[-1]
    got = converted(rate, times, duration, split)
    assert len(got) == int(np.ceil(duration * float(rate) - 1e-6))
    assert got == converted(rate, times, duration, len(times))
    for k, index in enumerate(got):
        nearest = np.abs(np.array(times) - k / float(rate)).min()
        assert abs(times[index] - k / float(rate)) <= nearest + 1e-9


@pytest.mark.parametrize(
    ("given_rate", "wanted", "expected"), [(25, 25, list(range(25))), (50, 25, list(range(0, 50, 2)))]
)
def test_rate_conversion_is_exact_for_whole_ratios(given_rate: int, wanted: int, expected: list[int]) -> None:
    times = [i / given_rate for i in range(given_rate)]
    assert converted(Fraction(wanted), times, 1.0, 4) == expected


def test_a_gap_is_filled_in_batches_of_the_usual_size() -> None:
    converter = decode.RateConverter(Fraction(25))
    frames = np.zeros((2, 416, 720, 3), np.uint8)
    batches = converter.push(FrameBatch(frames, 0, np.array([0.0, 30.0])))
    sizes = [batch.frames_THWC.nbytes for batch in batches]
    assert max(sizes) <= decode.MAX_BATCH_BYTES
    assert sum(sizes) == 376 * frames[0].nbytes


def test_a_leap_of_more_than_an_hour_is_a_broken_clock(tmp_path: Path) -> None:
    path = make_raw(tmp_path / "x.mp4", list(moving_square(3)), times=[0, 1, 100_000], options={"bf": "0"})
    with pytest.raises(Undecodable, match="the picture leaps by 4000 s") as error:
        read(path)
    assert error.value.reason == "broken-timestamps"
