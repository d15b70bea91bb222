"""What becomes of fetched media: joined sound, crops on faces, ground truth, files that a set hosts itself."""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkbench.data import reference, sound, truth
from talkbench.data.downloader import Downloader, FetchFailed
from talkbench.data.fetch import fetch
from talkbench.data.folder import Build
from talkbench.data.hosted import Host
from talkbench.data.manifest import HostedFiles
from talkbench.errors import PrerequisiteError, Unscorable
from talkbench.media import audio, probe
from tests.support import make_clip
from tests.unit.data.building import talk

RATE = sound.RATE_HZ


def voice(seconds: float, level: float, *, hum: float) -> np.ndarray:
    """Return a tone with a pause of half a second in its middle, over a hum."""
    t = np.arange(round(seconds * RATE)) / RATE
    spoken = np.abs(t - seconds / 2) > 0.4
    return level * np.sin(2 * np.pi * 200 * t) * spoken + 1e-3 * np.sin(2 * np.pi * hum * t)


def test_joined_pieces_have_one_loudness_and_the_length_of_pieces_and_pauses() -> None:
    pieces = [voice(3, 0.3, hum=50), voice(4, 0.03, hum=50), voice(3, 0.1, hum=50)]
    joined = sound.join(pieces, [0.4, 0.55])
    assert joined.size == round(10.95 * RATE)
    parts = (joined[: 3 * RATE], joined[round(3.4 * RATE) : round(7.4 * RATE)], joined[-3 * RATE :])
    levels = [sound.loudness(part) for part in parts]
    assert max(levels) - min(levels) < 0.5


def test_a_pause_is_room_tone_and_neither_silence_nor_speech() -> None:
    joined = sound.join([voice(3, 0.2, hum=60), voice(3, 0.2, hum=60)], [0.5])
    pause = joined[round(3.05 * RATE) : round(3.45 * RATE)]
    assert 2e-4 < np.sqrt(np.square(pause).mean()) < 5e-3
    spectrum = np.abs(np.fft.rfft(pause * np.hanning(pause.size)))
    assert np.argmax(spectrum) * RATE / pause.size == pytest.approx(60, abs=4)


