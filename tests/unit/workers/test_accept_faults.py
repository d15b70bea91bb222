"""Clips that look made but are not: each fault is found, and says which one it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from talkbench.media.encode import write_clip
from talkbench.workers.accept import REFERENCE_LIKENESS, Accepted, RefusedClipError, accept, check_native
from talkbench.workers.faults import FAULTS
from talkbench.workers.picture_check import BLANK_DEVIATION, likeness
from tests.support import ROOT, make_raw, moving_square, tone

SECONDS, RATE_HZ = 2.0, 16_000
REAL = ROOT.parent / "shared" / "data" / "real"


def speech(seconds: float = SECONDS, level: float = 0.3) -> np.ndarray:
    """Return bursts of noise of uneven loudness: unlike itself at any shift."""
    rng = np.random.default_rng(3)
    size = round(seconds * RATE_HZ)
    loudness = np.repeat(rng.uniform(0, 1, size // 800 + 1), 800)[:size]
    return (level * loudness * rng.uniform(-1, 1, size)).astype(np.float32)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """The sound that the job was given."""
    return wav(tmp_path / "job.wav", speech())


def wav(path: Path, samples_N: np.ndarray) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples_N * 32767).astype("<i2").tobytes())
    return path


def frames(num: int = 50) -> list[np.ndarray]:
    return list(moving_square(num, 64, 80, 0, 1.0))


def check(path: Path, pictures: list[np.ndarray], samples_N: np.ndarray | None = None, **changes) -> Accepted:
    write_clip(path, pictures, audio_N=speech() if samples_N is None else samples_N)
    given = {"audio_seconds": SECONDS, "frame_rate": Fraction(25), "tolerance_frames": 1, "num_frames_told": 0}
    return accept(path, **(given | changes))


def fault(path: Path, pictures: list[np.ndarray], samples_N: np.ndarray | None = None, **changes) -> str:
    with pytest.raises(RefusedClipError) as caught:
        check(path, pictures, samples_N, **changes)
    assert caught.value.fault in FAULTS
    assert caught.value.message.endswith(f" [{caught.value.fault}]")
    assert caught.value.reason == "bad-output"
    return caught.value.fault


def test_a_good_clip_is_measured_and_accepted(tmp_path: Path, sound: Path) -> None:
    found = check(tmp_path / "a.mp4", frames(), audio=sound, sizes=((80, 64),))
    assert (found.picture.num_blank, found.picture.repeated_tail) == (0, 0)
    assert found.picture.num_repeated < 5
    assert found.sound.late_seconds == pytest.approx(0.0, abs=0.07)
    assert found.sound.gain_db == pytest.approx(0.0, abs=0.5)
    assert found.facts()["size"] == "80x64"


def test_frames_that_show_nothing_are_counted_and_many_are_refused(tmp_path: Path) -> None:
    grey = np.full((64, 80, 3), 127, np.uint8)
    assert fault(tmp_path / "a.mp4", [grey] * 50) == "blank"
    assert check(tmp_path / "b.mp4", [grey, *frames(49)]).picture.num_blank == 1
    veiled = [np.clip(127 + (frame.astype(int) - 127) // 40, 0, 255).astype(np.uint8) for frame in frames()]
    assert fault(tmp_path / "c.mp4", veiled) == "blank"


def test_black_frames_have_a_word_of_their_own(tmp_path: Path) -> None:
    black = np.zeros((64, 80, 3), np.uint8)
    assert fault(tmp_path / "a.mp4", [black] * 6 + frames(44)) == "black"
    found = check(tmp_path / "b.mp4", [*frames(48), black, black])
    assert (found.picture.num_black, found.picture.num_blank) == (2, 2)


def test_a_picture_that_never_moves_is_refused_and_repeats_are_counted(tmp_path: Path) -> None:
    moving = frames()
    assert fault(tmp_path / "a.mp4", moving[:1] * 50) == "frozen"
    assert fault(tmp_path / "b.mp4", moving[:20] + moving[19:20] * 30) == "repeated-tail"
    found = check(tmp_path / "c.mp4", moving[:40] + moving[39:40] * 10)
    assert (found.picture.num_repeated, found.picture.repeated_tail) == (10, 10)


def test_five_frames_are_never_a_clip(tmp_path: Path) -> None:
    assert fault(tmp_path / "a.mp4", frames(5)) == "wrong-length"


def test_a_sound_that_is_shifted_re_levelled_or_silent_is_refused(tmp_path: Path, sound: Path) -> None:
    clip, good = tmp_path / "a.mp4", speech()
    lead = np.concatenate([np.zeros(round(0.34 * RATE_HZ), np.float32), good])[: good.size]
    assert fault(clip, frames(), lead, audio=sound) == "sound-shifted"
    assert fault(clip, frames(), good * 0.4, audio=sound) == "re-levelled"
    assert fault(clip, frames(), good * 0, audio=sound) == "no-sound"
    write_clip(clip, frames())
    with pytest.raises(RefusedClipError, match=r"\[no-sound\]"):
        accept(clip, audio_seconds=2.0, frame_rate=Fraction(25), tolerance_frames=0, num_frames_told=0, audio=sound)


def test_a_small_shift_and_a_small_gain_are_recorded_not_refused(tmp_path: Path, sound: Path) -> None:
    late = np.concatenate([np.zeros(round(0.06 * RATE_HZ), np.float32), speech()])[: round(SECONDS * RATE_HZ)] * 0.8
    at_zero = check(tmp_path / "a.mp4", frames(), audio=sound)
    found = check(tmp_path / "b.mp4", frames(), late, audio=sound)
    assert found.sound.late_seconds - at_zero.sound.late_seconds == pytest.approx(0.06, abs=0.011)
    assert found.sound.gain_db == pytest.approx(-1.94, abs=0.4)


def test_another_sound_altogether_is_recorded_as_unlike(tmp_path: Path, sound: Path) -> None:
    found = check(tmp_path / "a.mp4", frames(), tone(SECONDS), audio=sound)
    assert found.sound.likeness < 0.5
    assert found.facts()["sound"]["likeness"] == found.sound.likeness


def test_silence_for_silence_is_no_fault(tmp_path: Path) -> None:
    nothing = np.zeros(round(SECONDS * RATE_HZ), np.float32)
    found = check(tmp_path / "a.mp4", frames(), nothing, audio=wav(tmp_path / "nothing.wav", nothing))
    assert found.sound is None


def test_a_size_that_the_system_does_not_make_is_refused(tmp_path: Path) -> None:
    assert fault(tmp_path / "a.mp4", frames(), sizes=((832, 480), (480, 832))) == "wrong-size"


def test_other_rates_counts_and_broken_files_have_words_of_their_own(tmp_path: Path) -> None:
    assert fault(tmp_path / "a.mp4", frames(), frame_rate=Fraction(30)) == "wrong-rate"
    assert fault(tmp_path / "b.mp4", frames(), num_frames_told=51) == "wrong-count"
    (tmp_path / "c.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:1500])
    for path, words in ((tmp_path / "c.mp4", FAULTS), (tmp_path / "none.mp4", {"no-file"})):
        with pytest.raises(RefusedClipError) as caught:
            accept(path, audio_seconds=2.0, frame_rate=Fraction(25), tolerance_frames=0, num_frames_told=0)
        assert caught.value.fault in words


def test_times_that_do_not_match_the_number_of_frames_are_refused(tmp_path: Path, sound: Path) -> None:
    longer = np.concatenate([speech(), speech()])
    assert fault(tmp_path / "a.mp4", frames(), longer, audio=sound) == "wrong-duration"
    gap = [*range(25), *range(35, 60)]
    make_raw(tmp_path / "b.mp4", frames(), times=gap, audio=speech()[None])
    with pytest.raises(RefusedClipError, match=r"50 frames are spread over 2.40 s, 2.00 s expected \[wrong-duration\]"):
        accept(tmp_path / "b.mp4", audio_seconds=2.0, frame_rate=Fraction(25), tolerance_frames=1, num_frames_told=0)
    assert check(tmp_path / "c.mp4", frames(), audio=sound).container_seconds == pytest.approx(2.0, abs=0.1)


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    """The picture that the job was given: wider than the clip, which shows its middle."""
    wide_HWC = np.full((64, 160, 3), 40, np.uint8)
    wide_HWC[:, 40:120] = frames(1)[0]
    Image.fromarray(wide_HWC).resize((640, 256)).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


def test_the_first_frame_is_compared_with_the_middle_of_the_reference(tmp_path: Path, portrait: Path) -> None:
    brighter = [np.clip(frame * 0.6 + 60, 0, 255).astype(np.uint8) for frame in frames()]
    for name, pictures in (("a.mp4", frames()), ("b.mp4", brighter)):
        found = check(tmp_path / name, pictures, reference=portrait, shows_reference=True)
        assert found.picture.likeness > 0.97


def test_another_picture_is_refused_only_where_the_system_shows_the_reference(tmp_path: Path, portrait: Path) -> None:
    other = list(moving_square(50, 64, 80, 4, 1.0))
    assert fault(tmp_path / "a.mp4", other, reference=portrait, shows_reference=True) == "other-picture"
    found = check(tmp_path / "b.mp4", other, reference=portrait)
    assert found.picture.likeness == found.facts()["picture"]["likeness"] < REFERENCE_LIKENESS


@pytest.mark.parametrize("name", ["10", "talk_emotion"])
def test_every_frame_of_a_real_clip_is_like_its_reference_and_unlike_another_persons(name: str) -> None:
    other = REAL / ("talk_emotion" if name == "10" else "10") / "reference.jpg"
    if not other.is_file():
        pytest.skip("the real clips are not here")
    own, strange = [], []
    with av.open(str(REAL / name / "clip.mp4")) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 25 == 0:
                luma_HW = frame.to_ndarray(format="gray")
                own.append(likeness(REAL / name / "reference.jpg", luma_HW))
                strange.append(likeness(other, luma_HW))
                assert luma_HW.std() > 10 * BLANK_DEVIATION
    assert min(own) > 2 * REFERENCE_LIKENESS > 2 * (max(strange) + 0.1)


def test_some_frames_are_shown_to_whoever_watches(tmp_path: Path) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.seen: list[np.ndarray] = []

        def see(self, frame_HWC: np.ndarray) -> None:
            self.seen.append(frame_HWC)

    watcher = Watcher()
    check(tmp_path / "a.mp4", frames(), watcher=watcher)
    assert [frame.shape for frame in watcher.seen] == [(64, 80, 3)] * 16
    assert np.abs(watcher.seen[0].astype(int) - frames(1)[0]).mean() < 12
    assert np.abs(watcher.seen[-1].astype(int) - frames()[-1]).mean() < 12


@pytest.mark.parametrize(
    ("native", "cut", "declared", "expected"),
    [
        ({"sound": True, "sound_late_seconds": 0.36, "sound_likeness": 0.99}, 9, 9, None),
        ({"sound": True, "sound_late_seconds": 0.34, "sound_likeness": 0.99}, 9, 9, None),
        ({"sound": True, "sound_late_seconds": 0.0, "sound_likeness": 0.99}, 9, 9, "wrong-lead"),
        ({"sound": True, "sound_late_seconds": 0.36, "sound_likeness": 0.99}, 0, 0, "wrong-lead"),
        ({"sound": True, "sound_late_seconds": 0.36, "sound_likeness": 0.3}, 0, 0, None),
        ({"sound": True, "sound_late_seconds": None, "sound_likeness": None}, 0, 0, None),
        ({"sound": True}, 9, 0, "wrong-lead"),
        ({"sound": True}, 0, 9, "wrong-lead"),
        ({"sound": False}, 0, 0, "no-sound"),
        ({}, 0, 0, None),
    ],
)
def test_what_was_cut_from_a_clip_is_compared_with_what_is_declared(native, cut, declared, expected) -> None:
    def verify() -> None:
        check_native(
            {"native": native, "clip": {"lead_frames_cut": cut}}, lead_trim_frames=declared, makes_sound=True,
            frame_rate=Fraction(25),
        )  # fmt: skip

    if expected is None:
        verify()
        return
    with pytest.raises(RefusedClipError) as caught:
        verify()
    assert caught.value.fault == expected


def test_a_system_that_makes_no_sound_need_not_have_any() -> None:
    check_native({"native": {"sound": False}}, lead_trim_frames=0, makes_sound=False, frame_rate=Fraction(25))
