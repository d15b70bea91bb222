"""Recorded clips: buckets, windows, the picture from outside, and a reason for every clip that is not used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.conditioning import image
from model.data import background, buckets
from model.data.buckets import RELEASED, Bucket
from model.data.footage import Footage, Rejected
from model.data.recorded import ClipFile, Recorded
from model.recipes import recipe
from talkbench.media import audio, probe
from talkbench.media.decode import VideoReader
from talkbench.media.encode import Encoding, write_clip
from tests.support import make_clip, make_raw, tone

TINY = recipe("tiny")


def recorded(path: Path, clip_id: str = "set:clip", **options: float) -> Recorded:
    return Recorded(TINY, (ClipFile(clip_id, path, "yt:a", "set:7", "A person."),), chunks=1, **options)


def test_the_buckets_have_about_the_released_size_and_sides_that_the_network_takes() -> None:
    tokens = [bucket.height * bucket.width * 9 // 256 for bucket in RELEASED]
    assert min(tokens) == 10_368 and max(tokens) == 10_800
    assert all(bucket.height % 16 == bucket.width % 16 == 0 for bucket in RELEASED)
    assert {(bucket.width, bucket.height) for bucket in RELEASED} == {(b.height, b.width) for b in RELEASED}
    assert len(set(RELEASED)) == 11


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1080, 1920, "416x720"), (1920, 1080, "720x416"), (1080, 1080, "544x544"), (1014, 806, "608x496"),
     (800, 3000, "384x768")],
)  # fmt: skip
def test_a_picture_goes_to_the_bucket_of_the_nearest_ratio(height: int, width: int, expected: str) -> None:
    assert str(buckets.nearest(height, width, RELEASED)) == expected


def test_a_picture_is_enlarged_by_a_quarter_at_most() -> None:
    assert buckets.nearest(336, 576, RELEASED) == Bucket(416, 720)
    with pytest.raises(Rejected, match=r"570x332 pixels would be enlarged 1\.26 times") as caught:
        buckets.nearest(332, 570, RELEASED)
    assert caught.value.reason == "too-small"


def test_recipes_of_another_size_have_one_bucket() -> None:
    assert buckets.of(TINY) == (Bucket(64, 64),)
    assert buckets.of(recipe("flashtalk_14b")) == RELEASED


@pytest.mark.parametrize(("height", "width"), [(101, 77), (64, 64), (70, 200)])
def test_frames_are_cut_as_the_reference_picture_is_at_inference(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    expected = image.prepare(Image.fromarray(pixels), 48, 64).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(buckets.cover(pixels, Bucket(48, 64)) / 127.5 - 1, expected, atol=1e-6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=2.4)


def test_a_window_has_its_sound_and_a_picture_from_outside(clip: Path) -> None:
    starts = set()
    whole_N = audio.load(clip, 16_000)
    for number in range(6):
        found = recorded(clip, f"set:{number}").footage(0)
        assert found.frames_THWC.shape == (33, 64, 64, 3) and found.bucket == "64x64"
        start, rest = divmod(found.first_sample, 640)
        assert rest == 0 and len(found.sound_N) == found.first_sample + 33 * 640
        np.testing.assert_array_equal(found.sound_N, whole_N[: len(found.sound_N)])
        differs = np.abs(found.frames_THWC.astype(int) - found.reference_HWC).max(axis=(1, 2, 3))
        assert differs.min() > 0, "the picture is one of the window"
        starts.add(start)
    assert len(starts) > 2


def test_a_window_follows_from_the_name_alone(clip: Path) -> None:
    one, two, other = (recorded(clip, name).footage(0) for name in ("set:a", "set:a", "set:b"))
    assert np.array_equal(one.frames_THWC, two.frames_THWC) and np.array_equal(one.reference_HWC, two.reference_HWC)
    assert one.first_sample != other.first_sample


def test_another_frame_rate_is_brought_to_that_of_the_stream(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", seconds=2, rate=50)
    found = recorded(path).footage(0)
    with probe.open_clip(path) as container:
        batches = VideoReader(container, path, probe.probe(path).video).batches()
        every_THWC = np.concatenate([batch.frames_THWC for batch in batches])
    first = found.first_sample // 640
    for number, frame_HWC in enumerate(found.frames_THWC, first):
        assert np.array_equal(frame_HWC, buckets.cover(every_THWC[2 * number], Bucket(64, 64)))


def short(path: Path) -> Path:
    return make_clip(path, seconds=33 / 25)


def quiet(path: Path) -> Path:
    write_clip(path, _frames(50), frame_rate=TINY.stream.frame_rate, audio_N=np.zeros(32_000, np.float32))
    return path


def cut_sound(path: Path) -> Path:
    return make_raw(path, list(_frames(60)), audio=tone(1.0)[None])


def small(path: Path) -> Path:
    return make_clip(path, seconds=2, height=32, width=48)


def no_sound(path: Path) -> Path:
    return make_clip(path, seconds=2, audio=False)


def broken(path: Path) -> Path:
    make_clip(path, seconds=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("no video")
    return path


def _frames(count: int, shift: int = 0) -> list[np.ndarray]:
    pattern = np.random.default_rng(0).integers(0, 255, (16, 20, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    return [np.roll(pattern, shift * number, axis=1) for number in range(count)]


@pytest.mark.parametrize(
    ("make", "reason"),
    [(short, "too-short"), (quiet, "silent"), (cut_sound, "audio-too-short"), (small, "too-small"),
     (no_sound, "no-audio"), (broken, "corrupt-audio"), (text, "not-a-video")],
)  # fmt: skip
def test_a_clip_that_cannot_be_used_says_why(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        recorded(make(tmp_path / "clip.mp4")).footage(0)
    assert (caught.value.reason, bool(caught.value.message)) == (reason, True)


def test_a_moving_background_is_refused_if_asked_for(tmp_path: Path) -> None:
    still, moving = tmp_path / "still.mp4", tmp_path / "moving.mp4"
    for path, shift in ((still, 0), (moving, 1)):
        write_clip(
            path, _frames(50, shift), frame_rate=TINY.stream.frame_rate, audio_N=tone(2.0), encoding=Encoding(crf=12)
        )
    assert isinstance(recorded(moving).footage(0), Footage)
    assert isinstance(recorded(still, min_stillness=0.96).footage(0), Footage)
    with pytest.raises(Rejected, match=r"similarity falls to -?0\.\d+; 0.96 is the least") as caught:
        recorded(moving, min_stillness=0.96).footage(0)
    assert caught.value.reason == "moving-background"


def test_stillness_looks_at_the_border_only() -> None:
    frames = np.stack(_frames(11))
    frames[5:, 30:, 20:60] = 255
    assert background.stillness(frames) == pytest.approx(1)
    frames[10, :8] = 255 - frames[10, :8]
    assert background.stillness(frames) < 0.5
    assert background.stillness(frames[:1]) == 1


def test_how_windows_are_chosen_is_part_of_what_a_folder_is(clip: Path) -> None:
    base = recorded(clip)
    assert replace(base, min_stillness=0.9).identity != base.identity
    assert replace(base, clips=(replace(base.clips[0], prompt="Another."),)).identity != base.identity