def test_there_is_no_click_where_pieces_meet() -> None:
    joined = sound.join([voice(3, 0.5, hum=50), voice(3, 0.5, hum=50)], [0.3])
    seams = (3 * RATE, round(3.3 * RATE))
    steps = np.abs(np.diff(joined))
    smooth = steps[RATE // 10 : RATE].max()
    for seam in seams:
        assert steps[seam - 400 : seam + 400].max() <= smooth * 1.05


def test_prepared_pieces_are_joined_in_order(tmp_path: Path) -> None:
    paths = []
    for number, hertz in enumerate((300.0, 900.0)):
        t = np.arange(2 * RATE) / RATE
        path = tmp_path / f"{number}.wav"
        path.write_bytes(audio.wav((0.2 * np.sin(2 * np.pi * hertz * t)).astype(np.float32), RATE))
        make_clip(tmp_path / f"{number}.mp4", seconds=2.0)
        paths.append(
            Host(str(tmp_path)).fetch(HostedFiles(video=f"{number}.mp4", audio=path.name), tmp_path / f"w{number}")
        )
    found = sound.prepare([sound.Piece(paths[0], 2.0), sound.Piece(paths[1], 2.0, 0.36)])
    assert found.audio_N.size == 109 * 640
    for start, hertz in ((0.5, 300), (2.9, 900)):
        part = found.audio_N[round(start * RATE) : round((start + 1) * RATE)]
        assert np.argmax(np.abs(np.fft.rfft(part))) == pytest.approx(hertz, abs=2)


def test_silence_is_the_least_loudness_and_short_sounds_have_one() -> None:
    assert sound.loudness(np.zeros(RATE)) == sound.SILENT_LUFS
    assert sound.loudness(0.5 * np.sin(np.arange(RATE // 10))) > sound.SILENT_LUFS
    # BS.1770: a full-scale sine of 997 Hz in one channel has -3.01 LUFS.
    t = np.arange(5 * 48_000) / 48_000
    assert sound.loudness(np.sin(2 * np.pi * 997 * t), 48_000) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("orientation", ["portrait", "landscape", "square"])
def test_a_crop_is_centred_on_the_face_with_the_eyes_at_their_line(orientation: str) -> None:
    face = (0.55, 0.30, 0.65, 0.50)
    left, top, right, bottom = reference.crop_box(1920, 1080, orientation, face)
    wide, high = reference.SIZES[orientation]
    assert (right - left) / (bottom - top) == pytest.approx(wide / high, rel=1e-6)
    assert high / (bottom - top) <= reference.MAX_UPSCALING + 1e-9
    free = (right - left) / 2 <= 0.4 * 1920
    assert (left + right) / 2 == pytest.approx(0.6 * 1920) if free else right == 1920
    eyes = 1080 * (0.30 + reference.EYES_IN_FACE * 0.20)
    assert (eyes - top) / (bottom - top) == pytest.approx(reference.EYE_LINE)


@pytest.mark.parametrize("face", [(0.0, 0.0, 0.1, 0.1), (0.9, 0.9, 1.0, 1.0), (0.4, 0.8, 0.6, 1.0)])
def test_a_crop_stays_inside_the_frame_and_holds_the_face(face: reference.Box) -> None:
    for orientation in reference.SIZES:
        left, top, right, bottom = reference.crop_box(1280, 720, orientation, face)
        assert 0 <= left < right <= 1280
        assert 0 <= top < bottom <= 720
        assert left <= face[0] * 1280 + 1e-6
        assert face[2] * 1280 <= right + 1e-6
        inside = reference.in_crop(face, 1280, 720, orientation)
        assert 0 <= inside[0] < inside[2] <= 1
        assert 0 <= inside[1] < inside[3] <= 1


def test_ground_truth_is_as_long_as_the_sound_at_25_frames_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SIZES", {"portrait": (48, 84)})
    clip = make_clip(tmp_path / "a.mp4", seconds=1.2, height=96, width=160, rate=Fraction(30_000, 1001))
    audio_N = (20_000 * talk(1.28, RATE)).astype(np.int16)
    made = [
        truth.write(clip, tmp_path / name, "portrait", (0.2, 0.2, 0.5, 0.6), audio_N) for name in ("b.mp4", "c.mp4")
    ]
    assert made == [32, 32]
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()
    facts = probe.probe(tmp_path / "b.mp4").video
    assert (facts.width, facts.height, facts.frame_rate, facts.num_frames) == (48, 84, "25", 32)
    heard = audio.load(tmp_path / "b.mp4", RATE)
    assert np.corrcoef(heard[: audio_N.size], audio_N[: heard.size])[0, 1] > 0.95
    assert truth.pixels(tmp_path / "b.mp4") == truth.pixels(tmp_path / "c.mp4")


def test_a_picture_that_would_be_blown_up_gives_no_ground_truth(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", seconds=0.4)
    with pytest.raises(Unscorable) as error:
        truth.write(clip, tmp_path / "b.mp4", "portrait", None, np.zeros(6400, np.int16))
    assert error.value.reason == "too-small"


def test_hosted_files_are_put_together_without_being_encoded_again(tmp_path: Path) -> None:
    make_clip(tmp_path / "set" / "silent.mp4", seconds=1.0, audio=False)
    make_clip(tmp_path / "set" / "heard.mp4", seconds=1.0)
    (tmp_path / "set" / "a.wav").write_bytes(audio.wav(talk(1.0, RATE), RATE))
    host = Host(str(tmp_path / "set"))
    apart = host.fetch(HostedFiles(video="silent.mp4", audio="a.wav"), tmp_path / "one")
    assert truth.pixels(apart) == truth.pixels(tmp_path / "set" / "silent.mp4")
    # 16-bit PCM, copied: what was heard is heard, bit for bit.
    stored = np.concatenate(list(audio.blocks(tmp_path / "set" / "a.wav", RATE)))
    assert np.array_equal(audio.load(apart, RATE), stored)
    together = host.fetch(HostedFiles(video="heard.mp4", audio=None), tmp_path / "two")
    assert probe.probe(together).audio is not None
    assert truth.pixels(together) == truth.pixels(tmp_path / "set" / "heard.mp4")


@pytest.mark.parametrize(
    ("video", "sound_file", "reason"),
    [
        ("no.mp4", None, "gone"),
        ("silent.mp4", None, "no-audio"),
        ("text.mp4", None, "failed"),
        ("silent.mp4", "no.wav", "gone"),
    ],
)
def test_hosted_files_that_cannot_be_used_have_a_reason(
    tmp_path: Path, video: str, sound_file: str | None, reason: str
) -> None:
    make_clip(tmp_path / "silent.mp4", seconds=0.4, audio=False)
    (tmp_path / "text.mp4").write_text("nothing")
    with pytest.raises(FetchFailed) as error:
        Host(str(tmp_path)).fetch(HostedFiles(video=video, audio=sound_file), tmp_path / "w")
    assert (error.value.reason, error.value.final) == (reason, True)


def test_hosted_files_come_from_a_server_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from talkbench.data import hosted

    make_clip(tmp_path / "a b.mp4", seconds=0.4)
    asked = []

    class Fake:
        def __init__(self, url: str, part: Path, _progress: object) -> None:
            self.url, self.part = url, part

        def run(self) -> None:
            asked.append(self.url)
            if "gone" in self.url:
                raise hosted.NotThere("404")
            shutil.copyfile(tmp_path / "a b.mp4", self.part)

    monkeypatch.setattr(hosted, "Download", Fake)
    host = Host("https://example.org/set/")
    assert host.fetch(HostedFiles(video="age/a b.mp4", audio=None), tmp_path / "w").is_file()
    assert asked == ["https://example.org/set/age/a%20b.mp4"]
    with pytest.raises(FetchFailed) as error:
        host.fetch(HostedFiles(video="gone.mp4", audio=None), tmp_path / "v")
    assert error.value.reason == "gone"


def test_picture_and_sound_of_one_kind_from_a_server_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from talkbench.data import hosted

    make_clip(tmp_path / "1.mp4", seconds=0.4, audio=False)
    make_clip(tmp_path / "2.mp4", seconds=0.4)
    parts = []

    class Fake:
        def __init__(self, url: str, part: Path, _progress: object) -> None:
            self.source, self.part = tmp_path / url.rpartition("/")[2], part

        def run(self) -> None:
            parts.append(self.part)
            shutil.copyfile(self.source, self.part)

    monkeypatch.setattr(hosted, "Download", Fake)
    found = Host("https://example.org/set").fetch(HostedFiles(video="1.mp4", audio="2.mp4"), tmp_path / "w")
    assert len(set(parts)) == 2
    assert truth.pixels(found) == truth.pixels(tmp_path / "1.mp4")
    assert np.array_equal(audio.load(found, RATE), audio.load(tmp_path / "2.mp4", RATE))


def test_a_full_disk_stops_the_fetch_and_is_no_fault_of_the_clip(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", seconds=0.4)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "piece.mkv").symlink_to("/dev/full")
    with pytest.raises(PrerequisiteError, match="No space left.*make room"):
        Host(str(tmp_path)).fetch(HostedFiles(video="a.mp4", audio=None), tmp_path / "w")


def test_a_mistyped_host_folder_is_named_before_any_clip_counts_as_gone(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"no folder .*typo.*--host"):
        fetch(Build(tmp_path), Downloader(sys.executable, sys.executable), day="2026-01-05", host=Host("typo"))
